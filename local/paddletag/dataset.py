"""Clips to batches: which clips in which order, cropped or windowed to the length that the model sees.

Order and augmentation are functions of (seed, epoch, position), so that a resumed run meets the same batches.
"""

import numpy as np
import paddle

from paddletag.augment import augment, crop, mixup


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


def window_starts(frames, length):
    """Where the windows of `length` frames begin that cover a clip of `frames` frames: evenly spaced, int [W].

    They follow one another where the clip is a multiple of the window, and overlap else. Up to a twentieth of a
    window beyond a whole number of them is not worth another one, and is left out.
    """
    count = max(1, int(np.ceil(frames / length - 0.05)))
    return np.round(np.linspace(0, max(frames - length, 0), count)).astype(int)


class TrainBatches(paddle.io.Dataset):
    """One epoch of training batches of one rank, as a data set whose items are whole batches.

    Item k is (log-mel float32 [B, T, M], targets float32 [B, C]). The clips are shuffled by (seed, epoch), the last
    ones that do not fill a step of all ranks are left to another epoch, and step k's are dealt out to the ranks.
    """

    def __init__(self, records, labels, features, front_end, frames, config, epoch, rank=0, ranks=1):
        self.records, self.features, self.front_end, self.frames = records, features, front_end, frames
        self.targets = multi_hot(records, labels)
        self.settings, self.seed, self.epoch = config.augment, config.train.seed, epoch
        self.size, self.rank, self.ranks = config.train.batch_size, rank, ranks
        self.order = random("order", self.seed, epoch).permutation(len(records))

    def __len__(self):
        return len(self.order) // (self.size * self.ranks)

    def __getitem__(self, step):
        first = (step * self.ranks + self.rank) * self.size
        clips = []
        for position in range(first, first + self.size):
            generator = random("clip", self.seed, self.epoch, position)
            log_mel = self.features[self.records[self.order[position]]["id"]]
            log_mel = crop(log_mel, self.frames, generator).astype(np.float32)
            clips.append(augment(log_mel, self.settings, self.front_end, generator))
        batch, targets = np.stack(clips), self.targets[self.order[first : first + self.size]]
        if self.settings.mixup:
            generator = random("mixup", self.seed, self.epoch, step, self.rank)
            batch, targets = mixup(batch, targets, self.settings.mixup, generator)
        return batch, targets


def loader(batches, workers=0):
    """Iterate over a data set of whole batches with paddle's DataLoader, `workers` processes reading ahead."""
    return paddle.io.DataLoader(batches, batch_size=None, shuffle=False, num_workers=workers)


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
