"""Stage 0 as a user meets it: every layout by YAML alone, what is printed, and what is found at a second run."""

import csv

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from paddletag.data import manifest
from paddletag.data.splits import crossing_groups, hold_out
from prepared import call, refusal

RATE = 8000
FOLDERS = "data: {layout: folders, audio: '{label}/{id}.*', folds: 5, clip_seconds: 0.5}"
MODEL = "model: {name: mn01_as, weights: none}"


class Sounds:
    """A folder of noises and a config."""

    def __init__(self, folder, capsys):
        self.raw, self.data, self.yaml, self.capsys = folder / "raw", folder / "data", folder / "a.yaml", capsys

    def put(self, name, seed, level=0.5, seconds=0.2):
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(seed).uniform(-level, level, round(seconds * RATE))
        soundfile.write(path, samples, RATE)
        return path

    def arguments(self, text, *opts):
        self.yaml.write_text(f"{text}\n{MODEL}\n")
        return "prepare", *("--config", self.yaml, "--raw", self.raw, "--data", self.data, "--opts", *opts)

    def prepare(self, text=FOLDERS, *opts):
        """What stage 0 prints."""
        call(*self.arguments(text, *opts))
        return self.capsys.readouterr().out

    def refuses(self, text=FOLDERS, *opts):
        line = refusal(*self.arguments(text, *opts))
        assert not (self.data / "manifest.jsonl").exists()
        return line


@pytest.fixture
def sounds(tmp_path, capsys):
    made = Sounds(tmp_path, capsys)
    for n in range(10):
        made.put(f"{'dog' if n % 2 else 'cat'}/{n}.wav", n)
    return made


def test_a_folder_per_class(sounds):
    text = sounds.prepare()
    assert (
        "WARNING" not in text
        and "clips      10, 0.00 hours" in text
        and "folds      1: 2, 2: 2, 3: 2, 4: 2, 5: 2" in text
    )
    records, labels = manifest.read(sounds.data)
    assert labels == ["cat", "dog"] and len(records) == 10 and records[0]["seconds"] == 0.2
    for fold in range(1, 6):
        train, test = hold_out(records, fold)
        assert len(train) == 8 and sorted(r["labels"][0] for r in test) == ["cat", "dog"]
    assert "is up to date: 10 clips" in sounds.prepare()
    assert "is up to date" not in sounds.prepare(FOLDERS, "data.seed", "1")
    sounds.put("dog/new.wav", 10)
    assert "clips      11" in sounds.prepare(FOLDERS, "data.seed", "1")


def test_warnings(sounds):
    sounds.put("rare/r0.wav", 100)
    sounds.put("rare/r1.wav", 101)
    sounds.put("cat/silent.wav", 102, level=2e-4)
    sounds.put("dog/short.wav", 103, seconds=0.05)
    sounds.put("elsewhere.wav", 104)
    for n in range(3):
        sounds.put(f"dog/copy{n}.wav", 1)
    broken = sounds.put("cat/broken.flac", 105, seconds=2.0)
    broken.write_bytes(broken.read_bytes()[:8000])
    (sounds.raw / "cat" / "empty.wav").write_bytes(b"")
    text = sounds.prepare(FOLDERS, "data.max_rejected", "1")
    for words in (
        ("1 sound files", "data.audio"),
        ("1 classes", "rare (2)"),
        ("1 sounds", "both sides", "1 = copy0 = copy1"),
        ("1 clips", "-60 dB", "silent (-7"),
        ("1 clips", "0.1 s", "short (0.05 s)"),
        ("1 clips", "decoded"),
        ("1 files", f"{sounds.raw}/cat/empty.wav", str(sounds.data)),
    ):
        (line,) = [line for line in text.splitlines() if all(word in line for word in words)]
        assert "WARNING" in line
    assert text.count("WARNING") == 7


def test_links_to_themselves(sounds):
    """One that is no sound is passed by; one that stands for a sound is a clip that cannot be used."""
    (sounds.raw / "loop").symlink_to("loop")
    assert "clips      10" in sounds.prepare()
    (sounds.raw / "dog" / "again.wav").symlink_to("again.wav")
    assert "again.wav: no such file" in refusal(*sounds.arguments(FOLDERS))
    assert "1 files" in sounds.prepare(FOLDERS, "data.max_rejected", "1")
    assert len(manifest.read(sounds.data)[0]) == 10
    assert "is up to date" in sounds.prepare(FOLDERS, "data.max_rejected", "1")


