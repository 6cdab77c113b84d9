"""Sound files, and sound from pipes, to waveforms: decoding, mixing and resampling happen here and nowhere else."""

import contextlib
import glob
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
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
BLOCK = 2**18  # frames to decode at a time, where a sound is not taken whole
SOUND = tuple(".wav .flac .ogg .oga .opus .mp3 .aif .aiff .au .snd .caf .w64 .rf64".split())  # for libsndfile
VIDEO = tuple(  # for ffmpeg: video, and sound that libsndfile does not read
    ".mp4 .m4v .mkv .webm .mov .avi .flv .wmv .mpg .mpeg .ts .3gp .m4a .aac .ac3 .wma .amr .mka".split()
)
WAV_KINDS = {  # by a WAV header's format code (1: integers, 3: floats) and bits
    (1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le", (3, 32): "f32le", (3, 64): "f64le",
}  # fmt: skip
PCM = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "f64le": 8}  # name as ffmpeg's: bytes


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
        with soundfile.SoundFile(os.fsencode(path)) as sound:
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
        with soundfile.SoundFile(os.fsencode(path)) as sound:
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


def find(inputs):
    """{path: name} of the sound files that `inputs` (files, folders, glob patterns) mean, in their order.

    The names are for results, and differ: the stem, below a folder with its place in it; where two files would have the
    same, with the suffix, and where these are the same too, with 8 hex digits of the path. UserError for what is not
    there, and for a folder (whose files with the suffixes SOUND and VIDEO are taken) or a pattern without any.
    """
    places = {}  # resolved path: (path, where it lies below the folder that was given)
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SOUND + VIDEO and p.is_file())
            files = [p for p in files if not p.name.startswith(".")]  # other systems' notes on the files
            if not files:
                raise UserError(f"{item}: a folder without sound files")
        elif path.exists():
            files = [path]
        elif not any(c in str(item) for c in "*?["):
            raise AudioError(f"{item}: no such file")
        elif not (files := [Path(p) for p in sorted(glob.glob(str(item), recursive=True)) if os.path.isfile(p)]):
            raise UserError(f"{item}: no file matches this pattern")
        for file in files:
            places.setdefault(file.resolve(), (file, file.relative_to(path) if path.is_dir() else Path(file.name)))
    names = {}
    for resolved, (file, place) in places.items():
        stem = place.with_suffix("").as_posix()
        digest = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:8]
        names[file] = stem, place.as_posix(), f"{stem}-{digest}"
    claims = Counter(name for candidates in names.values() for name in {*candidates})
    return {file: next(name for name in candidates if claims[name] == 1) for file, candidates in names.items()}


@dataclass
class Source:
    """A sound that is decoded part by part, so that its length does not matter to the memory."""

    name: str  # for errors
    rate: int  # Hz, its own
    seconds: float | None  # None: not known before the end
    parts: Iterator  # of float32 [n, channels]

    def at(self, rate):
        """What `load` gives, in parts: yields float32 [n] at `rate` Hz. AudioError as `load`."""
        resampler = None
        if rate != self.rate:
            resampler = soxr.ResampleStream(self.rate, rate, 1, dtype="float32", quality="HQ")
        empty = True
        for part in self.parts:
            wave, empty = mono(part, self.name), False
            yield resampler.resample_chunk(wave) if resampler else wave
        if empty:
            raise AudioError(f"{self.name}: has zero samples")
        if resampler:
            yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


@contextlib.contextmanager
def opened(path):
    """A `Source` for the file `path`: through libsndfile or, with one of VIDEO's suffixes, the ffmpeg program."""
    if Path(path).suffix.lower() in VIDEO:
        with _ffmpeg(path) as source:
            yield source
    else:
        info = probe(path)
        yield Source(str(path), info.rate, info.seconds, _decode(path, info))


def piped(read, name, rate=None, kind="s16le", channels=1, default_rate=None, live=False):
    """A `Source` for what `read(n)`, such as os.read, brings: up to n bytes, b"" at the end.

    A WAV stream, or PCM (kind: a key of PCM) of `channels` interleaved channels if it has no WAV header or `rate` is
    given. Without a header the rate is `rate` or else `default_rate`, AudioError if there is neither. live: give each
    part as it comes, however small.
    """
    head = b"" if rate else _take(read, 12)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        rate, kind, channels, size = _wav_header(read, name)
        head = b""
    elif rate := rate or default_rate:
        size = None
    else:
        raise AudioError(f"{name}: {'not a WAV stream' if head else 'is empty'}: for raw PCM give --pcm_rate")
    return Source(name, rate, None, _pcm(read, name, kind, channels, size, head, live))


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


