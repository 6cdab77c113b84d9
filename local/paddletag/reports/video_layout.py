"""Where everything is on the screen of a video, for any size."""

from collections.abc import Sequence

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels

LANES = 6  # at most


class ScreenLayout:
    """Where everything is, in pixels, on a screen of `size` (width, height) with bars for `top_k` of `classes` classes.

    A timeline (a panel with the spectrogram and lanes of classes below it) and a panel of bars; with a `film`, the film
    takes most of the room, and there are no lanes.

    top_k: the number of bars. lane_count, lane_height: of the lanes, the first of which is at `lanes_top`. label_width:
    of the column of labels. label_above_bar: whether a bar has its label above it, or else beside it. timeline, panel,
    bars, clock: boxes. track: the box in which time runs from left to right. film: the box of the film, or None.
    """

    def __init__(self, size: tuple[int, int], classes: int, top_k: int, film: bool = False) -> None:
        self.size, self.unit = size, min(size) / 720
        self.top_k = min(top_k, classes)
        self.lane_count = 0 if film else min(LANES, classes)
        px, (width, height) = self.px, size
        self.margin, pad, gap = px(24), px(14), px(14)
        left, top, right, bottom = self.margin, px(62), width - self.margin, height - px(24)
        self.label_width = min(px(250), round(0.28 * (right - left)))
        self.lane_height, ruler_height = px(26), px(24)
        bars_height = self.top_k * px(min(36, 200 / self.top_k)) + 2 * pad
        self.label_above_bar = film and width > 1.4 * height  # then the bars are beside the film, else below it
        self.film: Box | None = None
        if film:
            self.timeline = left, bottom - px(160), right, bottom
            lower = self.timeline[1] - gap
            if self.label_above_bar:
                self.panel = right - px(360), top, right, lower
                self.film = even((left, top, self.panel[0] - gap, lower), inside=True)
            else:
                self.panel = left, lower - bars_height, right, lower
                self.film = even((left, top, right, self.panel[1] - gap), inside=True)
        else:
            self.panel = left, bottom - bars_height, right, bottom
            self.timeline = left, top, right, self.panel[1] - gap
        self.track = (
            self.timeline[0] + pad + (px(58) if film else self.label_width),
            self.timeline[1] + pad,
            self.timeline[2] - pad,
            self.timeline[3] - ruler_height - px(4),
        )
        self.lanes_top = self.track[3] - self.lane_count * self.lane_height
        self.bars = even((self.panel[0] + pad, self.panel[1] + pad, self.panel[2] - pad, self.panel[3] - pad))
        self.clock = even((right - px(300), px(14), right, px(50)))

    def px(self, points: float) -> int:
        """Pixels of a length that is given for a screen of 720 lines, or columns."""
        return max(1, round(points * self.unit))


def even(box: Sequence[int], inside: bool = False) -> Box:
    """The box with even edges: the next larger one, or the next smaller one. (Colours are encoded for 2 x 2 pixels.)"""
    left, top, right, bottom = box
    if inside:
        return left + left % 2, top + top % 2, right - right % 2, bottom - bottom % 2
    return left - left % 2, top - top % 2, right + right % 2, bottom + bottom % 2
