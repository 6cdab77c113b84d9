"""Tagging: against evaluation, separately cut sounds, and windows counted by hand."""

import os
from functools import partial

import numpy as np
import paddle
import pytest
import scipy.special
import soundfile
from paddletag import audio, checkpoint, engine, frontend, manifest, models, runtime, shards, tagging, weights
from prepared import LABELS, SECONDS, call, prepare, refusal, settings, tone

pytestmark = pytest.mark.filterwarnings("ignore:When training, we now always track")
META = {"labels": LABELS, "task": "multi_label", "clip_seconds": SECONDS, "sha256": "0" * 64}


@pytest.fixture(scope="module")
def model():
    """A backbone with random weights whose logits depend on the sound, since its BatchNorms have met some."""
    model = models.create_model("mn01_as", len(LABELS), seed=1)
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
    features = shards.open_features(tmp_path, frontend.MN, SECONDS, records)
    expected = engine.evaluate(model, records, features, "multi_label", SECONDS, 3)
    found = [tagging.tag_clip(model, META, record["audio"]) for record in records]
    scores = np.concatenate([arrays["scores"] for arrays in found])
    assert np.abs(np.diff(logits(scores), axis=0)).max() > 0.05  # the clips differ by more than
    np.testing.assert_allclose(logits(scores), logits(expected), atol=5e-3)  # features stored as float16 do
    for arrays in found:
        assert arrays["time"].tolist() == arrays["start"].tolist() == [0] and arrays["end"].tolist() == [seconds]
        assert arrays["labels"].tolist() == LABELS and str(arrays["model"]) == META["sha256"]


def test_windows_are_those_of_the_log_mel_of_the_file(model, scene):
    found = tagging.tag_windows(model, META, scene, 0.5, 0.5, batch_size=2)
    log_mel = frontend.MN.log_mel(audio.load(scene, 32000))
    cut = np.stack([log_mel[50 * k : 50 * (k + 1)] for k in range(5)])
    with paddle.no_grad():
        expected = model(paddle.to_tensor(cut.transpose(0, 2, 1)[:, None].copy())).numpy()
    np.testing.assert_allclose(logits(found["scores"]), expected, atol=1e-3)


def test_windows_have_nearly_the_scores_of_sounds_cut_out(model, scene, tmp_path):
    """A file that is cut has other frames at its two edges."""
    found = logits(tagging.tag_windows(model, META, scene, 0.5, 0.5)["scores"])
    wave = audio.load(scene, 32000)
    alone = []
    for k in range(5):
        soundfile.write(tmp_path / "cut.wav", wave[16000 * k : 16000 * (k + 1)], 32000, subtype="FLOAT")
        alone.append(tagging.tag_clip(model, {**META, "clip_seconds": 0.5}, tmp_path / "cut.wav")["scores"][0])
    apart = np.abs(found[:, None] - found[None])[~np.eye(5, dtype=bool)].max()
    assert np.abs(found - logits(np.stack(alone))).max() < apart / 4


def test_starts_ends_and_times(model, scene):
    found = tagging.tag_windows(model, META, scene, 0.4, 0.753)  # hops are whole frames of 10 ms
    np.testing.assert_allclose(found["start"], [0, 0.75, 1.5, 2.25])
    np.testing.assert_allclose(found["end"], [0.4, 1.15, 1.9, 2.5])
    np.testing.assert_allclose(found["time"], np.array([0, 0.75, 1.5, 2.25]) / 2.5)
    assert found["scores"].shape == (4, 2) and found["scores"].dtype == np.float32


@pytest.mark.parametrize("hop, count", [(0.5, 5), (0.4, 7), (2.49, 2), (2.5, 1), (3, 1), (0.01, 250)])
def test_a_window_begins_at_every_hop_before_the_end(model, scene, hop, count):
    found = tagging.tag_windows(model, META, scene, 0.1, hop)
    assert len(found["scores"]) == len(found["time"]) == len(found["start"]) == len(found["end"]) == count


def test_batches_do_not_change_the_scores(model, scene):
    one, many = (tagging.tag_windows(model, META, scene, 0.3, 0.1, batch_size=size)["scores"] for size in (1, 32))
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_a_file_shorter_than_the_window(model, tmp_path):
    path = tmp_path / "short.wav"
    soundfile.write(path, tone(500, 0.1, np.random.default_rng(0), 44100), 44100)
    found = tagging.tag_windows(model, META, path, SECONDS, SECONDS)
    assert found["start"].tolist() == [0] and found["end"] == pytest.approx([0.1])
    np.testing.assert_allclose(found["scores"], tagging.tag_clip(model, META, path)["scores"], atol=1e-5)


