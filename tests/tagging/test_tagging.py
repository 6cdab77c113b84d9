"""Tagging: against evaluation, the log-mel of the whole, separately cut sounds, and windows counted by hand."""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import paddle
import pytest
import scipy.special
import soundfile
from conftest import ROOT
from paddletag import parallel, runtime
from paddletag.data import audio, manifest
from paddletag.features import clip_features, frontend, shards
from paddletag.models import model_folder, registry
from paddletag.tagging import pipeline, reading, scoring, windows
from paddletag.tagging.onnx_session import EXPORT
from paddletag.tagging.windows import LogMelStream, Windows
from paddletag.training import evaluation
from prepared import LABELS, SECONDS, call, prepare, refusal, settings, tone

pytestmark = pytest.mark.filterwarnings("ignore:When training, we now always track")
META = {"labels": LABELS, "task": "multi_label", "clip_seconds": SECONDS, "sha256": "0" * 64, "backbone": "mn01_as"}


@pytest.fixture(scope="module")
def model():
    """A backbone with random weights whose logits depend on the sound, since its BatchNorms have met some."""
    model = registry.create_model("mn01_as", len(LABELS), seed=1)
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer._momentum = 0
    generator = np.random.default_rng(0)
    sounds = [frontend.MN.log_mel(tone(hertz, 0.5, generator)) for hertz in (200, 700, 3000, 9000)]
    model(paddle.to_tensor(np.stack(sounds).transpose(0, 2, 1)[:, None].copy()))
    model.classifier[5].weight.set_value(model.classifier[5].weight * 100)
    model.eval()
    return model


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """2.5 s: five tones of half a second that swell and fade, whose logits differ."""
    generator = np.random.default_rng(2)
    path = tmp_path_factory.mktemp("scene") / "scene.wav"
    wave = np.concatenate([tone(hertz, 0.5, generator) * np.hanning(16000) for hertz in (200, 3000, 700, 9000, 400)])
    soundfile.write(path, wave, 32000, subtype="FLOAT")
    return path


def logits(scores):
    return scipy.special.logit(scores.astype(np.float64))


@pytest.mark.parametrize("seconds", [SECONDS, 0.1, 0.75], ids=["one window", "padded", "several windows"])
def test_a_whole_file_has_the_scores_of_evaluation(model, tmp_path, seconds):
    records, _ = prepare(tmp_path, folds=(1, 2), clips=1, seconds=seconds)
    features = shards.open_shards(tmp_path, frontend.MN, SECONDS, records)
    expected = evaluation.evaluate(model, records, features, "multi_label", SECONDS, 3)
    found = [pipeline.tag_clip(model, META, record["audio"]) for record in records]
    scores = np.concatenate([arrays["scores"] for arrays in found])
    assert np.abs(np.diff(logits(scores), axis=0)).max() > 0.03  # the clips differ by more than
    np.testing.assert_allclose(logits(scores), logits(expected), atol=5e-3)  # features stored as float16 do
    for arrays in found:
        assert arrays["time"].tolist() == arrays["start"].tolist() == [0] and arrays["end"].tolist() == [seconds]
        assert arrays["labels"].tolist() == LABELS and str(arrays["model"]) == META["sha256"]
        assert str(arrays["backbone"]) == "mn01_as"


def test_windows_are_those_of_the_log_mel_of_the_file(model, scene):
    found = pipeline.tag_windows(model, META, scene, 0.5, 0.5, batch_size=2)
    log_mel = frontend.MN.log_mel(audio.load(scene, 32000))
    cut = np.stack([log_mel[50 * k : 50 * (k + 1)] for k in range(5)])
    with paddle.no_grad():
        expected = model(paddle.to_tensor(cut.transpose(0, 2, 1)[:, None].copy())).numpy()
    np.testing.assert_allclose(logits(found["scores"]), expected, atol=1e-3)


def test_windows_have_nearly_the_scores_of_sounds_cut_out(model, scene, tmp_path):
    """A file that is cut has other frames at its two edges."""
    found = logits(pipeline.tag_windows(model, META, scene, 0.5, 0.5)["scores"])
    wave = audio.load(scene, 32000)
    alone = []
    for k in range(5):
        soundfile.write(tmp_path / "cut.wav", wave[16000 * k : 16000 * (k + 1)], 32000, subtype="FLOAT")
        alone.append(pipeline.tag_clip(model, {**META, "clip_seconds": 0.5}, tmp_path / "cut.wav")["scores"][0])
    apart = np.abs(found[:, None] - found[None])[~np.eye(5, dtype=bool)].max()
    assert np.abs(found - logits(np.stack(alone))).max() < apart / 4


def test_starts_ends_and_times(model, scene):
    found = pipeline.tag_windows(model, META, scene, 0.4, 0.753)  # hops are whole frames of 10 ms
    np.testing.assert_allclose(found["start"], [0, 0.75, 1.5, 2.1])  # the last one ends with the sound
    np.testing.assert_allclose(found["end"], [0.4, 1.15, 1.9, 2.5])
    np.testing.assert_allclose(found["time"], np.array([0, 0.75, 1.5, 2.1]) / 2.5)
    assert found["scores"].shape == (4, 2) and found["scores"].dtype == np.float32


