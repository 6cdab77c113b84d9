"""Which clips come in which order and excerpt: against what can be read off clips whose values are their numbers."""

import multiprocessing
import os
import re
import signal
import time
from collections import Counter

import numpy as np
import paddle
import pytest
from paddletag import config, parallel
from paddletag.data import audio
from paddletag.features import frontend
from paddletag.features.batches import (
    TrainBatches,
    generator_for,
    load_batches,
    multi_hot,
    read_clips,
    window_batches,
)
from paddletag.features.clip_features import window_starts
from paddletag.features.orders import balanced_order
from paddletag.runtime import UserError
from prepared import LABELS, prepare

CLIPS, FRAMES = 22, 6


def numbered():
    """Records and features in which every value of clip i is i."""
    records = [{"id": f"clip{i}", "labels": [LABELS[i % 2]]} for i in range(CLIPS)]
    return records, {record["id"]: np.full((FRAMES, 3), i, np.float16) for i, record in enumerate(records)}


def settings(size=4, seed=0, accumulate=1, sampler="shuffle", **augment):
    tree = config.defaults()
    tree.train.update(batch_size=size, seed=seed, accumulate=accumulate, sampler=sampler)
    tree.augment.update(augment)
    return tree


def epoch_batches(records, features, epoch=0, rank=0, ranks=1, frames=FRAMES, **options):
    tree = settings(**options)
    return TrainBatches(records, LABELS, features, frontend.MN, frames, tree, epoch, rank, ranks)


def read(items):
    return [items[i] for i in range(len(items))]


def numbers(items):
    return np.concatenate([log_mel[:, 0, 0] for log_mel, _ in read(items)]).astype(int)


def test_an_epoch_meets_every_clip_at_most_once_with_its_own_label():
    items = epoch_batches(*numbered())
    met = numbers(items)
    assert len(items) == 5 and len(set(met)) == len(met) == 20 and set(met) <= set(range(CLIPS))
    targets = np.concatenate([targets for _, targets in read(items)])
    np.testing.assert_array_equal(targets.argmax(1), met % 2)
    np.testing.assert_array_equal(targets.sum(1), 1)
    assert set(np.concatenate([numbers(epoch_batches(*numbered(), epoch=e)) for e in range(4)])) == set(range(CLIPS))


def test_order_is_a_function_of_seed_and_epoch():
    first = numbers(epoch_batches(*numbered()))
    np.testing.assert_array_equal(numbers(epoch_batches(*numbered())), first)
    for other in ({"epoch": 1}, {"seed": 1}):
        assert (numbers(epoch_batches(*numbered(), **other)) != first).any()
    assert (first != np.sort(first)).any()


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data"))


ALL = dict(roll=0.05, gain=6.0, freq_mask=20, time_mask=5, frames=20)


def test_an_item_does_not_depend_on_what_was_read_before(sounds):
    options = dict(ALL, mixup=0.4, epoch=3)
    forward = read(epoch_batches(*sounds, **options))
    items = epoch_batches(*sounds, **options)
    for i in reversed(range(len(items))):
        for array, expected in zip(items[i], forward[i], strict=True):
            np.testing.assert_array_equal(array, expected)


def test_augmentation_changes_from_epoch_to_epoch(sounds):
    records, features = sounds
    one = records[:1] * 4  # the same clip, whatever the order
    first, second = (epoch_batches(one, features, epoch=e, **ALL)[0][0] for e in (0, 1))
    assert all((a != b).any() for a, b in zip(first, second, strict=True))
    assert all((first[i] != first[j]).any() for i in range(4) for j in range(i))


def test_two_ranks_share_the_step_of_one_rank(sounds):
    full = read(epoch_batches(*sounds, size=8, **ALL))
    halves = [read(epoch_batches(*sounds, size=8, rank=rank, ranks=2, **ALL)) for rank in (0, 1)]
    assert len(full) == len(halves[0]) == len(halves[1]) == 3
    for one, *two in zip(full, *halves, strict=True):
        for k in (0, 1):
            np.testing.assert_array_equal(np.concatenate([half[k] for half in two]), one[k])


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
@pytest.mark.parametrize(("ranks", "accumulate"), [(2, 1), (3, 1), (1, 2), (1, 3), (3, 2)])
def test_steps_hold_the_same_clips_however_they_are_dealt_out(sampler, ranks, accumulate):
    records = [{"id": f"clip{i}", "labels": [LABELS[i % 5 == 0]]} for i in range(31)]
    features = {record["id"]: np.full((FRAMES, 3), i, np.float16) for i, record in enumerate(records)}
    expected = numbers(epoch_batches(records, features, size=12, sampler=sampler))
    options = dict(size=12, accumulate=accumulate, ranks=ranks, sampler=sampler)
    by_rank = [epoch_batches(records, features, rank=rank, **options) for rank in range(ranks)]
    assert {len(items) for items in by_rank} == {2 * accumulate}  # passes: of the third step only 7 clips are there
    passes = [items[k][0][:, 0, 0] for k in range(2 * accumulate) for items in by_rank]
    np.testing.assert_array_equal(np.concatenate(passes), expected)


