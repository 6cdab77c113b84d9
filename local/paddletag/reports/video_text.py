"""Text in pictures: any text, whatever it holds, in a font that has its characters, cut to the room that it has."""

import functools
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont  # matplotlib brings it

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def draw_text(
    draw: ImageDraw.ImageDraw,
    xy: tuple[float, float],
    text: str,
    size: int,
    colour: str,
    anchor: str = "lm",
    width: int | None = None,
    bold: bool = False,
) -> None:
    """One line of text, whatever it holds, in no more than `width` pixels.

    xy: where the text's `anchor` goes: two letters as Pillow names them, such as "lm" for left and middle. size: of the
    font in pixels.
    """
    text = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in str(text)[:300])
    text, font = fit_text(" ".join(text.split()), size, width, bold)
    draw.text(xy, text, colour, font, anchor)


@functools.lru_cache(4096)
def fit_text(text: str, size: int, width: int | None, bold: bool) -> tuple[str, ImageFont.FreeTypeFont]:
    """(the text, cut to `width` pixels, its font)."""
    font = load_font(font_file(text, bold), size)
    if width and font.getlength(text) > width:
        while text and font.getlength(text + "\u2026") > width:
            text = text[:-1]
        text = text.rstrip() + "\u2026"
    return text, font


@functools.cache
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """The font in a file, of a size in pixels."""
    return ImageFont.truetype(path, size)


@functools.lru_cache(4096)
def font_file(text: str, bold: bool) -> str:
    """The font to write a text in: matplotlib's DejaVu Sans, or the installed one that lacks least of the text."""
    wanted, default = set(map(ord, text)), str(FONTS / f"DejaVuSans{'-Bold' if bold else ''}.ttf")
    if wanted <= characters(default):
        return default
    from matplotlib.font_manager import findSystemFonts  # looks through folders

    candidates = [default, *sorted(findSystemFonts())]
    complete = (path for path in candidates if wanted <= characters(path))
    return next(complete, None) or min(candidates, key=lambda path: len(wanted - characters(path)))


@functools.cache
def characters(path: str) -> frozenset[int]:
    """The characters that a font has; none if it cannot be used (some hold pictures of one size)."""
    try:
        ImageFont.truetype(path, 16)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