@pytest.mark.parametrize("hop, count", [(0.5, 6), (0.4, 7), (2.4, 2), (2.49, 2), (2.5, 2), (3, 2), (0.01, 241)])
def test_a_window_begins_at_every_hop_that_it_fits_at_and_one_at_the_end(model, scene, hop, count):
    found = pipeline.tag_windows(model, META, scene, 0.1, hop)
    assert len(found["scores"]) == len(found["time"]) == len(found["start"]) == len(found["end"]) == count
    np.testing.assert_allclose(found["start"][:-1], np.arange(count - 1) * hop)
    assert found["start"][-1] == pytest.approx(2.4) and found["end"][-1] == 2.5


def test_scores_at_the_end_are_those_of_sound_alone(model, scene, tmp_path):
    """Of a sound of 2.4 s: the last window is the last half second, whatever the hop. No silence is added to it."""
    wave = audio.load(scene, 32000)[:76800]
    soundfile.write(tmp_path / "short.wav", wave, 32000, subtype="FLOAT")
    log_mel = frontend.MN.log_mel(wave)
    with paddle.no_grad():
        expected = model(paddle.to_tensor(log_mel[-50:].T[None, None].copy())).numpy()[0]
    for hop in (0.3, 0.5, 1.7):
        found = pipeline.tag_windows(model, META, tmp_path / "short.wav", 0.5, hop)
        np.testing.assert_allclose(logits(found["scores"][-1]), expected, atol=1e-3)
    rest = np.concatenate([wave, wave[: int(0.02 * 32000)]])  # less than a twentieth of the hop is no window's worth
    soundfile.write(tmp_path / "rest.wav", rest, 32000, subtype="FLOAT")
    found = pipeline.tag_windows(model, META, tmp_path / "rest.wav", 0.4, 0.5)
    assert found["start"].tolist() == [0, 0.5, 1, 1.5, 2] and found["end"][-1] == 2.42


def test_batches_do_not_change_the_scores(model, scene):
    one, many = (pipeline.tag_windows(model, META, scene, 0.3, 0.1, batch_size=size)["scores"] for size in (1, 32))
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_a_file_shorter_than_the_window(model, tmp_path):
    path = tmp_path / "short.wav"
    soundfile.write(path, tone(500, 0.1, np.random.default_rng(0), 44100), 44100)
    found = pipeline.tag_windows(model, META, path, SECONDS, SECONDS)
    assert found["start"].tolist() == [0] and found["end"] == pytest.approx([0.1])
    np.testing.assert_allclose(found["scores"], pipeline.tag_clip(model, META, path)["scores"], atol=1e-5)


def test_a_window_in_milliseconds_is_the_whole_file(model, scene):
    found = pipeline.tag_windows(model, META, scene, 500_000.0, 500_000.0)  # padding would take gigabytes
    whole = pipeline.tag_clip(model, {**META, "clip_seconds": 2.5}, scene)
    assert found["end"].tolist() == [2.5]
    np.testing.assert_allclose(logits(found["scores"]), logits(whole["scores"]), atol=1e-3)


def test_a_hop_shorter_than_a_frame(model, scene):
    with pytest.raises(runtime.UserError, match=r"--hop 0.001.* 0.01 s"):
        pipeline.tag_windows(model, META, scene, 0.5, 0.001)


def test_the_shortest_windows(model, scene):
    assert np.isfinite(pipeline.tag_windows(model, META, scene, 0.001, 0.5)["scores"]).all()


STREAMED = [frontend.MN, frontend.PANNS, frontend.AST, frontend.MN.replace(hop_length=800)]


@pytest.mark.parametrize("front_end", STREAMED, ids=["mn", "panns", "ast", "mn, long hop"])
@pytest.mark.parametrize("part", [97, 4000, 10**6])
def test_the_log_mel_of_parts_is_that_of_the_whole(front_end, part):
    generator = np.random.default_rng(part)
    for length in (front_end.min_samples, 20_017):
        wave = tone(440, length / 32000, generator)
        stream = LogMelStream(front_end)
        parts = [stream.feed(wave[i : i + part]) for i in range(0, length, part)] + [stream.finish()]
        np.testing.assert_allclose(np.concatenate(parts), front_end.log_mel(wave), atol=1e-5)
        assert length < 1000 or part > length or len(stream.wave) < part + 4096  # no more is kept than is needed


@pytest.mark.parametrize("front_end", STREAMED, ids=["mn", "panns", "ast", "mn, long hop"])
def test_frames_within_a_window_are_its_own(front_end, scene):
    """All but its two first and two last: there the window sees the sound around it."""
    wave = audio.load(scene, front_end.sample_rate)
    windows, stream = Windows(front_end, 0.5, 0.3), LogMelStream(front_end)
    found = [log_mel for part in np.array_split(wave, 7) for log_mel in windows.feed(stream.feed(part))]
    assert len(found) >= 5
    for k, log_mel in enumerate(found):
        alone = front_end.log_mel(wave[k * windows.stride :][: windows.window])
        assert log_mel.shape == alone.shape
        np.testing.assert_allclose(log_mel[2:-2], alone[2:-2], atol=1e-5)


