"""Comparison sheets: labelled pictures in rows and columns, for a person to look at."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont


__all__ = ["comparison_sheet"]

BACKGROUND = (255, 255, 255)
INK = (32, 32, 32)
GAP = 8
FONT_SIZE = 15


def comparison_sheet(
    rows: Sequence[Sequence[Image.Image]],
    column_titles: Sequence[str],
    row_titles: Sequence[str] | None = None,
    cell_width: int = 320,
) -> Image.Image:
    """Lay pictures out in a grid, every column with its title on top and every row with its title above it.

    Pictures keep their aspect: each is resampled to `cell_width` wide; a row is as high as its highest picture.

    Args:
        rows (`list[list[Image.Image]]`): pictures of any mode and size; rows may be shorter than the header.
        column_titles (`list[str]`): one title a column; a title too long for its column is cut.
        row_titles (`list[str]`, *optional*): one title a row.
        cell_width (`int`): width of a picture in pixels.

    Returns:
        `Image.Image`: the sheet, RGB.

    Raises:
        ValueError: no picture, more pictures in a row than titles, or not one title a row.
    """
    if not rows or not any(rows):
        raise ValueError("a comparison sheet needs at least one picture")
    if max(map(len, rows)) > len(column_titles):
        raise ValueError(f"a row of {max(map(len, rows))} pictures has only {len(column_titles)} column titles")
    if row_titles is not None and len(row_titles) != len(rows):
        raise ValueError(f"{len(rows)} rows have {len(row_titles)} titles")
    if cell_width < 1:
        raise ValueError(f"a picture must be at least 1 pixel wide, not {cell_width}")

    font = ImageFont.load_default(FONT_SIZE)
    line = sum(font.getmetrics()) + GAP
    cells = [[_fit(picture, cell_width) for picture in row] for row in rows]
    title_height = line if row_titles is not None else 0
    row_heights = [title_height + max((cell.height for cell in row), default=0) + GAP for row in cells]
    width = GAP + len(column_titles) * (cell_width + GAP)
    sheet = Image.new("RGB", (width, GAP + line + sum(row_heights)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)

    lefts = [GAP + column * (cell_width + GAP) for column in range(len(column_titles))]
    for left, title in zip(lefts, column_titles, strict=True):
        draw.text((left, GAP), _shorten(title, cell_width, font), INK, font)
    top = GAP + line
    for index, row in enumerate(cells):
        if row_titles is not None:
            draw.text((GAP, top), _shorten(row_titles[index], width - 2 * GAP, font), INK, font)
        for left, cell in zip(lefts, row, strict=False):
            sheet.paste(cell, (left, top + title_height))
        top += row_heights[index]
    return sheet


def _fit(picture: Image.Image, width: int) -> Image.Image:
    """The picture as RGB, `width` wide; transparent parts show the sheet."""
    if picture.mode.startswith("I"):  # 16 bit grey, which Pillow would clip at 255
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (*BACKGROUND, 255)), picture)
    height = max(1, round(picture.height * width / picture.width))
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Cut a text in its middle to a width in pixels: file names differ at both ends."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        head, tail = text[: (kept + 1) // 2], text[len(text) - kept // 2 :]
        if font.getlength(f"{head}…{tail}") <= width:
            return f"{head}…{tail}"
    return ""
