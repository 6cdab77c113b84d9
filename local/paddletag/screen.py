"""The picture of a tagged sound at a moment: where everything is, and how it is drawn and written."""

import functools
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont  # matplotlib brings it

from paddletag import frontend, parsing

FRONT_END = frontend.MN  # its log-mel is the picture, whatever the model hears, as in the reports
PAGE, PANEL, LINE, TEXT, FAINT = "#14171b", "#1d2127", "#363d46", "#e8ebee", "#a0a9b3"  # the reports', dark
ACCENT, LANE, WARM = "#62b0f5", "#4f88bb", "#ffa45c"
LANES = 6
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30)  # seconds between marks
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


class Screen:
    """Where everything is, in pixels, and what it looks like.

    Boxes are (left, top, right, bottom). `track` is where time runs from left to right, `film` where a film goes.
    """

    def __init__(self, size, title, labels, top_k, film=False):
        self.size, self.title, self.labels = size, title, labels
        self.top_k = min(top_k, len(labels))
        self.unit = min(size) / 720
        px, (width, height) = self.px, size
        margin, head, foot, gap = px(24), px(62), px(24), px(14)
        self.pad, self.row = px(14), px(min(36, 200 / self.top_k))
        self.stacked = bool(film) and width > 1.4 * height  # bars beside the film, labels above them; else below it
        rows = self.top_k * self.row + 2 * self.pad
        self.lanes = 0 if film else min(LANES, len(labels))
        self.film = None
        timeline, panel = [margin, head, width - margin, 0], [margin, 0, width - margin, height - foot]
        if film:
            timeline[1], timeline[3] = height - foot - px(160), height - foot
            if self.stacked:
                panel = [width - margin - px(360), head, width - margin, timeline[1] - gap]
                box = margin, head, panel[0] - gap, panel[3]
            else:
                panel[1], panel[3] = timeline[1] - gap - rows, timeline[1] - gap
                box = margin, head, width - margin, panel[1] - gap
            self.film = even(box, inside=True)
        else:
            panel[1] = panel[3] - rows
            timeline[3] = panel[1] - gap
        self.timeline, self.panel = tuple(timeline), tuple(panel)
        self.names = min(px(250), round(0.28 * (width - 2 * margin)))  # width of the labels' column
        self.lane, self.ruler = px(26), px(24)
        left = timeline[0] + self.pad + (px(58) if film else self.names)
        self.track = left, timeline[1] + self.pad, timeline[2] - self.pad, timeline[3] - self.ruler - px(4)
        self.below = self.track[3] - self.lanes * self.lane  # the spectrogram's lower edge
        self.bars_box = even((panel[0] + self.pad, panel[1] + self.pad, panel[2] - self.pad, panel[3] - self.pad))
        self.clock_box = even((width - margin - px(300), px(14), width - margin, px(50)))
        self.margin = margin
        self.strip = functools.lru_cache(64)(self._strip)
        self.number = functools.lru_cache(256)(self._number)

    def px(self, points):
        """Pixels of a length that is given for a screen of 720 lines, or columns."""
        return max(1, round(points * self.unit))

    def page(self, picture, span, lanes, curves):
        """What stands still while the cursor goes from span[0] to span[1] seconds: an RGB image.

        picture: that of the log-mel; lanes [L]: the classes below it; curves [L, width of the track]: their scores.
        """
        image = Image.new("RGB", self.size, PAGE)
        draw, px = ImageDraw.Draw(image), self.px
        width = self.clock_box[0] - self.margin
        draw_text(draw, (self.margin, px(32)), self.title, px(21), TEXT, width=width, bold=True)
        for box in (self.timeline, self.panel):
            paste_rounded(image, box, px(8), LINE)
            paste_rounded(image, (box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), px(8), PANEL)
        if self.film:
            draw.rectangle((*self.film[:2], self.film[2] - 1, self.film[3] - 1), fill="black")
        left, top, right, bottom = self.track
        picture = picture.resize((right - left, self.below - top - px(6)), Image.Resampling.BICUBIC)
        picture.putpalette((255 * matplotlib.colormaps["magma"](np.arange(256))[:, :3]).astype(np.uint8).tobytes())
        image.paste(picture.convert("RGB"), (left, top))
        for kilohertz in (1, 2, 4, 8):
            y = top + round((1 - FRONT_END.height(1000 * kilohertz)) * picture.height)
            draw.line((left - px(6), y, left - px(2), y), FAINT)
            draw_text(draw, (left - px(10), y), f"{kilohertz} kHz", px(12), FAINT, "rm")
        for n, (k, curve) in enumerate(zip(lanes, curves, strict=True)):
            y, height = self.below + n * self.lane, self.lane - px(4)
            width = self.names - px(10)
            draw_text(draw, (left - self.names, y + height / 2), self.labels[k], px(13), FAINT, width=width)
            draw.rectangle((left, y, right - 1, y + height - 1), fill=PAGE)
            cover = (np.arange(height)[:, None] + 1 - height * (1 - curve)).clip(0, 1)
            image.paste(LANE, (left, y), Image.fromarray((255 * cover).astype(np.uint8)))
        step = next((s for s in STEPS if s * (right - left) >= px(90) * (span[1] - span[0])), STEPS[-1])
        for n in range(int(np.ceil(span[0] / step - 1e-6)), int(span[1] / step + 1e-6) + 1):
            x = left + (right - left) * (n * step - span[0]) / (span[1] - span[0])
            draw.line((x, bottom, x, bottom + px(4)), FAINT)
            anchor = "rm" if x + px(24) > right else "mm"
            draw_text(draw, (x, bottom + px(14)), clock(n * step, step < 1), px(12), FAINT, anchor)
        return image

    def bars(self, rows):
        """(image, its corner) of the bars: of rows of (class, what it shows: from 0 to 1)."""
        left, top, right, bottom = self.bars_box
        image = Image.new("RGB", (right - left, bottom - top), PANEL)
        for n, (k, score) in enumerate(rows):
            bright = score >= parsing.THRESHOLD
            strip, bar, middle, font = self.strip(k, bright)
            number = self.number(f"{score:.2f}", font, bright)
            y = round(n * image.height / self.top_k)
            image.paste(strip, (0, y))
            image.paste(number, (image.width - number.width, round(y + middle - number.height / 2)))
            box = bar[0], y + bar[1], bar[2], y + bar[3]
            paste_rounded(image, box, self.px(4), ACCENT if bright else LANE, score)
        return image, (left, top)

    def _number(self, text, font, bright):
        """A score as an image that ends where the row ends."""
        image = Image.new("RGB", (self.px(56), 2 * (2 * font // 3)), PANEL)
        end = image.width - 1, image.height / 2
        draw_text(ImageDraw.Draw(image), end, text, font, TEXT if bright else FAINT, "rm")
        return image

    def _strip(self, k, bright):
        """A row without its score, the label beside the bar or above it: (image with an empty bar, the bar's box, the
        height at which the score goes, the size of its font).
        """
        px, colour = self.px, TEXT if bright else FAINT
        width, height = self.bars_box[2] - self.bars_box[0], (self.bars_box[3] - self.bars_box[1]) // self.top_k
        if self.stacked:
            font, thick, x, end = px(min(18, 0.22 * height / self.unit)), px(min(14, height / 4 / self.unit)), 0, width
            text, middle = height / 2 - 0.75 * thick, height / 2 + thick
        else:
            font, thick, x, end = min(px(17), height // 2), height // 2, self.names, width - px(64)
            text = middle = height / 2
        image = Image.new("RGB", (width, height), PANEL)
        draw = ImageDraw.Draw(image)
        draw_text(draw, (0, text), self.labels[k], font, colour, width=(x or width - px(60)) - px(12))
        bar = x, round(middle - thick / 2), end, round(middle + thick / 2)
        paste_rounded(image, bar, px(4), LINE)
        return image, bar, text, font

    def clock(self, text):
        """(image, its corner) of the time."""
        left, top, right, bottom = self.clock_box
        image = Image.new("RGB", (right - left, bottom - top), PAGE)
        x, y = self.size[0] - self.margin - left, self.px(32) - top
        draw_text(ImageDraw.Draw(image), (x, y), text, self.px(19), FAINT, "rm")
        return image, (left, top)


def even(box, inside=False):
    """The box with even edges: the next larger one, or the next smaller one."""
    down, up = ([n // 2 * 2 for n in box], [-(-n // 2) * 2 for n in box])
    return (*up[:2], *down[2:]) if inside else (*down[:2], *up[2:])


def clock(seconds, tenths=True):
    """1:02:03.4, without hours where there are none."""
    tens = round(10 * seconds + 1e-6) if not tenths else int(10 * seconds + 1e-6)
    minutes, rest = divmod(tens, 600)
    text = f"{rest / 10:04.1f}" if tenths else f"{rest // 10:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{text}" if minutes >= 60 else f"{minutes}:{text}"


@functools.lru_cache(64)
def rounded(width, height, radius):
    """A mask of a rectangle with round corners, smooth at the edges."""
    mask = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * radius, fill=255)
    return mask.reduce(4)


def paste_rounded(image, box, radius, colour, share=1.0):
    """A rectangle with round corners, or of it the left part that has this share of the width."""
    left, top, right, bottom = box
    mask = rounded(right - left, bottom - top, radius).crop((0, 0, round(share * (right - left)), bottom - top))
    if mask.width:
        image.paste(colour, (left, top), mask)


def draw_text(draw, xy, text, size, colour, anchor="lm", width=None, bold=False):
    """One line of text, whatever it holds, in no more than `width` pixels."""
    text = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in str(text)[:300])
    text, font = fitted(" ".join(text.split()), size, width, bold)
    draw.text(xy, text, colour, font, anchor)


@functools.lru_cache(4096)
def fitted(text, size, width, bold):
    """(the text, cut to `width` pixels, its font)."""
    font = load_font(font_file(text, bold), size)
    if width and font.getlength(text) > width:
        while text and font.getlength(text + "\u2026") > width:
            text = text[:-1]
        text = text.rstrip() + "\u2026"
    return text, font


load_font = functools.cache(ImageFont.truetype)


@functools.lru_cache(4096)
def font_file(text, bold):
    """The font to write a text in: matplotlib's DejaVu Sans, or the installed one that lacks least of the text."""
    wanted, default = set(map(ord, text)), str(FONTS / f"DejaVuSans{'-Bold' if bold else ''}.ttf")
    if wanted <= characters(default):
        return default
    from matplotlib.font_manager import findSystemFonts  # looks through folders

    candidates = [default, *sorted(findSystemFonts())]
    complete = (path for path in candidates if wanted <= characters(path))
    return next(complete, None) or min(candidates, key=lambda path: len(wanted - characters(path)))


@functools.cache
def characters(path):
    """The characters that a font has; none if it cannot be used (some hold pictures of one size)."""
    try:
        ImageFont.truetype(path, 16)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
