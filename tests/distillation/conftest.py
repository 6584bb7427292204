from pathlib import Path

import pytest
from distillation.tiny_corpus import build_data


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """`candidates/` and `references/`; read only."""
    root = tmp_path_factory.mktemp("data")
    build_data(root)
    return root
