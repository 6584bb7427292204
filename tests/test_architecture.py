"""Who may import whom. Data flows one way: training and distillation meet only in the dataset on disk."""

import ast
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
HUB_FILES = {
    "checkpoint_unirain",
    "configuration_unirain",
    "modeling_unirain",
    "image_processing_unirain",
    "pipeline_unirain",
}
# Each part and what it may import of ours besides itself. A part is a module or a folder of the package.
ALLOWED = {
    # The files that travel with a checkpoint: flat, and of one another only what comes before.
    "checkpoint_unirain": set(),
    "configuration_unirain": {"checkpoint_unirain"},
    # And of the pipeline the name, when a checkpoint is saved.
    "modeling_unirain": {"checkpoint_unirain", "configuration_unirain", "pipeline_unirain"},
    "image_processing_unirain": {"checkpoint_unirain"},
    "pipeline_unirain": HUB_FILES,
    "loading": {"messages", "modeling_unirain"},
    # Leaves.
    "files": set(),
    "messages": set(),
    "types": set(),
    "images": {"files"},
    "metrics": set(),
    "niqe": set(),
    "options": {"messages"},
    "sheets": set(),
    # What is built on them.
    "corpora": {"files"},
    "rain": {"types"},
    "derainer": HUB_FILES | {"images", "loading", "messages"},
    "batch": {"derainer", "files", "images", "messages", "sheets"},
    "hub": HUB_FILES | {"files", "messages"},
    "publishing": {"distillation", "hub", "loading", "messages"},
    "evaluation": {"corpora", "files", "images", "messages", "metrics", "niqe", "sheets", "types"},
    "training": HUB_FILES
    | {"corpora", "files", "hub", "images", "loading", "messages", "metrics", "options", "rain", "sheets", "types"},
    "distillation": HUB_FILES | {"corpora", "files", "images", "loading", "messages", "metrics", "options", "types"},
    # What only calls.
    "__init__": HUB_FILES | {"derainer", "types"},
    "cli": {
        "batch",
        "derainer",
        "evaluation",
        "files",
        "images",
        "messages",
        "pipeline_unirain",
        "publishing",
        "rain",
        "sheets",
        "types",
    },
    "train_unirain.py": {"hub", "messages", "pipeline_unirain", "training"},
    "distill_dataset.py": {"distillation", "pipeline_unirain", "publishing"},
    "space/app.py": {"__init__", "images", "metrics", "pipeline_unirain", "rain", "types"},
}


def part_of(path: Path) -> str:
    if path.is_relative_to(ROOT / "modeling_unirain"):
        return path.relative_to(ROOT / "modeling_unirain").parts[0].removesuffix(".py")
    return path.relative_to(ROOT).as_posix()


def imported_parts(path: Path) -> set[str]:
    """The parts of the package that a file imports, wherever in the file it does so."""
    package = path.relative_to(ROOT).parent.parts
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            modules |= {f"{module}.{alias.name}" for alias in node.names} if "." not in module else {module}
    names = [module.split(".") for module in modules if module.split(".")[0] == "modeling_unirain"]
    parts = {name[1] if len(name) > 1 else "__init__" for name in names}
    known = {part_of(file) for file in package_files()}
    return {part if part in known else "__init__" for part in parts}


def package_files() -> list[Path]:
    files = (ROOT / "modeling_unirain").rglob("*.py")
    return sorted(file for file in files if "checkpoints" not in file.relative_to(ROOT).parts)


FILES = [*package_files(), *(ROOT / name for name in ("train_unirain.py", "distill_dataset.py", "space/app.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_imports_only_what_its_part_may(path):
    part = part_of(path)
    assert part in ALLOWED, f"{part} is new: say in ALLOWED what it may import"
    assert imported_parts(path) - {part} <= ALLOWED[part]


def test_only_the_reference_index_imports_faiss():
    users = {path.name for path in FILES if "import faiss" in path.read_text(encoding="utf-8")}
    assert users == {"reference_index.py"}


@pytest.mark.parametrize("name", ["train_unirain.py", "distill_dataset.py"])
def test_a_script_is_a_page_long(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 100
