"""The one way from log-mels to scores and embeddings that training, evaluation, tagging and export share."""

from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import paddle
from paddle.nn import functional as F

from paddletag import runtime
from paddletag.features.batches import window_batches

if TYPE_CHECKING:
    from paddletag.models.backbone import Backbone
    from paddletag.models.classic import Classic

    Model = Backbone | Classic

Key = TypeVar("Key", bound=Hashable)  # of a clip


def to_input(model: "Model", log_mel: paddle.Tensor) -> paddle.Tensor:
    """[B, T, M] -> the model's own layout: [B, 1, M, T] or [B, 1, T, M]."""
    return (log_mel.transpose([0, 2, 1]) if model.layout == "FT" else log_mel).unsqueeze(1)


def score(model: "Model", log_mel: np.ndarray, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Log-mels [B, T, M] -> (scores float32 [B, C], embedding [B, D]). The model must be in evaluation mode."""
    with paddle.no_grad():
        embedding = model.embed(to_input(model, paddle.to_tensor(log_mel)))
        scores = activation(task, model.classify(embedding).astype("float32"))
        return scores.numpy(), embedding.astype("float32").numpy()


def predict(
    model: "Model", batches: Iterable[tuple[list[Key], np.ndarray]], task: str
) -> Iterator[tuple[list[Key], np.ndarray]]:
    """Scores of batches of windows: yields (keys, scores float32 [B, C]), with the caller's gradients left on."""
    for keys, log_mel in batches:
        scores, _ = score(model, log_mel, task)
        yield keys, scores


def clip_scores(
    model: "Model",
    clips: Iterable[tuple[Key, np.ndarray]],
    task: str,
    clip_seconds: float,
    batch_size: int,
    total: int | None = None,
) -> dict[Key, np.ndarray]:
    """The scores of whole clips: the mean over the windows that cover each of them.

    clips: (id, log-mel [T, M]) of each. Returns {id: float32 [C]} in the order of the clips. total: how many clips
    there are, for the progress bar.
    """
    length = model.front_end.frames(model.front_end.samples(clip_seconds))
    sums: dict[Key, np.ndarray] = {}
    counts: dict[Key, int] = {}
    bar = runtime.progress(total=total, desc="scores", unit="clip")
    for keys, scores in predict(model, window_batches(clips, length, batch_size), task):
        for key, row in zip(keys, scores, strict=True):
            sums[key] = sums.get(key, 0) + row.astype(np.float64)
            counts[key] = counts.get(key, 0) + 1
        bar.update(len(sums) - bar.n)
    bar.close()
    return {key: (sums[key] / counts[key]).astype(np.float32) for key in sums}


def activation(task: str, logits: paddle.Tensor) -> paddle.Tensor:
    """Logits [B, C] -> scores in 0..1: softmax for single_label, sigmoid for multi_label."""
    return F.softmax(logits, axis=-1) if task == "single_label" else F.sigmoid(logits)
