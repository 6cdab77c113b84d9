"""From a table to records: what is read, in which order, and what is refused."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile
from paddletag import config, manifest
from paddletag.runtime import UserError

HEADER = "filename,fold,target,category\n"
YAML = "data: {metadata: meta.csv, audio: 'audio/{filename}', label: category, fold: fold, index: target}\n"


@pytest.fixture
def read(tmp_path):
    """A function: (text of the table, --opts ...) -> (records, labels)."""

    def read(text, *opts):
        (tmp_path / "conf.yaml").write_text(YAML)
        table = tmp_path / "meta.csv"
        table.write_bytes(text) if isinstance(text, bytes) else table.write_text(text, encoding="utf-8")
        return manifest.read_table(config.load(tmp_path / "conf.yaml", opts), tmp_path)

    return read


def test_records_of_a_table(read, tmp_path):
    records, labels = read(HEADER + 'a.wav,1,0,dog\n"b, c.ogg",2,1, rain \n')
    assert labels == ["dog", "rain"]
    assert records == [
        {"id": "a", "audio": str(tmp_path / "audio" / "a.wav"), "labels": ["dog"], "fold": 1},
        {"id": "b, c", "audio": str(tmp_path / "audio" / "b, c.ogg"), "labels": ["rain"], "fold": 2},
    ]


def test_labels_are_in_the_order_of_their_numbers_else_of_their_names(read):
    rows = "a.wav,1,10,ant\nb.wav,1,9,Zebra\nc.wav,2,0,über\nd.wav,2,10,ant\n"
    assert read(HEADER + rows)[1] == ["über", "Zebra", "ant"]
    assert read(HEADER + rows, "data.index", "")[1] == ["Zebra", "ant", "über"]  # code points


def test_several_labels_of_a_clip(read):
    opts = ("task", "multi_label", "data.index", "")
    records, labels = read(HEADER + "a.wav,1,,dog; rain;dog\nb.wav,2,,\nc.wav,2,,rain;\n", *opts)
    assert [r["labels"] for r in records] == [["dog", "rain"], [], ["rain"]] and labels == ["dog", "rain"]


def test_a_byte_order_mark_and_windows_line_ends(read):
    records, labels = read(b"\xef\xbb\xbf" + (HEADER + "a.wav,1,0,dog\n").replace("\n", "\r\n").encode())
    assert records[0]["labels"] == labels == ["dog"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "meta.csv: is empty"),
        (HEADER, "meta.csv: has no rows"),
        ("filename,fold,target\na.wav,1,0\n", "no column 'category' (data.label); its columns: filename, fold, target"),
        ("filename,target,category\na.wav,0,dog\n", "no column 'fold' (data.fold)"),
        ("filename,fold,category\na.wav,1,dog\n", "no column 'target' (data.index)"),
        ("file,fold,target,category\na.wav,1,0,dog\n", "'audio/{filename}' names a column that is not there"),
        (HEADER.replace(",", ";") + "a.wav;1;0;dog\n", "no column 'category'"),
        (HEADER + "a.wav,1,0,dog\nb.wav,2,0\n", "meta.csv:3: has fewer fields than the header"),
        (HEADER + "a.wav,1,0,dog\n\n\nb.wav,2,0,dog,x\n", "meta.csv:5: has more fields than the header"),
        (HEADER + 'a.wav,1,0,"dog\nhouse"\nb.wav,x,0,dog\n', "meta.csv:4: fold='x' is not the number of a fold"),
        (HEADER + "a.wav,1,0,\n", "meta.csv:2: the label (column 'category') is empty"),
        (HEADER + "a.wav,1,0,  \n", "meta.csv:2: the label (column 'category') is empty"),
        (HEADER + "a.wav,,0,dog\n", "fold='' is not the number of a fold"),
        (HEADER + "a.wav,-1,0,dog\n", "fold='-1' is not the number of a fold"),
        (HEADER + "a.wav,1.0,0,dog\n", "fold='1.0' is not the number of a fold"),
        (HEADER + "a.wav,1,first,dog\n", "target='first' is not one label's number"),
        (HEADER + "a.wav,1,0,dog\nb.wav,1,1,dog\n", "meta.csv:3: label 'dog' has number 1 here, 0 above"),
        (HEADER + "a.wav,1,3,dog\nb.wav,1,3,cat\n", "target=3 is the number of several labels: dog, cat"),
        (HEADER + 'a.wav,1,0,"dog\n', "not a CSV file"),
        (HEADER.encode() + b"a.wav,1,0,K\xe4fer\n", "not a CSV file"),
        ((HEADER + "a.wav,1,0,dog\n").encode("utf-16"), "not a CSV file"),
    ],
)
def test_refused_tables(read, tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        read(text)
    assert str(caught.value).startswith(str(tmp_path / "meta.csv")) and words in str(caught.value)


@pytest.mark.parametrize("audio", "{} {0} {nowhere} {filename {filename.x} {filename:d} {filename[a]}".split())
def test_refused_names_of_files(read, audio):
    with pytest.raises(UserError, match="data.audio"):
        read(HEADER + "a.wav,1,0,dog\n", "data.audio", audio)


def test_no_table(tmp_path):
    (tmp_path / "conf.yaml").write_text(YAML)
    settings = config.load(tmp_path / "conf.yaml")
    with pytest.raises(UserError, match=r"meta\.csv: no such file: is .* the folder of the data set"):
        manifest.read_table(settings, tmp_path)
    (tmp_path / "meta.csv").mkdir()
    with pytest.raises(UserError, match="not a CSV file"):
        manifest.read_table(settings, tmp_path)
    for key in ("metadata", "audio", "label", "fold"):
        with pytest.raises(UserError, match=f"data.{key} is empty"):
            manifest.read_table(config.load(tmp_path / "conf.yaml", [f"data.{key}", ""]), tmp_path)


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
        (lambda rows, labels: [row.update(group="g") for row in rows[:2]], "1.wav: its group 'g' lies on both sides"),
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
    records[1]["group"] = "train"
    with pytest.raises(UserError, match="group 'train' lies on both sides of a split: train and test"):
        manifest.write(tmp_path / "data", records, ["dog", "rain"], [])


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


def test_headers_are_checked(records, tmp_path):
    soundfile.write(tmp_path / "0.wav", np.zeros((4000, 2)), 16000)
    (tmp_path / "1.wav").write_bytes(b"")
    (tmp_path / "2.wav").unlink()
    kept, rejected = manifest.check_files(records)
    assert [(r["id"], r["seconds"]) for r in kept] == [("0", 0.25), ("3", 0.1)]
    assert [(r["id"], r["reason"].rpartition(": ")[2]) for r in rejected] == [("1", "is empty"), ("2", "no such file")]
    assert manifest.check_files([]) == ([], [])


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


def test_split(records):
    train, held_out = manifest.split(records, 2)
    assert [r["id"] for r in train] == ["0", "2"] and [r["id"] for r in held_out] == ["1", "3"]
    with pytest.raises(UserError, match="fold 3: no such fold in the data; there are: 1, 2"):
        manifest.split(records, 3)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["a/x.wav", "b/y.wav"], ["x", "y"]),
        (["a/x.wav", "b/x.wav"], ["a/x", "b/x"]),
        (["x.wav", "x.flac"], ["x.wav", "x.flac"]),
        (["a/x.wav", "a/x.wav"], ["x", "x"]),  # the same file twice: `check` refuses it
    ],
)
def test_ids_are_as_short_as_they_can_be(names, ids, tmp_path):
    records = [{"audio": str(tmp_path / name)} for name in names]
    manifest._shorten_ids(records, tmp_path)
    assert [record["id"] for record in records] == ids


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
    assert error(aside) < 0.5 * min(chance)


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
