"""Orders of an epoch: the balanced one against its first form, and shards through a buffer against what a buffer is."""

from collections import defaultdict

import numpy as np
import pytest
from paddletag.features.orders import balanced_order, buffered_order, parts_of, shard_stream, through_buffer
from paddletag.features.read_ahead import ReadAhead


def in_its_first_form(records, generator):
    """The order of runs of before, which must not change: lists of rows by label."""
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


@pytest.mark.parametrize("seed", range(5))
def test_the_balanced_order_is_that_of_runs_of_before(seed):
    generator = np.random.default_rng(seed)
    names = [f"label {n}" for n in range(7)]
    records = [{"labels": generator.permutation(names)[: generator.integers(4)].tolist()} for _ in range(200)]
    orders = [order(records, np.random.default_rng(seed)) for order in (balanced_order, in_its_first_form)]
    assert (orders[0] == orders[1]).all() and orders[0].dtype == orders[1].dtype


SHARDS = np.repeat([3, 0, 7, 1, 5], [10, 10, 4, 10, 9])  # of 43 clips


def test_a_stream_goes_through_one_shard_after_another():
    stream = shard_stream(SHARDS, np.random.default_rng(0))
    assert sorted(stream) == list(range(43))
    met = SHARDS[stream]
    assert (np.diff(met) != 0).sum() == 4  # each shard once, in one piece
    for shard in set(SHARDS.tolist()):
        rows = stream[met == shard]
        assert (np.diff(rows) == 1).all()
    firsts = {SHARDS[shard_stream(SHARDS, np.random.default_rng(seed))[0]] for seed in range(50)}
    assert firsts == set(SHARDS.tolist())


@pytest.mark.parametrize("size", [1, 5, 42, 43, 1000])
def test_a_buffer_gives_every_row_once_and_none_before_it_is_in(size):
    stream = np.random.default_rng(1).permutation(43)
    out = through_buffer(stream, size, np.random.default_rng(2))
    assert sorted(out) == list(range(43))
    arrived = {row: place for place, row in enumerate(stream)}
    assert all(arrived[row] < place + size for place, row in enumerate(out))
    assert (out == stream).all() == (size == 1)
    assert (through_buffer(stream, size, np.random.default_rng(2)) == out).all()


def test_a_full_buffer_shuffles_evenly():
    """In 4000 shuffles of 6 rows, each row is at each place a sixth of the time: 667, with a deviation of 24."""
    generator = np.random.default_rng(3)
    outs = np.array([through_buffer(np.arange(6), 6, generator) for _ in range(4000)])
    counts = np.array([np.bincount(column, minlength=6) for column in outs.T])
    assert abs(counts - 4000 / 6).max() < 5 * 24


@pytest.mark.parametrize("ranks, size", [(1, 4), (2, 4), (3, 2), (4, 5)])
def test_ranks_have_parts_of_their_own(ranks, size):
    stream = shard_stream(SHARDS, np.random.default_rng(0))
    order = buffered_order(stream, 8, np.random.default_rng(1), ranks, size)
    parts = parts_of(stream, ranks)
    assert sorted(order) == sorted(parts.ravel()) and len(order) == 43 // ranks * ranks
    passes = len(order) // (size * ranks)
    for k in range(passes):
        for rank in range(ranks):
            first = (k * ranks + rank) * size
            rows = order[first : first + size]
            place = [parts[rank].tolist().index(row) for row in rows]  # ValueError for a clip of another rank
            assert max(place) < (k + 1) * size + 8


def test_shards_are_asked_for_once_and_before_their_clips_are():
    stream = np.repeat([4, 2, 9, 6, 1], 10)
    asked = []
    ahead = ReadAhead(stream, 12, asked.append)
    for k in range(10):
        ahead.reach(k * 5, k * 5 + 5)
        assert set(stream[: (k + 1) * 5 + 12].tolist()) <= set(asked)
        assert len(asked) <= 1 + ((k + 1) * 5 + 12) // 10  # none long before its time
    assert asked == [4, 2, 9, 6, 1]
    asked.clear()
    ReadAhead(stream, 12, asked.append).reach(25, 30)  # a run that goes on in the middle
    assert asked == [9, 6, 1]
