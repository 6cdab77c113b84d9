"""Tagging from Python: `events` finds what sounds when, `tag` labels a sound, a `Tagger` keeps its model for many.

import paddletag

for start, end, label, score in paddletag.events("street.wav"):
    print(f"{start:6.2f} {end:6.2f}  {label}  {score:.3f}")
"""

import os
import re
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from paddletag.data import audio
from paddletag.models import model_folder
from paddletag.models.device import use_device
from paddletag.runtime import UserError
from paddletag.tagging import onnx_engine, pipeline
from paddletag.tagging.events import find_events
from paddletag.tagging.labels import THRESHOLD, answers, choose_labels, split_names
from paddletag.tagging.windows import check_seconds, hop_frames
from paddletag.type_aliases import Arrays, File

MANY_FILES, MANY_BYTES = 100, 200e6
ENGINES = ("auto", "paddle", "onnxruntime")


class Tag(NamedTuple):
    """A label of a part of a sound."""

    start: float  # seconds
    end: float  # seconds
    label: str
    score: float  # 0 to 1


def open_predictor(
    model: File,
    engine: str = "auto",
    device: str = "cpu",
    embeddings: bool = False,
    threads: int = 1,
    much: bool = False,
) -> pipeline.Predict:
    """The function that scores log-mels with a model: see `pipeline.predictor`.

    model: the folder of a trained model, or the name of a backbone. engine: one of ENGINES; auto is ONNX Runtime where
    the CPU computes and the model's graph is at hand, or can be made and there is `much` to score; else Paddle.
    device: cpu, gpu, gpu:0 ... threads: of ONNX Runtime, for a call; 1 where several threads call (`tag_sounds`).
    UserError for a model, a package or a device that is not there.
    """
    if engine == "auto":
        engine = "onnxruntime" if device == "cpu" and onnx_engine.has_graph(model, make=much) else "paddle"
    if engine == "onnxruntime":
        return onnx_engine.predictor(model, embeddings, threads)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No ccache found")  # Paddle's, for those who compile operators
        use_device(device)
    network, meta = model_folder.load_model(model)
    return pipeline.predictor(network, meta["task"], embeddings)


def is_much(paths: Iterable[File]) -> bool:
    """Whether these sounds are so many, or so large, that to make a graph first (some 10 s) is worth its time."""
    sizes = [os.path.getsize(path) for path in paths if os.path.isfile(path)]
    return len(sizes) >= MANY_FILES or sum(sizes) >= MANY_BYTES


class Tagger:
    """A model that labels sounds.

    labels: its labels, in the order of its scores. sample_rate: the rate in Hz at which it takes sound; sounds of
    another rate are resampled. UserError for an engine or a device that does not exist, and for a model that is not
    there or damaged.
    """

    def __init__(self, model: File = "mn04_as", engine: str = "auto", device: str = "cpu") -> None:
        _check_engine(engine, device)
        self._meta = model_folder.describe_model(model)
        self._front_end = model_folder.saved_front_end(self._meta)
        self._predict = open_predictor(model, engine, device, embeddings=True)
        self.labels: list[str] = list(self._meta["labels"])
        self.sample_rate: int = self._front_end.sample_rate

    def tag(
        self,
        sound: File | np.ndarray,
        window: float = 0.0,
        hop: float = 0.0,
        top_k: int = 5,
        sample_rate: int | None = None,
    ) -> list[Tag]:
        """The `top_k` highest labels of each window, highest first; the windows in the order of time.

        sound: a file, or a waveform [N] or [N, channels] at `sample_rate` Hz (default: the model's) of floating-point
        numbers, of which 1 is full scale. window: seconds of a window, every `hop` seconds (default: `window`); 0: the
        whole sound at once: one row, `unknown`, where the model is calibrated (`paddletag calibrate`) and no label
        reaches its threshold. AudioError for a sound that cannot be used, UserError for another argument.
        """
        if top_k < 1:
            raise UserError(f"top_k {top_k}: must be at least 1")
        arrays = self._tag_windows(sound, window, hop, sample_rate)
        thresholds = None if window else arrays.get("thresholds")
        rows = zip(arrays["start"].tolist(), arrays["end"].tolist(), arrays["scores"], strict=True)
        return [
            Tag(start, end, label, score)
            for start, end, scores in rows
            for label, score in answers(scores, self.labels, thresholds, top_k)
        ]

    def events(
        self,
        sound: File | np.ndarray,
        window: float = 2.0,
        hop: float | None = None,
        threshold: float | None = None,
        labels: str | Iterable[str] | None = None,
        sample_rate: int | None = None,
    ) -> list[Tag]:
        """What sounds when: the events of `find_events`, by their start; the score of each is its highest.

        sound, sample_rate: as of `tag`. window: seconds of a window, every `hop` seconds (None: a quarter of a window);
        0: the whole sound at once. threshold: score that starts an event (None: what the model was calibrated to, or
        else 0.3). labels: these alone, names or globs, in a list or with commas. Errors as of `tag`.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise UserError(f"threshold {threshold}: must lie between 0 and 1")
        texts = [labels] if isinstance(labels, str) else labels
        names = None if texts is None else [name for text in texts for name in split_names(text, self.labels)]
        choose_labels(self.labels, names)  # wrong names are told before the sound is read
        arrays = self._tag_windows(sound, window, window / 4 if hop is None else hop, sample_rate)
        limit = arrays.get("thresholds", THRESHOLD) if threshold is None else threshold
        rows = find_events(arrays, limit, classes=names)
        return [Tag(row["onset"], row["offset"], row["label"], row["peak"]) for row in rows]

    def embed(
        self, sound: File | np.ndarray, window: float = 0.0, hop: float = 0.0, sample_rate: int | None = None
    ) -> np.ndarray:
        """The model's embedding of each window: float32 [windows, D]. Arguments and errors as of `tag`."""
        return self._tag_windows(sound, window, hop, sample_rate)["embeddings"]

    def _tag_windows(self, sound: File | np.ndarray, window: float, hop: float, sample_rate: int | None) -> Arrays:
        """The arrays of `pipeline.tag_sounds`."""
        self._check_windows(window, hop)
        if isinstance(sound, np.ndarray):
            source: pipeline.Sound = waveform_source(sound, self.sample_rate if sample_rate is None else sample_rate)
        elif sample_rate is None:
            source = sound
        else:
            raise UserError(f"sample_rate {sample_rate}: is for a waveform; a file has its own rate")
        results = pipeline.tag_sounds(self._predict, self._meta, self._front_end, [source], window, hop)
        return pipeline.only_result(results)

    def _check_windows(self, window: float, hop: float) -> None:
        """UserError for numbers that make no windows."""
        check_seconds(window, hop, ("window", "hop"), zero=True)
        if hop and not window:
            raise UserError(f"hop {hop}: needs a window: give window too")
        if window:
            hop_frames(self._front_end, hop or window, "hop" if hop else "window")


