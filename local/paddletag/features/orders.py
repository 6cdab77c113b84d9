"""The order in which an epoch meets its clips: a function of seed, epoch and position, so that a resumed run meets the
same."""

from collections.abc import Sequence

import numpy as np

from paddletag.data.clips import labels_of
from paddletag.type_aliases import Record

BLOCK = 1 << 16  # rows that are Python objects at a time


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


def shard_stream(shards: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The rows shard after shard, the shards shuffled: int [N].

    shards: the shard of each row, int [N]. Rows of a shard stay in their order.
    """
    numbers = np.unique(shards)
    turn = np.zeros(numbers.max(initial=-1) + 1, int)
    turn[generator.permutation(numbers)] = np.arange(len(numbers))
    return np.argsort(turn[shards], kind="stable")


def parts_of(stream: np.ndarray, ranks: int) -> np.ndarray:
    """The equal parts of a stream, one for each rank: [ranks, N // ranks]. What is left of it at the end is in none."""
    length = len(stream) // ranks
    return stream[: length * ranks].reshape(ranks, length)


def buffered_order(
    stream: np.ndarray, size: int, generator: np.random.Generator, ranks: int = 1, clips_per_pass: int = 1
) -> np.ndarray:
    """The order of an epoch that takes the rows of a stream, int [N], through a buffer that shuffles them: int [M].

    Each rank has its part of the stream (`parts_of`) and a buffer of `size` rows. It takes a row of the buffer at
    random, whose place gets the next row of the stream. Position p of the order belongs to the pass
    p // clips_per_pass, and the passes are dealt out to the ranks in turn.
    """
    parts = [through_buffer(part, size, generator) for part in parts_of(stream, ranks)]
    whole = len(parts[0]) // clips_per_pass * clips_per_pass
    dealt = np.stack([part[:whole].reshape(-1, clips_per_pass) for part in parts], axis=1)
    return np.concatenate([dealt.ravel(), *(part[whole:] for part in parts)])


def through_buffer(stream: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """The rows of `stream`, int [N], as they come out of a buffer of `size` rows."""
    size = min(size, len(stream))
    buffer, out = stream[:size].tolist(), np.empty_like(stream)
    for first in range(size, len(stream), BLOCK):
        block = stream[first : first + BLOCK].tolist()
        for number, (place, row) in enumerate(
            zip(generator.integers(size, size=len(block)).tolist(), block, strict=True)
        ):
            out[first - size + number] = buffer[place]
            buffer[place] = row
    out[len(stream) - size :] = generator.permutation(np.array(buffer, stream.dtype))
    return out
