"""How clips are divided: folds that are made, what is held out, and which clips validate."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from paddletag.data.splits import hold_out, parse_fold, records_of, split_of, stratified_folds, validation_part
from paddletag.runtime import UserError
from sklearn.model_selection import StratifiedGroupKFold


@pytest.fixture
def records():
    """Two labels, two folds, a clip of each in each."""
    pairs = (("dog", 1), ("dog", 2), ("rain", 1), ("rain", 2))
    return [{"id": str(n), "labels": [label], "fold": fold} for n, (label, fold) in enumerate(pairs)]


def to_splits(records, *splits):
    return [{**{k: v for k, v in r.items() if k != "fold"}, "split": s} for r, s in zip(records, splits, strict=True)]


def test_what_is_held_out_of_data_with_splits(records):
    rows = to_splits(records, "train", "valid", "test", "train")

    def ids(rows):
        return [row["id"] for row in rows]

    assert [*map(ids, hold_out(rows, "test"))] == [["0", "3"], ["2"]]
    assert [*map(ids, hold_out(rows, "valid"))] == [["0", "3"], ["1"]]
    assert ids(records_of(rows, "valid")) == ["1"] and records_of(records, "valid") == []
    assert [split_of(row) for row in (rows[1], records[1])] == ["valid", 2]
    for fold in (1, "train"):
        with pytest.raises(UserError, match=f"fold {fold}: .*splits.*: test, valid"):
            hold_out(rows, fold)
    with pytest.raises(UserError, match="fold test: .*: 1, 2"):
        hold_out(records, "test")


def test_what_the_option_fold_may_say():
    assert [parse_fold(text) for text in ("3", "test", "valid")] == [3, "test", "valid"]
    for text in ("train", "one", "-1", "1.0", ""):
        with pytest.raises(UserError, match=f"^--fold {text}: "):
            parse_fold(text)


def test_a_fold_is_held_out(records):
    train, held_out = hold_out(records, 2)
    assert [r["id"] for r in train] == ["0", "2"] and [r["id"] for r in held_out] == ["1", "3"]
    with pytest.raises(UserError, match="fold 3: .*: 1, 2"):
        hold_out(records, 3)


def random_clips(n, generator, groups=0, several=False):
    rows = []
    for i in range(n):
        count = generator.integers(0, 4) if several else 1
        row = {
            "id": f"c{i}",
            "labels": [f"l{k}" for k in generator.choice(6, count, False, [0.4, 0.3, 0.1, 0.1, 0.05, 0.05])],
        }
        rows.append({**row, "group": f"g{generator.integers(groups)}"} if groups else row)
    return rows


def spread(rows, folds):
    """[folds, labels]: clips of each label in each fold, relative to equal shares; the same for clips alone."""
    names = sorted({name for row in rows for name in row["labels"]})
    k = max(folds)
    counts = np.zeros((k, len(names)))
    for row, fold in zip(rows, folds, strict=True):
        counts[fold - 1] += [name in row["labels"] for name in names]
    return counts, np.bincount(folds)[1:]


@pytest.mark.parametrize("n, k", [(400, 5), (101, 10), (64, 2)])
def test_folds_have_equal_shares_of_every_label(n, k):
    rows = random_clips(n, np.random.default_rng(0))
    counts, sizes = spread(rows, stratified_folds(rows, k, 0))
    assert np.ptp(counts, axis=0).max() <= 1 and np.ptp(sizes) <= 2


def test_folds_of_several_labels_are_even_too():
    rows = random_clips(600, np.random.default_rng(0), several=True)
    counts, sizes = spread(rows, stratified_folds(rows, 5, 0))
    assert (np.ptp(counts, axis=0) / counts.mean(0)).max() < 0.15 and np.ptp(sizes) / sizes.mean() < 0.25


def test_groups_stay_whole_and_folds_as_even_as_scikit_learns():
    rows = random_clips(500, np.random.default_rng(1), groups=80)
    folds = stratified_folds(rows, 5, 0)
    for group in {row["group"] for row in rows}:
        assert len({fold for row, fold in zip(rows, folds, strict=True) if row["group"] == group}) == 1
    theirs = np.zeros(500, int)
    labels, groups = [row["labels"][0] for row in rows], [row["group"] for row in rows]
    for k, (_, tested) in enumerate(StratifiedGroupKFold(5).split(rows, labels, groups), 1):
        theirs[tested] = k

    def unevenness(folds):
        counts, _ = spread(rows, folds)
        return (counts.std(0) / counts.mean(0)).mean()

    assert unevenness(folds) < 1.5 * unevenness(theirs)


def test_folds_depend_on_seed_and_names_alone():
    rows = random_clips(200, np.random.default_rng(2), groups=40)
    first = stratified_folds(rows, 5, 3)
    back = stratified_folds(rows[::-1], 5, 3)
    assert back[::-1] == first != stratified_folds(rows, 5, 4)


def hashed(n, text):
    """A number below n that depends on the text alone, in all versions of all libraries."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % n


def drawn_clips(kind):
    """60 clips of three labels: one each, or none to three ("several"); most in one of 15 groups ("groups")."""
    rows = []
    for n in range(60):
        count = hashed(4, f"count {n}") if kind == "several" else 1
        rows.append({"id": f"c{n}", "labels": sorted({"aaabbc"[hashed(6, f"label {n} {k}")] for k in range(count)})})
        if kind == "groups" and n % 7:
            rows[-1]["group"] = f"g{hashed(15, f'group {n}')}"
    return rows


