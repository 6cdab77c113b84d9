"""Toy data sets: layouts, determinism, levels, and that sounds differ as they should."""

import csv
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(ROOT / "tools"))
import make_toy_dataset  # noqa: E402
import toy_layouts  # noqa: E402
import toy_music  # noqa: E402
import toy_sounds as toy  # noqa: E402
import toy_speech  # noqa: E402
from paddletag import config  # noqa: E402
from paddletag.data import audio, layouts, manifest, survey  # noqa: E402

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
    refused(run("--out", tmp_path), str(tmp_path))
    assert content(tmp_path) == {"mine.txt": b"keep"}
    refused(run("--out", tmp_path / "mine.txt"), "mine.txt")
    refused(run("--out", data, "--clips-per-class", CLIPS, "--seed", 1), str(data), "toy.json")


def test_a_toy_data_set_with_a_missing_clip_is_refused(tmp_path):
    arguments = ("--out", tmp_path / "toy", "--clips-per-class", 5, "--seconds", 1)
    assert run(*arguments).returncode == 0
    (tmp_path / "toy" / "audio" / "1-100000-A-0.wav").unlink()
    refused(run(*arguments), str(tmp_path / "toy"), "missing")


@pytest.mark.parametrize("option, value", [("--clips-per-class", 4), ("--seconds", 0.5), ("--seed", -1)])
def test_values_out_of_range_are_refused(tmp_path, option, value):
    refused(run("--out", tmp_path / "toy", option, value), option)
    assert not any(tmp_path.iterdir())


def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(make_toy_dataset.wavfile, "write", full)
    monkeypatch.setattr(sys, "argv", ["make_toy_dataset.py", "--out", str(tmp_path / "toy")])
    with pytest.raises(SystemExit) as stop:
        make_toy_dataset.runtime.run(make_toy_dataset.main)
    assert stop.value.code == 2
    assert not any(tmp_path.iterdir())


def test_sounds_are_those_of_earlier_versions():
    """Checksums of samples: whoever changes a sound must raise VERSION, or data sets made before pass for the same."""
    samples = b"".join(toy.clip(name, 3, 1.0, 0).tobytes() for name in toy.SOUNDS)
    assert make_toy_dataset.VERSION == 1
    assert hashlib.sha256(samples).hexdigest() == "8a06695e38fd6e028a6a0c65ac19b498a5ca0260a0e99ada49409fed5c269fe1"


def read(folder, task="single_label", **settings):
    """What stage 0 makes of a toy data set: (records with seconds, labels, rejected rows)."""
    path = folder.with_suffix(".yaml")
    path.write_text(json.dumps({"task": task, "data": settings}))
    records, labels = layouts.read(config.load(path), folder)
    kept, _, rejected = survey.check_files(records, False)
    manifest.check(kept, labels)
    return kept, labels, rejected


def make(folder, *options):
    result = run("--out", folder, *options)
    assert result.returncode == 0, result.stderr
    return folder


def test_multi_label(tmp_path):
    out = make(tmp_path / "m", "--multi-label", "--clips-per-class", 5, "--seconds", 1)
    settings = {"metadata": "meta/mixtures.csv", "audio": "audio/{filename}", "label": "labels", "fold": "fold"}
    records, labels, rejected = read(out, "multi_label", **settings)
    assert len(records) == 45 and labels == sorted(toy_layouts.MIXED) and not rejected
    assert {len(record["labels"]) for record in records} == {1, 2, 3}
    assert all(abs(record["seconds"] - 1) < 1e-3 for record in records)
    rows = list(csv.DictReader(open(out / "meta" / "mixtures.csv", newline="")))
    sources = [source for row in rows for source in row["sources"].split(";")]
    assert len(set(sources)) == len(sources)  # no realisation twice, so none on both sides of a split
    for fold in "12345":
        labels_of_fold = [row["labels"].split(";") for row in rows if row["fold"] == fold]
        assert set().union(*labels_of_fold) == set(toy_layouts.MIXED)
    for row in rows[:10]:  # each mixture is a sum of the very sounds that it names
        x, _ = soundfile.read(out / "audio" / row["filename"])
        names = [source.rsplit("-", 1) for source in row["sources"].split(";")]
        assert [name for name, _ in names] == row["labels"].split(";")
        parts = np.stack([toy.clip(name, int(index), 1.0, 0) / 32768 for name, index in names], axis=1)
        factors, *_ = np.linalg.lstsq(parts, x, rcond=None)
        assert np.abs(parts @ factors - x).max() < 2**-15
        levels = 20 * np.log10(factors * np.sqrt(np.mean(parts**2, 0)))
        assert levels.max() - levels.min() <= 5.01
        assert 0.09 < np.abs(x).max() < 0.9


