"""The clips that come with the project, the recipe and the scene made of them, and the demonstration."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import prepared
import pytest
import soundfile
import soxr
from conftest import ESC10, ROOT
from scipy import signal
from test_all_recipes import finished
from test_recipes import recipe

sys.path.insert(0, str(ROOT / "tools"))
CLASSES = "chainsaw clock_tick crackling_fire crying_baby dog helicopter rain rooster sea_waves sneezing".split()


def rows(path=ESC10 / "meta" / "esc50.csv"):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def scene(*words):
    prepared.call("make_scene", *words)


def test_three_clips_of_each_class_and_fold():
    table = rows()
    shares = Counter((row["category"], row["fold"]) for row in table)
    assert set(shares) == {(name, fold) for name in CLASSES for fold in "12345"} and set(shares.values()) == {3}
    assert sorted(row["filename"] for row in table) == sorted(path.name for path in (ESC10 / "audio").iterdir())
    for row in table:
        assert row["filename"] == f"{row['fold']}-{row['src_file']}-{row['take']}-{row['target']}.ogg"
        info = soundfile.info(ESC10 / "audio" / row["filename"])
        assert (info.samplerate, info.channels, info.duration, info.subtype) == (32000, 1, 5.0, "VORBIS")
    assert sum(path.stat().st_size for path in ESC10.rglob("*") if path.is_file()) <= 8e6


def test_every_clip_has_its_author_and_licence():
    text = (ESC10 / "ATTRIBUTION.md").read_text(encoding="utf-8")
    link = r"<http://www\.freesound\.org/people/\S+/sounds/(\d+)/>"
    found = re.findall(rf"^\| (\S+\.ogg) \| (.+) \| (.+) \| {link} \| (CC0|CC-BY) \|$", text, re.M)
    assert [name for name, *_ in found] == sorted(row["filename"] for row in rows())
    for name, title, author, number, _ in found:
        assert name.split("-")[1] == number and title.strip() and author.strip()
    assert "creativecommons.org/licenses/by/3.0" in text and "re-encoded" in text and "10.1145/2733373.2806390" in text


def test_clips_are_the_first_ones_of_esc10_and_sound_like_them(shared):
    folder = shared("data/esc10")
    original = rows(folder / "meta" / "esc50.csv")
    groups = {}
    for row in sorted(original, key=lambda row: row["filename"]):
        groups.setdefault((row["category"], row["fold"]), []).append(row)
    assert rows() == sorted((r for group in groups.values() for r in group[:3]), key=lambda row: row["filename"])
    for row in rows()[::10]:  # decoded and resampled without the project's own code
        wave, _ = soundfile.read(ESC10 / "audio" / row["filename"])
        sound, rate = soundfile.read(folder / "audio" / row["filename"], always_2d=True)
        sound = soxr.resample(sound.mean(1), rate, 32000)[: len(wave)]
        assert np.corrcoef(wave[: len(sound)], sound)[0, 1] > 0.95, row["filename"]


def test_all_stages(tmp_path):
    """Its own clips without --raw: the head alone is trained, and knows nine of ten clips that are new to it."""
    options = ("--config", "conf/mn04_probe.yaml", "--data", "d", "--exp", "e", "--folds", 1)
    done = recipe("esc10", *options, cwd=tmp_path, PADDLETAG_HOME=str(tmp_path / "empty"))
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = finished(tmp_path, "fold1", "single_label")
    assert metrics["n"] == 30 and metrics["accuracy"] >= 0.9


@pytest.mark.full
def test_five_folds(tmp_path):
    """The bar of the recipe: 93 % over all five folds, with mn04 fine-tuned."""
    done = recipe("esc10", "--data", "d", "--exp", "e", "--stop-stage", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(path.read_text()) for path in (tmp_path / "e").glob("fold*/metrics.json")]
    assert sum(metrics["n"] for metrics in found) == 150
    assert np.mean([metrics["accuracy"] for metrics in found]) >= 0.93


# ------------------------------------------------------------------------------------------------------------ the scene


def likeness(part, clip):
    """The correlation of a waveform with the stretch of a clip that is most like it."""
    lag = int(signal.correlate(clip, part, "valid").argmax())
    return np.corrcoef(part, clip[lag : lag + len(part)])[0, 1]


def test_a_scene_is_its_clips(tmp_path, capsys):
    """Each sound is found where the table says, by correlation with the clips of its class in that fold."""
    out = tmp_path / "new" / "scene.wav"
    scene("--raw", ESC10, "--out", out, "--fold", 2, "--labels", "rooster", "chainsaw", "--background", "sea_waves")
    wave, rate = soundfile.read(out)
    table = rows(out.with_name("scene_labels.csv"))
    assert list(table[0]) == ["filename", "onset", "offset", "label"] and rate == 32000
    assert [row["label"] for row in table] == ["sea_waves", "rooster", "chainsaw"]
    assert (table[0]["onset"], float(table[0]["offset"])) == ("0.00", len(wave) / rate) and np.abs(wave).max() <= 0.9
    for row in table[1:]:
        first, last = (round(float(row[key]) * rate) for key in ("onset", "offset"))
        part = wave[first:last]
        names = [r["filename"] for r in rows() if (r["fold"], r["category"]) == ("2", row["label"])]
        assert max(likeness(part, soundfile.read(ESC10 / "audio" / name)[0]) for name in names) > 0.9, row
        assert np.sqrt(np.mean(wave[: 2 * rate] ** 2)) < 0.2 * np.sqrt(np.mean(part**2))  # the background alone
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.parent.iterdir()}
    scene("--raw", ESC10, "--out", out, "--fold", 2, "--labels", "rooster", "chainsaw", "--background", "sea_waves")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--raw none --out a.wav", "none/meta/esc50.csv"),
        (f"--raw {ESC10} --out a.mp3", "--out a.mp3"),
        (f"--raw {ESC10} --out a.wav --fold 9", "--fold 9"),
        (f"--raw {ESC10} --out a.wav --labels cat", "cat: "),
        (f"--raw {ESC10} --out a.wav --background cat", "cat: "),
        (f"--raw {ESC10} --out mine.wav", "mine.wav: exists"),
    ],
)
def test_a_scene_that_cannot_be(words, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.wav").write_text("keep")
    assert named in prepared.refusal("make_scene", *words.split())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.wav"] and (tmp_path / "mine.wav").read_text() == "keep"


# ---------------------------------------------------------------------------------------------------- the demonstration


@pytest.fixture
def clone(tmp_path):
    """The project as a user has it, with an environment that is installed already."""
    for name in ("tools", "utils"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "local").symlink_to(ROOT / "local")
    made = shutil.ignore_patterns("data", "exp")
    shutil.copytree(ROOT / "examples" / "esc10", tmp_path / "examples" / "esc10", ignore=made)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "tools" / "install.sh").write_text("exit 0\n")
    return tmp_path


def demo(clone, *words):
    return subprocess.run(["bash", clone / "tools" / "demo.sh", *words], capture_output=True, text=True, timeout=600)


def test_the_demonstration_takes_no_options(clone):
    done = demo(clone, "--fold")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--fold" in done.stderr
    assert demo(clone, "--help").returncode == 0 and not (clone / "demo").exists()


@pytest.mark.full
def test_the_demonstration(clone):
    """Its two reports have sound; what it says is what the files hold; a second run does nothing again."""
    before = {path.name for path in clone.iterdir()}
    done = demo(clone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in clone.iterdir()} == before | {"demo"}
    metrics = json.loads((clone / "demo/model/fold1/metrics.json").read_text())
    assert metrics["accuracy"] >= 0.9 and f"{100 * metrics['accuracy']:.1f} % of the 30 clips" in done.stdout
    pages = re.findall(r"^  (demo/\S+\.html) ", done.stdout, re.M)
    assert len(pages) == 3 and all(prepared.report_data(clone / page) for page in pages)
    names = ("new_model", "audioset")
    found = {name: {row["label"] for row in rows(clone / "demo" / name / "scene.csv")} for name in names}
    assert {"dog", "chainsaw", "sea_waves", "rain"} <= found["new_model"] and "Dog" in found["audioset"]
    kept = [path for path in (clone / "demo").rglob("*") if path.suffix in (".npz", ".safetensors", ".arrow", ".wav")]
    dates = {path: path.stat().st_mtime_ns for path in kept}
    again = demo(clone)
    assert again.returncode == 0
    assert again.stdout.partition("\nA new model")[2] == done.stdout.partition("\nA new model")[2] != ""
    assert dates == {path: path.stat().st_mtime_ns for path in dates}
