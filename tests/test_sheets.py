"""Comparison sheets show every picture, unharmed, where its title says."""

import numpy as np
import pytest
from PIL import Image

from modeling_unirain.sheets import comparison_sheet


RED, GREEN = (255, 0, 0), (0, 128, 0)


def colours(sheet: Image.Image) -> set:
    return {colour for _, colour in sheet.getcolors(1 << 20)}


def test_pictures_stand_in_their_columns():
    sheet = comparison_sheet(
        [[Image.new("RGB", (40, 20), RED), Image.new("RGB", (80, 80), GREEN)]], ["a", "b"], cell_width=64
    )
    pixels = np.asarray(sheet)
    red, green = (np.argwhere((pixels == colour).all(-1)) for colour in (RED, GREEN))
    assert len(red) == 64 * 32 and len(green) == 64 * 64  # aspect kept
    assert red[:, 1].max() < green[:, 1].min()
    assert red[:, 0].min() == green[:, 0].min()


def test_titles_are_drawn():
    picture = Image.new("RGB", (32, 32), RED)
    bare = comparison_sheet([[picture]], [""])
    titled = comparison_sheet([[picture]], ["input"])
    assert bare.size == titled.size and bare.tobytes() != titled.tobytes()
    assert comparison_sheet([[picture]], [""], ["DRS"]).height > bare.height


def test_a_long_title_stays_in_its_column():
    picture = Image.new("RGB", (64, 64), RED)
    sheet = comparison_sheet([[picture, picture]], ["a very long title " * 20, ""], cell_width=100)
    right_half = np.asarray(sheet)[:25, 116:]
    assert (right_half == 255).all()


def test_a_picture_of_the_cells_width_keeps_its_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    sheet = np.asarray(comparison_sheet([[Image.fromarray(noise)]], [""], cell_width=30))
    windows = np.lib.stride_tricks.sliding_window_view(sheet, noise.shape)
    assert (windows == noise).all((-3, -2, -1)).sum() == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_any_mode_goes_on_a_sheet(mode):
    assert comparison_sheet([[Image.new(mode, (5, 7))]], ["x"], cell_width=50).mode == "RGB"


def test_sixteen_bit_grey_is_not_clipped():
    grey = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    assert (128, 128, 128) in colours(comparison_sheet([[grey]], [""], cell_width=8))


def test_transparent_parts_show_the_sheet():
    assert colours(comparison_sheet([[Image.new("RGBA", (9, 9), (0, 0, 0, 0))]], [""])) == {(255, 255, 255)}


def test_rows_may_be_short_but_not_long():
    picture = Image.new("RGB", (8, 8))
    comparison_sheet([[picture, picture], [picture]], ["a", "b"], ["x", "y"])
    with pytest.raises(ValueError, match="2 pictures has only 1"):
        comparison_sheet([[picture, picture]], ["a"])
    with pytest.raises(ValueError, match="1 rows have 2 titles"):
        comparison_sheet([[picture]], ["a"], ["x", "y"])
    with pytest.raises(ValueError, match="at least one picture"):
        comparison_sheet([], ["a"])
