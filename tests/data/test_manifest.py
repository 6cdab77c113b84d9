"""The list of clips: what is refused, what is written and read."""

import json

import numpy as np
import pytest
import soundfile
from paddletag.data import manifest
from paddletag.data.splits import crossing_groups
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
    "spoil, start, words",
    [
        (change(1, id="0", fold=1), "1.wav: the id '0'", "twice"),
        (change(1, id="0"), "1.wav: the id '0'", "fold 1 and in 2"),
        (change(2, labels=["snow"]), "2.wav: ", "'snow'"),
        (change(2, labels=["dog", "snow"]), "2.wav: ", "'snow'"),
        (change(3, audio="nowhere/3.wav"), "nowhere/3.wav: ", "no such file"),
        (change(3, audio="."), ".: ", "no such file"),
        (change(3, fold=1), "data.label: 'rain'", "fold 1"),
        (lambda rows, labels: [row.update(fold=1) for row in rows], "data.fold: ", "fold 1"),
        (lambda rows, labels: rows.clear(), "data.fold: ", "no clips"),
        (lambda rows, labels: labels.append("snow"), "data.label: 'snow'", "no clip"),
        (lambda rows, labels: labels.append("sn\now"), r"data.label: 'sn\now'", "one line"),
        (lambda rows, labels: labels.append("sn\u2028ow"), "data.label: ", "one line"),
        (lambda rows, labels: labels.append(""), "data.label: ''", "one line"),
    ],
)
def test_write_refuses_what_readers_rely_on(records, tmp_path, spoil, start, words):
    labels = ["dog", "rain"]
    manifest.write(tmp_path / "good", records, labels, [])
    spoil(records, labels)
    with pytest.raises(UserError) as caught:
        manifest.write(tmp_path / "data", records, labels, [])
    assert start in str(caught.value) and words in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_named_splits_are_held_apart_like_folds(records, tmp_path):
    for record, split in zip(records, ("train", "test", "train", "test"), strict=True):
        del record["fold"]
        record.update(split=split, group=split)
    manifest.write(tmp_path / "data", records, ["dog", "rain"], [])


def test_groups_that_cross_a_published_split_are_counted_and_named(records, tmp_path):
    assert crossing_groups(records) == ""
    for record, group in zip(records, ("a", "a", "b", "b"), strict=True):
        record["group"] = group
    folds = {group: {r["fold"] for r in records if r["group"] == group} for group in "ab"}
    text = crossing_groups(records)
    assert folds == {"a": {1, 2}, "b": {1, 2}} and "2 groups with 4 clips" in text and "a (folds 1, 2)" in text
    manifest.write(tmp_path / "data", records, ["dog", "rain"], [])
    for n, record in enumerate(records):
        del record["fold"]
        record.update(split=("train", "test")[n % 2], group="g" if n < 3 else "other")
    text = crossing_groups(records)
    assert "1 groups with 3 clips" in text and "g (splits test, train)" in text
    many = [{"id": f"{k}", "group": f"g{k // 2:02d}", "fold": k % 2} for k in range(40)]
    assert "20 groups with 40 clips" in crossing_groups(many) and "g05" not in crossing_groups(many)


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
    with pytest.raises(UserError, match=r"^2\.wav: cannot be decoded; .*data\.max_rejected \(none"):
        manifest.reject(tmp_path, [row], 0)
    assert manifest.read(tmp_path)[0] == records and manifest.read_rejected(tmp_path) == []
    manifest.reject(tmp_path, [row], 1)
    assert [r["id"] for r in manifest.read(tmp_path)[0]] == ["0", "1", "3"]
    assert manifest.read(tmp_path, with_rejected=True)[0] == records
    with pytest.raises(UserError, match=r"\(and 1 .*data\.max_rejected \(1 "):
        manifest.reject(tmp_path, [{**row, "id": "1"}], 1)
    manifest.reject(tmp_path, [{**row, "id": "1"}], 1, mended=["2"])
    assert [r["id"] for r in manifest.read_rejected(tmp_path)] == ["1"]
    assert set(tmp_path.iterdir()) == before


def test_reading_what_is_not_prepared(records, tmp_path):
    with pytest.raises(UserError, match=r"manifest\.jsonl: no such file: .*stage 0"):
        manifest.read(tmp_path)
    manifest.write(tmp_path, records, ["dog", "rain"], [])
    (tmp_path / "labels.txt").unlink()
    with pytest.raises(UserError, match=r"labels\.txt: no such file: .*stage 0"):
        manifest.read(tmp_path)
    (tmp_path / "labels.txt").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=r"labels\.txt: .*UTF-8"):
        manifest.read(tmp_path)
    for content in (b"{", b"\xff\xfe{}\n", b'{"id": 1}\n\n'):
        (tmp_path / "manifest.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=r"manifest\.jsonl: .*JSON lines"):
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
        (("train", "train", "train", "valid"), "data.split: no clip is in test"),
        (("valid", "test", "valid", "test"), "data.split: no clip is in train"),
        (("train", "train", "valid", "test"), "data.label: 'rain' occurs in test and valid"),
    ]:
        with pytest.raises(UserError) as caught:
            manifest.check(to_splits(records, *splits), labels)
        assert words in str(caught.value)


def test_labels_of_a_list_may_lack_clips(records, tmp_path):
    manifest.write(tmp_path, records, ["dog", "snow", "rain"], [], listed=True)
    assert manifest.read(tmp_path)[1] == ["dog", "snow", "rain"]
    manifest.check(to_splits(records, "train", "train", "test", "test"), ["dog", "rain"], listed=True)
    with pytest.raises(UserError, match="label 'rain'"):
        manifest.check(records, ["dog"], listed=True)
