"""The order in which an epoch meets its clips: a function of seed, epoch and position, so that a resumed run meets the
same."""

from collections.abc import Sequence

import numpy as np

from paddletag.data.clips import labels_of
from paddletag.type_aliases import Record


def balanced_order(records: Sequence[Record], generator: np.random.Generator) -> np.ndarray:
    """The order of an epoch in which all labels have their turns: int [N], rows of `records` that may recur.

    As in PANNs (Kong et al., arXiv 1912.10211): labels come in shuffled rounds, and each gives the next of its clips,
    which it shuffles anew whenever all of them have had their turn. Clips without a label are not drawn.
    """
    codes, rows = labels_of(records).flat()
    occurring, firsts, counts = np.unique(codes, return_index=True, return_counts=True)
    clips_of_label = np.split(rows[np.argsort(codes, kind="stable")], np.cumsum(counts)[:-1])
    rounds = -(-len(records) // len(occurring))
    turns = generator.permuted(np.tile(np.arange(len(occurring)), (rounds, 1)), axis=1).ravel()[: len(records)]
    order = np.empty(len(records), int)
    for number, label in enumerate(np.argsort(firsts)):  # the labels in the order in which they first occur
        clips = clips_of_label[label]
        places = np.flatnonzero(turns == number)
        passes = -(-len(places) // len(clips))
        order[places] = generator.permuted(np.tile(clips, (passes, 1)), axis=1).ravel()[: len(places)]
    return order


def buffered_order(
    shards: np.ndarray, size: int, generator: np.random.Generator, ranks: int = 1, clips_per_pass: int = 1
) -> np.ndarray:
    """The order of an epoch that reads whole shards, one after another, and shuffles them in a buffer: int [M].

    shards: the shard of each row, int [N]; rows of a shard are in the order in which they lie there. size: clips of the
    buffer. The shards are shuffled; each of the `ranks` has an equal part of what follows one another then, and takes
    every clip from a buffer of its own, at random, which the next clip of its part fills again. Position p belongs to
    the pass p // clips_per_pass, which are dealt out to the ranks in turn. Fewer clips than there are ranks are left
    out, those that make the parts unequal.
    """
    numbers = np.unique(shards)
    turn = np.empty(numbers[-1] + 1 if len(numbers) else 0, int)
    turn[generator.permutation(numbers)] = np.arange(len(numbers))
    stream = np.argsort(turn[shards], kind="stable")
    length = len(stream) // ranks
    parts = [_through_buffer(part, size, generator) for part in stream[: length * ranks].reshape(ranks, length)]
    whole = length // clips_per_pass * clips_per_pass
    dealt = np.stack([part[:whole].reshape(-1, clips_per_pass) for part in parts], axis=1)
    return np.concatenate([dealt.ravel(), *(part[whole:] for part in parts)])


def _through_buffer(stream: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """`stream`, int [N], as it comes out of a buffer of so many places."""
    size = min(size, len(stream))
    filled, rest = stream[:size].tolist(), stream[size:].tolist()
    out = []
    for place, row in zip(generator.integers(size, size=len(rest)).tolist() if rest else (), rest, strict=True):
        out.append(filled[place])
        filled[place] = row
    return np.array(out + generator.permutation(np.array(filled, int)).tolist(), int)
