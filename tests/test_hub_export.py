"""An exported folder is all that another machine needs."""

import json
import os
import resource
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from modeling_unirain import UniRainConfig, UniRainForImageDeraining, UniRainImageProcessor
from modeling_unirain.hub import export_checkpoint


# Runs without this package: a fresh interpreter, away from the source tree, in which its name cannot be imported.
STRANGER = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "modeling_unirain" or name.startswith("modeling_unirain."):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())

import numpy as np, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageToImage, pipeline

folder, picture, output = sys.argv[1:]
image = Image.open(picture)
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForImageToImage.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    by_hand = model(**processor(image, return_tensors="pt")).reconstruction.numpy()
model.save_pretrained("tuned")
processor.save_pretrained("tuned")
derained = pipeline("image-to-image", model="tuned", trust_remote_code=True, device="cpu")(image)
np.testing.assert_array_equal(
    derained, pipeline("image-to-image", model=folder, trust_remote_code=True, device="cpu")(image)
)
np.savez(output, by_hand=by_hand, derained=np.asarray(derained))
"""

RESULTS = {
    "step": 7,
    "psnr": 30.0,
    "per_type": {
        "DRS": {
            "images": 3,
            "loss": 0.02,
            "psnr": 30.0,
            "ssim": 0.91,
            "input_psnr": 25.0,
            "input_ssim": 0.8,
        }
    },
}
SETTINGS = {
    "model": "unirain-tiny",
    "max_steps": 9,
    "license": "cc-by-nc-4.0",
    "seed": 3,
    "data": {
        "sources": [
            {"kind": "paired", "root": ["/home/someone/corpora/rain800"]},
            {"kind": "clean", "day": ["photos/kodak24", "pairs/DRS/nitedr/target"], "weight": 2.0},
        ]
    },
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return UniRainForImageDeraining(UniRainConfig.from_name("unirain-tiny")).eval()


@pytest.fixture(scope="module")
def export(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model.save_pretrained(folder / "weights")
    export_checkpoint(folder / "weights", folder / "export", SETTINGS, RESULTS)
    return folder / "export"


def test_an_export_works_where_the_package_is_not_installed(model, export, tmp_path):
    picture = tmp_path / "rainy.png"
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
    Image.fromarray(pixels).save(picture)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    output = tmp_path / "output.npz"
    command = [sys.executable, "-c", STRANGER, str(export), str(picture), str(output)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    processor = UniRainImageProcessor(size_divisor=model.config.size_divisor)
    with torch.no_grad():
        expected = model(**processor(Image.fromarray(pixels), return_tensors="pt")).reconstruction
    with np.load(output) as found:
        np.testing.assert_array_equal(found["by_hand"], expected.numpy())
        assert found["derained"].shape == pixels.shape
        expected = (expected[0, :, :37, :50].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
        assert np.abs(found["derained"].astype(int) - expected.numpy()).max() <= 1


def test_what_a_model_saves_is_enough_for_a_pipeline(model, export, tmp_path):
    """By the ways of transformers, without `export_checkpoint`; of a model whose code came with a checkpoint too (above)."""
    model.save_pretrained(tmp_path)
    UniRainImageProcessor(size_divisor=model.config.size_divisor).save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in export.iterdir()} - {"README.md"}
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((export / "config.json").read_text())


def test_an_export_holds_no_pickle_and_everyone_may_read_it(export):
    files = {file.name: file for file in export.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "modeling_unirain.py"} <= set(
        files
    )
    assert {name.rsplit(".", 1)[-1] for name in files} == {"json", "md", "py", "safetensors"}
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o644 for file in files.values())
    assert set(json.loads(files["config.json"].read_text())["auto_map"]) >= {"AutoConfig", "AutoModelForImageToImage"}


def test_the_card_says_licence_data_settings_and_results_and_no_path(export):
    card = ModelCard.load(export / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "image-to-image")
    assert "| DRS | 3 | 25.00 / 0.8000 | 30.00 / 0.9100 | +5.00 |" in card.text
    assert "- paired: rain800, weight 1.0" in card.text and "- clean: kodak24, nitedr, weight 2.0" in card.text
    assert '"seed": 3' in card.text
    assert "/home/someone" not in card.content


def test_a_new_export_replaces_the_old_one_whole(model, tmp_path):
    model.save_pretrained(tmp_path / "weights")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "stale.py").touch()
    export_checkpoint(tmp_path / "weights", tmp_path / "export", SETTINGS, RESULTS)
    assert not (tmp_path / "export" / "stale.py").exists()
    assert not (tmp_path / "export.tmp").exists()


def test_an_export_that_cannot_be_written_leaves_the_old_one(model, export):
    """The limit on the size of a file stands for a full disk: the code fits, the weights do not."""
    before = {file.name: file.read_bytes() for file in export.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"The export could not be written to {export}: .") as error:
            export_checkpoint(export.parent / "weights", export, SETTINGS, RESULTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert {file.name: file.read_bytes() for file in export.iterdir()} == before
    assert not (export.parent / "export.tmp").exists()
