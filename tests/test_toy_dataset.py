"""The toy data set: layout, determinism, levels, and that a mean spectrum does not give the classes away."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import make_toy_dataset as toy  # noqa: E402

CLIPS = 15


def run(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "make_toy_dataset.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("toy") / "new" / "toy"
    result = run("--out", out, "--clips-per-class", CLIPS)
    assert result.returncode == 0, result.stderr
    assert f"{CLIPS * len(toy.SOUNDS)} clips" in result.stdout and str(out) in result.stdout
    return out


@pytest.fixture(scope="module")
def table(data):
    with open(data / "meta" / "esc50.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def clips(data, table):
    return [soundfile.read(data / "audio" / row["filename"]) for row in table]


def test_layout_is_that_of_esc50(data, table):
    assert (data / "meta" / "esc50.csv").read_bytes().startswith(b"filename,fold,target,category,esc10,src_file,take\n")
    assert sorted(row["filename"] for row in table) == sorted(p.name for p in (data / "audio").iterdir())
    assert all(r["filename"] == f"{r['fold']}-{r['src_file']}-{r['take']}-{r['target']}.wav" for r in table)
    assert len({row["src_file"] for row in table}) == len(table)  # no source in two folds
    assert [p.name for p in data.parent.iterdir()] == [data.name]  # nothing temporary left beside it


def test_every_fold_holds_every_class_equally(table):
    classes = {(row["target"], row["category"]) for row in table}
    assert len(classes) == len({c for _, c in classes}) == len({t for t, _ in classes}) == len(toy.SOUNDS) >= 10
    for fold in "12345":
        for _, category in classes:
            assert sum(r["fold"] == fold and r["category"] == category for r in table) == CLIPS // 5


def test_audio_format_and_levels(data, table, clips):
    for row, (x, rate) in zip(table, clips, strict=True):
        assert rate == 44100 and x.shape == (2 * 44100,)
        assert soundfile.info(data / "audio" / row["filename"]).subtype == "PCM_16"
        assert 0.09 < np.abs(x).max() < 0.9, row  # -20 to -1 dBFS: neither silent nor clipped
        assert np.sqrt(np.mean(x**2)) > 1e-3, row
        assert abs(x.mean()) < 0.01, row


def test_the_seed_decides_every_byte(data, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    again.mkdir()  # an empty folder is as good as none
    assert run("--out", again, "--clips-per-class", CLIPS).returncode == 0
    assert run("--out", other, "--clips_per_class=5", "--seed", 1, "--seconds", 1.5).returncode == 0
    assert content(again) == content(data)
    other = content(other)
    assert len(other) == 5 * len(toy.SOUNDS) + 2
    assert soundfile.info(io.BytesIO(other["audio/1-100000-A-0.wav"])).frames == 1.5 * 44100


@pytest.mark.parametrize("name", toy.SOUNDS)
def test_a_clip_depends_on_seed_class_and_index_alone(name):
    first = toy.clip(name, 3, 1.0, 0)
    toy.clip("rain", 0, 1.0, 0)
    np.testing.assert_array_equal(first, toy.clip(name, 3, 1.0, 0))
    assert (first != toy.clip(name, 4, 1.0, 0)).mean() > 0.5
    assert (first != toy.clip(name, 3, 1.0, 1)).mean() > 0.5


@pytest.mark.parametrize("name", toy.SOUNDS)
def test_sounds_last_to_the_end_of_long_clips(name):
    t = toy.axis(30)
    x = toy.SOUNDS[name](np.random.default_rng(0), t)
    assert x.shape == t.shape and np.isfinite(x).all()
    assert np.abs(x[-3 * toy.RATE :]).max() > 0.2 * np.abs(x).max()


def test_direction_of_the_sirens():
    """The pitch that dominates each 23 ms frame mostly rises in one class and mostly falls in the other."""

    def rising(name):
        x = toy.SOUNDS[name](np.random.default_rng(5), toy.axis(2.0))
        frames = np.lib.stride_tricks.sliding_window_view(x, 1024)[::512]
        peak = np.abs(np.fft.rfft(frames * np.hanning(1024), 16384)).argmax(1)
        return np.mean(np.diff(peak) > 0)

    assert rising("siren_rising") > 0.75
    assert rising("siren_falling") < 0.25
    assert 0.35 < rising("siren") < 0.65


def test_mean_spectrum_does_not_suffice(table, clips):
    """Five-fold accuracy of a linear model on 64 mean log band powers: above chance, far from solved."""
    edges = np.unique(np.geomspace(2, 700, 65).astype(int))
    features = []
    for x, _ in clips:
        frames = np.lib.stride_tricks.sliding_window_view(x, 2048)[::512] * np.hanning(2048)
        power = np.abs(np.fft.rfft(frames)) ** 2
        features.append(np.log(np.add.reduceat(power, edges, axis=1) + 1e-9).mean(0))
    features, y = np.array(features), np.array([row["category"] for row in table])
    folds = np.array([row["fold"] for row in table])
    accuracy = []
    for fold in np.unique(folds):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
        model.fit(features[folds != fold], y[folds != fold])
        accuracy.append(model.score(features[folds == fold], y[folds == fold]))
    assert 3 / len(toy.SOUNDS) < np.mean(accuracy) < 0.92


def test_a_second_call_does_nothing(data):
    before = {p: p.stat().st_mtime_ns for p in data.rglob("*")}
    result = run("--out", data, "--clips-per-class", CLIPS)
    assert result.returncode == 0 and "nothing to do" in result.stdout
    assert before == {p: p.stat().st_mtime_ns for p in data.rglob("*")}


def refused(result, *words):
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and all(word in result.stderr for word in words), result.stderr


def test_a_folder_with_other_content_is_refused(data, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    refused(run("--out", tmp_path), str(tmp_path), "not a toy data set")
    assert content(tmp_path) == {"mine.txt": b"keep"}
    refused(run("--out", tmp_path / "mine.txt"), "mine.txt")
    refused(run("--out", data, "--clips-per-class", CLIPS, "--seed", 1), str(data), "other settings")


def test_a_toy_data_set_with_a_missing_clip_is_refused(tmp_path):
    arguments = ("--out", tmp_path / "toy", "--clips-per-class", 5, "--seconds", 1)
    assert run(*arguments).returncode == 0
    (tmp_path / "toy" / "audio" / "1-100000-A-0.wav").unlink()
    refused(run(*arguments), "missing")


@pytest.mark.parametrize("option, value", [("--clips-per-class", 4), ("--seconds", 0.5), ("--seed", -1)])
def test_values_out_of_range_are_refused(tmp_path, option, value):
    refused(run("--out", tmp_path / "toy", option, value), option)
    assert not any(tmp_path.iterdir())


def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(toy.wavfile, "write", full)
    monkeypatch.setattr(sys, "argv", ["make_toy_dataset.py", "--out", str(tmp_path / "toy")])
    with pytest.raises(SystemExit) as stop:
        toy.runtime.run(toy.main)
    assert stop.value.code == 2
    assert not any(tmp_path.iterdir())
