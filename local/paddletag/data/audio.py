"""Sound files, and sound from pipes, to waveforms: decoding, mixing and resampling happen here and nowhere else."""

import contextlib
import math
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr

from paddletag.data import pcm
from paddletag.data.audio_headers import check_mp3, is_cut_short
from paddletag.data.ffmpeg import ffmpeg_input, ffmpeg_program
from paddletag.data.pcm import TRUNCATED, AudioError
from paddletag.type_aliases import File

LOUDEST = 1e12  # beyond any scale that sound is written in (1 is full scale); its power would overflow float32
SLOWEST, FASTEST = 1000, 768_000  # Hz; a header that says otherwise is damaged, and resampling would take gigabytes
CHANNELS = 1024  # at most, as in libsndfile
MARGIN = 0.05  # s: sound around a part, for the resampler
BLOCK = 2**18  # numbers to decode at a time, in all channels, and samples to make of them
SOUND = tuple(".wav .flac .ogg .oga .opus .mp3 .aif .aiff .au .snd .caf .w64 .rf64".split())  # for libsndfile
VIDEO = tuple(  # for ffmpeg: video, and sound that libsndfile does not read
    ".mp4 .m4v .mkv .webm .mov .avi .flv .wmv .mpg .mpeg .ts .3gp .m4a .aac .ac3 .wma .amr .mka".split()
)


@dataclass(frozen=True)
class Info:
    """What the header of a sound file says."""

    rate: int  # Hz
    channels: int
    frames: int
    # whether decoding can begin anywhere, with the same samples as from the beginning
    exact_seeks: bool = field(default=False, compare=False)

    @property
    def seconds(self) -> float:
        """The length of the sound."""
        return self.frames / self.rate


def probe(path: File) -> Info:
    """Read only the header of `path`: an `Info`.

    AudioError if it is missing, empty, not audio or cut short, or has a rate that no sound has.
    """
    with _faults(path, OSError):
        _check_file(path)
        if str(path).lower().endswith(".mp3"):
            check_mp3(path)
    try:
        with soundfile.SoundFile(os.fsencode(path)) as sound:
            exact = sound.subtype.startswith("PCM_") or sound.subtype in ("FLOAT", "DOUBLE", "ULAW", "ALAW")
            info = Info(sound.samplerate, sound.channels, sound.frames, exact)
            kind, header = sound.format, sound.extra_info
    except Exception as error:
        raise AudioError(f"{path}: not a sound file that libsndfile can read ({_reason(error)})") from None
    if info.frames >= 2**62:  # libsndfile's "unknown"; it cannot seek in such a file
        raise AudioError(f"{path}: does not say how long it is (was it written to a pipe?): convert it")
    with _faults(path, OSError):
        if is_cut_short(path, kind, header):
            raise AudioError(f"{path}: {TRUNCATED}")
    if info.frames <= 0:
        raise AudioError(f"{path}: has zero samples")
    _check_shape(path, info.rate, info.channels)
    return info


