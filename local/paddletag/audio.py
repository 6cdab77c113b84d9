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


SIZES = {  # what libsndfile's log calls the number of bytes that a header promises
    "WAV": "data", "WAVEX": "data", "CAF": "data", "AIFF": "SSND", "AU": "Data Size", "W64": "riff",
    "RF64": "Riff size",
}  # fmt: skip
TRUNCATED = "truncated: its header promises more sound than the file holds"
LOUDEST = 1e12  # beyond any scale that sound is written in (1 is full scale); its power would overflow float32


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
    if str(path).lower().endswith(".mp3"):
        _check_mp3(path)
    try:
        with soundfile.SoundFile(path) as sound:
            info = Info(sound.samplerate, sound.channels, sound.frames)
            kind, header = sound.format, sound.extra_info
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: not a sound file that libsndfile can read ({_reason(error)})") from None
    if info.frames >= 2**62:  # libsndfile's "unknown"; it cannot seek in such a file
        raise AudioError(f"{path}: does not say how long it is (was it written to a pipe?): convert it")
    if _cut_short(path, kind, header):
        raise AudioError(f"{path}: {TRUNCATED}")
    if info.frames <= 0:
        raise AudioError(f"{path}: has zero samples")
    return info


def load(path, rate, start=0.0, end=None):
    """Decode `path` (from `start` to `end` seconds), mix to mono, resample: float32 [N] at `rate` Hz.

    Raises AudioError for what `probe` refuses, and for a decoder's error, a file that ends early, and samples
    that are NaN, infinite or beyond LOUDEST.
    """
    info = probe(path)
    first = round(start * info.rate)
    stop = info.frames if end is None else min(round(end * info.rate), info.frames)
    if not 0 <= first < stop:
        raise AudioError(f"{path}: start {start} s and end {end} s do not lie within its {info.seconds:.2f} s")
    try:
        with soundfile.SoundFile(path) as sound:
            # After a seek, the MP3 decoder may lack the bits that frames share: noise for a tenth of a second.
            skip = first if sound.format == "MP3" else 0
            sound.seek(first - skip)
            wave = sound.read(skip + stop - first, dtype="float32", always_2d=True)[skip:]
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: cannot be decoded ({_reason(error)})") from None
    except MemoryError:
        raise AudioError(f"{path}: its {info.seconds / 3600:.0f} hours of sound do not fit into memory") from None
    if len(wave) < stop - first:
        raise AudioError(f"{path}: truncated: {len(wave)} of {stop - first} samples could be decoded")
    wave = mono(wave, path)  # under the same name, so that the channels of a long clip leave the memory
    return resample(wave, info.rate, rate)


def mono(wave, path="waveform"):
    """[N, channels], N > 0 -> [N]: the mean of the channels. AudioError for samples that `load` refuses."""
    with np.errstate(invalid="ignore", over="ignore"):
        wave = wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)
    if not max(wave.max(), -wave.min()) < LOUDEST:  # both are NaN if any sample is
        raise AudioError(f"{path}: has samples that are NaN, infinite or beyond {LOUDEST:g}")
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


def _check_mp3(path):
    """AudioError for what libsndfile's MP3 decoder would misreport, and comment on, on the standard error stream."""
    with open(path, "rb") as file:
        tag = file.read(10)  # ID3v2: its length is four bytes of seven bits
        start = 10 + int("".join(f"{byte:07b}" for byte in tag[6:]), 2) if tag[:3] == b"ID3" and len(tag) == 10 else 0
        file.seek(start)
        head = file.read(65536)
        size = file.seek(0, os.SEEK_END)
    frame = re.search(rb"\xff[\xe0-\xff]", head)
    if not frame:
        raise AudioError(f"{path}: not a sound file: it has no MP3 frame")
    # The Xing header, in the first frame: flags (2: the next but one field is there), frames, bytes.
    xing = re.compile(rb"(?:Xing|Info)\0\0\0(.)....(....)", re.S).search(head, frame.start(), frame.start() + 200)
    if xing and xing[1][0] & 3 == 3 and size - start - frame.start() < 0.99 * int.from_bytes(xing[2], "big"):
        raise AudioError(f"{path}: {TRUNCATED}")


def _cut_short(path, kind, header):
    """Whether a file is shorter than it says: libsndfile quietly reads what is left of it."""
    if kind in SIZES:
        sizes = re.findall(rf"^\s*{SIZES[kind]}\s*:\s*(\d+) \(should be (\d+)\)", header, re.M)
        # Programs that write to a pipe leave 0 or the largest number: "unknown", not a promise.
        return any(int(actual) < int(told) < 0x7FFFF000 for told, actual in sizes)
    if kind == "OGG":  # the last page of a whole stream carries the end-of-stream flag
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536 - 512))
            tail = file.read()
        page = tail[tail.rfind(b"OggS") :]  # 27 bytes, the number of segments last; their lengths; the segments
        lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
        return not lengths or not page[5] & 4 or len(page) < 27 + len(lengths) + sum(lengths)
    return False


def _reason(error):
    return str(getattr(error, "error_string", error)).strip().rstrip(".")
