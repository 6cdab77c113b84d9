"""Sounds to log-mels in jobs for several threads: a job per file, and per part of a long one if it can be cut.

The parts do not depend on the number of threads, so neither do the results.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from paddletag.data import audio
from paddletag.data.audio import AudioError
from paddletag.features.frontend import FrontEnd
from paddletag.features.padding import pad
from paddletag.tagging.windows import Clip, LogMelStream, Windows
from paddletag.type_aliases import File

Sound = File | audio.Source
PART = 30.0  # seconds of a long sound that are one job


@dataclass(frozen=True)
class Part:
    """Some of a sound's log-mel, in the order of time."""

    frames: np.ndarray  # float32 [T, n_mels]
    samples: int  # of the sound, up to here, at the front end's rate
    more: Iterator["Job"] | None = None  # the jobs for what follows, where this part knows them; all may begin at once
    seconds: float | None = None  # the sound's length, where the first part of several knows it


Job = Callable[[], "Part | AudioError"]


def job(sound: Sound, front_end: FrontEnd, windows: Windows | Clip) -> Job:
    """The first job of a sound; those after it are in its result. windows: what the log-mel is for.

    AudioErrors are results, not raised.
    """
    return partial(_safely, sound, partial(_begin, sound, front_end, windows))


def _safely(sound: Sound, work: Callable[[], Part]) -> Part | AudioError:
    try:
        return work()
    except AudioError as error:
        return error
    except MemoryError:
        return too_large(sound)


def too_large(sound: Sound) -> AudioError:
    """The error of a sound for which the memory does not suffice."""
    name = sound.name if isinstance(sound, audio.Source) else sound
    return AudioError(f"{name}: does not fit into memory: try shorter windows, or fewer at a time")


def _begin(sound: Sound, front_end: FrontEnd, windows: Windows | Clip) -> Part:
    """The first part of a sound, or the whole of a short one."""
    if isinstance(sound, audio.Source) and sound.seconds is not None and sound.seconds < PART:
        return _whole(np.concatenate(list(sound.at(front_end.sample_rate))), front_end, windows)
    if isinstance(sound, (audio.Source, audio.Span)) or audio.is_video(sound):
        return _next(sound, _streamed(sound, front_end, windows), getattr(sound, "seconds", None))
    info = audio.probe(sound)
    samples = int(info.seconds * front_end.sample_rate)
    size = round(PART * front_end.sample_rate / front_end.hop_length)  # frames
    count = samples // front_end.hop_length // size  # parts; the last one has also what is left
    if count < 2:
        return _whole(audio.load(sound, front_end.sample_rate), front_end, windows)
    if not info.exact_seeks or windows.longest_padding > samples:
        return _next(sound, _streamed(sound, front_end, windows), info.seconds)
    parts = (partial(_part, sound, info, front_end, size, k, k == count - 1) for k in range(count))
    first = next(parts)()
    return replace(first, more=(partial(_safely, sound, part) for part in parts), seconds=info.seconds)


def _whole(wave: np.ndarray, front_end: FrontEnd, windows: Windows | Clip) -> Part:
    """A short sound [N] as its only part."""
    return Part(front_end.log_mel(pad(wave, windows.padded(len(wave)), front_end.pad)), len(wave))


def _part(path: File, info: audio.Info, front_end: FrontEnd, size: int, k: int, last: bool) -> Part:
    """Part k of a file: `size` frames, and the last part all that are left."""
    hop, context = front_end.hop_length, LogMelStream(front_end).context if k else 0
    begin = (k * size - context) * hop  # samples; the first frames see reflection, not the sound before
    stop = None if last else ((k + 1) * size + 1) * hop + front_end.n_fft
    wave = audio.load_part(path, info, front_end.sample_rate, begin, stop)
    frames = front_end.log_mel(wave)[context : None if last else context + size]
    return Part(frames, begin + len(wave) if last else (k + 1) * size * hop)


def _streamed(sound: Sound, front_end: FrontEnd, windows: Windows | Clip) -> Iterator[tuple[np.ndarray, int, bool]]:
    """(frames, samples so far, whether that is all) of a sound that is decoded from its beginning."""
    stream = LogMelStream(front_end, windows.longest_padding)
    with contextlib.nullcontext(sound) if isinstance(sound, audio.Source) else audio.opened(sound) as source:
        for wave in source.at(front_end.sample_rate):
            yield stream.feed(wave), stream.samples, False
    samples = stream.samples  # before the padding
    yield stream.finish(windows.padded(samples)), samples, True


def _next(sound: Sound, frames: Iterator[tuple[np.ndarray, int, bool]], seconds: float | None = None) -> Part:
    """The next part of what `_streamed` gives; the part after it is one more job."""
    log_mel, samples, last = next(frames)
    more = None if last else iter([partial(_safely, sound, partial(_next, sound, frames))])
    return Part(log_mel, samples, more, seconds)
