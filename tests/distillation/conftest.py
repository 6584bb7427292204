from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from distillation.tiny_corpus import build_data


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """`candidates/` and `references/`; read only."""
    root = tmp_path_factory.mktemp("data")
    build_data(root)
    return root


@pytest.fixture(scope="session")
def scene() -> torch.Tensor:
    """Part of a photograph, (3, 256, 256) in [0, 255]; read only."""
    return torch.from_numpy(skimage.data.astronaut()[100:356, 80:336].transpose(2, 0, 1).astype(np.float32))


@pytest.fixture(scope="session")
def rainy(scene) -> torch.Tensor:
    """Grey bright streaks over the scene; read only."""
    drops = (torch.rand(256, 256, generator=torch.Generator().manual_seed(0)) > 0.997).float() * 120
    streaks = torch.stack([drops.roll((k, k // 4), (0, 1)) for k in range(16)]).amax(0)
    return (scene + streaks).clamp(max=255)