def test_an_accumulated_step_is_whole_or_absent():
    cases = ((4, 1), (8, 2), (12, 3), (20, 5), (24, 6), (22, 1), (22, 2), (23, 1))
    sizes = {case: len(epoch_batches(*numbered(), size=case[0], accumulate=case[1])) for case in cases}
    assert sizes == {(4, 1): 5, (8, 2): 4, (12, 3): 3, (20, 5): 5, (24, 6): 0, (22, 1): 1, (22, 2): 2, (23, 1): 0}


def test_a_step_that_does_not_divide_names_the_nearest_that_do():
    cases = ((16, 1, 3, ["15", "18"]), (16, 3, 1, ["15", "18"]), (1, 1, 2, ["2"]), (7, 2, 2, ["4", "8"]))
    for size, accumulate, ranks, near in cases:
        with pytest.raises(UserError, match=f"train.batch_size {size}: ") as caught:
            config.clips_per_pass(settings(size, accumulate=accumulate).train, ranks)
        assert re.findall(r"\d+", str(caught.value))[1:] == [str(ranks), str(accumulate), *near]


SIZES = {"a": 1, "b": 3, "c": 26, "d": 70}  # labels and their clips


def drawn(records, seed=0):
    return balanced_order(records, np.random.default_rng(seed))


def test_balanced_gives_labels_and_their_clips_equal_turns():
    records = [{"labels": [name]} for name, size in SIZES.items() for _ in range(size)]
    order = drawn(records)
    assert order.shape == (100,)
    turns = [records[row]["labels"][0] for row in order]
    for begin in range(0, 100, 4):
        assert sorted(turns[begin : begin + 4]) == ["a", "b", "c", "d"]
    assert len({tuple(turns[begin : begin + 4]) for begin in range(0, 100, 4)}) > 5  # rounds are shuffled
    for name, size in SIZES.items():
        own = [row for row, turn in zip(order, turns, strict=True) if turn == name]
        assert len(own) == 25
        for begin in range(0, 25, size):  # every clip comes once before any comes again
            some = own[begin : begin + size]
            assert len(set(some)) == len(some) == min(size, 25 - begin)
        assert own != sorted(own) or size == 1
    b = [row for row, turn in zip(order, turns, strict=True) if turn == "b"]
    assert len({tuple(b[begin : begin + 3]) for begin in range(0, 24, 3)}) > 1  # clips are shuffled anew
    assert (drawn(records) == order).all() and (drawn(records, 1) != order).any()


def test_balanced_with_several_labels_and_none():
    records = [{"labels": ["x", "y"]}, {"labels": []}, {"labels": ["y"]}, {"labels": ["x"]}, {"labels": []}] * 40
    met = Counter(row % 5 for row in drawn(records))
    # 100 turns each of x (80 clips) and y (80 clips): every one once, and 20 of them again.
    assert met.total() == 200 and set(met) == {0, 2, 3} and 80 <= met[0] <= 120
    assert 40 <= met[2] <= 60 and 40 <= met[3] <= 60
    rare = [{"labels": ["x"]}] * 99 + [{"labels": ["x", "z"]}]
    assert (drawn(rare) == 99).sum() in (50, 51)  # z's turns, and perhaps one of x's


def test_the_sampler_follows_the_config_seed_and_epoch():
    records = [{"id": f"clip{i}", "labels": [LABELS[i == 0]]} for i in range(CLIPS)]
    features = numbered()[1]

    def order(**options):
        items = epoch_batches(records, features, **{"sampler": "balanced", **options})
        for log_mel, targets in read(items):
            np.testing.assert_array_equal(targets.argmax(1), log_mel[:, 0, 0] == 0)
        return numbers(items)

    first = order()
    assert (first == 0).sum() == len(first) // 2
    np.testing.assert_array_equal(order(), first)
    for other in ({"epoch": 1}, {"seed": 1}):
        assert (order(**other) != first).any()
    assert (order(sampler="shuffle") == 0).sum() <= 1


