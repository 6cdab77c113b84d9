"""Sounds and pictures of sounds as a page holds them: Ogg Vorbis, PNG, a few numbers; or the address of a sound."""

import base64
import io
import os
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import soundfile

from paddletag.data import audio
from paddletag.reports.spectrogram_image import DARKEST, FRONT_END, add_colours, grey_image
from paddletag.tagging.windows import LogMelStream
from paddletag.type_aliases import File

PEAKS, COLUMNS = 4000, 3000  # points of the waveform, columns of the spectrogram, at most
THUMBNAIL = 240, 48  # columns and rows of a small spectrogram, at most
LONGER = 60  # seconds beyond the expected end after which no more is decoded


class SoundSummary(NamedTuple):
    """What a page shows of a sound, and the sound."""

    seconds: float
    peaks: np.ndarray  # [N] of the waveform: the maxima of N <= PEAKS equal parts
    log_mel: np.ndarray  # [T, n_mels]: the maxima of T <= COLUMNS equal parts
    ogg: bytes  # Ogg Vorbis; without the sound if it is not to be embedded


def summarize_sound(path: File, expected: float, embed: bool) -> SoundSummary:
    """A sound file of about `expected` seconds, which may be of any length: what goes on far beyond is not decoded.

    embed: encode the sound, too. AudioError for a sound that cannot be read.
    """
    rate, samples, ogg = FRONT_END.sample_rate, 0, io.BytesIO()
    peaks = _Maxima(expected * rate / (8 * PEAKS))  # some times more than are needed, since the length is not known
    columns = _Maxima(expected * rate / FRONT_END.hop_length / (8 * COLUMNS))
    log_mel = LogMelStream(FRONT_END)
    with audio.opened(path) as source, _ogg_file(ogg) as file:
        for wave in source.at(rate):
            samples += len(wave)
            peaks.feed(np.abs(wave))
            columns.feed(log_mel.feed(wave))
            if embed:
                _write(file, wave)
            if samples / rate > expected + LONGER:
                break
    columns.feed(log_mel.finish())
    return SoundSummary(
        samples / rate, _pool(peaks.maxima_so_far(), PEAKS), _pool(columns.maxima_so_far(), COLUMNS), ogg.getvalue()
    )


class _Maxima:
    """The maxima of every `step` values [n, ...] of a stream of them."""

    def __init__(self, step: float) -> None:
        self.step = max(1, int(step))
        self.rest: np.ndarray | None = None  # values after the last complete step
        self.maxima: list[np.ndarray] = []

    def feed(self, values: np.ndarray) -> None:
        """Take the next values."""
        values = values if self.rest is None else np.concatenate([self.rest, values])
        complete = len(values) // self.step * self.step
        self.rest = values[complete:]
        self.maxima.append(values[:complete].reshape(-1, self.step, *values.shape[1:]).max(1))

    def maxima_so_far(self) -> np.ndarray:
        """[N, ...]; the last one is of fewer values, where `step` does not divide their number."""
        rest = [] if self.rest is None or not len(self.rest) else [self.rest.max(0, keepdims=True)]
        return np.concatenate([*self.maxima, *rest])


def _pool(values: np.ndarray, count: int) -> np.ndarray:
    """The maxima of `count` equal parts of values [N, ...]; all of them if there are no more."""
    if len(values) <= count:
        return values
    return np.maximum.reduceat(values, np.arange(count) * len(values) // count)


def spectrogram_png(log_mel: np.ndarray) -> bytes:
    """A log-mel [T, n_mels] as a PNG, low frequencies at the bottom."""
    image = grey_image(log_mel, np.quantile(log_mel, DARKEST), log_mel.max())
    add_colours(image)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def thumbnail_png(wave: np.ndarray) -> bytes:
    """The log-mel of a waveform [N] at the rate of FRONT_END as a small PNG, low frequencies at the bottom."""
    stream = LogMelStream(FRONT_END)
    log_mel = _pool(np.concatenate([stream.feed(wave), stream.finish()]), THUMBNAIL[0])
    return spectrogram_png(_pool(log_mel.T, THUMBNAIL[1]).T)


def ogg_bytes(wave: np.ndarray) -> bytes:
    """A waveform [N] at the rate of FRONT_END as the bytes of an Ogg Vorbis file."""
    file = io.BytesIO()
    with _ogg_file(file) as sound:
        _write(sound, wave)
    return file.getvalue()


def _ogg_file(file: io.BytesIO) -> soundfile.SoundFile:
    return soundfile.SoundFile(file, "w", FRONT_END.sample_rate, 1, "VORBIS", format="OGG")


def _write(file: soundfile.SoundFile, wave: np.ndarray) -> None:
    for begin in range(0, len(wave), FRONT_END.sample_rate):  # libsndfile overflows its stack with long writes
        file.write(wave[begin : begin + FRONT_END.sample_rate].clip(-1, 1))


def base64_text(content: bytes) -> str:
    """Bytes as text that JSON can hold."""
    return base64.b64encode(content).decode()


def relative_url(path: File, folder: File) -> str:
    """The address of a file for a page that lies in `folder`."""
    relative = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    return "./" + quote(os.fsencode(relative))