def test_no_terminal_obeys_the_names_of_folders_and_files(sounds):
    name = "owl\x1b]0;owned\x07"
    for n in range(5):
        sounds.put(f"{name}/{name}{n}.wav", 20 + n, level=2e-4)
    text = sounds.prepare()
    assert "\x1b" not in text and "\x07" not in text
    assert r"owl\x1b]0;owned\x07  5" in text and r"owl\x1b]0;owned\x070 (-" in text
    assert manifest.read(sounds.data)[1] == ["cat", "dog", name]


def test_large_sets_are_not_listened_to(sounds):
    sounds.put("cat/silent.wav", 102, level=2e-4)
    text = sounds.prepare(FOLDERS, "data.check_sound", "10")
    assert "WARNING" not in text and "data.check_sound (10 now)" in text
    assert "nearly silent" in sounds.prepare(FOLDERS, "data.check_sound", "11")


def test_a_group_on_both_sides(sounds):
    table = "file,who,kind,part\n" + "".join(
        f"{kind}/{n}.wav,w{n // 2},{kind},{'test' if n > 4 else 'train'}\n"
        for n, kind in enumerate(["cat", "dog"] * 5)
    )  # fmt: skip
    (sounds.raw / "a.csv").write_text(table)
    yaml = "data: {metadata: a.csv, audio: '{file}', label: kind, split: part, group: who}"
    made = yaml.replace("split: part, ", "")
    assert "data.folds: 6" in sounds.refuses(made, "data.folds", "6")
    text = sounds.prepare(yaml)  # the data set's own split: a warning
    assert text.count("WARNING") == 1 and "1 groups with 2 clips" in text and "w2 (splits test, train)" in text
    assert "WARNING" not in sounds.prepare(yaml.replace(", group: who", ""))
    text = sounds.prepare(made, "data.folds", "3")  # our own folds keep groups whole
    records, _ = manifest.read(sounds.data)
    assert "WARNING" not in text and crossing_groups(records) == ""


def test_the_table_of_esc50_itself(sounds, shared):
    """Its 2000 rows, four recordings of which lie in two folds, with stand-ins for its sound."""
    table = shared("data/esc50/meta/esc50.csv")
    rows = [row for row in csv.DictReader(table.open())]
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (len(rows), 64)).astype(np.float32)
    for row, sound in zip(rows, wave, strict=True):
        path = sounds.raw / "audio" / row["filename"]
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, sound, 16000, format="WAV")
    (sounds.raw / "meta").mkdir()
    (sounds.raw / "meta/esc50.csv").write_bytes(table.read_bytes())
    config = ROOT / "examples/esc50/conf/mn04.yaml"
    words = ("--config", config, "--raw", sounds.raw, "--data", sounds.data, "--opts", "model.weights", "none")
    call("prepare", *words)
    text = sounds.capsys.readouterr().out
    records, labels = manifest.read(sounds.data)
    assert len(records) == 2000 and len(labels) == 50 and labels[0] == "dog"
    assert [sum(r["fold"] == k for r in records) for k in range(1, 6)] == [400] * 5
    (line,) = [line for line in text.splitlines() if "lie in more than one" in line]
    assert "4 groups" in line and "131943 (folds 2, 3)" in line and "234879 (folds 4, 5)" in line


def test_splits_of_lists(sounds):
    text = FOLDERS.replace("folds: 5", "split_lists: {train: a.txt, valid: b.txt, test: c.txt}")
    for name, ids in (("a", "0\n1\n2"), ("b", "3\ngone"), ("c", "4\n")):
        (sounds.raw / f"{name}.txt").write_text(ids)
    line = sounds.refuses(text)
    assert "1 of 6 clips" in line and "data.split_lists" in line and "gone" in line
    printed = sounds.prepare(text, "data.max_missing", "0.2")
    assert "splits     train: 3, valid: 1, test: 1" in printed
    for words in (
        ("INFO", "5 of 10 clips", "data.split_lists"),
        ("1 of 6 clips", "data.split_lists", "gone"),
        ("WARNING", "1 classes", "in test", "dog"),
        ("WARNING", "1 classes", "in valid", "cat"),
    ):
        assert [line for line in printed.splitlines() if all(word in line for word in words)]
    records, _ = manifest.read(sounds.data)
    assert [r["id"] for r in hold_out(records, "test")[1]] == ["4"]