def test_every_batch_of_every_rank_mixes_in_its_own_way(sounds, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "paddletag.features.batches.mixup", lambda *args: (drawn.append(args[3].uniform()), args[:2])[1]
    )
    for _ in range(2):
        for where in ({"epoch": 0}, {"epoch": 1}, {"rank": 1}, {"seed": 1}):
            items = epoch_batches(*sounds, size=8, ranks=2, mixup=0.3, **where)
            assert items[0] and items[1]
    assert drawn[:8] == drawn[8:] and len(set(drawn)) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_items_in_order(sounds, workers):
    items = epoch_batches(*sounds, mixup=0.4, **ALL)
    loaded = list(load_batches(items, workers))
    assert len(loaded) == len(items) == 6
    for (log_mel, targets), (expected_log_mel, expected_targets) in zip(loaded, read(items), strict=True):
        assert isinstance(log_mel, paddle.Tensor) and targets.dtype == paddle.float32
        assert log_mel.dtype == paddle.float16
        np.testing.assert_array_equal(log_mel.numpy(), expected_log_mel)
        np.testing.assert_array_equal(targets.numpy(), expected_targets)


@pytest.mark.parametrize(("workers", "first"), [(0, 4), (2, 4), (0, 6)])
def test_the_loader_goes_on_at_an_item(sounds, workers, first):
    items = epoch_batches(*sounds, mixup=0.4, **ALL)
    loaded = list(load_batches(items, workers, first))
    assert len(loaded) == 6 - first
    for tensors, expected in zip(loaded, read(items)[first:], strict=True):
        for tensor, array in zip(tensors, expected, strict=True):
            np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_says_in_one_line_what_a_user_can_mend(workers):
    class Spoilt:
        def __len__(self):
            return 4

        def __getitem__(self, k):
            if k == 2:
                raise audio.AudioError("a.wav: is empty")
            return np.full(3, k, np.float32), np.zeros(1, np.float32)

    met = []
    with pytest.raises(UserError, match=r"^a\.wav: is empty$"):
        met.extend(float(values[0]) for values, _ in load_batches(Spoilt(), workers))
    assert met == [0, 1]


@pytest.mark.parametrize("name", ["__init__", "submit"])
def test_processes_that_cannot_be_started_are_one_line(monkeypatch, name):
    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parallel.ProcessPoolExecutor, name, fails)
    with pytest.raises(UserError, match="^3 .*no space left on device"):
        list(parallel.in_order(abs, [1, 2], 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_are_read_ahead_in_their_order(sounds, workers):
    records, features = sounds
    ids = [record["id"] for record in reversed(records)]
    clips = list(read_clips(ids, features, workers))
    assert [clip_id for clip_id, _ in clips] == ids
    for clip_id, log_mel in clips:
        np.testing.assert_array_equal(log_mel, features[clip_id])


def test_the_loader_names_a_killed_process():
    class Deadly:
        def __len__(self):
            return 9

        def __getitem__(self, k):
            if k == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return np.full(3, k, np.float32), np.zeros(1, np.float32)

    with pytest.raises(UserError, match="killed"):
        list(load_batches(Deadly(), 2))
    deadline = time.monotonic() + 5  # the pool's own thread may be about to count one out
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not multiprocessing.active_children()


def test_purposes_do_not_share_a_stream():
    drawn = [generator_for(purpose, 1, 2).integers(2**62) for purpose in ("order", "clip", "mixup", "dropout")]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("length", [1, 7, 100])
def test_windows_cover_the_clip(length):
    for frames in range(1, 6 * length + 1):
        starts = window_starts(frames, length)
        heard = np.zeros(max(frames, length), int)
        for start in starts:
            assert 0 <= start <= max(frames - length, 0)
            heard[start : start + length] += 1
        assert (heard[:frames] == 0).sum() <= 0.05 * length
        assert (len(starts) - 1) * length < frames or len(starts) == 1  # not one more than needed
        if frames % length == 0:
            np.testing.assert_array_equal(starts, np.arange(0, frames, length))


def test_windows_come_in_full_batches_with_the_keys_of_their_clips():
    generator = np.random.default_rng(0)
    sizes = {"a": 5, "b": 12, "c": 10}
    clips = {key: generator.standard_normal((size, 3)).astype(np.float16) for key, size in sizes.items()}
    windows = list(window_batches(clips.items(), 5, 4))
    assert [keys for keys, _ in windows] == [["a", "b", "b", "b"], ["c", "c"]]
    cut = [clips["a"], clips["b"][:5], clips["b"][4:9], clips["b"][7:], clips["c"][:5], clips["c"][5:]]
    middle = windows[0][1][2]  # starts at 3.5, rounded either way
    assert any(np.array_equal(middle, clips["b"][s : s + 5]) for s in (3, 4))
    for window, expected in zip(
        np.delete(np.concatenate([b for _, b in windows]), 2, 0), cut[:2] + cut[3:], strict=True
    ):
        assert window.dtype == np.float32
        np.testing.assert_array_equal(window, expected)


def test_multi_hot():
    records = [{"labels": ["b"]}, {"labels": ["a", "c"]}, {"labels": []}]
    np.testing.assert_array_equal(multi_hot(records, ["a", "b", "c"]), [[0, 1, 0], [1, 0, 1], [0, 0, 0]])
