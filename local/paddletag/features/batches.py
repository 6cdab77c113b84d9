"""Clips to batches: which clips in which order, cropped or windowed to the length that the model sees.

Order and augmentation are functions of (seed, epoch, position), so that a resumed run meets the same batches.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import paddle
from yacs.config import CfgNode

from paddletag import config as configs
from paddletag import parallel
from paddletag.data.clips import ids_of, labels_of
from paddletag.features.augment import augment, crop, mixup
from paddletag.features.clip_features import window_starts
from paddletag.features.frontend import FrontEnd
from paddletag.features.online import OnlineFeatures
from paddletag.features.orders import balanced_order, buffered_order, parts_of, shard_stream
from paddletag.features.read_ahead import ReadAhead
from paddletag.type_aliases import Record

if TYPE_CHECKING:
    from paddletag.features.feature_source import FeatureSource  # it brings pyarrow, which tagging does not need
    from paddletag.features.shards import Features

Key = TypeVar("Key")  # what names a clip


def generator_for(purpose: str, *key: int) -> np.random.Generator:
    """A generator for one purpose and (seed, epoch, ...): no two purposes share a stream.

    purpose: order, clip, mixup or dropout.
    """
    return np.random.default_rng((("order", "clip", "mixup", "dropout").index(purpose) + 1, *key))


def multi_hot(records: Sequence[Record], labels: Sequence[str]) -> np.ndarray:
    """The labels of `records` as float32 [N, C], 0 or 1."""
    return labels_of(records, labels).multi_hot(range(len(records)), len(labels))


class TrainBatches:
    """One epoch of training batches of one rank, as a sequence.

    Item k is (log-mel [B, T, M] in the type of the features, targets float32 [B, C]), of forward pass k of this rank.
    The clips are ordered by (seed, epoch); with train.shuffle buffer, by the shards that they lie in too. A step has
    `train.batch_size` of them, dealt out to its `train.accumulate` passes, and in each of them to the ranks. The last
    clips, which do not fill a step, are left to another epoch.

    features: log-mels by clip id, or in their place a mapping of embeddings. frames: the length T of an item. UserError
    where a step does not divide into passes and ranks.
    """

    def __init__(
        self,
        records: Sequence[Record],
        labels: Sequence[str],
        features: "FeatureSource | Mapping[str, np.ndarray]",
        front_end: FrontEnd,
        frames: int,
        config: CfgNode,
        epoch: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.records, self.labels = records, labels
        self.features, self.front_end, self.frames = features, front_end, frames
        self.settings, self.seed, self.epoch = config.augment, config.train.seed, epoch
        self.step, self.accumulate = config.train.batch_size, config.train.accumulate
        self.size = configs.clips_per_pass(config.train, ranks)
        self.rank, self.ranks = rank, ranks
        self.dtype = getattr(features, "dtype", np.float32)  # float16 log-mels are half as much to move
        self.ids, self.label_lists = ids_of(records), labels_of(records, labels)
        self.ahead: ReadAhead | None = None
        self.order = self._order(config.train)

    def _order(self, settings: CfgNode) -> np.ndarray:
        """The rows of the records in the order of the epoch: int [N]."""
        generator = generator_for("order", self.seed, self.epoch)
        if settings.sampler == "balanced":
            return balanced_order(self.records, generator)
        if settings.shuffle == "buffer":
            features = cast("Features", self.features)  # stored ones, as the config's checks have seen to
            shards = features.shards_of(self.records)
            stream = shard_stream(shards, generator)
            own = shards[parts_of(stream, self.ranks)[self.rank]]
            self.ahead = ReadAhead(own, settings.shuffle_buffer, features.read_ahead)
            return buffered_order(stream, settings.shuffle_buffer, generator, self.ranks, self.size)
        return generator.permutation(len(self.records))

    def __len__(self) -> int:
        """The number of forward passes."""
        return len(self.order) // self.step * self.accumulate

    def __getitem__(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(log-mel [B, T, M], targets float32 [B, C]) of forward pass k. AudioError as the features."""
        first = (k * self.ranks + self.rank) * self.size
        positions = range(first, first + self.size)
        if self.ahead:
            self.ahead.reach(k * self.size, (k + 1) * self.size)
        batch = np.stack([self._clip(position) for position in positions])
        targets = self.label_lists.multi_hot(self.order[first : first + self.size], len(self.labels))
        if self.settings.mixup:
            generator = generator_for("mixup", self.seed, self.epoch, k, self.rank)
            batch, targets = mixup(batch, targets, self.settings.mixup, generator)
        return batch.astype(self.dtype), targets

    def _clip(self, position: int) -> np.ndarray:
        """The clip at a position of the epoch's order, augmented: float32 [T, M]."""
        generator, row = generator_for("clip", self.seed, self.epoch, position), self.order[position]
        if self.settings.wavmix:
            assert isinstance(self.features, OnlineFeatures)  # as the config's checks have seen to
            log_mel = self.features.clip(self.records, row, generator, self.settings)
        else:
            log_mel = self.features[self.ids[row]]
        log_mel = crop(log_mel, self.frames, generator).astype(np.float32)
        return augment(log_mel, self.settings, self.front_end, generator)


def load_batches(batches: TrainBatches, workers: int = 0, first: int = 0) -> Iterator[list[paddle.Tensor]]:
    """Yields the items of a sequence of batches from item `first` on, as lists of tensors.

    `workers` processes read ahead; with 0, a thread does. UserError as the items.
    """
    numbers = range(first, len(batches))
    if workers:
        items = parallel.in_order(batches.__getitem__, numbers, workers, waiting=2)
    else:
        items = parallel.prefetch((batches[k] for k in numbers), size=2)
    with contextlib.closing(items):
        for arrays in items:
            yield [paddle.to_tensor(array) for array in arrays]


def read_clips(ids: Sequence[str], features: "FeatureSource", workers: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (id, features [T, M]) of whole clips in order; `workers` processes read ahead.

    Errors as in `load_batches`.
    """
    log_mels = parallel.in_order(features.__getitem__, ids, workers)
    with contextlib.closing(log_mels):
        yield from zip(ids, log_mels, strict=True)


def window_batches(
    clips: Iterable[tuple[Key, np.ndarray]], length: int, size: int
) -> Iterator[tuple[list[Key], np.ndarray]]:
    """Clips as batches of windows, for evaluation and tagging.

    clips: iterable of (key, log-mel [T, M]). Yields (keys of the windows, float32 [B, length, M]), B up to `size`.
    """
    keys: list[Key] = []
    batch: list[np.ndarray] = []
    for key, log_mel in clips:
        for start in window_starts(len(log_mel), length):
            keys.append(key)
            batch.append(log_mel[start : start + length].astype(np.float32))
            if len(batch) == size:
                yield keys, np.stack(batch)
                keys, batch = [], []
    if batch:
        yield keys, np.stack(batch)