def waveform_source(wave: np.ndarray, rate: int) -> audio.Source:
    """A waveform, float [N] or [N, channels] at `rate` Hz, as a `Source`: in parts, as files are decoded.

    AudioError for another shape, or numbers that are integers; UserError for a rate that no sound has.
    """
    if not audio.SLOWEST <= rate <= audio.FASTEST or rate != int(rate):
        limits = f"{audio.SLOWEST} to {audio.FASTEST}"
        raise UserError(f"sample_rate {rate}: must be a whole number of Hz, from {limits}")
    if wave.ndim not in (1, 2) or not wave.size:
        raise audio.AudioError(f"waveform: must have the shape [N] or [N, channels], not {list(wave.shape)}")
    if wave.dtype.kind != "f":
        raise audio.AudioError(f"waveform: has numbers of {wave.dtype}: must be floating-point, where 1 is full scale")
    frames = wave.reshape(len(wave), -1)
    channels = frames.shape[1]
    if channels > audio.CHANNELS:
        raise audio.AudioError(f"waveform: has {channels} channels: at most {audio.CHANNELS}; must be [N, channels]")
    block = max(1, audio.BLOCK // channels)
    parts = (np.asarray(frames[i : i + block], np.float32) for i in range(0, len(frames), block))
    return audio.Source("waveform", int(rate), len(frames) / rate, parts)


def load_model(model: File = "mn04_as", engine: str = "auto", device: str = "cpu") -> Tagger:
    """A `Tagger` for a trained model's folder, or a backbone's name (`paddletag models` lists them).

    engine: auto, paddle or onnxruntime. device: cpu, gpu, gpu:0 ... UserError as of `Tagger`.
    """
    return Tagger(model, engine, device)


def tag(
    sound: File | np.ndarray,
    model: File = "mn04_as",
    window: float = 0.0,
    hop: float = 0.0,
    top_k: int = 5,
    sample_rate: int | None = None,
) -> list[Tag]:
    """The highest labels of a sound: rows of start, end, label, score. See `Tagger.tag`; the model is loaded anew."""
    return load_model(model).tag(sound, window, hop, top_k, sample_rate)


def events(
    sound: File | np.ndarray,
    model: File = "mn04_as",
    window: float = 2.0,
    hop: float | None = None,
    threshold: float | None = None,
    labels: str | Iterable[str] | None = None,
    sample_rate: int | None = None,
) -> list[Tag]:
    """What sounds when: rows of start, end, label, score. See `Tagger.events`; the model is loaded anew."""
    return load_model(model).events(sound, window, hop, threshold, labels, sample_rate)


def _check_engine(engine: str, device: str) -> None:
    """UserError for an engine or a device that does not exist, or not together."""
    if engine not in ENGINES:
        raise UserError(f"engine {engine!r}: must be one of {', '.join(ENGINES)}")
    if not re.fullmatch(r"cpu|gpu(:\d+)?", device):
        raise UserError(f"device {device!r}: must be cpu, gpu or gpu:0, gpu:1, ...")
    if engine == "onnxruntime" and device != "cpu":
        raise UserError(f"engine onnxruntime: computes on the CPU: leave out device {device!r}")