def test_folders(tmp_path):
    out = make(tmp_path / "f", "--layout", "folders", "--clips-per-class", 10, "--seconds", 1)
    settings = {"layout": "folders", "audio": "{label}/{group}-{part}.*", "folds": 5}
    records, labels, rejected = read(out, **settings)
    assert len(records) == 120 and labels == sorted(toy.SOUNDS) and not rejected
    headers = [audio.probe(record["audio"]) for record in records]
    assert {header.rate for header in headers} == {16000, 22050, 44100, 48000}
    assert {header.channels for header in headers} == {1, 2}
    assert {Path(record["audio"]).suffix for record in records} == {".wav", ".flac", ".ogg", ".mp3"}
    assert all(abs(record["seconds"] - 1) < 0.06 for record in records)
    assert len({record["group"] for record in records}) == 60  # two clips of each recording
    recording = toy.clip("bell", 1, 2.0, 0).astype(float)
    halves = [soundfile.read(out / "bell" / f"rec01001-{part}.ogg")[0] for part in "ab"]
    assert all(half.shape == (48000,) for half in halves)
    originals = [recording[: len(recording) // 2], recording[len(recording) // 2 :]]
    for half, original in zip(halves, originals, strict=True):  # in loudness, tenth of a second by tenth
        levels = [np.sqrt((x.reshape(10, -1) ** 2).mean(1)) for x in (half, original / 32768)]
        np.testing.assert_allclose(*levels, rtol=0.1)


def test_gtzan(tmp_path):
    out = make(tmp_path / "g", "--layout", "gtzan", "--clips-per-class", 4, "--seconds", 3)
    lists = {split: f"splits/{split}.txt" for split in ("train", "valid", "test")}
    records, labels, _ = read(out, layout="folders", audio="genres/{label}/{id}.wav", split_lists=lists)
    assert len(records) == 40 and labels == sorted(toy_music.STYLES) and len(labels) == 10
    for genre in labels:
        splits = sorted((r["id"], r["split"]) for r in records if r["labels"] == [genre])
        expected = ("train", "valid", "train", "test")
        assert splits == [(f"{genre}.{n:05d}", split) for n, split in enumerate(expected)]
    info = audio.probe(records[0]["audio"])
    assert (info.rate, info.channels, info.frames) == (22050, 1, 3 * 22050)


def test_music_speech(tmp_path):
    out = make(tmp_path / "s", "--layout", "music_speech", "--clips-per-class", 5, "--seconds", 2)
    records, labels, _ = read(out, layout="folders", audio="{label}_wav/*.wav", folds=5)
    assert len(records) == 10 and labels == ["music", "speech"]
    assert {audio.probe(record["audio"]).rate for record in records} == {22050}


def test_tess(tmp_path):
    out = make(tmp_path / "t", "--layout", "tess", "--clips-per-class", 10)
    pattern = "{speaker}_{word}_{label}.wav"
    records, labels, _ = read(out, layout="folders", audio=pattern, group="word", folds=5)
    assert len(records) == 70 and labels == sorted(toy_speech.EMOTIONS) and len(labels) == 7
    assert len({record["group"] for record in records}) == 5
    assert {record["id"].split("_")[0] for record in records} == {"OAF", "YAF"}
    for record in records:
        x, rate = soundfile.read(record["audio"])
        assert rate == 24414 and x.shape == (36621,) and 0.01 < np.abs(x).max() < 1


def test_audioset(tmp_path):
    out = make(tmp_path / "a", "--layout", "audioset", "--clips-per-class", 5, "--seconds", 1)
    metadata = {"train": "balanced_train_segments.csv", "test": "eval_segments.csv"}
    settings = {"layout": "audioset", "metadata": metadata, "labels": "class_labels_indices.csv", "audio": "audio"}
    records, labels, rejected = read(out, "multi_label", **settings, max_missing=0.03, max_rejected=1)
    assert len(records) == 43 and len(rejected) == 1 and len(labels) == 9
    assert "truncated" in rejected[0]["reason"]
    assert sum(record["split"] == "test" for record in records) == 9
    names = {Path(record["audio"]).stem for record in records}
    spellings = [{name for name in names if test(name)} for test in (
        lambda name: len(name) == 11, lambda name: len(name) == 12 and name[0] == "Y", lambda name: len(name) > 13,
    )]  # fmt: skip
    assert all(spellings) and set.union(*spellings) == names


@pytest.mark.parametrize("layout", ["gtzan", "tess", "music_speech", "audioset", "folders", "multi_label"])
def test_every_layout_depends_on_the_seed_alone(layout):
    """The samples of some clips, made twice, and with another seed."""
    description = toy_layouts.LAYOUTS.get(layout, toy_layouts.MULTI_LABEL)
    plans = [description.files(description.fewest, 1.0, seed)[0] for seed in (0, 0, 1)]
    for number in (0, 1, len(plans[0]) - 1):
        first, again, other = (plan[number].sound() for plan in plans)
        np.testing.assert_array_equal(first, again)
        assert np.mean(first != other) > 0.5


def spectrum(x, rate):
    frames = np.lib.stride_tricks.sliding_window_view(x, 2048)[::512] * np.hanning(2048)
    return np.abs(np.fft.rfft(frames)) ** 2, np.fft.rfftfreq(2048, 1 / rate)


def high(x, rate):
    """The share of the power above 5 kHz."""
    power, f = spectrum(x, rate)
    return power[:, f > 5000].sum() / power.sum()


def test_styles_of_music():
    """Tempo, by the spectrum of the onsets, and cymbals."""

    def piece(genre, seed):
        return toy_music.music(np.random.default_rng(seed), genre, 20)

    for seed in range(3):
        power, _ = spectrum(piece("disco", seed), toy_music.RATE)
        onsets = np.maximum(np.diff(np.log(power[:, :12].sum(1) + 1e-6)), 0)  # of the kick, below 130 Hz
        rhythm = np.abs(np.fft.rfft(onsets - onsets.mean(), 16384))
        beats = np.fft.rfftfreq(16384, 512 / toy_music.RATE) * 60
        inside = (beats > 80) & (beats < 200)
        assert 110 < beats[inside][rhythm[inside].argmax()] < 130  # four to the floor
        drummed, bowed = (high(piece(genre, seed), toy_music.RATE) for genre in ("rock", "classical"))
        assert drummed > 5 * bowed


def test_pitch_of_emotions():
    """Autocorrelation in the middle of the word: fear and surprise are high, disgust and sadness low."""

    def pitch(emotion):
        x = toy_speech.word(np.random.default_rng(1), "YAF", "back", emotion, 1.5, 24414)
        loudest = np.convolve(x**2, np.ones(2000), "same").argmax()
        x = x[max(0, loudest - 1500) : loudest + 1500]
        lags = np.correlate(x, x, "full")[len(x) - 1 :]
        return 24414 / (40 + lags[40:250].argmax())

    hertz = {emotion: pitch(emotion) for emotion in toy_speech.EMOTIONS}
    assert min(hertz["fear"], hertz["ps"]) > 1.15 * hertz["neutral"] > 1.15 * max(hertz["disgust"], hertz["sad"]), hertz


def test_speech_pauses_and_music_does_not():
    """Share of 50 ms frames that are 20 dB below the mean."""

    def quiet(x):
        level = np.sqrt((x[: len(x) // 1102 * 1102].reshape(-1, 1102) ** 2).mean(1))
        return np.mean(level < 0.1 * np.sqrt((level**2).mean()))

    for seed in range(4):
        rng = np.random.default_rng(seed)
        assert quiet(toy_speech.speech(rng, 20, 22050)) > 0.05 > quiet(toy_music.music(rng, "rock", 20))


def test_multi_label_is_for_csv_alone(tmp_path):
    refused(run("--out", tmp_path / "x", "--layout", "tess", "--multi-label"), "--multi-label", "tess")
