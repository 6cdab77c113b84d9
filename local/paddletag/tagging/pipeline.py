"""Scores of sounds of any length, over time: threads decode, compute log-mels and score, a bounded way ahead.

Paddle is imported where it is used, so that arguments can be checked before.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from paddletag import parallel, runtime
from paddletag.data import audio
from paddletag.data.audio import AudioError
from paddletag.features.frontend import FrontEnd
from paddletag.models import calibration
from paddletag.runtime import UserError
from paddletag.tagging import reading
from paddletag.tagging.reading import Part, Sound, too_large
from paddletag.tagging.windows import Clip, Rows, Windows
from paddletag.type_aliases import Arrays, Meta

if TYPE_CHECKING:
    from paddletag.tagging.scoring import Model

Predict = Callable[[np.ndarray], Arrays]  # what `predictor` gives


@dataclass(frozen=True)
class ParallelPredict:
    """A `Predict` that several threads may call at once."""

    predict: Predict

    def __call__(self, log_mel: np.ndarray) -> Arrays:
        """As `predict`."""
        return self.predict(log_mel)


def predictor(model: "Model", task: str, embeddings: bool = False) -> Predict:
    """A function: log-mel float32 [B, T, M] -> {"scores": [B, C]}, with "embeddings": [B, D] too if asked for.

    It is all that tagging needs of a model: another engine is another such function.
    """
    from paddletag.tagging import scoring  # imports paddle

    def predict(log_mel: np.ndarray) -> Arrays:
        scores, embedding = scoring.score(model, log_mel, task)
        return {"scores": scores, **({"embeddings": embedding} if embeddings else {})}

    return predict


def tag_sounds(
    predict: Predict,
    meta: Meta,
    front_end: FrontEnd,
    sounds: Iterable[Sound],
    window: float = 0.0,
    hop: float = 0.0,
    batch_size: int = 8,
    workers: int = 0,
) -> Generator[tuple[Sound, Arrays | AudioError], None, None]:
    """Tag each of `sounds` (paths, or `audio.Source`s): yields (sound, arrays), or (sound, its AudioError), in order.

    window: seconds, every `hop` seconds (default: `window`); 0: the whole sound as one row, as evaluation computes it.
    workers: threads that decode, compute log-mels and, with a `ParallelPredict`, score (0: as many as cores). Scores do
    not depend on their number. UserError for a hop that is shorter than a frame. The arrays:
    time [N]: a window's start as a fraction of the sound; start, end [N]: in seconds; scores [N, C]; labels [C]; model
    (`calibration.model_name`); backbone; embeddings [N, D] if `predict` gives them. Those of a calibrated model have
    thresholds, float32 [C], and scores at its temperature, whatever `predict` computes with.
    """

    def taggings() -> Iterator[_Tagging]:
        for sound in sounds:
            yield _Tagging(sound, Windows(front_end, window, hop, meta) if window else Clip(front_end, meta))

    workers = workers or runtime.cores()
    begun: deque[_Tagging] = deque()  # in order, those whose results were not given yet
    with contextlib.closing(parallel.Threads(workers)) as threads:
        scoring = _Scoring(predict, threads, batch_size, workers + 2)
        with contextlib.closing(_parts(threads, taggings(), front_end, workers + 2)) as parts:
            for tagging, part, last in parts:
                if not begun or begun[-1] is not tagging:
                    begun.append(tagging)
                tagging.take(part, last, scoring)
                scoring.collect(wait=False)
                while begun and begun[0].is_done:
                    yield begun[0].sound, begun.popleft().result(meta)
        scoring.collect()
        while begun:
            yield begun[0].sound, begun.popleft().result(meta)


class _Tagging:
    """A sound while it is tagged."""

    def __init__(self, sound: Sound, windows: Windows | Clip) -> None:
        self.sound, self.windows = sound, windows
        self.rows: dict[str, Rows] = {}  # what the model gave for its windows
        self.waiting = 0  # windows that are not scored yet
        self.is_read = False  # to its end
        self.error: AudioError | None = None

    @property
    def is_done(self) -> bool:
        """Whether `result` may be called."""
        return self.is_read and not self.waiting

    def take(self, part: Part | AudioError, last: bool, scoring: "_Scoring") -> None:
        """Cut the next part of the sound into windows, and have them scored."""
        self.is_read = last
        if isinstance(part, AudioError):
            self.error = part
        if self.error or isinstance(part, AudioError):
            return
        try:
            scoring.add(self, self.windows.feed(part.frames))
            if last:
                scoring.add(self, self.windows.flush(part.samples))
        except MemoryError:
            self.error = too_large(self.sound)

    def add_rows(self, arrays: Arrays | None) -> None:
        """Keep what the model gave for some windows; None: the memory did not suffice."""
        try:
            for name, values in (arrays or {}).items():
                self.rows.setdefault(name, Rows()).append(values)
        except MemoryError:
            arrays = None
        if arrays is None:
            self.error = too_large(self.sound)

    def result(self, meta: Meta) -> Arrays | AudioError:
        """The arrays of `tag_sounds`, or what went wrong."""
        try:
            return self.error or result_arrays(meta, self.windows, self.rows)
        except MemoryError:
            return too_large(self.sound)


class _Scoring:
    """Windows of all sounds to the model, in batches of equal windows; at most `ahead` batches wait for it."""

    def __init__(self, predict: Predict, threads: parallel.Threads, batch_size: int, ahead: int) -> None:
        self.predict, self.batch_size, self.ahead = predict, batch_size, ahead
        self.threads = threads if isinstance(predict, ParallelPredict) else None
        self.batch: list[tuple[_Tagging, np.ndarray]] = []  # the one that is not full yet
        self.under_way: deque[tuple[Future, list[tuple[_Tagging, np.ndarray]]]] = deque()

    def add(self, tagging: _Tagging, log_mels: Iterable[np.ndarray]) -> None:
        """Have the next windows of a sound scored: log-mels [T, M]."""
        for log_mel in log_mels:
            if self.batch and self.batch[0][1].shape != log_mel.shape:
                self._begin()
            tagging.waiting += 1
            self.batch.append((tagging, log_mel))
            if len(self.batch) == self.batch_size:
                self._begin()

    def collect(self, wait: bool = True) -> None:
        """Give the rows that are ready to their sounds; wait: score all that there is, and give all."""
        if wait and self.batch:
            self._begin()
        while self.under_way and (wait or self.under_way[0][0].done()):
            self._collect_one()

    def _begin(self) -> None:
        batch, self.batch = self.batch, []
        log_mels = [log_mel for _, log_mel in batch]
        if self.threads:
            future = self.threads.submit(self._score, log_mels)
        else:
            future = Future()
            future.set_result(self._score(log_mels))
        self.under_way.append((future, batch))
        while len(self.under_way) > self.ahead:
            self._collect_one()

    def _score(self, log_mels: list[np.ndarray]) -> Arrays | None:
        try:
            return self.predict(np.stack(log_mels))
        except MemoryError:
            return None

    def _collect_one(self) -> None:
        future, batch = self.under_way.popleft()
        arrays, begin = future.result(), 0
        for tagging, group in groupby(batch, key=lambda pair: pair[0]):
            log_mels = [log_mel for _, log_mel in group]
            stop = begin + len(log_mels)
            own = {name: values[begin:stop] for name, values in arrays.items()} if arrays else None
            if own is None and len(log_mels) < len(batch):  # one sound must not cost another one its rows
                own = self._score(log_mels)
            tagging.add_rows(own)
            tagging.waiting -= len(log_mels)
            begin = stop


def _parts(
    threads: parallel.Threads, taggings: Iterator[_Tagging], front_end: FrontEnd, ahead: int
) -> Generator[tuple[_Tagging, Part | AudioError, bool], None, None]:
    """(sound, its next part, whether that is the last one), in order.

    At most `ahead` parts of one sound are under way or wait, and as many first parts of the sounds after it.
    """
    first: deque[tuple[_Tagging, Future]] = deque()
    while True:
        while len(first) < ahead and (following := next(taggings, None)):
            first.append((following, threads.submit(reading.job(following.sound, front_end, following.windows))))
        if not first:
            return
        tagging, future = first.popleft()
        parts, more = deque([future]), iter(())
        with contextlib.ExitStack() as stack:
            bar = None
            while parts:
                part = parts.popleft().result()
                more = getattr(part, "more", None) or more
                while len(parts) < ahead and not isinstance(part, AudioError) and (job := next(more, None)):
                    parts.append(threads.submit(job))
                if isinstance(part, AudioError):
                    for rest in parts:
                        rest.cancel()
                    parts.clear()
                elif parts and bar is None:
                    bar = stack.enter_context(_seconds_bar(tagging.sound, part))
                if bar is not None and not isinstance(part, AudioError):
                    bar.update(part.samples // front_end.sample_rate - bar.n)
                yield tagging, part, not parts


def _seconds_bar(sound: Sound, part: Part) -> Any:
    """A bar for the seconds of a long sound, from its first part."""
    name = sound.name if isinstance(sound, audio.Source) else str(sound)
    return runtime.progress(total=part.seconds and round(part.seconds), desc=name[-40:], unit="s")


def tag_clip(model: "Model", meta: Meta, path: Sound, batch_size: int = 8) -> Arrays:
    """The scores of the whole file, as evaluation computes them: arrays as those of `tag_sounds`, with one row.

    Clips that are shorter than those a model was fine-tuned on are padded to their length, as they were in training; a
    backbone straight from the registry takes them as they are. AudioError for a file that cannot be used.
    """
    predict = predictor(model, meta["task"])
    return only_result(tag_sounds(predict, meta, model.front_end, [path], batch_size=batch_size))


def tag_windows(model: "Model", meta: Meta, path: Sound, window: float, hop: float, batch_size: int = 8) -> Arrays:
    """Scores of windows of `window` seconds every `hop` seconds: arrays as those of `tag_sounds`.

    A window begins at every hop (rounded to whole frames), and the last one ends with the sound: see `Windows`.
    AudioError for a file that cannot be used.
    """
    predict = predictor(model, meta["task"])
    return only_result(tag_sounds(predict, meta, model.front_end, [path], window, hop, batch_size=batch_size))


def only_result(results: Iterable[tuple[Sound, Arrays | AudioError]]) -> Arrays:
    """The arrays of the one sound that `tag_sounds` was given. Its AudioError if it could not be tagged."""
    ((_, result),) = results
    if isinstance(result, UserError):
        raise result
    return result


def result_arrays(meta: Meta, windows: Windows | Clip, rows: Mapping[str, Rows]) -> Arrays:
    """The arrays of a sound as `tag_sounds` gives them: of its windows, and of what the model gave for each of them."""
    start, end, seconds = windows.spans()
    arrays = {"time": start / seconds, "start": start, "end": end}
    arrays.update({name: windows.reduce(values[:]) for name, values in rows.items()})
    arrays["scores"] = calibration.calibrated_scores(arrays["scores"], meta)
    arrays |= {"labels": np.array(meta["labels"]), "model": np.array(calibration.model_name(meta))}
    if (thresholds := calibration.thresholds(meta)) is not None:
        arrays["thresholds"] = thresholds
    return {**arrays, "backbone": np.array(meta["backbone"])}
