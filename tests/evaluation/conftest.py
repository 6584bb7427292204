"""Fixtures of the evaluation's tests."""

from pathlib import Path

import pytest
from evaluation.rainy_pictures import write_pairs


@pytest.fixture
def test_sets(tmp_path) -> Path:
    """Two datasets of one type, of unequal numbers of pairs, and one of a type of the user's own."""
    root = tmp_path / "test"
    write_pairs(root / "DRS" / "light", 3)
    write_pairs(root / "DRS" / "heavy", 1, first=3)
    write_pairs(root / "SNOW" / "flakes", 2, first=6)
    return root