@pytest.mark.parametrize(
    ("kind", "seed", "folds"),
    [
        ("single", 0, "323341545434441134531121553532122513422115323542152234545241"),
        ("single", 7, "544523425235353341353145331111224222144251125412333442515145"),
        ("groups", 0, "311353424425255222521115534412143353531534431211233445241213"),
        ("groups", 7, "211252524425311423521515524412153352431424321311332445345313"),
        ("several", 0, "341535213151522413535421213435122434235225114442431231535241"),
        ("several", 7, "214543431515443425353141422213125212551133124412355432154235"),
    ],
)
def test_folds_are_those_that_models_were_trained_on(kind, seed, folds):
    """Another order would be as good, but results that users have published would no longer be those of their folds."""
    assert "".join(map(str, stratified_folds(drawn_clips(kind), 5, seed))) == folds


def clips(*labels, **more):
    """Records with these lists of labels, and a value each of `more`."""
    rows = [{"id": str(n), "labels": list(names)} for n, names in enumerate(labels)]
    for key, values in more.items():
        for row, value in zip(rows, values, strict=True):
            row.update({key: value})
    return rows


def counts(records):
    return Counter(name for record in records for name in record["labels"])


@pytest.mark.parametrize(
    ("sizes", "share", "total"),
    [
        ({"a": 40, "b": 20, "c": 10}, 0.1, 7),  # 4, 2, 1
        ({name: 4 for name in "abcdefghij"}, 0.1, 4),  # 0.4 each: four labels give one
        ({"a": 1000, **{f"b{n}": 4 for n in range(100)}}, 0.1, 140),  # 100, and 40 of the others
        ({"a": 3, "b": 2, "c": 1}, 0.01, 1),  # one at least
    ],
)
def test_validation_part_is_stratified(sizes, share, total):
    records = clips(*([name] for name, size in sizes.items() for _ in range(size)))
    drawn = set()
    for seed in range(5):
        kept, aside = validation_part(records, share, seed)
        assert kept == [r for r in records if r not in aside] and aside == [r for r in records if r not in kept]
        assert (kept, aside) == validation_part(records, share, seed)
        assert len(aside) == total and set(counts(kept)) == set(sizes)
        if total > 1:
            assert all(abs(counts(aside)[name] - share * size) < 1 for name, size in sizes.items())
        drawn.add(tuple(r["id"] for r in aside))
    assert len(drawn) > 1


def test_validation_part_of_several_labels_is_closer_to_the_share_than_chance():
    generator = np.random.default_rng(0)
    common = 1 / np.arange(1, 41)
    drawn = (generator.choice(40, generator.integers(4), False, common / common.sum()) for _ in range(1000))
    records = clips(*([f"l{n}" for n in numbers] for numbers in drawn))  # some have no label
    total = counts(records)

    def error(some):
        return np.mean([abs(counts(some)[name] - 0.2 * total[name]) for name in total])

    kept, aside = validation_part(records, 0.2, 0)
    assert abs(len(aside) - 200) <= 10 and set(counts(kept)) == set(total)
    chance = [error([records[n] for n in generator.permutation(1000)[:200]]) for _ in range(20)]
    assert error(aside) < 0.6 * min(chance)


def test_validation_part_keeps_groups_whole():
    labels = [["ab"[n % 2]] for n in range(120)]
    records = clips(*labels, group=[n // 6 for n in range(120)])  # 20 groups, 3 clips of either label in each
    del records[0]["group"]  # a clip of its own: row 0, which is not group 0
    for seed in range(5):
        kept, aside = validation_part(records, 0.2, seed)
        assert {r.get("group") for r in kept}.isdisjoint(r.get("group") for r in aside)
        assert abs(len(aside) - 24) <= 3 and abs(counts(aside)["a"] - counts(aside)["b"]) <= 1
    halves = clips(*labels, group=[n // 60 for n in range(120)])
    assert [len(rows) for rows in validation_part(halves, 0.1, 0)] == [60, 60]  # there is no smaller one


def test_validation_part_leaves_every_label_in_training():
    for share in (0.3, 0.9):
        kept, aside = validation_part(clips("a", "ab", "b", "c", "ad", "b"), share, 0)
        assert aside and set(counts(kept)) == set("abcd")
        assert {"3", "4"} <= {record["id"] for record in kept}  # the only ones with c and d
    for records in (clips("a", "b"), clips("a", "a", group="xx"), clips("a"), clips("")):
        with pytest.raises(UserError, match=r"train\.validation: none of the \d "):
            validation_part(records, 0.5, 0)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_validation_part_does_not_take_most_of_the_clips_for_a_group_that_is_large(share):
    records = clips(*("ab"[n % 2] for n in range(100)), group=["large"] * 80 + ["x"] * 10 + ["y"] * 10)
    for seed in range(3):
        assert len(validation_part(records, share, seed)[1]) == 10


def test_validation_part_of_a_small_share():
    records = clips(*("ab"[n % 2] for n in range(4000)))
    assert len(validation_part(records, 0.002, 0)[1]) == 8