def test_labels_that_a_list_has_and_the_clips_have_not(sounds):
    (sounds.raw / "names.txt").write_text("dog\ncow\ncat\n")
    (line,) = [line for line in sounds.prepare(FOLDERS, "data.labels", "names.txt").splitlines() if "WARNING" in line]
    assert "1 classes" in line and "cow" in line
    assert (sounds.data / "labels.txt").read_text() == "dog\ncow\ncat\n"
    (sounds.raw / "names.txt").write_text("dog\ncat\n")
    assert "is up to date" not in sounds.prepare(FOLDERS, "data.labels", "names.txt")


def test_audioset(sounds):
    (sounds.raw / "classes.csv").write_text("index,mid,display_name\n0,/m/a,Cat\n1,/m/b,Dog\n")
    for split, ids in (("train", "abcdefghijk zzzzzzzzzzz"), ("test", "lmnopqrstuv")):
        rows = "".join(f'{name}, 30.000, 40.000, "/m/a,/m/b"\n' for name in ids.split())
        (sounds.raw / f"{split}.csv").write_text(f"# YTID, start_seconds, end_seconds, positive_labels\n{rows}")
    sounds.put("clips/Yabcdefghijk.wav", 50)
    sounds.put("clips/lmnopqrstuv_30.flac", 51)
    yaml = (
        "task: multi_label\ndata: {layout: audioset, metadata: {train: train.csv, test: test.csv}, labels: classes.csv,"
        " audio: clips}"
    )
    assert "1 of 3 clips" in sounds.refuses(yaml)
    printed = sounds.prepare(yaml, "data.max_missing", "0.5")
    assert "1 of 3 clips" in printed and "splits     train: 1, test: 1" in printed
    records, labels = manifest.read(sounds.data)
    assert labels == ["Cat", "Dog"] and [r["labels"] for r in records] == [["Cat", "Dog"]] * 2


def test_lists_of_paths(sounds):
    for split, ids in (("train", range(6)), ("test", range(6, 10))):
        lines = "".join(f"{'dog' if n % 2 else 'cat'}/{n}.wav {n % 2}\n" for n in ids)
        (sounds.raw / f"{split}.txt").write_text(lines)
    (sounds.raw / "names.txt").write_text("cat\ndog\n")
    sounds.prepare("data: {layout: paths, metadata: {train: train.txt, test: test.txt}, labels: names.txt}")
    records, _ = manifest.read(sounds.data)
    assert all(r["labels"] == ["dog" if int(r["id"]) % 2 else "cat"] for r in records)
    assert all(r["split"] == ("train" if int(r["id"]) < 6 else "test") for r in records)


@pytest.mark.parametrize(
    "opts, words",
    [
        ("data.folds 1", "data.folds"),
        ("data.max_missing 2", "data.max_missing"),
        ("data.metadata.tests a.csv", "data.metadata: 'tests'"),
        ("data.split_lists.train 7", "data.split_lists"),
        ("data.split_lists.train [a]", "data.split_lists.train"),
        ("data.folds 0", "data.fold is empty"),
        ("data.layout wav", "data.layout"),
    ],
)
def test_settings(sounds, opts, words):
    assert words in sounds.refuses(FOLDERS, *opts.split())


def test_options_add_to_files_by_split(sounds):
    yaml = "data: {layout: paths, metadata: {train: a.txt, test: b.txt}}"
    (sounds.raw / "a.txt").write_text("cat/0.wav x\ndog/1.wav y\n")
    (sounds.raw / "c.txt").write_text("cat/2.wav x\n")
    sounds.prepare(yaml, "data.metadata.test", "c.txt")
    assert [r.get("split") for r in manifest.read(sounds.data)[0]] == ["train", "train", "test"]
