"""Pictures of sounds and results in one style: each function gives a matplotlib Figure, which `save` writes as a PNG.

In a notebook (after `%matplotlib inline`) a figure that ends a cell is shown.
"""

import functools
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.rcsetup import cycler
from matplotlib.ticker import MaxNLocator

from paddletag import runtime
from paddletag.files import atomic
from paddletag.reports.look import DARK, class_order
from paddletag.tagging.events import window_spans
from paddletag.tagging.labels import THRESHOLD
from paddletag.type_aliases import File

# Colours that the colour-blind can tell apart (Okabe & Ito 2008).
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
BLUE, ORANGE = COLORS[:2]
WIDTH = 6.4  # inches at 120 dpi: what a page of text or a notebook shows without scaling
POINTS = 2000  # columns of a waveform, more than there are pixels
_DARK_STYLE = {  # of the timeline, which looks as a video does
    "figure.facecolor": DARK["panel"], "savefig.facecolor": DARK["panel"], "axes.facecolor": DARK["panel"],
    "axes.edgecolor": DARK["line"], "axes.labelcolor": DARK["faint"], "text.color": DARK["text"], "axes.grid": False,
    "xtick.color": DARK["faint"], "ytick.color": DARK["text"], "axes.spines.left": False, "axes.spines.bottom": False,
}  # fmt: skip
CHINESE = (  # fonts with Chinese characters, for labels that have them, where one is installed
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei",
    "Microsoft YaHei", "PingFang SC", "Droid Sans Fallback",
)  # fmt: skip


def waveform(wave: np.ndarray, sample_rate: int, title: str = "") -> Figure:
    """A waveform [N] at `sample_rate` Hz, over seconds: the range of each column's samples."""
    with _style():
        figure, axes = _axes(1.8, title)
        parts = np.array_split(np.asarray(wave), min(len(wave), POINTS))
        low, high = np.array([part.min() for part in parts]), np.array([part.max() for part in parts])
        seconds = np.linspace(0, len(wave) / sample_rate, len(parts))
        axes.fill_between(seconds, low, high, color=BLUE, linewidth=0.6)
        axes.set_xlim(0, len(wave) / sample_rate)
        axes.set_xlabel("time in s")
        axes.set_ylabel("amplitude")
    return figure


def spectrogram(
    values: np.ndarray, seconds: float, frequencies: np.ndarray, unit: str = "dB", title: str = ""
) -> Figure:
    """A spectrogram, of whatever scale: values [T, F] over `seconds`; frequencies [F] in Hz are the rows' centres."""
    values, frequencies = np.asarray(values, np.float32), np.asarray(frequencies, float)
    with _style():
        figure, axes = _axes(2.8, title)
        low, high = np.quantile(values, 0.02), values.max()
        image = axes.imshow(
            values.T, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=max(high, low + 1e-3),
            extent=(0, seconds, -0.5, len(frequencies) - 0.5),
        )  # fmt: skip
        ticks = _round_frequencies(frequencies)
        axes.set_yticks(np.interp(ticks, frequencies, np.arange(len(frequencies))), [f"{f / 1000:g}" for f in ticks])
        axes.grid(False)
        axes.set_xlabel("time in s")
        axes.set_ylabel("frequency in kHz")
        figure.colorbar(image, label=unit, pad=0.02)
    return figure