@pytest.mark.parametrize("window, hop", [(0.5, 0.2), (0.2, 0.5), (0.33, 0.33), (9.0, 0.7)])
def test_streamed_windows_are_those_of_the_whole(scene, window, hop):
    """Whatever the parts: the windows of the log-mel of the sound, the last of them moved back to end with it."""
    wave = audio.load(scene, 32000)
    samples = min(round(window * 32000), len(wave))
    starts = np.arange(0, len(wave) - samples + 1, round(hop * 100) * 320)
    starts = np.unique(np.append(starts, len(wave) - samples))
    whole = frontend.MN.log_mel(wave)
    expected = [whole[s // 320 :][: frontend.MN.frames(samples)] for s in starts]
    for parts in (1, 3, 40):
        windows, stream = Windows(frontend.MN, window, hop), LogMelStream(frontend.MN)
        found = [log_mel for part in np.array_split(wave, parts) for log_mel in windows.feed(stream.feed(part))]
        found += windows.feed(stream.finish(windows.padded(len(wave)))) + windows.flush(len(wave))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert windows.spans()[0].tolist() == (starts / 32000).tolist()
        assert windows.spans()[1].tolist() == np.minimum(starts + samples, len(wave)).__truediv__(32000).tolist()


@pytest.mark.parametrize("pad", ["zero", "repeat"])
def test_short_sounds_are_padded_by_zeros_or_by_themselves(pad, tmp_path):
    wave = tone(500, 0.1, np.random.default_rng(0))
    soundfile.write(tmp_path / "short.wav", wave, 32000, subtype="FLOAT")
    filled = np.concatenate([wave] * 3 if pad == "repeat" else [wave, np.zeros(6400, np.float32)])
    seen = []

    def predict(log_mels):
        seen.extend(log_mels)
        return {"scores": log_mels.mean((1, 2))[:, None]}

    front_end = frontend.MN.replace(pad=pad)
    for window in (SECONDS, 0):
        ((_, found),) = pipeline.tag_sounds(predict, META, front_end, [tmp_path / "short.wav"], window)
        assert found["end"] == pytest.approx([0.1])
    np.testing.assert_allclose(seen, [frontend.MN.log_mel(filled)] * 2, atol=1e-5)
    seen.clear()  # a longer sound is never padded: its last window ends with it
    wave = tone(500, 0.4, np.random.default_rng(0))
    soundfile.write(tmp_path / "long.wav", wave, 32000, subtype="FLOAT")
    list(pipeline.tag_sounds(predict, META, front_end, [tmp_path / "long.wav"], SECONDS))
    np.testing.assert_allclose(seen[1], frontend.MN.log_mel(wave)[10:], atol=1e-5)


def test_a_long_clip_is_the_mean_of_its_windows(model, tmp_path, monkeypatch):
    """Also where its log-mel went to a temporary file."""
    records, _ = prepare(tmp_path, folds=(1, 2), clips=1, seconds=2.0)
    monkeypatch.setattr(windows, "IN_MEMORY", 10_000)
    for record in records[:2]:
        log_mel = clip_features.clip_log_mel(record, frontend.MN, SECONDS)
        expected = scoring.clip_scores(model, [(0, log_mel)], "multi_label", SECONDS, 3)[0]
        np.testing.assert_allclose(pipeline.tag_clip(model, META, record["audio"])["scores"][0], expected, atol=1e-5)


def test_embeddings(model, scene):
    predict, passes = pipeline.predictor(model, "multi_label", embeddings=True), []
    hook = model.features.register_forward_post_hook(lambda *_: passes.append(1))
    ((_, found),) = pipeline.tag_sounds(predict, META, frontend.MN, [scene], 0.5)
    hook.remove()
    assert passes == [1]  # for scores and embeddings of the one batch
    with paddle.no_grad():
        logits_of = model.classifier[2:](paddle.to_tensor(found["embeddings"])).numpy()
    assert found["embeddings"].shape == (5, 96)
    np.testing.assert_allclose(logits_of, logits(found["scores"]), atol=1e-3)


def test_a_bad_file_among_good_ones(model, scene, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    results = list(pipeline.tag_sounds(pipeline.predictor(model, "multi_label"), META, frontend.MN, [
        scene, tmp_path / "bad.wav", tmp_path / "none.wav", scene
    ], 0.5))  # fmt: skip
    assert [type(found) for _, found in results] == [dict, audio.AudioError, audio.AudioError, dict]
    np.testing.assert_allclose(results[0][1]["scores"], results[3][1]["scores"], atol=1e-6)  # in other batches


def means(log_mels):
    """Scores that need no model."""
    return {"scores": log_mels.mean((1, 2))[:, None].repeat(2, 1)}


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("place", ["front end", "windows", "model", "result"])
def test_a_sound_for_which_memory_does_not_suffice(scene, tmp_path, monkeypatch, place, parallel):
    """It is told and left out. Of the two others every window is there, also those that shared a batch with it."""
    soundfile.write(tmp_path / "large.wav", np.full(64000, 0.7, np.float32), 32000, subtype="FLOAT")
    loud = frontend.MN.log_mel(np.full(64000, 0.7, np.float32)).mean() + 1e-3  # a constant is the quietest sound

    def too_large(where, log_mel):
        if place == where and log_mel.mean() < loud:
            raise MemoryError

    def predict(log_mels):
        for log_mel in log_mels:
            too_large("model", log_mel[2:-2])
        return means(log_mels)

    def log_mel(front_end, wave, compute=frontend.FrontEnd.log_mel):
        made = compute(front_end, wave)
        too_large("front end", made)
        return made

    def feed(self, frames, cut=Windows.feed):
        too_large("windows", frames) if len(frames) else None
        return cut(self, frames)

    def arrays(meta, windows, rows, make=pipeline.result_arrays):
        made = make(meta, windows, rows)
        if place == "result" and made["scores"].mean() < loud:
            raise MemoryError
        return made

    monkeypatch.setattr(pipeline, "result_arrays", arrays)
    monkeypatch.setattr(Windows, "feed", feed)
    monkeypatch.setattr(frontend.FrontEnd, "log_mel", log_mel)
    sounds = [scene, tmp_path / "large.wav", scene]
    model = pipeline.ParallelPredict(predict) if parallel else predict
    results = dict(enumerate(pipeline.tag_sounds(model, META, frontend.MN, sounds, 0.5, batch_size=3)))
    assert [len(results[k][1]["scores"]) for k in (0, 2)] == [5, 5]
    assert isinstance(results[1][1], audio.AudioError) and "large.wav" in str(results[1][1])


@pytest.mark.parametrize(("kind", "front_end"), [
    ("wav", frontend.MN), ("flac", frontend.MN), ("ogg", frontend.MN), ("mp3", frontend.MN),
    ("wav", frontend.PANNS), ("wav", frontend.AST),
], ids=["wav", "flac", "ogg", "mp3", "panns", "ast"])  # fmt: skip
@pytest.mark.parametrize("window, hop", [(0.0, 0.0), (2.0, 0.5), (3.0, 3.0), (20.0, 10.0)])
def test_parts_of_a_long_sound_are_the_whole(tmp_path, monkeypatch, kind, front_end, window, hop):
    """Cut into jobs where its format allows it, on one thread and on three: the scores are those of one piece."""
    generator = np.random.default_rng(3)
    wave = (generator.standard_normal(44100 * 11 + 123) * np.linspace(0.01, 0.5, 44100 * 11 + 123)).astype(np.float32)
    soundfile.write(tmp_path / f"long.{kind}", wave.clip(-1, 1), 44100)
    found = []
    for part, workers in ((100.0, 1), (1.7, 1), (1.7, 3), (4.0, 3)):
        monkeypatch.setattr(reading, "PART", part)
        model = pipeline.ParallelPredict(means)
        settings = (META, front_end, [tmp_path / f"long.{kind}"] * 3, window, hop, 4, workers)
        results = [result for _, result in pipeline.tag_sounds(model, *settings)]
        assert len(results) == 3
        found += results
    for other in found[1:]:
        for name in ("start", "end", "time"):
            np.testing.assert_array_equal(other[name], found[0][name])
        np.testing.assert_allclose(other["scores"], found[0]["scores"], atol=2e-5)


def test_long_sounds_are_read_no_further_ahead_than_needed(tmp_path, monkeypatch):
    """However long they are: parts and first parts of later sounds are bounded by the number of threads."""
    read, most = [], 0
    load_part = audio.load_part
    monkeypatch.setattr(audio, "load_part", lambda *args: read.append(1) or load_part(*args))
    monkeypatch.setattr(reading, "PART", 0.5)
    soundfile.write(tmp_path / "long.wav", np.full(32000 * 30, 0.1, np.float32), 32000)
    used = []

    def predict(log_mels):
        used.append(len(log_mels))
        return means(log_mels)

    for _ in pipeline.tag_sounds(predict, META, frontend.MN, [tmp_path / "long.wav"] * 6, 0.5, batch_size=1, workers=2):
        most = max(most, len(read) - sum(used))
    assert len(read) == 6 * 60 and most <= 2 * (2 + 2) + 1


def test_a_fault_of_the_model_is_none_of_a_file(scene):
    def predict(log_mels):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(pipeline.tag_sounds(predict, META, frontend.MN, [scene]))


def test_prefetch_passes_errors_on_and_ends_its_thread():
    closed, before = [], threading.active_count()

    def items(error):
        try:
            yield from range(10)
            if error:
                raise error
        finally:
            closed.append(True)

    assert list(parallel.prefetch(items(None))) == list(range(10))
    with pytest.raises(OSError, match="disk"):
        list(parallel.prefetch(items(OSError("disk"))))
    with contextlib.closing(parallel.prefetch(items(None))) as some:
        assert next(some) == 0
    assert len(closed) == 3 and threading.active_count() == before


MEMORY = """
import re, sys
from pathlib import Path
import numpy as np
from paddletag.data import audio
from paddletag.features import frontend
from paddletag.tagging.pipeline import tag_sounds
def hours(n):
    part = np.random.default_rng(0).standard_normal((80000, 1)).astype(np.float32)
    for _ in range(360 * n):
        yield part
meta = {"labels": ["a"] * 527, "clip_seconds": 10.0, "sha256": "", "backbone": ""}
predict = lambda log_mel: {"scores": log_mel.mean((1, 2))[:, None].repeat(527, 1)}
source = audio.Source("virtual", 8000, None, hours(int(sys.argv[1])))
((_, found),) = tag_sounds(predict, meta, frontend.AST, [source], float(sys.argv[2]))
peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())  # getrusage's counts the parent too
print(len(found["scores"]), found["end"][-1], int(peak[1]) // 1024)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    "hours, window", [(1, 10), (1, 0), pytest.param(10, 10, marks=pytest.mark.full)], ids=["1 h", "clip", "10 h"]
)
def test_memory_does_not_grow_with_the_length(hours, window):
    """The whole log-mel of an hour would take 184 MB, the sound 230 MB."""

    def tagged(hours, window):
        command = [sys.executable, "-c", MEMORY, str(hours), str(window)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "local")}
        rows, end, megabytes = subprocess.run(
            command, capture_output=True, text=True, check=True, env=env
        ).stdout.split()
        assert int(rows) == (360 * hours if window else 1) and float(end) == pytest.approx(3600 * hours)
        return int(megabytes)

    assert tagged(hours, window) < (150 if window else 450)  # paddle takes 240 of these


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    prepare(folder / "data", clips=2)
    path, _ = settings(folder)
    call("train", "--config", path, "--data", folder / "data", "--fold", 2, "--exp", folder / "fold2",
         "--opts", "train.epochs", "1")  # fmt: skip
    return folder


def test_script_tags_a_clip_of_the_held_out_fold_by_default(trained, tmp_path):
    call("audio_tag", "--model", trained / "fold2", "--data", trained / "data", "--output_dir", tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "2-0-low.npz"
    with np.load(path) as file:
        assert file["scores"].shape == (1, 2) and file["labels"].tolist() == LABELS
        expected = file["scores"]
    model, meta = model_folder.load_model(trained / "fold2")
    records, _ = manifest.read(trained / "data")
    found = pipeline.tag_clip(model, meta, next(r["audio"] for r in records if r["id"] == "2-0-low"))
    np.testing.assert_array_equal(found["scores"], expected)


def test_script_does_again_what_has_changed_and_nothing_else(trained, scene, tmp_path, capsys):
    def tag(*options):
        call("audio_tag", "--model", trained / "fold2", "--wav", scene, "--output_dir", tmp_path, *options)
        with np.load(tmp_path / "scene.npz") as file:
            return (tmp_path / "scene.npz").stat().st_mtime_ns, len(file["scores"])

    first, windows = tag("--sample_duration", 0.5)
    assert windows == 5
    assert tag("--sample-duration", 0.5) == (first, 5) and "is up to date" in capsys.readouterr().out
    assert tag("--sample_duration", 0.5, "--hop_duration", 0.25)[1] == 9
    assert tag()[1] == 1
    (tmp_path / "scene.npz").write_bytes(b"damaged")
    assert tag()[1] == 1
    second = tag()[0]
    os.utime(scene)  # another recording under the same name
    assert tag()[0] > second


def test_script_tags_many(trained, scene, tmp_path, monkeypatch, capsys):
    """Files, a folder, a pattern; two of one stem; and two that fail, which do not keep the others from theirs."""
    for name in ("a.wav", "in/a.wav", "in/deep/b.wav", "in/a.flac", "x1.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, tone(500, 0.3, np.random.default_rng(0)), 32000)
    (tmp_path / "in" / "empty.wav").write_bytes(b"")
    (tmp_path / "in" / "bad.ogg").write_bytes(b"no sound at all")
    (tmp_path / "in" / "notes.txt").write_text("not tried")
    monkeypatch.chdir(tmp_path)
    line = refusal(
        "audio_tag", "a.wav", "in", "x*.wav", "--wav", scene, "--model", trained / "fold2", "--output_dir", "out"
    )
    assert line.startswith("2 of 8 ")
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "in/bad.ogg: " in errors[0] and "in/empty.wav: " in errors[1]
    common = Path(os.path.commonpath([tmp_path, scene]))  # of all that was named
    for name in ("a.wav", "in/a.wav", "in/a.flac", "in/deep/b.wav", "x1.wav", scene):
        place = (tmp_path / name).relative_to(common)
        with np.load(f"out/{place if 'in/a' in str(name) else place.with_suffix('')}.npz") as file:
            assert file["labels"].tolist() == LABELS and str(file["audio"]) == str(tmp_path / name)
    assert len(list(Path("out").rglob("*.npz"))) == 6
    monkeypatch.chdir(tmp_path / "in")
    assert "1 of 2" in refusal("audio_tag", "a.wav", "empty.wav", "--model", trained / "fold2")


def test_results_of_one_name_mirror_the_folders_of_their_sounds(trained, scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.wav", "b/x.wav"):
        Path(name).parent.mkdir()
        Path(name).write_bytes(scene.read_bytes())
    call("audio_tag", "a/x.wav", "b/x.wav", "--model", trained / "fold2", "--output_dir", "out")
    for name in "ab":
        with np.load(f"out/{name}/x.npz") as file:
            assert str(file["audio"]) == str(tmp_path / name / "x.wav")


def test_the_result_of_another_sound_is_not_overwritten(trained, scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.wav", "b/x.wav", "b/y.wav"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(scene.read_bytes())

    def tag(*sounds):
        return "audio_tag", *sounds, "--model", trained / "fold2", "--output_dir", "out"

    call(*tag("a/x.wav"))
    before = Path("out/x.npz").read_bytes()
    line = refusal(*tag("b/x.wav", "b/y.wav"))
    assert all(word in line for word in ("out/x.npz", str(tmp_path / "a/x.wav"), "b/x.wav", "--output_dir"))
    assert Path("out/x.npz").read_bytes() == before and os.listdir("out") == ["x.npz"]
    call(*tag("a/x.wav"), "--sample_duration", 0.5)  # its own may change
    with np.load("out/x.npz") as file:
        arrays = dict(file)
    assert len(arrays["scores"]) == 5
    del arrays["audio"]  # as older versions wrote it: they knew its path as well
    np.savez("out/x.npz", **arrays)
    assert str(tmp_path / "a/x.wav") in refusal(*tag("b/x.wav"))
    call(*tag("a/x.wav"), "--sample_duration", 1)
    np.savez("out/y.npz", scores=np.ones((1, 2)), time=[0.0])  # PaddleAudio's
    assert "out/y.npz: " in refusal(*tag("b/y.wav"))
    np.savez("out/y.npz", pictures=np.ones(3))  # anybody's
    assert "out/y.npz" in refusal(*tag("b/y.wav"))


def test_a_pipe_and_a_sound_called_stdin(trained, scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("stdin.wav").write_bytes(scene.read_bytes())
    words = ("--model", trained / "fold2", "--output_dir", "out")
    done = piped(scene.read_bytes(), "-", "stdin.wav", *words)
    assert done.returncode == 2 and b"stdin" in done.stderr and not Path("out").exists()
    assert piped(scene.read_bytes(), "-", *words).returncode == 0
    with np.load("out/stdin.npz") as file:
        assert str(file["audio"]) == "-"
    assert "out/stdin.npz: " in refusal("audio_tag", "stdin.wav", *words)
    assert piped(scene.read_bytes(), "-", *words).returncode == 0  # a pipe is always another one


@pytest.mark.parametrize("name", ["é" * 125 + ".wav", "a" * 251 + ".wav", "a" * 252 + ".au", "caf\udce9.wav"])
def test_any_name_that_a_sound_may_have(trained, scene, tmp_path, name):
    """The longest, and one that is no text: its result has a name of about the same beginning, and tells its path."""
    sound = tmp_path / name
    sound.write_bytes(scene.read_bytes())
    call("audio_tag", sound, "--model", trained / "fold2", "--output_dir", tmp_path / "out")
    (result,) = (tmp_path / "out").iterdir()
    assert result.name[:4] == name[:4] and result.suffix == ".npz"
    with np.load(result) as file:
        assert str(file["audio"]) == str(sound)
    call("parse_result", "--tagging_file", result, "--format", "audacity", "--output_dir", tmp_path / "text")
    assert len(os.listdir(tmp_path / "text")) == 1


def test_no_terminal_obeys_names_and_labels(trained, scene, tmp_path, script):
    """Of sounds that are good and bad, printed and written; and of their results."""
    for name in ("\x1b]0;good\x07.wav", "\x1b[2Jbad.wav", "both\n.wav"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(scene.read_bytes() if "bad" not in name else b"no sound")
    (tmp_path / "model").mkdir()
    for path in (trained / "fold2").glob("model.*"):
        text = path.read_bytes()
        text = text.replace(b'"high"', b'"\\u001b[31mhigh"') if path.suffix == ".json" else text
        (tmp_path / "model" / path.name).write_bytes(text)
    words = (tmp_path / "in", "--model", tmp_path / "model")
    results = [
        script("local/audio_tag.py", *words, *more) for more in ((), ("--json",), ("--output_dir", tmp_path / "o"))
    ]
    results.append(script("local/parse_result.py", "--tagging_file", tmp_path / "o", "--output_dir", tmp_path / "p"))
    for done in results:
        text = done.stdout + done.stderr
        assert "\x1b" not in text and "\x07" not in text and r"\x1b[" in text or "u001b[" in text, text
    assert [done.returncode for done in results] == [2, 2, 2, 0]
    assert any(line.endswith(r"both\n.wav:") for line in results[0].stdout.splitlines())


def test_a_hostile_file_does_not_keep_the_others_from_being_tagged(trained, scene, tmp_path, capsys):
    """64 kB that call themselves hours of sound, and a decoder that fails in an unknown way."""
    content = bytearray(scene.read_bytes())
    content[24:28] = (1).to_bytes(4, "little")  # the rate
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "slow.wav").write_bytes(content)
    for name in ("a.wav", "z.wav"):
        (tmp_path / "in" / name).write_bytes(scene.read_bytes())
    line = refusal("audio_tag", tmp_path / "in", "--model", trained / "fold2", "--output_dir", tmp_path / "out")
    assert line.startswith("1 of 3 ")
    assert "slow.wav: has a rate of 1 Hz" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "out")) == ["a.npz", "z.npz"]


def test_script_prints_without_a_folder(trained, scene, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, meta = model_folder.load_model(trained / "fold2")
    (scores,) = pipeline.tag_clip(model, meta, scene)["scores"]
    order = np.argsort(-scores)
    call("audio_tag", scene, "--model", trained / "fold2")
    assert capsys.readouterr().out.splitlines() == [f"{LABELS[i]} {scores[i]:.4f}" for i in order]
    call("audio_tag", scene, "--model", trained / "fold2", "--top_k", 1, "--json", "--sample_duration", 1)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["start"], row["end"], len(row["tags"])) for row in rows] == [(0, 1, 1), (1, 2, 1), (1.5, 2.5, 1)]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("window", [0, 0.5])
def test_engines_agree_and_onnxruntime_needs_no_paddle(trained, scene, script, tmp_path, monkeypatch, window):
    for package in EXPORT:
        pytest.importorskip(package)
    monkeypatch.setenv("PADDLETAG_HOME", str(tmp_path / "home"))
    words = ("--model", trained / "fold2", scene, "--sample_duration", window, "--embeddings", "--output_dir")
    for engine_name in ("paddle", "onnxruntime"):
        call("audio_tag", *words, tmp_path / engine_name, "--engine", engine_name)
    (tmp_path / "python" / "paddle").mkdir(parents=True)
    (tmp_path / "python" / "paddle" / "__init__.py").write_text("raise SystemExit('paddle was imported')\n")
    env = {"PYTHONPATH": str(tmp_path / "python"), "PADDLETAG_HOME": str(tmp_path / "home")}
    done = script("local/audio_tag.py", *words, tmp_path / "alone", "--engine", "onnxruntime", **env)
    assert done.returncode == 0, done.stderr
    paddles, *others = (np.load(tmp_path / name / "scene.npz") for name in ("paddle", "onnxruntime", "alone"))
    assert paddles["scores"].shape == (5 if window else 1, 2)
    for other in others:
        assert set(other) == set(paddles) and (other["start"] == paddles["start"]).all()
        np.testing.assert_allclose(other["scores"], paddles["scores"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(other["embeddings"], paddles["embeddings"], rtol=0, atol=1e-4)


def test_script_refuses_embeddings_that_it_would_not_write(trained, scene):
    assert "--output_dir" in refusal("audio_tag", scene, "--model", trained / "fold2", "--embeddings")


def test_script_pads_and_embeds_what_it_is_told_to(trained, scene, tmp_path, capsys):
    arguments = "audio_tag", scene, "--model", trained / "fold2", "--output_dir", tmp_path, "--sample_duration", 1
    call(*arguments)
    call(*arguments, "--embeddings", "--pad", "repeat")  # another result: not up to date
    with np.load(tmp_path / "scene.npz") as file:
        assert file["embeddings"].shape == (3, 96) and file["scores"].shape == (3, 2)
    assert "up to date" not in capsys.readouterr().out


def test_script_reads_standard_input(trained, scene, tmp_path):
    """A WAV stream, and the same as raw PCM: the scores of the file."""
    wave = (audio.load(scene, 32000) * 32767).astype("<i2")
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 32000, format="WAV")
    soundfile.write(tmp_path / "same.wav", wave, 32000)
    call("audio_tag", tmp_path / "same.wav", "--model", trained / "fold2", "--output_dir", tmp_path)
    with np.load(tmp_path / "same.npz") as file:
        expected = file["scores"]
    for data, options in ((buffer.getvalue(), ()), (wave.tobytes(), ("--pcm_rate", 32000))):
        done = piped(data, "-", "--model", trained / "fold2", "--output_dir", tmp_path, *options)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "stdin.npz") as file:
            np.testing.assert_allclose(file["scores"], expected, atol=1e-6)
    for data, words in (
        (b"", "is empty"),
        (wave.tobytes(), "not a WAV stream"),
        (buffer.getvalue()[:5000], "truncated"),
    ):
        done = piped(data, "-", "--model", trained / "fold2")
        assert done.returncode == 2 and words in done.stderr.decode() and done.stderr.count(b"\n") == 1


def piped(data, *options):
    """audio_tag.py with `data` on its standard input."""
    command = [sys.executable, str(ROOT / "local" / "audio_tag.py"), *map(str, options)]
    return subprocess.run(command, input=data, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize(
    "options, words",
    [
        (["--sample_duration", "-1"], "--sample_duration -1.0: "),
        (["--sample_duration", "nan"], "--sample_duration nan: "),
        (["--sample_duration", "inf"], "--sample_duration inf: "),
        (["--hop_duration", "1"], "--hop_duration"),
        (["--sample_duration", "1", "--hop_duration", "0.0001"], "--hop_duration 0.0001: must be at least 0.01 s"),
        (["--wav", "nowhere.wav"], "nowhere.wav: "),
        (["--wav", __file__], "test_tagging.py: "),
        (["--wav", os.path.dirname(__file__)], "tests/tagging: "),
        (["nowhere/*.wav"], "nowhere/*.wav: "),
        (["--top_k", "0"], "--top_k 0: "),
        (["--batch_size", "0"], "--batch_size 0: "),
        (["--device", "tpu"], "--device tpu: "),
        (["--threshold", "0.1"], "--low_threshold: "),
        (["--stream"], "--stream"),
        (["--wav", ""], "--wav"),
        (["--model", "nowhere"], "nowhere: "),
    ],
)
def test_script_refuses(trained, scene, tmp_path, options, words):
    line = refusal("audio_tag", "--model", trained / "fold2", "--wav", scene, "--output_dir", tmp_path / "o", *options)
    assert words in line and not (tmp_path / "o").exists()


def test_a_backbone_gives_the_original_scores(reference):
    """Whole files through mn04_as from the registry: the original's scores, to 1e-3."""
    model, meta = model_folder.load_model("mn04_as")
    for clip, arrays in reference.items():
        found = pipeline.tag_clip(model, meta, clip)
        assert np.abs(found["scores"][0] - 1 / (1 + np.exp(-arrays["logits"].astype(np.float64)))).max() < 1e-3


def test_the_historical_command(real_scene, tmp_path, monkeypatch, capsys):
    """PaddleAudio's arguments and file name; streamed scores are those of the windows of the whole log-mel."""
    monkeypatch.chdir(tmp_path)
    wav = real_scene
    call("audio_tag", "--device", "cpu", "--wav", wav, "--sample_duration", 2, "--hop_duration", 0.3,
         "--output_dir", "./output_dir")  # fmt: skip
    assert "Saved tagging results to output_dir/audioset_tagging_sr_32000.npz" in capsys.readouterr().out
    with np.load("output_dir/audioset_tagging_sr_32000.npz") as file:
        arrays = dict(file)
    scores, labels = arrays["scores"], arrays["labels"].tolist()
    starts = [*range(0, 17 * 30, 30), 500]  # frames of 10 ms; the last window ends with the sound
    assert scores.shape == (18, 527) and arrays["time"] == pytest.approx(np.array(starts) / 700)
    log_mel = frontend.MN.log_mel(audio.load(wav, 32000))
    windows = np.stack([log_mel[start : start + 200] for start in starts])
    model, _ = model_folder.load_model("mn04_as")
    whole = np.concatenate(
        [pipeline.predictor(model, "multi_label")(windows[i : i + 6])["scores"] for i in range(0, 18, 6)]
    )
    np.testing.assert_allclose(scores, whole, atol=1e-4)
    # A rooster, then a crying baby.
    top = [[labels[i] for i in np.argsort(-row)[:10]] for row in scores]
    assert all(row[0] == "Crowing, cock-a-doodle-doo" for row in top[:2])
    assert all("Baby cry, infant cry" in row for row in top[9:14])
    assert "Oink" not in np.array(top)[:, :3]  # what padding with zeros made of the end


def test_zero_shot_refuses_other_data(tmp_path, script):
    """The tool's table is of ESC-10's classes: other labels are named."""
    prepare(tmp_path / "data")
    result = script("tools/zero_shot.py", "--data", tmp_path / "data", PADDLETAG_HOME=str(tmp_path))
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "not ESC-10: it has the label 'high'" in result.stderr


def test_zero_shot_cuts_and_pads(tmp_path, monkeypatch):
    """--cut keeps the loudest part of a clip; --pad and --min_seconds replace what the backbone says."""
    prepare(tmp_path / "data", clips=1)
    for name in ("manifest.jsonl", "labels.txt"):
        text = (tmp_path / "data" / name).read_text()
        text = text.replace('"high"', '"rooster"').replace('"low"', '"dog"')
        (tmp_path / "data" / name).write_text(text.replace("high\n", "rooster\n").replace("low\n", "dog\n"))
    wave = np.zeros(9600, np.float32)
    wave[4000:5000] = 0.5
    for record in manifest.read(tmp_path / "data")[0]:
        soundfile.write(record["audio"], wave, 32000)
    labels, seen = registry.audioset_labels(), []

    def tag_clip(model, meta, sound):
        part = next(sound.at(32000)) if isinstance(sound, audio.Source) else audio.load(sound, 32000)
        seen.append((len(part), float(part.mean()), model.front_end.pad, meta["min_seconds"]))
        return {"scores": np.zeros((1, len(labels)))}

    def load_model(name, front_end=None):
        return types.SimpleNamespace(front_end=front_end or frontend.MN), {"labels": labels, "min_seconds": 5.0}

    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.setattr(model_folder, "describe_model", lambda name: {"front_end": frontend.MN.to_dict()})
    monkeypatch.setattr(model_folder, "load_model", load_model)
    monkeypatch.setattr(pipeline, "tag_clip", tag_clip)
    call("zero_shot", "--data", tmp_path / "data")
    call("zero_shot", "--data", tmp_path / "data", "--cut", 1000 / 32000, "--pad", "zero", "--min_seconds", 2)
    assert {row[::2] for row in seen[:6]} == {(9600, "repeat")} and {row[3] for row in seen[:6]} == {5.0}
    assert seen[6:] == [(1000, pytest.approx(0.5, abs=1e-3), "zero", 2.0)] * 6
