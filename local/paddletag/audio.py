"""Sound files to waveforms: decoding, mixing to mono and resampling happen here and nowhere else."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from paddletag.runtime import UserError


class AudioError(UserError):
    """A sound file that cannot be used; the text names the file and says what is wrong with it."""


@dataclass(frozen=True)
class Info:
    """What the header of a sound file says."""

    rate: int  # Hz
    channels: int
    frames: int

    @property
    def seconds(self):
        return self.frames / self.rate


def probe(path):
    """Read only the header of `path`: an `Info`. AudioError if it is missing, empty, not audio or cut short."""
    _check_file(path)
    try:
        with soundfile.SoundFile(path) as sound:
            info = Info(sound.samplerate, sound.channels, sound.frames)
            kind, header = sound.format, sound.extra_info
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: not a sound file that libsndfile can read ({_reason(error)})") from None
    if info.frames <= 0:
        raise AudioError(f"{path}: has zero samples")
    if _cut_short(path, kind, header):
        raise AudioError(f"{path}: truncated: its header promises more sound than the file holds")
    return info


def load(path, rate, start=0.0, end=None):
    """Decode `path` (from `start` to `end` seconds), mix to mono, resample: float32 [N] at `rate` Hz.

    Raises AudioError for what `probe` refuses, and for a decoder's error, a file that ends early, and samples
    that are NaN or infinite.
    """
    info = probe(path)
    first = round(start * info.rate)
    stop = info.frames if end is None else min(round(end * info.rate), info.frames)
    if not 0 <= first < stop:
        raise AudioError(f"{path}: start {start} s and end {end} s do not lie within its {info.seconds:.2f} s")
    try:
        with soundfile.SoundFile(path) as sound:
            sound.seek(first)
            wave = sound.read(stop - first, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: cannot be decoded ({_reason(error)})") from None
    if len(wave) < stop - first:
        raise AudioError(f"{path}: truncated: {len(wave)} of {stop - first} samples could be decoded")
    return resample(mono(wave, path), info.rate, rate)


def mono(wave, path="waveform"):
    """[N, channels] -> [N]: the mean of the channels. AudioError where a sample is NaN or infinite."""
    wave = wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)
    # A sum is NaN or infinite if any sample is: one pass, no temporary array.
    if not np.isfinite(wave.sum(dtype=np.float64)):
        raise AudioError(f"{path}: has samples that are NaN or infinite")
    return np.ascontiguousarray(wave)


def resample(wave, rate, to_rate):
    """[N] at `rate` Hz -> float32 [N * to_rate / rate] at `to_rate` Hz, band-limited (soxr HQ)."""
    return wave if rate == to_rate else soxr.resample(wave, rate, to_rate, quality="HQ")


def pad(wave, length):
    """Zero-pad the end of [N] to at least `length` samples."""
    return wave if len(wave) >= length else np.pad(wave, (0, length - len(wave)))


def _check_file(path):
    path = Path(path)
    if not path.exists():
        raise AudioError(f"{path}: no such file")
    if not path.is_file():
        raise AudioError(f"{path}: not a file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: is empty")


def _cut_short(path, kind, header):
    """Whether a file is shorter than it says: libsndfile quietly reads what is left of it."""
    if kind in ("WAV", "WAVEX", "AIFF", "AU", "W64", "RF64"):
        sizes = re.findall(r"^\s*(?:data|ssnd|data size)\s*:\s*(\d+) \(should be (\d+)\)", header, re.I | re.M)
        # Programs that write to a pipe leave 0 or the largest number: "unknown", not a promise.
        return any(int(actual) < int(told) < 0x7FFFF000 for told, actual in sizes)
    if kind == "OGG":  # the last page of a whole stream carries the end-of-stream flag
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536 - 512))
            tail = file.read()
        page = tail.rfind(b"OggS")
        return page < 0 or page + 5 >= len(tail) or not tail[page + 5] & 4
    return False


def _reason(error):
    return str(getattr(error, "error_string", error)).strip().rstrip(".")