def filter_bank(bank: np.ndarray, sample_rate: int, every: int = 8, title: str = "") -> Figure:
    """A filter bank [n_fft / 2 + 1, n_mels], as `FrontEnd.mel_bank`: every so many-th filter, over kHz."""
    frequencies = np.linspace(0, sample_rate / 2, len(bank)) / 1000
    with _style():
        figure, axes = _axes(2.2, title)
        for i in range(0, bank.shape[1], every):
            axes.fill_between(frequencies, bank[:, i], color=COLORS[i // every % 2], alpha=0.35, linewidth=0)
            axes.plot(frequencies, bank[:, i], color=COLORS[i // every % 2], linewidth=1)
        axes.set_xlim(0, frequencies[bank.any(1)].max() * 1.02)
        axes.set_ylim(0)
        axes.set_xlabel("frequency in kHz")
        axes.set_ylabel("weight")
    return figure


def lines(
    curves: Mapping[str, tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]],
    x_label: str,
    y_label: str,
    title: str = "",
) -> Figure:
    """Curves {name: (x, y)} in one pair of axes; a name that is empty has no place in the legend."""
    with _style():
        figure, axes = _axes(2.6, title)
        for name, (x, y) in curves.items():
            axes.plot(x, y, label=_name(name) or None)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.margins(x=0.02)
        if any(curves):
            axes.legend()
    return figure


def bars(labels: Sequence[str], values: Sequence[float] | np.ndarray, x_label: str, title: str = "") -> Figure:
    """A horizontal bar for each of `labels`, the first at the top, with its value [0, 1] behind it."""
    with _style():
        figure, axes = _axes(0.9 + 0.27 * len(labels), title)
        drawn = axes.barh(range(len(labels)), values, height=0.66, color=BLUE)
        axes.bar_label(drawn, [f"{value:.2f}" for value in values], padding=3, fontsize=8)
        axes.set_yticks(range(len(labels)), [_name(label) for label in labels])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1.08)
        axes.set_xlabel(x_label)
    return figure


def timeline(
    scores: np.ndarray,
    labels: Sequence[str] | np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    top: int = 8,
    title: str = "",
    threshold: float | np.ndarray = THRESHOLD,
) -> Figure:
    """Tagging over time, as pages and videos show it: scores [N, C] of windows from `start` to `end` [N] in seconds.

    A lane for each of the first `top` classes of `class_order`, 0 to 1 high, with its highest score at the right. Each
    window has what it speaks for (`window_spans`), and is bright where it reaches `threshold` (a number, or [C]).
    """
    order = class_order(scores)[:top]
    high = np.broadcast_to(np.asarray(threshold, np.float32), np.shape(scores)[1])
    first, until = window_spans(start, end)
    edges = np.append(first[:1], until)
    with _style(), matplotlib.rc_context(_DARK_STYLE):
        figure, axes = _axes(0.95 + 0.3 * len(order), title)
        place: dict[str, Any] = {
            "xytext": (6, 0),
            "textcoords": "offset points",
            "va": "center",
            "color": DARK["faint"],
        }
        for row, k in enumerate(order):
            values, floor = scores[:, k].clip(0, 1), row + 0.42  # the axis goes down; a lane is 0.84 high
            reached = np.float32(scores[:, k]) >= high[k]
            axes.fill_between(edges[[0, -1]], floor - 0.84, floor, color=DARK["page"], linewidth=0)
            for chosen, name in ((~reached, "lane"), (reached, "accent")):
                if name == "accent":
                    shade = np.where(reached, floor - 0.84, floor)
                    axes.stairs(shade, edges, baseline=floor, fill=True, color=DARK["shade"], linewidth=0)
                level = np.where(chosen, floor - 0.84 * values, floor)
                axes.stairs(level, edges, baseline=floor, fill=True, color=DARK[name], linewidth=0)
            axes.annotate(f"{values.max():.2f}", (edges[-1], row), annotation_clip=False, **place)
        axes.annotate("highest", (edges[-1], -0.5), annotation_clip=False, **{**place, "va": "bottom", "fontsize": 8})
        axes.set_yticks(range(len(order)), [_name(labels[k]) for k in order])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlabel("time in s")
        parts = [Patch(color=DARK["accent"]), Patch(color=DARK["lane"])]
        names = ["score that reaches the threshold", "score below it"]
        figure.legend(parts, names, loc="outside lower left", ncols=2, fontsize=8, labelcolor=DARK["faint"])
    return figure


def confusion(matrix: np.ndarray, labels: Sequence[str], title: str = "") -> Figure:
    """The confusion matrix [C, C] of `labels`: shades are shares of the true class, numbers are clips."""
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    ticks, names = range(len(labels)), [_name(label) for label in labels]
    with _style():
        size = min(20, 1 + max(2.5, 0.38 * len(labels)) + 0.07 * max(map(len, names)))
        figure, axes = _axes(size, title, width=size)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(ticks, names, rotation=90)
        axes.set_yticks(ticks, names)
        axes.tick_params(labelsize=9 if len(labels) <= 20 else 7, length=0)
        axes.grid(False)
        axes.spines[:].set_visible(True)
        for i, j in np.argwhere(matrix):
            color = "w" if shares[i, j] > 0.5 else "k"
            axes.text(j, i, matrix[i, j], ha="center", va="center", fontsize=8, color=color)
        axes.set_xlabel("model's label")
        axes.set_ylabel("true label")
    return figure


def learning_curve(rows: Sequence[Mapping[str, float]], title: str = "") -> Figure:
    """The rows of history.csv: loss, score (where there is one) and learning rate over the epochs."""
    scores = {"accuracy": "accuracy", "valid_accuracy": "accuracy", "valid_mAP": "mAP"}
    names = {key: name for key, name in scores.items() if any(key in row for row in rows)}
    panels: list[tuple[str, tuple[str, ...]]] = [("loss", ("loss", "valid_loss"))]
    panels += [(" / ".join(dict.fromkeys(names.values())), tuple(names))] if names else []
    panels += [("learning rate", ("lr",))]
    with _style():
        figure = Figure(figsize=(WIDTH, 0.6 + 1.5 * len(panels)))
        every = figure.subplots(len(panels), sharex=True)
        for axes, (name, keys) in zip(every, panels, strict=True):
            for key in keys:
                points = [(row["epoch"], row[key]) for row in rows if key in row]
                if points:
                    valid = key.startswith("valid")
                    axes.plot(
                        *zip(*points, strict=True), "s--" if valid else "o-", markersize=3.5,
                        color=ORANGE if valid else BLUE, label="validation" if valid else "training",
                    )  # fmt: skip
            axes.set_ylabel(name)
        every[0].legend()
        _title(figure, title)
        every[-1].set_xlabel("epoch")
        every[-1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        every[-1].set_xlim(0.5, rows[-1]["epoch"] + 0.5)
        every[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        figure.align_ylabels()
    return figure


def save(figure: Figure, path: File) -> None:
    """Write a figure as a PNG, whole or not at all."""
    with atomic(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # it is drawn as a box
        figure.savefig(temporary, format="png")


@functools.cache
def _fonts() -> list[str]:
    """The fonts to write labels in: the later ones for characters that those before lack."""
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in CHINESE if name in installed)]


def _style() -> AbstractContextManager[None]:
    """The style of all figures, for the time in which one is made."""
    return matplotlib.rc_context(
        {
            "figure.dpi": 120,
            "savefig.dpi": 120,
            "figure.constrained_layout.use": True,
            "font.family": _fonts(),
            "font.size": 9,
            "axes.prop_cycle": cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.alpha": 0.3,
            "lines.linewidth": 1.4,
            "legend.frameon": False,
            "text.parse_math": False,  # a $ in a label is a $
        }
    )


def _axes(height: float, title: str, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure of this size in inches, with one pair of axes."""
    figure = Figure(figsize=(width, height))
    _title(figure, title)
    return figure, figure.subplots()


def _title(figure: Figure, text: str) -> None:
    """The title above all axes, in as many lines as the figure's width asks for."""
    if text:
        figure.suptitle(textwrap.fill(_name(text, 200), int(12 * figure.get_figwidth())), fontsize=10)


def _name(text: str, length: int = 40) -> str:
    """A label for a picture: one line, of a length that leaves room for the picture."""
    text = runtime.one_line(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _round_frequencies(frequencies: np.ndarray) -> np.ndarray:
    """Frequencies in Hz for an axis: equal steps if the rows are equally spaced, octaves if not."""
    low, high = frequencies[0], frequencies[-1]
    if np.allclose(np.diff(frequencies, 2), 0, atol=1e-6 * high):
        return np.clip(MaxNLocator(6, steps=[1, 2, 4, 5, 10]).tick_values(low, high), low, high)
    octaves = 125 * 2.0 ** np.arange(8)
    return octaves[(octaves >= max(low, 250)) & (octaves <= high)]
