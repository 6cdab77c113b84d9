"""From raw data sets, in every layout, to records: what is read, in which order, how it is divided, what is refused."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import ESC10
from paddletag import config
from paddletag.data import layouts, manifest
from paddletag.data.audioset import find_clips
from paddletag.data.text_files import read_labels
from paddletag.runtime import UserError, log

HEADER = "filename,fold,target,category\n"
YAML = "data: {metadata: meta.csv, audio: 'audio/{filename}', label: category, fold: fold, index: target}\n"


def says(text, words):
    """Whether a text has these words, in this order, and anything in the place of ` ... `."""
    return re.search(".*".join(map(re.escape, words.split(" ... "))), text) is not None


@pytest.fixture
def read(tmp_path):
    """A function: (text of the table, --opts ...) -> (records, labels)."""

    def read(text, *opts):
        (tmp_path / "conf.yaml").write_text(YAML)
        table = tmp_path / "meta.csv"
        table.write_bytes(text) if isinstance(text, bytes) else table.write_text(text, encoding="utf-8")
        return layouts.read(config.load(tmp_path / "conf.yaml", opts), tmp_path)

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
        ("", "meta.csv: ... empty"),
        (HEADER, "meta.csv: ... no rows"),
        ("filename,fold,target\na.wav,1,0\n", "'category' ... data.label ... filename, fold, target"),
        ("filename,target,category\na.wav,0,dog\n", "'fold' ... data.fold"),
        ("filename,fold,category\na.wav,1,dog\n", "'target' ... data.index"),
        (
            "file,fold,target,category\na.wav,1,0,dog\n",
            "data.audio ... 'audio/{filename}' ... file, fold, target",
        ),
        (HEADER.replace(",", "|") + "a.wav|1|0|dog\n", "data.label"),
        (HEADER + ",1,0,dog\n", "meta.csv:2: ... path ... empty"),
        (HEADER + "a.wav,1,0,dog\nb.wav,2,0\n", "meta.csv:3: ... fewer"),
        (HEADER + "a.wav,1,0,dog\n\n\nb.wav,2,0,dog,x\n", "meta.csv:5: ... more"),
        (HEADER + 'a.wav,1,0,"dog\nhouse"\nb.wav,x,0,dog\n', "meta.csv:4: fold='x'"),
        (HEADER + "a.wav,1,0,\n", "meta.csv:2: ... label ... 'category' ... empty"),
        (HEADER + "a.wav,1,0,  \n", "meta.csv:2: ... label ... 'category' ... empty"),
        (HEADER + "a.wav,,0,dog\n", "fold=''"),
        (HEADER + "a.wav,-1,0,dog\n", "fold='-1'"),
        (HEADER + "a.wav,1.0,0,dog\n", "fold='1.0'"),
        (HEADER + "a.wav,1,first,dog\n", "target='first'"),
        (HEADER + "a.wav,1,0,dog\nb.wav,1,1,dog\n", "meta.csv:3: ... 'dog' ... 1 ... 0"),
        (HEADER + "a.wav,1,3,dog\nb.wav,1,3,cat\n", "target=3 ... dog, cat"),
        (HEADER + 'a.wav,1,0,"dog\n', "not a CSV file"),
        (HEADER + "a\0.wav,1,0,dog\n", "meta.csv:2: ... path ... no file"),
        (HEADER.replace("target", "category") + "a.wav,1,dog,cat\n", "several columns called 'category'"),
        (HEADER + f"a.wav,{'9' * 5000},0,dog\n", "meta.csv:2: ... not the number of a fold"),
        (HEADER + f"a.wav,1,{'9' * 5000},dog\n", "meta.csv:2: ... not one label's number"),
        (HEADER.encode() + b"a.wav,1,0,K\xe4fer\n", "not a CSV file"),
        ((HEADER + "a.wav,1,0,dog\n").encode("utf-16"), "not a CSV file"),
    ],
)
def test_refused_tables(read, tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        read(text)
    assert str(caught.value).startswith(str(tmp_path / "meta.csv")) and says(str(caught.value), words)


TABLE = "data: {audio: '{filename} | {path}', label: label | class, folds: 2}"


@pytest.mark.parametrize("mark, ending", [(",", "csv"), ("\t", "tsv"), ("\t", "csv"), (";", "txt")])
@pytest.mark.parametrize("path, label", [("filename", "label"), ("path", "class")])
def test_a_table_is_all_there_is(tmp_path, monkeypatch, mark, ending, path, label):
    """Given as the data set: paths are absolute, from the home folder, or from the folder of the table."""
    monkeypatch.setenv("HOME", "/home/someone")
    (tmp_path / "conf.yaml").write_text(TABLE)
    rows = [[path, label], ["a.wav", "dog"], ["sub/b.wav", "cat"], ["/far/c.wav", "dog"], ["~/d.wav", "cat"]]
    table = tmp_path / "tables" / f"mine.{ending}"
    table.parent.mkdir()
    table.write_text("".join(mark.join(row) + "\n" for row in rows))
    records, labels = layouts.read(config.load(tmp_path / "conf.yaml"), table)
    here = str(table.parent)
    assert [r["audio"] for r in records] == [f"{here}/a.wav", f"{here}/sub/b.wav", "/far/c.wav", "/home/someone/d.wav"]
    assert [r["labels"] for r in records] == [["dog"], ["cat"], ["dog"], ["cat"]] and labels == ["cat", "dog"]


@pytest.mark.parametrize(
    "header, settings, words",
    [
        ("path,what", TABLE, "'label | class' ... data.label ... path, what"),
        ("what,class", TABLE, "data.audio ... what, class"),
        ("path,label", TABLE.replace("{audio", "{metadata: other.csv, audio"), "is a file ... other.csv ... --raw"),
        ("path,label", "data: {layout: folders, audio: '{label}/*', folds: 2}", "is a file ... folders ... --raw"),
    ],
)
def test_a_table_that_is_not_all_there_is(tmp_path, header, settings, words):
    (tmp_path / "conf.yaml").write_text(settings)
    (tmp_path / "mine.csv").write_text(f"{header}\na.wav,dog\nb.wav,dog\n")
    with pytest.raises(UserError) as caught:
        layouts.read(config.load(tmp_path / "conf.yaml"), tmp_path / "mine.csv")
    assert says(str(caught.value), words)


def test_tables_that_name_their_columns_differently(tmp_path):
    (tmp_path / "conf.yaml").write_text(TABLE.replace("{audio", "{metadata: {train: a.csv, test: b.csv}, audio"))
    (tmp_path / "a.csv").write_text("path,label\na.wav,dog\n")
    (tmp_path / "b.csv").write_text("path,class\nb.wav,dog\n")
    with pytest.raises(UserError, match="b.csv"):
        layouts.read(config.load(tmp_path / "conf.yaml", ["data.folds", "0"]), tmp_path)


@pytest.mark.parametrize("audio", "{} {0} {nowhere} {filename {filename.x} {filename:d} {filename[a]}".split())
def test_refused_names_of_files(read, audio):
    with pytest.raises(UserError, match="data.audio"):
        read(HEADER + "a.wav,1,0,dog\n", "data.audio", audio)


def test_no_table(tmp_path):
    (tmp_path / "conf.yaml").write_text(YAML)
    settings = config.load(tmp_path / "conf.yaml")
    with pytest.raises(UserError, match=r"meta\.csv: no such file: .*--raw"):
        layouts.read(settings, tmp_path)
    (tmp_path / "meta.csv").mkdir()
    with pytest.raises(UserError, match="not a CSV file"):
        layouts.read(settings, tmp_path)
    for key in ("metadata", "audio", "label"):
        with pytest.raises(UserError, match=f"data.{key} "):
            layouts.read(config.load(tmp_path / "conf.yaml", [f"data.{key}", ""]), tmp_path)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["a/x.wav", "b/y.wav"], ["x", "y"]),
        (["a/x.wav", "b/x.wav"], ["a/x", "b/x"]),
        (["x.wav", "x.flac"], ["x.wav", "x.flac"]),
        (["a/x.wav", "a/x.wav"], ["x", "x"]),  # the same file twice: `check` refuses it
    ],
)
def test_ids_are_as_short_as_they_can_be(read, names, ids):
    rows = "".join(f"../{name},1,0,dog\n" for name in names)
    assert [record["id"] for record in read(HEADER + rows)[0]] == ids


@pytest.fixture
def logged(caplog, monkeypatch):
    """A function that gives what has been logged so far, as one text."""
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level("INFO", log.name)
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture
def make(tmp_path):
    """A function: (settings of data, files and their text, task) -> (records, labels) of a raw folder of these."""

    def make(settings, files, task="single_label"):
        for name, text in files.items() if isinstance(files, dict) else ((name, "") for name in files):
            (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "raw" / name).write_text(text)
        (tmp_path / "recipe" / "conf").mkdir(parents=True, exist_ok=True)
        yaml = tmp_path / "recipe" / "conf" / "a.yaml"
        yaml.write_text(f"task: {task}\ndata: {settings}\n")
        return layouts.read(config.load(yaml), tmp_path / "raw", yaml.parent)

    return make


def refused(make, words, *args):
    with pytest.raises(UserError) as caught:
        make(*args)
    assert says(str(caught.value), words) and "\n" not in str(caught.value)


def column(records, key):
    return {record["id"]: record.get(key) for record in records}


# Tables, further


def test_a_table_with_tabs_splits_and_groups(make):
    settings = "{metadata: a.tsv, audio: '{file}', label: kind, split: part, group: who}"
    rows = "file\tpart\twho\tkind\na.wav\tTraining\tx\tcat, big\nb.wav\tval\t\tdog\nc.wav\ttest\ty\tdog\n"
    records, labels = make(settings, {"a.tsv": rows})
    assert labels == ["cat, big", "dog"]
    assert column(records, "split") == {"a": "train", "b": "valid", "c": "test"}
    assert column(records, "group") == {"a": "x", "b": None, "c": "y"}
    assert not any("fold" in record for record in records)
    again = make(settings.replace("a.tsv", "b.txt, delimiter: '\\t'"), {"b.txt": rows})
    assert again == (records, labels)
    assert make(settings.replace("a.tsv", "c.csv, delimiter: ;"), {"c.csv": rows.replace("\t", ";")}) == again
    refused(
        make,
        "a.tsv:3: part='dev'",
        settings,
        {"a.tsv": rows.replace("val", "dev")},
    )
    refused(make, "data.delimiter ... 'ab'", settings.replace("a.tsv", "a.tsv, delimiter: ab"), {})
    refused(make, "a.tsv: ... 'whom' ... data.group", settings.replace("who}", "whom}"), {})


def test_a_table_for_each_split(make):
    tables = {"a.csv": "f,l\na,x\n", "b.csv": "f,l\nb,y\n", "t.csv": "f,l\nc,x\n"}
    records, _ = make("{metadata: {train: a.csv | b.csv, test: t.csv}, audio: '{f}.wav', label: l}", tables)
    assert column(records, "split") == {"a": "train", "b": "train", "c": "test"}


def test_events_of_one_clip_are_its_labels(make):
    """Rows of a table of events that have one span: only where a clip may have several labels."""
    settings = "{metadata: a.csv, audio: '{f}', label: l, start: from, end: to, folds: 2}"
    rows = "f,from,to,l\na.wav,0,2,x\na.wav,0,2,y\na.wav,0,3,z\nb.wav,0,2,x\na.wav,0,2,x\n"
    records, labels = make(settings, {"a.csv": rows}, "multi_label")
    assert [(r["id"], r["labels"]) for r in records] == [
        ("a_0.0-2.0", ["x", "y"]), ("a_0.0-3.0", ["z"]), ("b_0.0-2.0", ["x"])
    ]  # fmt: skip
    assert labels == ["x", "y", "z"]
    assert [r["labels"] for r in make(settings, {"a.csv": rows})[0]] == [["x"], ["y"], ["z"], ["x"], ["x"]]


def test_segments_of_files(make):
    settings = "{metadata: a.csv, audio: '{f}', label: l, fold: k, start: from, end: to}"
    header = "f,l,k,from,to\n"
    records, _ = make(settings, {"a.csv": header + "a.wav,x,1,0,2.5\na.wav,y,1,2.50,10\nb.wav,x,2,3,\nc.wav,x,2,,\n"})
    times = [(r["id"], r.get("start"), r.get("end")) for r in records]
    assert times == [("a_0.0-2.5", 0, 2.5), ("a_2.5-10.0", 2.5, 10), ("b_3.0-", 3, None), ("c", None, None)]
    for row, words in [
        ("a.wav,x,1,2,2", "a.csv:2: ... end, 2.0 s ... start, 2.0 s"),
        ("a.wav,x,1,,0", "a.csv:2: ... end, 0.0 s"),
        ("a.wav,x,1,-1,2", "a.csv:2: from='-1'"),
        ("a.wav,x,1,1,inf", "a.csv:2: to='inf'"),
    ]:
        refused(make, words, settings, {"a.csv": header + row + "\n"})


def test_labels_of_a_list(make, tmp_path):
    settings = "{metadata: a.csv, audio: '{f}', label: l, fold: k, labels: names.txt}"
    table = {"a.csv": "f,l,k\na,x,1\nb,y,2\n"}
    refused(make, "names.txt: no such file ... data.labels", settings, table)
    refused(make, "names.txt: ... no labels", settings, {"names.txt": "\n\n"})
    assert make(settings, {"names.txt": "y\nz\n\nx\n"})[1] == ["y", "z", "x"]
    (tmp_path / "raw" / "names.txt").unlink()
    (tmp_path / "recipe" / "names.txt").write_text("x\ny\n")  # the recipe's own
    assert make(settings, {})[1] == ["x", "y"]
    (tmp_path / "recipe" / "names.txt").write_bytes(b"\xff")
    refused(make, "names.txt: ... text", settings, {})


@pytest.mark.parametrize(
    "more, words",
    [
        ("", "data.fold is empty"),
        (", fold: k, folds: 2", "data.fold and data.folds"),
        (", fold: k, split: k", "data.fold and data.split"),
        (", folds: 2, split_lists: {test: a}", "data.folds and data.split_lists"),
    ],
)
def test_there_is_one_way_to_divide_the_clips(make, more, words):
    refused(make, words, f"{{metadata: a.csv, audio: '{{f}}', label: l{more}}}", {"a.csv": "f,l,k\na,x,1\nb,y,2\n"})


# Folders


def test_a_folder_per_class(make, logged):
    names = ["dog/a.wav", "dog/b.FLAC", "cat/c d.ogg", "cat/deep/e.wav", "cat/._a.wav", ".x/y.wav", "__MACOSX/z.wav",
             "dog/n.txt", "f.mp4"]  # fmt: skip
    records, labels = make("{layout: folders, audio: '{label}/{id}.*', folds: 2}", names)
    assert labels == ["cat", "dog"]
    assert {r["id"]: (Path(r["audio"]).name, r["labels"]) for r in records} == {
        "a": ("a.wav", ["dog"]), "b": ("b.FLAC", ["dog"]), "c d": ("c d.ogg", ["cat"])
    }  # fmt: skip
    assert says(logged(), "2 sound files ... data.audio ... cat/deep/e.wav")


def test_several_patterns(make):
    pattern = "genres/{label}/{id}.wav | genres/{label}/{id}.au | genres_original/{label}/{id}.wav"
    names = ["genres/blues/blues.00000.au", "genres_original/rock/rock.00001.wav", "genres/rock/rock.00002.wav"]
    records, labels = make(f"{{layout: folders, audio: '{pattern}', folds: 2}}", names)
    assert {r["id"] for r in records} == {"blues.00000", "rock.00001", "rock.00002"} and labels == ["blues", "rock"]


def test_fields_of_names(make, logged):
    names = ["OAF_back_angry.wav", "OAF_bar_sad.wav", "YAF_back_angry.wav", "YAF_bar_sad.wav"]
    pattern = "audio: '{speaker}_{word}_{emotion}.wav', label: emotion"
    records, labels = make(f"{{layout: folders, {pattern}, group: word, folds: 2}}", names)
    assert labels == ["angry", "sad"] and set(column(records, "group").values()) == {"back", "bar"}
    folds = column(records, "fold")
    assert folds["OAF_back_angry"] == folds["YAF_back_angry"] != folds["OAF_bar_sad"] == folds["YAF_bar_sad"]
    records, _ = make(f"{{layout: folders, {pattern}, fold: speaker}}", [])
    assert {clip_id[:3]: fold for clip_id, fold in column(records, "fold").items()} == {"OAF": 1, "YAF": 2}
    assert "speaker: 1 = OAF, 2 = YAF" in logged()


def test_what_the_names_of_fields_mean(make):
    names = ["1/train/x-3-2.wav", "2/test/y-1-1.wav"]
    records, _ = make("{layout: folders, audio: '{fold}/*/{label}-{group}-{take}.{ext}'}", names)
    assert [(r["fold"], r["labels"], r["group"]) for r in records] == [(1, ["x"], "3"), (2, ["y"], "1")]
    records, _ = make("{layout: folders, audio: '{n}/{split}/{label}-{rest}.wav'}", [])
    assert [(r["split"], r["labels"]) for r in records] == [
        ("train", ["x-3"]),
        ("test", ["y-1"]),
    ]  # the earlier is longer
    records, labels = make("{layout: folders, audio: '{fold}/*/{label}-*-{index}.wav'}", [])
    assert labels == ["y", "x"]
    records, _ = make(
        "{layout: folders, audio: 's/{label}/{label}_{id}.wav', folds: 2}",
        ["s/a/a_1.wav", "s/a/a_2.wav", "s/a/b_3.wav"],
    )
    assert [r["id"] for r in records] == ["1", "2"]
    records, _ = make("{layout: folders, audio: 't/{label}/{id}.wav', folds: 2}", ["t/a/1.wav", "t/b/1.wav"])
    assert [r["id"] for r in records] == ["t/a/1", "t/b/1"]  # {id} alone would not tell them apart


@pytest.mark.parametrize(
    "settings, words",
    [
        ("audio: ''", "data.audio is empty"),
        ("audio: '{id}.wav'", "data.audio: {id}.wav ... {label} ... data.label"),
        ("audio: '{label}/{id}.wav | {x}/{id}.au'", "data.audio: {x}/{id}.au ... {label}"),
        ("audio: '{label}/{id}.wav', group: word", "data.audio: ... {word} ... data.group"),
        ("audio: '{label}/{id:d}.wav'", "data.audio: {label}/{id:d}.wav: ... braces"),
        ("audio: '{label}/{1d}.wav'", "data.audio: {label}/{1d}.wav: ... letter, not {1d}"),
        ("audio: '{label}/{id}.mp3'", "data.audio: ... {label}/{id}.mp3 ... 2 sound files ... a/1.wav"),
        ("audio: '{label}/{fold}.wav', folds: 2", "data.fold and data.folds"),
        ("audio: '{label}/{id}.wav', folds: 3", "data.folds: 3 ... clips: ... 2"),
        ("audio: '{group}/{label}.wav', folds: 3", "data.folds: 3 ... groups: ... 2"),
        ("audio: '{label}/{start}.wav', folds: 2, end: label", "a/1.wav: label='a'"),
    ],
)
def test_refused_patterns(make, settings, words):
    refused(make, words, f"{{layout: folders, {settings}}}", ["a/1.wav", "b/2.wav"])


def test_folders_without_sound(make):
    refused(make, "data.audio: ... no sound files", "{layout: folders, audio: '{label}/{id}.wav'}", ["a/b.txt"])


def test_a_name_that_is_no_text(make):
    layout = "{layout: folders, audio: '{label}/{id}.wav', folds: 2}"
    refused(make, r"a/\udce9.wav: ... UTF-8", layout, ["a/1.wav", "a/\udce9.wav"])


def test_links_that_lead_back(make, tmp_path):
    make("{layout: folders, audio: '{label}/{id}.wav', folds: 2}", ["a/1.wav", "a/2.wav"])
    (tmp_path / "raw" / "a" / "loop").symlink_to(tmp_path / "raw")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "3.wav").write_text("")
    (tmp_path / "raw" / "b").symlink_to(tmp_path / "elsewhere")
    records, _ = make("{layout: folders, audio: '{label}/{id}.wav', folds: 2}", [])
    assert [r["labels"] + [r["id"]] for r in records] == [["a", "1"], ["a", "2"], ["b", "3"]]


# Split lists


LISTS = (
    "{layout: folders, audio: 'g/{label}/{id}.wav',"
    " split_lists: {train: splits/a.txt, valid: splits/b.txt, test: c.txt}}"
)
CLIPS = [f"g/{label}/{label}.0000{n}.wav" for label in ("jazz", "pop") for n in range(4)]


def test_split_lists(make, tmp_path, logged):
    (tmp_path / "recipe" / "splits").mkdir(parents=True)  # beside conf/
    (tmp_path / "recipe" / "splits" / "a.txt").write_text("jazz.00000\npop/pop.00000.wav\n\n")
    (tmp_path / "recipe" / "splits" / "b.txt").write_text("jazz.00001\r\n")
    records, _ = make(LISTS, {name: "" for name in CLIPS} | {"c.txt": "g/pop/pop.00003.wav\njazz.00003"})
    assert column(records, "split") == {
        "jazz.00000": "train", "pop.00000": "train", "jazz.00001": "valid", "pop.00003": "test", "jazz.00003": "test"
    }  # fmt: skip
    assert says(logged(), "3 of 8 clips ... data.split_lists")
    (tmp_path / "raw" / CLIPS[0]).unlink()
    words = "1 of 5 clips on data.split_lists ... jazz.00000"
    refused(make, words, LISTS, {})
    assert len(make(LISTS.replace("split_lists", "max_missing: 0.2, split_lists"), {})[0]) == 4
    assert says(logged(), words)


@pytest.mark.parametrize(
    "text, words",
    [
        ("jazz.00000\n", "c.txt: jazz.00000 ... test ... train"),
        ("g/jazz/jazz.00000.wav\n", "jazz.00000.wav ... g/jazz/jazz.00000 and as jazz.00000"),
        ("x\n", "data.split_lists: x "),
        (None, "c.txt: no such file ... data.split_lists"),
    ],
)
def test_refused_split_lists(make, text, words):
    files = {name: "" for name in [*CLIPS, "g/a/x.wav", "g/b/x.wav"]} | {
        "splits/a.txt": "jazz.00000\n",
        "splits/b.txt": "",
    }
    refused(make, words, LISTS, files if text is None else files | {"c.txt": text})


def test_split_lists_in_one_file(make):
    refused(
        make,
        "data.split_lists ... mapping",
        "{layout: folders, audio: '{label}/*.wav', split_lists: a}",
        ["a/b.wav"],
    )


def test_the_filtered_split_of_gtzan(make, shared):
    genres = "blues classical country disco hiphop jazz metal pop reggae rock".split()
    names = [f"genres/{genre}/{genre}.{n:05d}.wav" for genre in genres for n in range(100)]
    folder = shared("data/gtzan")
    lists = ", ".join(f"{split}: {folder}/{split}_filtered.txt" for split in ("train", "valid", "test"))
    records, labels = make(
        f"{{layout: folders, audio: 'genres/{{label}}/{{id}}.wav', split_lists: {{{lists}}}}}", names
    )
    assert Counter(r["split"] for r in records) == {"train": 443, "valid": 197, "test": 290} and len(labels) == 10
    manifest.check(records, labels)


# AudioSet


SEGMENTS = """# Segments csv created by a test
# num_ytids=5
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/a,/m/b"
Y_bcdefghi_, 30.000, 40.000, "/m/b"
abcdefghijk, 21.500, 31.500, "/m/c"
"""
CLASSES = 'index,mid,display_name\n0,/m/c,"Sea, waves"\n1,/m/b,Bark\n2,/m/a,Animal\n3,/m/d,Never\n'
AUDIOSET = "{layout: audioset, metadata: {train: bal.csv, test: eval.csv}, labels: classes.csv, audio: clips}"
FILES = {
    "bal.csv": SEGMENTS, "eval.csv": '# x\nzzzzzzzzzzz, 1.000, 2.000, "/m/a"\n', "classes.csv": CLASSES,
    "clips/a/Y--4gqARaEJE.wav": "", "clips/Y_bcdefghi__30000_40000.flac": "", "clips/b/abcdefghijk_21.5.mp3": "",
    "clips/zzzzzzzzzzz_1.000_2.000.ogg": "", "clips/README.txt": "", "clips/Yabcdefghijl.wav": "",
}  # fmt: skip


def test_audioset(make):
    records, labels = make(AUDIOSET, FILES, "multi_label")
    assert labels == ["Sea, waves", "Bark", "Animal", "Never"]
    assert {r["id"]: (r["split"], r["labels"], Path(r["audio"]).suffix) for r in records} == {
        "--4gqARaEJE": ("train", ["Animal", "Bark"], ".wav"), "Y_bcdefghi_": ("train", ["Bark"], ".flac"),
        "abcdefghijk": ("train", ["Sea, waves"], ".mp3"), "zzzzzzzzzzz": ("test", ["Animal"], ".ogg"),
    }  # fmt: skip
    manifest.check(records, labels, listed=True)


@pytest.mark.parametrize("stem", ["Yabcdefghijk", "abcdefghijk", "abcdefghijk_21.5", "Yabcdefghijk_21500_31500",
                                  "abcdefghijk_21.500_31.500", "abcdefghijk_21500", "Yabcdefghijk_21.500"])  # fmt: skip
@pytest.mark.parametrize("kind", ["wav", "FLAC", "mp3"])
def test_spellings_of_clips(tmp_path, stem, kind):
    path = tmp_path / f"{stem}.{kind}"
    path.write_text("")
    (tmp_path / "Xabcdefghijk.wav").write_text("")
    clips, others = find_clips(tmp_path, {"abcdefghijk"})
    ((video, start),) = clips
    assert video == "abcdefghijk" and start in (None, 21.5, 21500)
    assert list(clips.values()) == [str(path)] and others == []


def test_missing_clips_are_counted(make, tmp_path, logged):
    make(AUDIOSET, FILES, "multi_label")
    (tmp_path / "raw" / "clips" / "b" / "abcdefghijk_21.5.mp3").rename(tmp_path / "raw" / "clips" / "abcdefghijk.m4a")
    path = tmp_path / "raw" / "clips" / "Y_bcdefghi__30000_40000.flac"
    path.rename(path.with_name("Y_bcdefghi__31000_41000.flac"))  # another part of that video
    words = "2 of 4 clips ... no file"
    refused(make, words, AUDIOSET, {}, "multi_label")
    records, _ = make(AUDIOSET.replace("audio:", "max_missing: 0.5, audio:"), {}, "multi_label")
    assert {r["id"] for r in records} == {"--4gqARaEJE", "zzzzzzzzzzz"}
    assert says(logged(), words) and says(logged(), "1 clips ... libsndfile ... abcdefghijk.m4a")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"task": "single_label"}, "task: ... audioset ... multi_label, not single_label"),
        ({"settings": AUDIOSET.replace("labels: classes.csv, ", "")}, "data.labels is empty"),
        ({"settings": AUDIOSET.replace("audio: clips", "audio: sound")}, "raw/sound: no such folder ... data.audio"),
        ({"settings": AUDIOSET.replace("audio: clips", "fold: k, audio: clips")}, "'k' ... data.fold"),
        ({"settings": AUDIOSET.replace("eval.csv", "e.csv")}, "e.csv: no such file"),
        ({"eval.csv": 'abc, 1, 2, "/m/x"\n'}, "eval.csv:1: ... '/m/x' ... classes.csv ... data.labels"),
        ({"eval.csv": 'abc, 1, 2, ""\n'}, "eval.csv:1: ... '' ... classes.csv"),
        ({"eval.csv": "abc, 1, 2\n"}, 'eval.csv:1: ... YTID, start_seconds, end_seconds, "mid,mid"'),
        ({"eval.csv": "abc, one, 2, /m/a\n"}, "eval.csv:1: ... YTID"),
        ({"classes.csv": "index,mid,display_name\n0,/m/a\n"}, "classes.csv: ... index, mid, display_name"),
    ],
)
def test_refused_audiosets(make, change, words):
    task, settings = change.pop("task", "multi_label"), change.pop("settings", AUDIOSET)
    refused(make, words, settings, FILES | change, task)


def test_labels_of_the_real_audioset(shared):
    labels = read_labels(shared("data/audioset/class_labels_indices.csv"))
    own = Path(layouts.__file__).parents[1] / "assets" / "audioset_labels.txt"
    assert list(labels.values()) == own.read_text(encoding="utf-8").splitlines() and labels["/m/09x0r"] == "Speech"
    assert list(read_labels(own)) == list(labels.values())


# Lists of paths


def test_lists_of_paths(make):
    files = {"a.txt": "x/1.wav dog\nmy clips/2.wav  cat\n\n", "b.txt": "\ufeff3.wav\tbig dog\n"}
    records, labels = make("{layout: paths, metadata: {train: a.txt, test: b.txt}}", files)
    assert labels == ["big dog", "cat", "dog"]
    assert [(r["id"], r["labels"], r["split"]) for r in records] == [
        ("1", ["dog"], "train"), ("2", ["cat"], "train"), ("3", ["big dog"], "test")
    ]  # fmt: skip
    assert records[1]["audio"].endswith("raw/my clips/2.wav")


def test_lists_with_numbers_for_labels(make):
    files = {"a.txt": "1.wav 1\n2.wav 0\n3.wav 1\n", "names.txt": "dog\ncat\n"}
    settings = "{layout: paths, metadata: a.txt, audio: 'wav/{path}', labels: names.txt, folds: 2}"
    records, labels = make(settings, files)
    assert [r["labels"] for r in records] == [["cat"], ["dog"], ["cat"]] and labels == ["dog", "cat"]
    assert records[0]["audio"].endswith("raw/wav/1.wav") and sorted(r["fold"] for r in records) in (
        [1, 1, 2],
        [1, 2, 2],
    )
    refused(make, "a.txt:1: data.labels ... 2 labels ... number 2", settings, {"a.txt": "1.wav 2\n"})
    assert make(settings, {"a.txt": "1.wav 7\n2.wav 5\n", "names.txt": "5\n7\n"})[0][0]["labels"] == ["7"]
    records, _ = make(settings.replace("labels: names.txt, ", ""), {"a.txt": "1.wav 1;0\n2.wav 0\n"}, "multi_label")
    assert [r["labels"] for r in records] == [["1", "0"], ["0"]]


@pytest.mark.parametrize(
    "text, words",
    [
        ("1.wav\n", "a.txt:1: '1.wav'"),
        ("1.wav dog\n\tdog\n", "a.txt:2: 'dog'"),
        ("\n", "a.txt: ... empty"),
        (None, "a.txt: no such file"),
    ],
)
def test_refused_lists_of_paths(make, text, words):
    refused(make, words, "{layout: paths, metadata: a.txt, folds: 2}", {} if text is None else {"a.txt": text})


def test_settings_that_lists_of_paths_cannot_follow(make):
    words = "a.txt: ... 'k' ... data.fold ... path, label"
    refused(make, words, "{layout: paths, metadata: a.txt, fold: k}", {"a.txt": "1.wav dog\n"})


def test_files_by_split_come_back_from_a_saved_config(tmp_path):
    (tmp_path / "a.yaml").write_text("data: {layout: paths, metadata: {train: a, test: b}}")
    loaded = config.load(tmp_path / "a.yaml", ["data.metadata.valid", "c"])
    assert config.to_dict(loaded)["data"]["metadata"] == {"train": "a", "test": "b", "valid": "c"}
    assert config.from_dict(config.to_dict(loaded)) == loaded
    assert config.load(tmp_path / "a.yaml", ["data.metadata", "c.txt"]).data.metadata == "c.txt"


# Real clips, in two layouts


def test_esc10_as_folders_is_esc10_as_a_table(make, tmp_path):
    folder = ESC10
    (tmp_path / "conf.yaml").write_text(YAML.replace("meta.csv", "meta/esc50.csv"))
    (table,) = (folder / "meta").iterdir()
    rows = list(csv.DictReader(open(table)))
    for row in rows:
        path = tmp_path / "raw" / row["category"] / f"{row['src_file']}-{row['take']}-{row['fold']}.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(folder / "audio" / row["filename"])
    opts = ("data.metadata", f"meta/{table.name}")
    first, labels = layouts.read(config.load(tmp_path / "conf.yaml", opts), folder)
    records, again = make("{layout: folders, audio: '{label}/{group}-*-{fold}.{ext}'}", [])
    assert sorted(labels) == again and len(records) == len(rows) == 150

    def content(records):
        return sorted((Path(r["audio"]).resolve().name, r["labels"], r["fold"]) for r in records)

    assert content(first) == content(records)
    manifest.check(records, again)  # ESC-10's own folds keep its groups whole
    records, _ = make("{layout: folders, audio: '{label}/{group}-*-*.{ext}', folds: 5}", [])
    manifest.check(records, again)
    assert set(Counter((r["fold"], r["labels"][0]) for r in records).values()) <= {2, 3, 4}
