"""Scores and embeddings of a prepared data set, each clip computed by one rank: training and stage 3 share them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import paddle
from paddle import nn

from paddletag import runtime
from paddletag.features.batches import read_clips, window_batches
from paddletag.tagging.scoring import clip_scores, predict
from paddletag.training import distributed
from paddletag.training.tta import rolled_copies
from paddletag.type_aliases import Record

if TYPE_CHECKING:
    from paddletag.features.feature_source import FeatureSource
    from paddletag.models.backbone import Backbone
    from paddletag.tagging.scoring import Model


def evaluate(
    model: "Model",
    records: Sequence[Record],
    features: "FeatureSource",
    task: str,
    clip_seconds: float,
    batch_size: int,
    tta: int = 1,
    workers: int = 0,
) -> np.ndarray:
    """Scores of `records`, each clip computed by one rank: float32 [N, C] in the order of `records`, on every rank.

    tta: the mean over so many copies of each clip (test-time augmentation: tta.py). workers: processes that read ahead.
    """
    clip_ids = _ids_of_this_rank(records)
    copies = rolled_copies(read_clips(clip_ids, features, workers), tta)
    scores = clip_scores(model, copies, task, clip_seconds, batch_size, len(clip_ids))
    of_all = {clip_id: row for of_rank in distributed.gather(scores) for clip_id, row in of_rank.items()}
    return np.stack([of_all[record["id"]] for record in records])


def head_layer(model: "Backbone") -> nn.Layer:
    """The last layer, which is replaced for another set of labels."""
    return dict(model.named_sublayers())[model.head[0].rpartition(".")[0]]


def embeddings(
    model: "Backbone",
    records: Sequence[Record],
    features: "FeatureSource",
    clip_seconds: float,
    batch_size: int,
    workers: int = 0,
) -> dict[str, np.ndarray]:
    """What the head of the model is given for each window of `records`: {id: float32 [windows, D]}, on every rank.

    It leaves the model in evaluation mode.
    """
    length = model.front_end.frames(model.front_end.samples(clip_seconds))
    clip_ids = _ids_of_this_rank(records)
    captured: list[np.ndarray] = []  # of the batch that was computed last

    def capture(layer: nn.Layer, inputs: tuple[paddle.Tensor]) -> None:
        captured.append(inputs[0].astype("float32").numpy())

    head = head_layer(model)
    hook = head.register_forward_pre_hook(capture)  # type: ignore[arg-type]  # its stub has only hooks that answer
    rows: dict[str, list[np.ndarray]] = {clip_id: [] for clip_id in clip_ids}
    model.eval()
    with runtime.progress(total=len(clip_ids), desc="embeddings", unit="clip") as bar:
        batches = window_batches(read_clips(clip_ids, features, workers), length, batch_size)
        for keys, _ in predict(model, batches, "multi_label"):
            for key, row in zip(keys, captured.pop(), strict=True):
                rows[key].append(row)
            bar.update(sum(map(bool, rows.values())) - bar.n)
    hook.remove()
    return {clip_id: np.stack(windows) for of_rank in distributed.gather(rows) for clip_id, windows in of_rank.items()}


def _ids_of_this_rank(records: Sequence[Record]) -> list[str]:
    return [record["id"] for record in records[distributed.rank() :: distributed.world_size()]]