def pad(wave, length, how="zero"):
    """[N], N > 0 -> at least `length` samples: filled with zeros ("zero"), or by the sound again ("repeat")."""
    if len(wave) >= length:
        return wave
    return np.resize(wave, length) if how == "repeat" else np.pad(wave, (0, length - len(wave)))


def ffmpeg_program(path):
    """The ffmpeg program, the system's or else imageio-ffmpeg's. AudioError that names `path` if there is none."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise AudioError(f"{path}: needs ffmpeg: install it, or run pip install imageio-ffmpeg") from None


class _InOrder(soundfile.SoundFile):
    """A sound file that does not seek after each read, as soundfile's own does: it would spoil the MP3 decoder's."""

    def seekable(self):
        return False


def _decode(path, info):
    """The sound of a file that `probe` has described, in parts: yields float32 [n, channels]."""
    count = 0
    try:
        with _InOrder(os.fsencode(path)) as sound:
            while count < info.frames and len(part := sound.read(BLOCK, dtype="float32", always_2d=True)):
                count += len(part)
                yield part
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: cannot be decoded ({_reason(error)})") from None
    if count < info.frames:
        raise AudioError(f"{path}: truncated: {count} of {info.frames} samples could be decoded")


@contextlib.contextmanager
def _ffmpeg(path):
    """A `Source` for the first sound track of a file that the ffmpeg program reads."""
    _check_file(path)
    command = [ffmpeg_program(path), "-nostdin", "-v", "error", "-i", f"file:{path}", "-map", "0:a:0"]
    command += ["-af", "aresample=async=1:first_pts=0"]  # sound that begins after its film, begins with silence
    command += ["-c:a", "pcm_f32le", "-f", "wav", "-"]  # with a header that tells its rate and channels
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, bufsize=0) as process,
    ):

        def read(size):
            data = process.stdout.read(size)
            if not data and process.wait():
                errors.seek(0)
                lines = errors.read().decode(errors="replace").split("\n")
                reason = next((line.strip() for line in lines if line.strip()), f"exit status {process.returncode}")
                reason = "it has no sound" if "matches no streams" in reason else f"ffmpeg cannot read it ({reason})"
                raise AudioError(f"{path}: {reason}")
            return data

        try:
            yield piped(read, str(path))
        finally:
            process.kill()  # where somebody needed only the beginning


def _take(read, size):
    """`size` bytes, fewer at the end."""
    data = b""
    while len(data) < size and (more := read(size - len(data))):
        data += more
    return data


def _wav_header(read, name):
    """Read a WAV stream from after its first 12 bytes to its sound: (rate, kind, channels, bytes of sound or None)."""
    sound = None
    while len(chunk := _take(read, 8)) == 8:
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data" and sound:
            # Programs that write to a pipe leave 0 or the largest number: "unknown".
            return *sound, size if 0 < size < 0x7FFFF000 else None
        content = _take(read, min(size + size % 2, 2**20))
        if chunk[:4] == b"fmt " and len(content) >= 16:
            code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if code == 0xFFFE and len(content) >= 26:  # extensible: the code is the beginning of a GUID
                code = int.from_bytes(content[24:26], "little")
            kind = WAV_KINDS.get((code, bits))
            if not kind or not channels or not rate:
                raise AudioError(f"{name}: a WAV stream of a kind that is not read (format {code}, {bits} bits)")
            sound = rate, kind, channels
    raise AudioError(f"{name}: a WAV stream without sound")


def _pcm(read, name, kind, channels, size, rest, live):
    """PCM in parts, from the bytes `rest` on, and as many as `size` if that is known: yields float32 [n, channels]."""
    width = PCM[kind] * channels
    left = size
    while True:
        wanted = min(BLOCK * width if left is None else left, BLOCK * width)
        new = read(wanted) if live and wanted else _take(read, wanted)
        left = None if left is None else left - len(new)
        data = rest + new
        whole = len(data) // width * width
        rest = data[whole:]
        if whole:
            yield _to_float(data[:whole], kind).reshape(-1, channels)
        if not new:
            break
    if left:
        raise AudioError(f"{name}: {TRUNCATED}")


def _to_float(data, kind):
    """PCM bytes -> float32 [n], 1 being full scale."""
    if kind == "s24le":
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return (wide.view("<i4")[:, 0] / 2**31).astype(np.float32)
    if kind == "u8":
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    samples = np.frombuffer(data, {"s": "<i", "f": "<f"}[kind[0]] + str(PCM[kind]))
    scale = np.float32(1 if kind[0] == "f" else 2 ** (8 * PCM[kind] - 1))
    return (samples / scale).astype(np.float32)


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
