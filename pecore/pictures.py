"""Contact sheets: thumbnails with a few lines under each, for people who would rather look."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import cast

from PIL import Image, ImageDraw, ImageFont

from pecore.errors import InputError
from pecore.image import ImageInput, load_image

SIDE, GAP, LINE = 200, 16, 20  # pixels: a thumbnail's square, the space around it, a line of text
HEADING = 34
BACKGROUND, TEXT, FAINT, BAR = "white", "#222222", "#767676", "#cfe3f5"


@dataclass(frozen=True)
class Line:
    """Text under a thumbnail; `share` in [0, 1] is drawn as a bar behind it."""

    text: str
    share: float | None = None


@dataclass(frozen=True)
class Tile:
    """An image, or None for a blank with a text in its place, and the lines under it."""

    image: ImageInput | None
    lines: Sequence[Line] = ()
    text: str = ""


@dataclass(frozen=True)
class Section:
    """Tiles under a heading."""

    heading: str
    tiles: Sequence[Tile] = field(default_factory=list)


def contact_sheet(sections: Sequence[Section], columns: int = 5) -> Image.Image:
    """One RGB picture of all sections, `columns` tiles wide at most. An image that can't be read is a blank that says
    so."""
    columns = max(1, min(columns, max((len(s.tiles) for s in sections), default=1)))
    cell = SIDE + GAP
    heights = [_lines(section) * LINE + SIDE + GAP for section in sections]
    rows = [-(-len(section.tiles) // columns) for section in sections]
    height = GAP + sum(HEADING + count * tall for count, tall in zip(rows, heights))
    sheet = Image.new("RGB", (max(GAP + columns * cell, 2 * cell), height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for section, count, tall in zip(sections, rows, heights):
        draw.text((GAP, top), _fit(section.heading, sheet.width - 2 * GAP, 18), TEXT, _font(18))
        top += HEADING
        for i, tile in enumerate(section.tiles):
            _draw_tile(sheet, draw, tile, GAP + i % columns * cell, top + i // columns * tall)
        top += count * tall
    return sheet


def caption(text: str, width: int) -> Image.Image:
    """A line of text on a strip of its own."""
    strip = Image.new("RGB", (width, HEADING), BACKGROUND)
    ImageDraw.Draw(strip).text((GAP, 2), _fit(text, width - 2 * GAP, 18), TEXT, _font(18))
    return strip


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture; raises InputError where the place or the ending won't do."""
    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        raise InputError(f"the picture can't be written to {path} ({error}); give --save a .png file") from error


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    picture, said = None, tile.text
    if tile.image is not None:
        try:
            picture = load_image(tile.image)
        except InputError:
            said = "can't be read"
    if picture is None:
        draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=FAINT)
        draw.text((left + SIDE / 2, top + SIDE / 2), _fit(said, SIDE - 16, 14), FAINT, _font(14), anchor="mm")
    else:
        thumbnail = picture.copy()
        thumbnail.thumbnail((SIDE, SIDE))
        sheet.paste(thumbnail, (left + (SIDE - thumbnail.width) // 2, top + (SIDE - thumbnail.height) // 2))
    for i, line in enumerate(tile.lines):
        y = top + SIDE + 2 + i * LINE
        if line.share is not None and line.share > 0:
            draw.rectangle((left, y, left + max(1, round(line.share * (SIDE - 1))), y + LINE - 3), BAR)
        draw.text((left + 3, y + LINE / 2 - 1), _fit(line.text, SIDE - 6, 13), TEXT, _font(13), anchor="lm")


def _lines(section: Section) -> int:
    return max((len(tile.lines) for tile in section.tiles), default=0)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans where it is installed (Latin, Greek, Cyrillic and more), else the font that Pillow carries."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def _fit(text: str, width: int, size: int) -> str:
    """`text` on one line, cut with an ellipsis where it is wider than `width` pixels."""
    text, font = " ".join(text.split()), _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
