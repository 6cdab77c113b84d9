"""A picture in the bytes that a video encoder takes: YUV 4:2:0 of BT.709."""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image  # matplotlib brings it

BT709 = (0.1826, 0.6142, 0.0620, 16, -0.1006, -0.3386, 0.4392, 128, 0.4392, -0.3989, -0.0403, 128)  # RGB -> limited YUV


class Frame:
    """A picture of `size` (width, height; both even): three planes in one `buffer`, uint8 [1.5 * pixels]."""

    def __init__(self, size: tuple[int, int]) -> None:
        width, height = size
        self.buffer = np.zeros(width * height * 3 // 2, np.uint8)
        luma, chroma = np.split(self.buffer, [width * height])
        self.planes = luma.reshape(height, width), *chroma.reshape(2, height // 2, width // 2)

    def paste(self, image: Image.Image, corner: tuple[int, int]) -> None:
        """Put an RGB image with its left upper corner there; the corner and the size are even."""
        left, top = corner
        y, u, v = image.convert("RGB", BT709).split()
        for plane, channel, step in zip(self.planes, (y, u.reduce(2), v.reduce(2)), (1, 2, 2), strict=True):
            pixels = np.asarray(channel)
            height, width = pixels.shape
            plane[top // step : top // step + height, left // step : left // step + width] = pixels

    def fill(self, box: Sequence[float], colour: str) -> None:
        """Fill a box (left, top, right, bottom in pixels); columns that it covers in part take a part of the colour."""
        for plane, value, step in zip(self.planes, yuv(colour), (1, 2, 2), strict=True):
            left, right = max(0, box[0] / step), min(box[2] / step, plane.shape[1])
            columns = np.arange(int(left), int(np.ceil(right)))
            share = np.minimum(columns + 1, right) - np.maximum(columns, left)
            pixels = plane[round(box[1] / step) : round(box[3] / step), int(left) : int(left) + len(columns)]
            pixels[:] = pixels + share * (value - pixels.astype(np.float32)) + 0.5


@functools.cache
def yuv(colour: str) -> tuple[int, ...]:
    """(Y, U, V) of a colour."""
    pixel = Image.new("RGB", (1, 1), colour).convert("RGB", BT709).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel
