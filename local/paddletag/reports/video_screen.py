"""The picture of a tagged sound at a moment: how it is drawn and written."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw  # matplotlib brings it

from paddletag.reports.look import DARK
from paddletag.reports.spectrogram_image import add_colours, frequency_marks
from paddletag.reports.video_layout import Box, ScreenLayout
from paddletag.reports.video_text import draw_text

PAGE, PANEL, LINE, TEXT, FAINT = (DARK[name] for name in ("page", "panel", "line", "text", "faint"))
ACCENT, LANE, SHADE, WARM = (DARK[name] for name in ("accent", "lane", "shade", "warm"))
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30)  # seconds between marks


class EmptyRow(NamedTuple):
    """The row of a class among the bars, with an empty bar and without the score."""

    image: Image.Image
    bar: Box  # in the image
    text_height: float  # where the middle of the label is, and that of the score goes
    font_size: int  # of the score


class Screen:
    """A picture of sound, scores and time, in parts: what stands still for some time, the bars, and the clock.

    layout: where they go. labels: those of the scores' classes [C]. thresholds [C]: a score that reaches its class's
    is bright.
    """

    def __init__(self, layout: ScreenLayout, title: str, labels: Sequence[str], thresholds: np.ndarray) -> None:
        self.layout, self.title, self.labels = layout, title, labels
        self.thresholds = np.asarray(thresholds, np.float32)
        self._cached_row = functools.lru_cache(64)(self._row)
        self._cached_score = functools.lru_cache(256)(self._score)

    def page(
        self, picture: Image.Image, span: tuple[float, float], lanes: Sequence[int], curves: np.ndarray
    ) -> Image.Image:
        """What stands still while the cursor goes from span[0] to span[1] seconds: an RGB image.

        picture: that of the log-mel; lanes [L]: the classes below it; curves [L, width of the track]: their scores.
        """
        layout, px = self.layout, self.layout.px
        image = Image.new("RGB", layout.size, PAGE)
        draw = ImageDraw.Draw(image)
        width = layout.clock[0] - layout.margin
        draw_text(draw, (layout.margin, px(32)), self.title, px(21), TEXT, width=width, bold=True)
        for box in (layout.timeline, layout.panel):
            paste_rounded(image, box, px(8), LINE)
            paste_rounded(image, (box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), px(8), PANEL)
        if film := layout.film:
            draw.rectangle((film[0], film[1], film[2] - 1, film[3] - 1), fill="black")
        self._draw_spectrogram(image, draw, picture)
        for n, (k, curve) in enumerate(zip(lanes, curves, strict=True)):
            self._draw_lane(image, draw, n, k, curve)
        self._draw_ruler(draw, span[0], span[1])
        return image

    def _draw_spectrogram(self, image: Image.Image, draw: ImageDraw.ImageDraw, picture: Image.Image) -> None:
        """The picture of the log-mel, in colours, and its axis of frequencies."""
        px, (left, top, right, _) = self.layout.px, self.layout.track
        picture = picture.resize((right - left, self.layout.lanes_top - top - px(6)), Image.Resampling.BICUBIC)
        add_colours(picture)
        image.paste(picture.convert("RGB"), (left, top))
        for kilohertz, height in frequency_marks():
            y = top + round((1 - height) * picture.height)
            draw.line((left - px(6), y, left - px(2), y), FAINT)
            draw_text(draw, (left - px(10), y), f"{kilohertz} kHz", px(12), FAINT, "rm")

    def _draw_lane(self, image: Image.Image, draw: ImageDraw.ImageDraw, n: int, k: int, curve: np.ndarray) -> None:
        """The n-th lane: the label of class k and its scores [width of the track], bright from its threshold on."""
        layout, px, (left, _, right, _) = self.layout, self.layout.px, self.layout.track
        y, height = layout.lanes_top + n * layout.lane_height, layout.lane_height - px(4)
        width = layout.label_width - px(10)
        heard = curve >= self.thresholds[k]
        draw_text(
            draw, (left - layout.label_width, y + height / 2), self.labels[k], px(13), TEXT if heard.any() else FAINT,
            width=width,
        )  # fmt: skip
        draw.rectangle((left, y, right - 1, y + height - 1), fill=PAGE)
        cover = (np.arange(height)[:, None] + 1 - height * (1 - curve)).clip(0, 1)
        for colour, mask in ((SHADE, np.ones_like(cover) * heard), (LANE, cover * ~heard), (ACCENT, cover * heard)):
            image.paste(colour, (left, y), Image.fromarray((255 * mask).astype(np.uint8)))

    def _draw_ruler(self, draw: ImageDraw.ImageDraw, begin: float, end: float) -> None:
        """Marks of time below the track, which goes from `begin` to `end` seconds."""
        px, (left, _, right, bottom) = self.layout.px, self.layout.track
        step = next((s for s in STEPS if s * (right - left) >= px(90) * (end - begin)), STEPS[-1])
        for n in range(int(np.ceil(begin / step - 1e-6)), int(end / step + 1e-6) + 1):
            x = left + (right - left) * (n * step - begin) / (end - begin)
            draw.line((x, bottom, x, bottom + px(4)), FAINT)
            anchor = "rm" if x + px(24) > right else "mm"
            draw_text(draw, (x, bottom + px(14)), clock_text(n * step, step < 1), px(12), FAINT, anchor)

    def bars(self, rows: Sequence[tuple[int, float]]) -> tuple[Image.Image, tuple[int, int]]:
        """(image, its corner) of the bars: of rows of (class, what it shows: from 0 to 1)."""
        left, top, right, bottom = self.layout.bars
        image = Image.new("RGB", (right - left, bottom - top), PANEL)
        for n, (k, score) in enumerate(rows):
            bright = bool(np.float32(score) >= self.thresholds[k])
            row = self._cached_row(k, bright)
            number = self._cached_score(f"{score:.2f}", row.font_size, bright)
            y = round(n * image.height / self.layout.top_k)
            image.paste(row.image, (0, y))
            image.paste(number, (image.width - number.width, round(y + row.text_height - number.height / 2)))
            box = row.bar[0], y + row.bar[1], row.bar[2], y + row.bar[3]
            paste_rounded(image, box, self.layout.px(4), ACCENT if bright else LANE, score)
        return image, (left, top)

    def _score(self, text: str, font_size: int, bright: bool) -> Image.Image:
        """A score as an image that ends where the row ends."""
        image = Image.new("RGB", (self.layout.px(56), 2 * (2 * font_size // 3)), PANEL)
        end = image.width - 1, image.height / 2
        draw_text(ImageDraw.Draw(image), end, text, font_size, TEXT if bright else FAINT, "rm")
        return image

    def _row(self, k: int, bright: bool) -> EmptyRow:
        """The row of class k, the label beside the bar or above it."""
        px, unit, (left, top, right, bottom) = self.layout.px, self.layout.unit, self.layout.bars
        width, height = right - left, (bottom - top) // self.layout.top_k
        if self.layout.label_above_bar:
            font_size, thickness = px(min(18, 0.22 * height / unit)), px(min(14, height / 4 / unit))
            begin, end, label_end = 0, width, width - px(60)
            text_height, bar_middle = height / 2 - 0.75 * thickness, height / 2 + thickness
        else:
            font_size, thickness = min(px(17), height // 2), height // 2
            begin, end, label_end = self.layout.label_width, width - px(64), self.layout.label_width
            text_height = bar_middle = height / 2
        image = Image.new("RGB", (width, height), PANEL)
        colour, label_width = TEXT if bright else FAINT, label_end - px(12)
        draw_text(ImageDraw.Draw(image), (0, text_height), self.labels[k], font_size, colour, width=label_width)
        bar = begin, round(bar_middle - thickness / 2), end, round(bar_middle + thickness / 2)
        paste_rounded(image, bar, px(4), LINE)
        return EmptyRow(image, bar, text_height, font_size)

    def clock(self, text: str) -> tuple[Image.Image, tuple[int, int]]:
        """(image, its corner) of the time."""
        left, top, right, bottom = self.layout.clock
        image = Image.new("RGB", (right - left, bottom - top), PAGE)
        x, y = self.layout.size[0] - self.layout.margin - left, self.layout.px(32) - top
        draw_text(ImageDraw.Draw(image), (x, y), text, self.layout.px(19), FAINT, "rm")
        return image, (left, top)


def clock_text(seconds: float, tenths: bool = True) -> str:
    """1:02:03.4, without hours where there are none."""
    tens = round(10 * seconds + 1e-6) if not tenths else int(10 * seconds + 1e-6)
    minutes, rest = divmod(tens, 600)
    text = f"{rest / 10:04.1f}" if tenths else f"{rest // 10:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{text}" if minutes >= 60 else f"{minutes}:{text}"


@functools.lru_cache(64)
def rounded_mask(width: int, height: int, radius: int) -> Image.Image:
    """A mask of a rectangle with round corners, smooth at the edges."""
    mask = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * radius, fill=255)
    return mask.reduce(4)


def paste_rounded(image: Image.Image, box: Box, radius: int, colour: str, share: float = 1.0) -> None:
    """A rectangle with round corners, or of it the left part that has this share of the width."""
    left, top, right, bottom = box
    mask = rounded_mask(right - left, bottom - top, radius).crop((0, 0, round(share * (right - left)), bottom - top))
    if mask.width:
        image.paste(colour, (left, top), mask)
