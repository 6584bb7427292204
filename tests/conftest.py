import os
from pathlib import Path

import pytest


if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # they, and what they start, share the cores; before torch
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // int(workers))))

import torch
from hub_fixture import hub, hub_server  # noqa: F401

from modeling_unirain import UniRainConfig, UniRainForImageDeraining, UniRainImageProcessor, UniRainPipeline
from modeling_unirain.modeling_unirain import UniRainModulation


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A saved `unirain-tiny` with random weights, its modulations' too, complete with processor, pipeline and their code."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    torch.manual_seed(0)
    model = UniRainForImageDeraining(UniRainConfig.from_name("unirain-tiny"))
    for module in model.modules():
        if isinstance(module, UniRainModulation):
            torch.nn.init.normal_(module.weight, std=0.1)
    processor = UniRainImageProcessor(size_divisor=model.config.size_divisor)
    UniRainPipeline(model=model, image_processor=processor, device="cpu").save_pretrained(folder)
    return folder