def load(path: File, rate: int, start: float = 0.0, end: float | None = None) -> np.ndarray:
    """Decode `path` (from `start` to `end` seconds), mix to mono, resample: float32 [N] at `rate` Hz.

    It takes hardly more memory than its result. Raises AudioError for what `probe` refuses, and for a decoder's error,
    a file that ends early, samples that are NaN, infinite or beyond LOUDEST, and what does not fit into memory.
    """
    info = probe(path)
    first, stop = _frames(path, info, start, end)
    try:
        loaded, count = np.empty(-(-(stop - first) * rate // info.rate) + 1, np.float32), 0
    except MemoryError:
        raise AudioError(f"{path}: its {info.seconds / 3600:.0f} hours of sound do not fit into memory") from None
    waves = (mono(part, path) for part in _decode(path, info, first, stop))
    for wave in _resampled(path, waves, info.rate, rate):
        loaded[count : count + len(wave)] = wave
        count += len(wave)
    return loaded[:count]


def load_part(path: File, info: Info, rate: int, first: int, stop: int | None) -> np.ndarray:
    """The samples `first` to `stop` (None: the end) of what `load` gives for a whole file: float32 [stop - first].

    They agree with it to rounding. info: what `probe` says of the file; it must have exact seeks. AudioError as `load`.
    """
    common = math.gcd(info.rate, rate)
    unit, to_unit = info.rate // common, rate // common  # so many samples take as long, before and after resampling
    margin = 0 if info.rate == rate else math.ceil(MARGIN * info.rate)  # the resampler's filter is shorter
    begin = max(0, first // to_unit - -(-margin // unit)) * unit
    end = info.frames if stop is None else min(info.frames, -(-stop * info.rate // rate) + margin)
    waves = (mono(part, path) for part in _decode(path, info, begin, end))
    wave = np.concatenate(list(_resampled(path, waves, info.rate, rate)))
    skipped = first - begin // unit * to_unit
    return wave[skipped : None if stop is None else skipped + stop - first]


@dataclass(frozen=True)
class Span(os.PathLike[str]):
    """A part of a sound file, from `start` to `end` seconds (None: to its end), in the place of its path."""

    path: str
    start: float = 0.0
    end: float | None = None

    def __fspath__(self) -> str:
        """The path of the file."""
        return self.path

    def __str__(self) -> str:
        return self.path


@dataclass
class Source:
    """A sound that is decoded part by part, so that its length does not matter to the memory."""

    name: str  # for errors
    rate: int  # Hz, its own
    seconds: float | None  # None: not known before the end
    parts: Iterator[np.ndarray]  # of float32 [n, channels]

    def at(self, rate: int) -> Iterator[np.ndarray]:
        """What `load` gives, in parts: yields float32 [n] at `rate` Hz. AudioError as `load`."""
        return _resampled(self.name, self._waves(), self.rate, rate)

    def _waves(self) -> Iterator[np.ndarray]:
        empty = True
        for part in self.parts:
            empty = False
            yield mono(part, self.name)
        if empty:
            raise AudioError(f"{self.name}: has zero samples")


def is_video(path: File) -> bool:
    """Whether the name of a file says that the ffmpeg program is to read it."""
    return Path(path).suffix.lower() in VIDEO


@contextlib.contextmanager
def opened(path: File) -> Iterator[Source]:
    """A `Source` for the file `path`: through libsndfile or, with one of VIDEO's suffixes, the ffmpeg program.

    Of a `Span` it is that part; its end may lie beyond the file's. AudioError as `load`, here or while its parts are
    read.
    """
    span = path if isinstance(path, Span) else Span(os.fspath(path))
    if is_video(path):
        with _ffmpeg(span) as source:
            yield source
    else:
        info = probe(path)
        first, stop = _frames(path, info, span.start, span.end)
        yield Source(str(path), info.rate, (stop - first) / info.rate, _decode(path, info, first, stop))


def piped(
    read: pcm.Read,
    name: str,
    rate: int | None = None,
    kind: str = "s16le",
    channels: int = 1,
    default_rate: int | None = None,
    live: bool = False,
) -> Source:
    """A `Source` for what `read(n)`, such as os.read, brings: up to n bytes, b"" at the end.

    A WAV stream, or raw PCM (kind: a key of pcm.PCM) of `channels` interleaved channels if it has no WAV header or
    `rate` is given. Without a header the rate is `rate` or else `default_rate`, AudioError if there is neither. live:
    give each part as it comes, however small.
    """

    def safely(size: int) -> bytes:
        with _faults(name, OSError):
            return read(size)

    head = b"" if rate else pcm.take(safely, 12)
    size: int | None = None  # bytes of sound, where it is known
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        rate, kind, channels, size = pcm.wav_header(safely, name)
        head = b""
    elif not (rate := rate or default_rate):
        raise AudioError(f"{name}: {'not a WAV stream' if head else 'is empty'}: for raw PCM give --pcm_rate")
    _check_shape(name, rate, channels)
    block = max(1, BLOCK // channels)
    return Source(name, rate, None, pcm.parts(safely, name, kind, channels, size, head, live, block))


def mono(wave: np.ndarray, path: File = "waveform") -> np.ndarray:
    """[N, channels], N > 0 -> [N]: the mean of the channels. AudioError for samples that `load` refuses."""
    with np.errstate(invalid="ignore", over="ignore"):
        wave = wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)
    if not max(wave.max(), -wave.min()) < LOUDEST:  # both are NaN if any sample is
        raise AudioError(f"{path}: has samples that are NaN, infinite or beyond {LOUDEST:g}")
    return np.ascontiguousarray(wave)


class _InOrder(soundfile.SoundFile):
    """A sound file that does not seek after each read, as soundfile's own does: it would spoil the MP3 decoder's."""

    def seekable(self) -> bool:
        return False


def _decode(path: File, info: Info, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """The frames from `first` to `stop` of a file that `probe` has described: yields float32 [n, channels]."""
    count = (info.frames if stop is None else stop) - first
    block = max(1, BLOCK // info.channels)
    with _faults(path, Exception):
        sound = _InOrder(os.fsencode(path))
    with sound:
        # After a seek, the MP3 decoder may lack the bits that frames share: noise for a tenth of a second.
        skip = first if sound.format == "MP3" else 0
        done = -skip
        with _faults(path, Exception):
            if first > skip:
                sound.seek(first)
        while done < count:
            with _faults(path, Exception):
                part = sound.read(min(block, count - done), dtype="float32", always_2d=True)
            if not len(part):
                raise AudioError(f"{path}: truncated: {max(0, first + done)} of {info.frames} samples could be decoded")
            done += len(part)
            if done > 0:
                yield part[-done:] if done < len(part) else part


def _frames(path: File, info: Info, start: float, end: float | None) -> tuple[int, int]:
    """(the first frame from `start` seconds on, the frame after the last one before `end`, or the file's end).

    AudioError for times that do not lie in the file, or are no numbers.
    """
    if 0 <= start < min(math.inf if end is None else end, info.seconds):  # False if one of them is NaN
        first = round(start * info.rate)
        stop = info.frames if end is None else min(round(min(end, info.seconds) * info.rate), info.frames)
        if first < stop:
            return first, stop
    raise AudioError(f"{path}: {_describe(start, end)} do not lie within its {info.seconds:.2f} s")


def _describe(start: float, end: float | None) -> str:
    return f"start {start} s and end {end} s"


def _resampled(name: File, waves: Iterable[np.ndarray], rate: int, to_rate: int) -> Iterator[np.ndarray]:
    """A waveform that comes in parts, float32 [n] at `rate` Hz: yields what it is at `to_rate` Hz, in parts.

    Band-limited (soxr HQ), to the same bits whatever the parts; no more than BLOCK samples are made at a time.
    """
    if rate == to_rate:
        yield from waves
        return
    resampler = soxr.ResampleStream(rate, to_rate, 1, dtype="float32", quality="HQ")
    block = max(1, BLOCK * rate // to_rate)
    for wave in waves:
        for begin in range(0, len(wave), block):
            with _faults(name, MemoryError):
                part = resampler.resample_chunk(wave[begin : begin + block])
            yield part
    with _faults(name, MemoryError):
        part = resampler.resample_chunk(np.empty(0, np.float32), last=True)
    yield part


@contextlib.contextmanager
def _faults(path: File, kinds: type[Exception]) -> Iterator[None]:
    """What goes wrong in a decoder, or in reading, is an error of the file `path`: an AudioError that names it."""
    try:
        yield
    except AudioError:
        raise
    except kinds as error:
        reason = f"cannot be decoded ({_reason(error)})"
        if isinstance(error, MemoryError):
            reason = "does not fit into memory"
        elif isinstance(error, OSError):
            reason = (error.strerror or str(error)).lower()
        raise AudioError(f"{path}: {reason}") from None


@contextlib.contextmanager
def _ffmpeg(span: Span) -> Iterator[Source]:
    """A `Source` for the first sound track of a file that the ffmpeg program reads."""
    path = span.path
    with _faults(path, OSError):
        _check_file(path)
    if not 0 <= span.start < (math.inf if span.end is None else span.end):
        raise AudioError(f"{path}: {_describe(span.start, span.end)} are no times in it")
    command = [ffmpeg_program(path), "-nostdin", "-v", "error", *ffmpeg_input(path), "-map", "0:a:0"]
    command += ["-af", "aresample=async=1:first_pts=0"]  # sound that begins after its film, begins with silence
    command += ["-ss", f"{span.start:.6f}"] if span.start else []
    command += ["-to", f"{span.end:.6f}"] if span.end is not None and span.end < math.inf else []
    command += ["-c:a", "pcm_f32le", "-f", "wav", "-"]  # with a header that tells its rate and channels
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, bufsize=0) as process,
    ):

        def read(size: int) -> bytes:
            assert process.stdout is not None
            data = process.stdout.read(size)
            if not data and process.wait():
                errors.seek(0)
                lines = errors.read().decode(errors="replace").split("\n")
                reason = next((line.strip() for line in lines if line.strip()), f"exit status {process.returncode}")
                if "not on whitelist" in reason:
                    reason = "not a file of sound or video by itself, but perhaps a list of others"
                reason = "it has no sound" if "matches no streams" in reason else f"ffmpeg cannot read it ({reason})"
                raise AudioError(f"{path}: {reason}")
            return data

        try:
            yield piped(read, str(path))
        finally:
            process.kill()  # where somebody needed only the beginning


def _check_shape(name: File, rate: int, channels: int) -> None:
    if not SLOWEST <= rate <= FASTEST:
        raise AudioError(f"{name}: has a rate of {rate} Hz: only those from {SLOWEST} to {FASTEST} Hz are read")
    if channels > CHANNELS:
        raise AudioError(f"{name}: has {channels} channels: at most {CHANNELS} are read")


def _check_file(path: File) -> None:
    path = Path(path)
    if not path.exists():
        raise AudioError(f"{path}: no such file")
    if not path.is_file():
        raise AudioError(f"{path}: not a file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: is empty")


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")
