"""Mixtures of pairs of clips: what they are made of, folds kept apart, and the layout that stage 0 reads."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ESC10, ROOT
from paddletag import config
from paddletag.data import layouts, manifest

sys.path.insert(0, str(ROOT / "tools"))
import make_mixtures  # noqa: E402

RATE = 8000


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """ESC-50's layout: 3 folds of 3 classes, 2 clips each; one clip is shorter, one in stereo at another rate."""
    folder, generator = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    (folder / "audio").mkdir()
    (folder / "meta").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in (1, 2, 3):
        for target, category in enumerate(("dog", "rain", "sea_waves")):
            for take in "AB":
                name = f"{fold}-{100 * target + fold}-{take}-{target}.wav"
                x = generator.uniform(0.01, 0.9) * generator.uniform(-1, 1, RATE)
                x = x[: RATE // 2] if name == "1-101-A-1.wav" else x
                soundfile.write(folder / "audio" / name, x, RATE)
                rows.append(f"{name},{fold},{target},{category},True,{100 * target + fold},{take}")
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def made(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("mixed") / "new" / "mixtures"
    call("--raw", raw, "--out", out, "--clips", 36)
    return out


def call(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["make_mixtures.py", *map(str, arguments)])
        make_mixtures.main()


def refusal(*arguments):
    with pytest.raises(make_mixtures.UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(folder):
    with open(folder / "meta" / "mixtures.csv", newline="") as file:
        return list(csv.DictReader(file))


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_mixture_is_its_sources_and_nothing_else(raw, made):
    """Fitted by least squares, not by the factors in the table, the sources leave quantisation alone."""
    levels = []
    for row in table(made):
        x, rate = soundfile.read(made / "audio" / row["filename"])
        assert rate == RATE and len(x) == RATE and np.abs(x).max() == pytest.approx(0.9, abs=1e-4)
        sources = np.zeros((RATE, 2))
        for k, source in enumerate(row["sources"].split(";")):
            sound, _ = soundfile.read(raw / "audio" / source)
            sources[: len(sound), k] = sound
        fitted, *_ = np.linalg.lstsq(sources, x, rcond=None)
        assert np.abs(x - sources @ fitted).max() < 1.01 * 2**-16 + 1e-6
        np.testing.assert_allclose(fitted, [float(factor) for factor in row["factors"].split(";")], rtol=1e-3)
        first, second = fitted * np.sqrt((sources**2).mean(0))
        levels.append(20 * np.log10(second / first))
    assert -5.01 < min(levels) < -2 and 2 < max(levels) < 5.01


def test_folds_and_classes(raw, made):
    classes = {row["filename"]: row["category"] for row in csv.DictReader(open(raw / "meta" / "esc50.csv", newline=""))}
    rows = table(made)
    assert [row["fold"] for row in rows] == ["1", "2", "3"] * 12
    for row in rows:
        sources = row["sources"].split(";")
        assert {source[0] for source in sources} == {row["fold"]} == {row["filename"][0]}
        assert [classes[source] for source in sources] == row["labels"].split(";")
        assert len(set(row["labels"].split(";"))) == 2
    firsts = [row["sources"].split(";")[0] for row in rows]
    assert all(firsts.count(name) == 2 for name in classes)  # 36 mixtures of 18 clips


def test_stage_0_reads_it(made, tmp_path):
    path = tmp_path / "conf.yaml"
    path.write_text(
        "task: multi_label\ndata: {metadata: meta/mixtures.csv, audio: 'audio/{filename}', label: labels, fold: fold}\n"
    )
    records, labels = layouts.read(config.load(path), made)
    manifest.check(records, labels)
    assert len(records) == 36 and labels == ["dog", "rain", "sea_waves"]
    assert all(len(record["labels"]) == 2 and Path(record["audio"]).is_file() for record in records)


def test_the_seed_decides_every_byte(raw, made, tmp_path, capsys):
    call("--raw", raw, "--out", tmp_path / "again", "--clips", 36)
    call("--raw", raw, "--out", tmp_path / "other", "--clips", 36, "--seed", 1)
    assert content(tmp_path / "again") == content(made) != content(tmp_path / "other")
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    call("--raw", raw, "--out", made, "--clips", 36)
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*")}


def test_another_rate_and_stereo(raw, tmp_path):
    """The mixture has its first source's rate; the second is resampled to it and mixed to mono."""
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    time = np.arange(16000) / 16000
    low, high = 0.5 * np.sin(2 * np.pi * 440 * time), 0.5 * np.sin(2 * np.pi * 1000 * time[::2])
    soundfile.write(tmp_path / "audio" / "a.wav", np.stack([low, low], 1), 16000)
    soundfile.write(tmp_path / "audio" / "b.wav", high, 8000)
    (tmp_path / "meta" / "esc50.csv").write_text("filename,fold,category\na.wav,1,low\nb.wav,1,high\n")
    call("--raw", tmp_path, "--out", tmp_path / "out", "--clips", 2)
    rates = set()
    for row in table(tmp_path / "out"):
        x, rate = soundfile.read(tmp_path / "out" / "audio" / row["filename"])
        rates.add((row["sources"][0], rate))
        peaks = np.sort(np.abs(np.fft.rfft(x)).argsort()[-2:])
        assert x.shape == (rate,) and peaks.tolist() == [440, 1000]
    assert rates == {("a", 16000), ("b", 8000)}


def test_silence_can_be_mixed():
    x, factors = make_mixtures.mix([np.zeros(10), np.ones(4)], 3.0)
    np.testing.assert_allclose(x, [0.9] * 4 + [0] * 6)
    assert np.isfinite(factors).all()
    assert not make_mixtures.mix([np.zeros(4), np.zeros(4)], 0.0)[0].any()


def test_other_folders_are_refused(raw, made, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    assert f"{tmp_path}: exists" in refusal("--raw", raw, "--out", tmp_path)
    assert content(tmp_path) == {Path("mine.txt"): b"keep"}
    message = refusal("--raw", raw, "--out", made, "--clips", 36, "--seed", 5)
    assert str(made) in message and "mixtures.json" in message


def test_mistakes_are_one_line_and_leave_nothing(raw, tmp_path):
    out = tmp_path / "out"
    assert "esc50.csv" in refusal("--raw", tmp_path, "--out", out)
    assert "--clips 0" in refusal("--raw", raw, "--out", out, "--clips", 0)
    assert "--seed -1" in refusal("--raw", raw, "--out", out, "--seed", -1)
    alone = tmp_path / "alone"
    (alone / "meta").mkdir(parents=True)
    (alone / "meta" / "esc50.csv").write_text("filename,fold,category\na.wav,1,dog\nb.wav,1,dog\n")
    assert "fold 1" in refusal("--raw", alone, "--out", out)
    (alone / "meta" / "esc50.csv").write_text("filename,fold,category\na.wav,1,dog\nb.wav,1,cat\n")
    assert "a.wav" in refusal("--raw", alone, "--out", out) or "b.wav" in refusal("--raw", alone, "--out", out)
    assert [path.name for path in tmp_path.iterdir()] == ["alone"]


def test_real_clips(tmp_path):
    call("--raw", ESC10, "--out", tmp_path / "out", "--clips", 5)
    rows = table(tmp_path / "out")
    assert [row["fold"] for row in rows] == list("12345")
    for row in rows:
        info = soundfile.info(tmp_path / "out" / "audio" / row["filename"])
        assert (info.samplerate, info.channels, info.subtype) == (32000, 1, "PCM_16")
        assert info.duration == pytest.approx(5, abs=0.01)