def test_a_window_in_milliseconds_is_the_whole_file(model, scene):
    found = tagging.tag_windows(model, META, scene, 500_000.0, 500_000.0)  # padding would take gigabytes
    whole = tagging.tag_clip(model, {**META, "clip_seconds": 2.5}, scene)
    assert found["end"].tolist() == [2.5]
    np.testing.assert_allclose(logits(found["scores"]), logits(whole["scores"]), atol=1e-3)


def test_a_hop_shorter_than_a_frame(model, scene):
    with pytest.raises(runtime.UserError, match=r"--hop_duration 0.001: must be at least 0.01 s"):
        tagging.tag_windows(model, META, scene, 0.5, 0.001)


def test_the_shortest_windows(model, scene):
    assert np.isfinite(tagging.tag_windows(model, META, scene, 0.001, 0.5)["scores"]).all()


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
    model, meta = checkpoint.load_model(trained / "fold2")
    records, _ = manifest.read(trained / "data")
    found = tagging.tag_clip(model, meta, next(r["audio"] for r in records if r["id"] == "2-0-low"))
    np.testing.assert_array_equal(found["scores"], expected)


def test_script_does_again_what_has_changed_and_nothing_else(trained, scene, tmp_path, capsys):
    def tag(*options):
        call("audio_tag", "--model", trained / "fold2", "--wav", scene, "--output_dir", tmp_path, *options)
        with np.load(tmp_path / "scene.npz") as file:
            return (tmp_path / "scene.npz").stat().st_mtime_ns, len(file["scores"])

    first, windows = tag("--sample_duration", 0.5)
    assert windows == 5
    assert tag("--sample-duration", 0.5) == (first, 5) and "is up to date" in capsys.readouterr().out
    assert tag("--sample_duration", 0.5, "--hop_duration", 0.25)[1] == 10
    assert tag()[1] == 1
    (tmp_path / "scene.npz").write_bytes(b"damaged")
    assert tag()[1] == 1
    second = tag()[0]
    os.utime(scene)  # another recording under the same name
    assert tag()[0] > second


@pytest.mark.parametrize(
    "options, words",
    [
        (["--sample_duration", "-1"], "--sample_duration -1.0: must be"),
        (["--sample_duration", "nan"], "--sample_duration nan: must be"),
        (["--sample_duration", "inf"], "--sample_duration inf: must be"),
        (["--hop_duration", "1"], "--hop_duration needs a window"),
        (["--sample_duration", "1", "--hop_duration", "0.0001"], "at least 0.01 s"),
        (["--wav", "nowhere.wav"], "nowhere.wav: no such file"),
        (["--wav", __file__], "test_tagging.py: not a sound file"),
        (["--wav", os.path.dirname(__file__)], "not a file"),
        (["--wav", ""], "--wav is missing"),
        (["--model", "nowhere"], "nowhere: neither the folder"),
    ],
)
def test_script_refuses(trained, scene, tmp_path, options, words):
    line = refusal("audio_tag", "--model", trained / "fold2", "--wav", scene, "--output_dir", tmp_path / "o", *options)
    assert words in line and not (tmp_path / "o").exists()


def test_a_backbone_gives_the_original_scores(shared, tmp_path, monkeypatch):
    """A whole file through mn04_as from the registry: the original's scores, to 1e-3."""
    monkeypatch.setenv("PADDLETAG_HOME", str(tmp_path))
    entry = models.entry("mn04_as")
    source = shared("weights/mn04_as_mAP_432.pt")
    convert = partial(models.convert, entry.name)
    weights.install(entry.name, entry.url, entry.sha256, source=source, convert=convert)
    model, meta = checkpoint.load_model("mn04_as")
    found = tagging.tag_clip(model, meta, shared("data/tagging/R9_ZSCveAHg_7s.wav"))
    with np.load(shared("reference/mn04_as_speech_and_telephone.npz")) as arrays:
        expected = 1 / (1 + np.exp(-arrays["logits"].astype(np.float64)))
    assert np.abs(found["scores"][0] - expected).max() < 1e-3
    assert found["labels"][found["scores"][0].argmax()] == "Speech"


def test_zero_shot_refuses_other_data(tmp_path, script):
    """The tool's table is of ESC-10's classes: other labels are named."""
    prepare(tmp_path / "data")
    result = script("tools/zero_shot.py", "--data", tmp_path / "data", PADDLETAG_HOME=str(tmp_path))
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "not ESC-10: it has the label 'high'" in result.stderr
