"""Clips to batches: which clips in which order, cropped or windowed to the length that the model sees.

Order and augmentation are functions of (seed, epoch, position), so that a resumed run meets the same batches.
"""

import os
import shutil
import signal
from collections import defaultdict

import numpy as np
import paddle

from paddletag import config as configs
from paddletag import distributed
from paddletag.augment import augment, crop, mixup
from paddletag.frontend import window_starts
from paddletag.runtime import UserError

SHARED_MEMORY = "/dev/shm"  # through which a loader's processes hand over their batches
ROOM = 2**30  # bytes that must be free there; containers often have 64 MB, which a few batches fill


def random(purpose, *key):
    """A generator for one purpose and (seed, epoch, ...): no two purposes share a stream."""
    return np.random.default_rng((("order", "clip", "mixup", "dropout").index(purpose) + 1, *key))


def multi_hot(records, labels):
    """The labels of `records` as float32 [N, C], 0 or 1."""
    index = {name: i for i, name in enumerate(labels)}
    targets = np.zeros((len(records), len(labels)), np.float32)
    for row, record in enumerate(records):
        targets[row, [index[name] for name in record["labels"]]] = 1
    return targets


def balanced(records, generator):
    """The order of an epoch in which all labels have their turns: int [N], rows of `records` that may recur.

    As in PANNs (Kong et al., arXiv 1912.10211): labels come in shuffled rounds, and each gives the next of its clips,
    which it shuffles anew whenever all of them have had their turn. Clips without a label are not drawn.
    """
    rows = defaultdict(list)
    for row, record in enumerate(records):
        for name in record["labels"]:
            rows[name].append(row)
    rounds = -(-len(records) // len(rows))
    turns = generator.permuted(np.tile(np.arange(len(rows)), (rounds, 1)), axis=1).ravel()[: len(records)]
    order = np.empty(len(records), int)
    for label, clips in enumerate(rows.values()):
        places = np.flatnonzero(turns == label)
        passes = -(-len(places) // len(clips))
        order[places] = generator.permuted(np.tile(clips, (passes, 1)), axis=1).ravel()[: len(places)]
    return order


class TrainBatches(paddle.io.Dataset):
    """One epoch of training batches of one rank, as a data set whose items are whole batches.

    Item k is (log-mel [B, T, M] in the type of the features, targets float32 [B, C]), of forward pass k of this rank.
    The clips are ordered by (seed, epoch). A step has `train.batch_size` of them, dealt out to its `train.accumulate`
    passes, and in each of them to the ranks. The last clips, which do not fill a step, are left to another epoch.
    """

    def __init__(self, records, labels, features, front_end, frames, config, epoch, rank=0, ranks=1):
        self.records, self.labels = records, labels
        self.features, self.front_end, self.frames = features, front_end, frames
        self.settings, self.seed, self.epoch = config.augment, config.train.seed, epoch
        self.step, self.accumulate = config.train.batch_size, config.train.accumulate
        self.size = configs.clips_per_pass(config.train, ranks)
        self.rank, self.ranks = rank, ranks
        self.dtype = getattr(features, "dtype", np.float32)  # float16 log-mels are half as much to move
        generator = random("order", self.seed, epoch)
        shuffle = config.train.sampler == "shuffle"
        self.order = generator.permutation(len(records)) if shuffle else balanced(records, generator)

    def __len__(self):
        return len(self.order) // self.step * self.accumulate

    def __getitem__(self, k):
        first = (k * self.ranks + self.rank) * self.size
        positions = range(first, first + self.size)
        batch = np.stack([self._clip(position) for position in positions])
        targets = multi_hot([self.records[self.order[position]] for position in positions], self.labels)
        if self.settings.mixup:
            generator = random("mixup", self.seed, self.epoch, k, self.rank)
            batch, targets = mixup(batch, targets, self.settings.mixup, generator)
        return batch.astype(self.dtype), targets

    def _clip(self, position):
        """The clip at a position of the epoch's order, augmented: float32 [T, M]."""
        generator, row = random("clip", self.seed, self.epoch, position), self.order[position]
        if self.settings.wavmix:  # the config asks for `online.OnlineFeatures` then
            log_mel = self.features.clip(self.records, row, generator, self.settings)
        else:
            log_mel = self.features[self.records[row]["id"]]
        log_mel = crop(log_mel, self.frames, generator).astype(np.float32)
        return augment(log_mel, self.settings, self.front_end, generator)


class _From(paddle.io.Dataset):
    """The items of a data set from `first` on, each behind the text of the user's error that took its place, or "".

    An exception would reach paddle's reader thread as a traceback, and its caller as "the queue was killed".
    """

    def __init__(self, batches, first):
        self.batches, self.first = batches, first

    def __len__(self):
        return len(self.batches) - self.first

    def __getitem__(self, k):
        try:
            return "", *self.batches[self.first + k]
        except UserError as error:
            return str(error), np.zeros(1, np.float32)  # (paddle cannot pass an empty one)


def loader(batches, workers=0, first=0):
    """Iterate over a data set of whole batches from item `first` on, with paddle's DataLoader.

    `workers` processes read ahead; with 0, this one reads. UserError as the data set's items, and for workers that
    were killed.
    """
    room = shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else 0
    options = {"num_workers": workers, "use_shared_memory": room >= ROOM, "worker_init_fn": _start_worker}
    items = iter(paddle.io.DataLoader(_From(batches, first), batch_size=None, shuffle=False, **options))
    while True:
        try:
            error, *batch = next(items)
        except StopIteration:
            return
        except (SystemError, RuntimeError, AttributeError):  # what paddle makes of a worker's death
            if not workers:
                raise
            raise UserError(
                f"a process that reads clips was killed (is the memory full, or {SHARED_MEMORY}?): try fewer, with"
                f" train.workers ({workers} now)"
            ) from None
        if error:
            raise UserError(error)
        yield batch


def _start_worker(number):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    distributed.die_with_parent()


class _Clips(paddle.io.Dataset):
    """The features of the clips of `ids`, one item each."""

    def __init__(self, ids, features):
        self.ids, self.features = ids, features

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, k):
        return (self.features[self.ids[k]],)


def clips(ids: list[str], features, workers: int = 0):
    """Yields (id, features [T, M]) of whole clips in order; `workers` processes read ahead. Errors as in `loader`."""
    if not workers:
        yield from ((id, features[id]) for id in ids)
        return
    for id, (values,) in zip(ids, loader(_Clips(ids, features), workers), strict=True):
        yield id, values.numpy()


def windows(clips, length, size):
    """Clips as batches of windows, for evaluation and tagging.

    clips: iterable of (key, log-mel [T, M]). Yields (keys of the windows, float32 [B, length, M]), B up to `size`.
    """
    keys, batch = [], []
    for key, log_mel in clips:
        for start in window_starts(len(log_mel), length):
            keys.append(key)
            batch.append(log_mel[start : start + length].astype(np.float32))
            if len(batch) == size:
                yield keys, np.stack(batch)
                keys, batch = [], []
    if batch:
        yield keys, np.stack(batch)
