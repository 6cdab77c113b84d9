"""The list of clips: what is refused, what is written and read, which clips are held out."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile
from paddletag import manifest
from paddletag.runtime import UserError


@pytest.fixture
def records(tmp_path):
    """Two labels, two folds, a clip of each in each."""
    rows = []
    for n, (label, fold) in enumerate((("dog", 1), ("dog", 2), ("rain", 1), ("rain", 2))):
        soundfile.write(tmp_path / f"{n}.wav", np.zeros(800), 8000)
        path = str(tmp_path / f"{n}.wav")
        rows.append({"id": str(n), "audio": path, "labels": [label], "fold": fold, "seconds": 0.1})
    return rows


def change(n, **values):
    return lambda rows, labels: rows[n].update(values)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (change(1, id="0", fold=1), "1.wav: the id '0' stands twice"),
        (change(1, id="0"), "1.wav: the id '0' stands in fold 1 and in 2"),
        (change(2, labels=["snow"]), "2.wav: its label 'snow' is not in labels.txt"),
        (change(2, labels=["dog", "snow"]), "2.wav: its label 'snow' is not in labels.txt"),
        (change(3, audio="nowhere/3.wav"), "nowhere/3.wav: no such file"),
        (change(3, audio="."), ".: no such file"),
        (change(3, fold=1), "data.label: 'rain' occurs in fold 1 only"),
        (lambda rows, labels: [row.update(fold=1) for row in rows], "data.fold: all clips are in fold 1"),
        (lambda rows, labels: rows.clear(), "data.fold: there are no clips"),
        (lambda rows, labels: labels.append("snow"), "data.label: 'snow' has no clip"),
        (lambda rows, labels: labels.append("sn\now"), r"data.label: 'sn\now' is not one line of text"),
        (lambda rows, labels: labels.append("sn\u2028ow"), "is not one line of text"),
        (lambda rows, labels: labels.append(""), "data.label: '' is not one line of text"),
    ],
)
def test_write_refuses_what_readers_rely_on(records, tmp_path, spoil, words):
    labels = ["dog", "rain"]
    manifest.write(tmp_path / "good", records, labels, [])
    spoil(records, labels)
    with pytest.raises(UserError) as caught:
        manifest.write(tmp_path / "data", records, labels, [])
    assert words in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_named_splits_are_held_apart_like_folds(records, tmp_path):
    for record, split in zip(records, ("train", "test", "train", "test"), strict=True):
        del record["fold"]
        record.update(split=split, group=split)
    manifest.write(tmp_path / "data", records, ["dog", "rain"], [])


def test_groups_that_cross_a_published_split_are_counted_and_named(records, tmp_path):
    assert manifest.crossing(records) == ""
    for record, group in zip(records, ("a", "a", "b", "b"), strict=True):
        record["group"] = group
    sides = {group: {r["fold"] for r in records if r["group"] == group} for group in "ab"}
    text = manifest.crossing(records)
    assert sides == {"a": {1, 2}, "b": {1, 2}} and "2 groups with 4 clips" in text and "a (folds 1, 2)" in text
    manifest.write(tmp_path / "data", records, ["dog", "rain"], [])
    for n, record in enumerate(records):
        del record["fold"]
        record.update(split=("train", "test")[n % 2], group="g" if n < 3 else "other")
    text = manifest.crossing(records)
    assert "1 groups with 3 clips" in text and "g (splits test, train)" in text
    many = [{"id": f"{k}", "group": f"g{k // 2:02d}", "fold": k % 2} for k in range(40)]
    assert "20 groups with 40 clips" in manifest.crossing(many) and "g05" not in manifest.crossing(many)


def test_written_and_read(records, tmp_path):
    records[0]["id"] = "Hühner\u2028hof"  # JSON lines end at \n alone
    rejected = [{"id": "x", "audio": "x.wav", "reason": "x.wav: is empty"}]
    manifest.write(tmp_path, records, ["rain", "dog"], rejected)
    assert manifest.read(tmp_path) == (records, ["rain", "dog"])
    assert manifest.read_rejected(tmp_path) == rejected
    assert (tmp_path / "labels.txt").read_text() == "rain\ndog\n"
    assert len((tmp_path / "manifest.jsonl").read_text(encoding="utf-8").split("\n")) == 5


def test_clips_rejected_later_are_left_out(records, tmp_path):
    manifest.write(tmp_path, records, ["dog", "rain"], [])
    before = set(tmp_path.iterdir())
    row = {"id": "2", "audio": "2.wav", "reason": "2.wav: cannot be decoded", "source": "s"}
    with pytest.raises(UserError, match=r"^2\.wav: cannot be decoded; .*data\.max_rejected \(none now\)$"):
        manifest.reject(tmp_path, [row], 0)
    assert manifest.read(tmp_path)[0] == records and manifest.read_rejected(tmp_path) == []
    manifest.reject(tmp_path, [row], 1)
    assert [r["id"] for r in manifest.read(tmp_path)[0]] == ["0", "1", "3"]
    assert manifest.read(tmp_path, with_rejected=True)[0] == records
    with pytest.raises(UserError, match=r"\(and 1 more\).*data\.max_rejected \(1 now\)$"):
        manifest.reject(tmp_path, [{**row, "id": "1"}], 1)
    manifest.reject(tmp_path, [{**row, "id": "1"}], 1, mended=["2"])
    assert [r["id"] for r in manifest.read_rejected(tmp_path)] == ["1"]
    assert set(tmp_path.iterdir()) == before


def test_reading_what_is_not_prepared(records, tmp_path):
    with pytest.raises(UserError, match=r"manifest\.jsonl: no such file: run stage 0 first"):
        manifest.read(tmp_path)
    manifest.write(tmp_path, records, ["dog", "rain"], [])
    (tmp_path / "labels.txt").unlink()
    with pytest.raises(UserError, match=r"labels\.txt: no such file: run stage 0 first"):
        manifest.read(tmp_path)
    (tmp_path / "labels.txt").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=r"labels\.txt: not UTF-8 text"):
        manifest.read(tmp_path)
    for content in (b"{", b"\xff\xfe{}\n", b'{"id": 1}\n\n'):
        (tmp_path / "manifest.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=r"manifest\.jsonl: not a file of JSON lines .*: remove it"):
            manifest.read(tmp_path)


def test_the_fingerprint_tells_what_features_depend_on(records, tmp_path):
    record = records[0]
    first = manifest.fingerprint(record)
    assert json.loads(first)[0] == record["audio"]
    assert manifest.fingerprint({**record, "labels": ["other"], "fold": 9}) == first
    assert manifest.fingerprint({**record, "start": 0.05}) != first != manifest.fingerprint({**record, "end": 0.05})
    soundfile.write(tmp_path / "0.wav", np.ones(800), 8000)  # as long as before
    assert manifest.fingerprint(record) != first


def test_the_digest_tells_what_a_model_learns_from(records):
    first = manifest.digest(records)
    assert manifest.digest(records[::-1]) == first
    assert manifest.digest([{**r, "audio": "moved"} for r in records]) == first
    assert manifest.digest(records[1:]) != first
    records[0]["labels"] = ["rain"]
    assert manifest.digest(records) != first


def to_splits(records, *splits):
    return [{**{k: v for k, v in r.items() if k != "fold"}, "split": s} for r, s in zip(records, splits, strict=True)]


def test_splits_must_serve_to_train_and_to_test(records):
    labels = ["dog", "rain"]
    manifest.check(to_splits(records, "train", "test", "train", "valid"), labels)
    manifest.check(to_splits(records, "train", "train", "train", "test"), labels)  # no dog is tested
    for splits, words in [
        (("train", "train", "train", "valid"), "data.split: no clip is in test: there is nothing to test on"),
        (("valid", "test", "valid", "test"), "data.split: no clip is in train: there is nothing to train on"),
        (("train", "train", "valid", "test"), "data.label: 'rain' occurs in test and valid only: no model would have"),
    ]:
        with pytest.raises(UserError) as caught:
            manifest.check(to_splits(records, *splits), labels)
        assert words in str(caught.value)


def test_labels_of_a_list_may_lack_clips(records, tmp_path):
    manifest.write(tmp_path, records, ["dog", "snow", "rain"], [], listed=True)
    assert manifest.read(tmp_path)[1] == ["dog", "snow", "rain"]
    manifest.check(to_splits(records, "train", "train", "test", "test"), ["dog", "rain"], listed=True)
    with pytest.raises(UserError, match="its label 'rain' is not in"):
        manifest.check(records, ["dog"], listed=True)


def test_what_is_held_out_of_data_with_splits(records):
    rows = to_splits(records, "train", "valid", "test", "train")

    def ids(rows):
        return [row["id"] for row in rows]

    assert [*map(ids, manifest.split(rows, "test"))] == [["0", "3"], ["2"]]
    assert [*map(ids, manifest.split(rows, "valid"))] == [["0", "3"], ["1"]]
    assert ids(manifest.part(rows, "valid")) == ["1"] and manifest.part(records, "valid") == []
    assert [manifest.side(row) for row in (rows[1], records[1])] == ["valid", 2]
    for fold in (1, "train"):
        with pytest.raises(UserError, match=f"fold {fold}: the data has splits, not folds; .* there are: test, valid"):
            manifest.split(rows, fold)
    with pytest.raises(UserError, match="fold test: no such fold in the data; there are: 1, 2"):
        manifest.split(records, "test")


def test_what_the_option_fold_may_say():
    assert [manifest.parse_fold(text) for text in ("3", "test", "valid")] == [3, "test", "valid"]
    for text in ("train", "one", "-1", "1.0", ""):
        with pytest.raises(UserError, match=f"^--fold {text}: neither the number of a fold nor"):
            manifest.parse_fold(text)


def test_split(records):
    train, held_out = manifest.split(records, 2)
    assert [r["id"] for r in train] == ["0", "2"] and [r["id"] for r in held_out] == ["1", "3"]
    with pytest.raises(UserError, match="fold 3: no such fold in the data; there are: 1, 2"):
        manifest.split(records, 3)


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
def test_inner_split_is_stratified(sizes, share, total):
    records = clips(*([name] for name, size in sizes.items() for _ in range(size)))
    drawn = set()
    for seed in range(5):
        kept, aside = manifest.inner_split(records, share, seed)
        assert kept == [r for r in records if r not in aside] and aside == [r for r in records if r not in kept]
        assert (kept, aside) == manifest.inner_split(records, share, seed)
        assert len(aside) == total and set(counts(kept)) == set(sizes)
        if total > 1:
            assert all(abs(counts(aside)[name] - share * size) < 1 for name, size in sizes.items())
        drawn.add(tuple(r["id"] for r in aside))
    assert len(drawn) > 1


def test_inner_split_of_several_labels_is_closer_to_the_share_than_chance():
    generator = np.random.default_rng(0)
    common = 1 / np.arange(1, 41)
    drawn = (generator.choice(40, generator.integers(4), False, common / common.sum()) for _ in range(1000))
    records = clips(*([f"l{n}" for n in numbers] for numbers in drawn))  # some have no label
    whole = counts(records)

    def error(some):
        return np.mean([abs(counts(some)[name] - 0.2 * whole[name]) for name in whole])

    kept, aside = manifest.inner_split(records, 0.2, 0)
    assert abs(len(aside) - 200) <= 10 and set(counts(kept)) == set(whole)
    chance = [error([records[n] for n in generator.permutation(1000)[:200]]) for _ in range(20)]
    assert error(aside) < 0.6 * min(chance)


def test_inner_split_keeps_groups_whole():
    labels = [["ab"[n % 2]] for n in range(120)]
    records = clips(*labels, group=[n // 6 for n in range(120)])  # 20 groups, 3 clips of either label in each
    del records[0]["group"]  # a clip of its own: row 0, which is not group 0
    for seed in range(5):
        kept, aside = manifest.inner_split(records, 0.2, seed)
        assert {r.get("group") for r in kept}.isdisjoint(r.get("group") for r in aside)
        assert abs(len(aside) - 24) <= 3 and abs(counts(aside)["a"] - counts(aside)["b"]) <= 1
    halves = clips(*labels, group=[n // 60 for n in range(120)])
    assert [len(side) for side in manifest.inner_split(halves, 0.1, 0)] == [60, 60]  # there is no smaller one


def test_inner_split_leaves_every_label_in_training():
    for share in (0.3, 0.9):
        kept, aside = manifest.inner_split(clips("a", "ab", "b", "c", "ad", "b"), share, 0)
        assert aside and set(counts(kept)) == set("abcd")
        assert {"3", "4"} <= {record["id"] for record in kept}  # the only ones with c and d
    for records in (clips("a", "b"), clips("a", "a", group="xx"), clips("a"), clips("")):
        with pytest.raises(UserError, match=r"train\.validation: none of the \d clips can be set aside"):
            manifest.inner_split(records, 0.5, 0)
