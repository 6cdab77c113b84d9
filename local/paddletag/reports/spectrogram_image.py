"""The log-mel of a sound as an image: the same picture on pages and in videos."""

import numpy as np
from PIL import Image  # matplotlib brings it

from paddletag.features import frontend

FRONT_END = frontend.MN  # its log-mel is the picture, whatever the model hears
DARKEST = 0.02  # the quantile of a log-mel that is black


def grey_image(log_mel: np.ndarray, low: float, high: float) -> Image.Image:
    """A log-mel [T, n_mels] in shades of grey: an image of T x n_mels pixels, low frequencies at the bottom.

    What is `low` or less is black, what is `high` or more is white.
    """
    shades = ((log_mel - low) / max(high - low, 1e-3)).clip(0, 1)
    return Image.fromarray(np.ascontiguousarray((255 * shades).astype(np.uint8).T[::-1]))


def add_colours(image: Image.Image) -> None:
    """Give the shades of a grey image the colours of matplotlib's "magma"; its mode becomes "P"."""
    from matplotlib import colormaps  # takes its time

    image.putpalette((255 * colormaps["magma"](np.arange(256))[:, :3]).astype(np.uint8).tobytes())


def frequency_marks() -> list[tuple[int, float]]:
    """(kHz, height) of the marks at the axis of frequencies: from 0, the picture's lower edge, to 1."""
    bands = FRONT_END.n_mels
    peaks = FRONT_END.mel_bank.argmax(0) * FRONT_END.sample_rate / FRONT_END.n_fft
    return [(khz, float(np.interp(1000 * khz, peaks, np.arange(bands)) + 0.5) / bands) for khz in (1, 2, 4, 8)]
