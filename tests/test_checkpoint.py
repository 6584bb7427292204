"""Names, and what is said when a checkpoint cannot be had or must not be opened."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageToImage

from modeling_unirain import (
    UniRainConfig,
    UniRainForImageDeraining,
    UniRainImageProcessor,
    checkpoint_unirain,
    load_derainer,
    resolve_checkpoint,
)


@pytest.fixture
def copied(tiny_checkpoint, tmp_path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_our_names_are_bundled_or_on_the_hub_and_others_stay(tmp_path, monkeypatch):
    for name, repository in checkpoint_unirain.HUB_REPOSITORIES.items():
        bundled = Path(checkpoint_unirain.__file__).parent / "checkpoints" / name
        assert resolve_checkpoint(name) == (str(bundled) if bundled.is_dir() else repository)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unirain").mkdir()
    assert resolve_checkpoint("unirain") != "unirain"
    for other in ("./unirain", "someone/something", "/a/folder"):
        assert resolve_checkpoint(other) == other
    assert resolve_checkpoint(Path("./unirain")) == "./unirain"  # `Path` drops the dot
    assert resolve_checkpoint(Path("/a/folder")) == "/a/folder"


def test_auto_classes_load_a_folder_without_trusting_its_code(tiny_checkpoint):
    assert type(AutoConfig.from_pretrained(tiny_checkpoint)) is UniRainConfig
    assert type(AutoModel.from_pretrained(tiny_checkpoint)) is UniRainForImageDeraining
    assert type(AutoModelForImageToImage.from_pretrained(tiny_checkpoint)) is UniRainForImageDeraining
    processor = AutoImageProcessor.from_pretrained(tiny_checkpoint)
    assert type(processor) is UniRainImageProcessor
    assert processor.size_divisor == UniRainConfig.from_pretrained(tiny_checkpoint).size_divisor


def test_unknown_checkpoint_without_network_is_one_quick_sentence(tmp_path):
    script = """
import sys, time
from modeling_unirain import load_derainer
started = time.monotonic()
try:
    load_derainer("nobody/nothing-of-the-kind")
except OSError as error:
    print(time.monotonic() - started, error, sep="|")
"""
    # Nothing listens on port 9; HF_HOME is empty, so nothing is cached
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    seconds, sentence = result.stdout.strip().split("|")
    assert float(seconds) < 60  # on a busy machine too
    assert "'nobody/nothing-of-the-kind'" in sentence and "cannot be reached" in sentence


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "a name with spaces"])
def test_names_that_can_be_nothing_are_refused(name):
    with pytest.raises(OSError, match="There is no checkpoint"):
        load_derainer(name)


def test_folder_without_config_is_refused(tmp_path):
    with pytest.raises(OSError, match="no config.json"):
        load_derainer(tmp_path)


def test_checkpoint_of_another_architecture_is_refused(copied):
    edit_config(copied, model_type="swin2sr", architectures=["Swin2SRForImageSuperResolution"])
    for load in (load_derainer, UniRainConfig.from_pretrained, UniRainForImageDeraining.from_pretrained):
        with pytest.raises(ValueError, match="holds the architecture 'swin2sr', not 'unirain'"):
            load(copied)


def test_pickled_weights_are_refused_and_not_opened(copied, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "opened",))

    (copied / "model.safetensors").unlink()
    torch.save({"weight": Trap()}, copied / "pytorch_model.bin")
    for load in (load_derainer, UniRainForImageDeraining.from_pretrained, AutoModelForImageToImage.from_pretrained):
        with pytest.raises(OSError, match="safetensors"):
            load(copied)
    assert not (tmp_path / "opened").exists()


def test_damaged_weights_and_configs_are_refused(copied):
    weights = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_derainer(copied)
    (copied / "model.safetensors").write_bytes(weights)
    for changes in ({"latent_hidden_size": 24}, {"latent_hidden_size": "wide"}, {"latent_depth": 2}):
        edit_config(copied, **{"latent_hidden_size": 16, "latent_depth": 1} | changes)
        with pytest.raises(ValueError, match="damaged or from another version|incomplete"):
            load_derainer(copied)
    (copied / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds the architecture"):
        load_derainer(copied)


def test_config_and_weights_can_be_given_instead_of_a_name(tiny_checkpoint):
    model = UniRainForImageDeraining.from_pretrained(tiny_checkpoint)
    state = {name: values + 1 for name, values in model.state_dict().items()}
    other = UniRainForImageDeraining.from_pretrained(None, config=model.config, state_dict=state)
    assert all(torch.equal(values, state[name]) for name, values in other.state_dict().items())


def test_a_checkpoint_may_ask_for_tuples(tiny_checkpoint, tmp_path):
    model = UniRainForImageDeraining.from_pretrained(tiny_checkpoint, return_dict=False).eval()
    pixels = torch.rand(1, 3, 32, 32)
    (reconstruction,) = model(pixels)
    assert torch.equal(reconstruction, model(pixels, return_dict=True).reconstruction)
    model.save_pretrained(tmp_path)
    image = np.full((40, 50, 3), 128, np.uint8)
    assert load_derainer(tmp_path)(image) == load_derainer(tiny_checkpoint)(image)


def test_dtype_and_device_are_as_asked(tiny_checkpoint):
    assert load_derainer(tiny_checkpoint, device="cpu").model.dtype == torch.float32
    derain = load_derainer(tiny_checkpoint, device="cpu", dtype="bfloat16")
    assert derain.model.dtype == torch.bfloat16
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    exact = np.asarray(load_derainer(tiny_checkpoint, device="cpu")(image), float)
    assert np.abs(np.asarray(derain(image)) - exact).mean() < 2
    for device, message in (("gpu", "no device"), ("cuda:77", "cannot be used here"), ("meta", "cannot be used here")):
        with pytest.raises(ValueError, match=message):
            load_derainer(tiny_checkpoint, device=device)
    with pytest.raises(ValueError, match="no dtype 'half-ish'"):
        load_derainer(tiny_checkpoint, dtype="half-ish")


def test_remote_check_takes_less_than_its_timeout_where_nobody_answers(monkeypatch):
    monkeypatch.setattr(checkpoint_unirain.constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(OSError, match="cannot be reached"):
        UniRainConfig.from_pretrained("nobody/nothing-of-the-kind")
    assert time.monotonic() - started < checkpoint_unirain.CONNECT_TIMEOUT + 30
