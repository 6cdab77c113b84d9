"""Scores of sounds of any length, over time: sounds are decoded while the model computes.

Paddle is imported where it is used, so that arguments can be checked before.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from paddletag import parallel
from paddletag.data import audio
from paddletag.data.audio import AudioError
from paddletag.features.frontend import FrontEnd
from paddletag.models import calibration
from paddletag.runtime import UserError, progress
from paddletag.tagging.windows import Clip, Rows, Windows
from paddletag.type_aliases import Arrays, File, Meta

if TYPE_CHECKING:
    from paddletag.tagging.scoring import Model

Predict = Callable[[np.ndarray], Arrays]  # what `predictor` gives
Sound = File | audio.Source


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
) -> Generator[tuple[Sound, Arrays | AudioError], None, None]:
    """Tag each of `sounds` (paths, or `audio.Source`s): yields (sound, arrays), or (sound, its AudioError).

    window: seconds, every `hop` seconds (default: `window`); 0: the whole sound as one row, as evaluation computes it.
    UserError for a hop that is shorter than a frame. The arrays:
    time [N]: a window's start as a fraction of the sound; start, end [N]: in seconds; scores [N, C]; labels [C]; model
    (`calibration.model_name`); backbone; embeddings [N, D] if `predict` gives them. Those of a calibrated model have
    thresholds, float32 [C], and scores at its temperature, whatever `predict` computes with.
    """

    def batches() -> Generator[tuple[Sound, np.ndarray | Windows | Clip | AudioError], None, None]:
        """(sound, batch of log-mels) as often as needed, then (sound, its windows at their end, or what went wrong)."""
        for sound in sounds:
            try:
                with (
                    contextlib.nullcontext(sound) if isinstance(sound, audio.Source) else audio.opened(sound) as source
                ):
                    windows = Windows(front_end, window, hop, meta) if window else Clip(front_end, meta)
                    for batch in _batches(_log_mels(source, windows), batch_size):
                        yield sound, batch
                yield sound, windows
            except AudioError as error:
                yield sound, error
            except MemoryError:
                yield sound, _too_large(sound)

    rows: dict[str, Rows] = {}
    failure: AudioError | None = None  # of the model with this sound: what is left of it is not scored
    with contextlib.closing(parallel.prefetch(batches())) as items:
        for sound, item in items:
            if isinstance(item, np.ndarray):
                try:
                    if not failure:
                        for name, values in predict(item).items():
                            rows.setdefault(name, Rows()).append(values)
                except MemoryError:
                    failure = _too_large(sound)
                continue
            try:
                result = failure or (item if isinstance(item, AudioError) else result_arrays(meta, item, rows))
            except MemoryError:
                result = _too_large(sound)
            yield sound, result
            rows, failure = {}, None


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


def result_arrays(meta: Meta, windows: Windows | Clip, rows: dict[str, Rows]) -> Arrays:
    """The arrays of a sound as `tag_sounds` gives them: of its windows, and of what the model gave for each of them."""
    start, end, seconds = windows.spans()
    arrays = {"time": start / seconds, "start": start, "end": end}
    arrays.update({name: windows.reduce(values[:]) for name, values in rows.items()})
    arrays["scores"] = calibration.calibrated_scores(arrays["scores"], meta)
    arrays |= {"labels": np.array(meta["labels"]), "model": np.array(calibration.model_name(meta))}
    if (thresholds := calibration.thresholds(meta)) is not None:
        arrays["thresholds"] = thresholds
    return {**arrays, "backbone": np.array(meta["backbone"])}


def _too_large(sound: Sound) -> AudioError:
    name = sound.name if isinstance(sound, audio.Source) else sound
    return AudioError(f"{name}: does not fit into memory: try shorter windows, or fewer at a time")


def _log_mels(source: audio.Source, windows: Windows | Clip) -> Iterator[np.ndarray]:
    """The windows of a source, with a bar of its seconds."""
    rate = windows.front_end.sample_rate
    seconds = source.seconds and round(source.seconds)
    with progress(total=seconds, desc=source.name[-40:], unit="s") as bar:
        for wave in source.at(rate):
            yield from windows.feed(wave)
            bar.update(windows.samples // rate - bar.n)
        yield from windows.flush()


def _batches(log_mels: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """[T, M] each -> [up to `size`, T, M]."""
    batch = []
    for log_mel in log_mels:
        batch.append(log_mel)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
