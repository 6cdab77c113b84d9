"""Classic baselines: features against librosa's values, scores against scikit-learn's own, and folders that suffice."""

import json
import shutil

import numpy as np
import pytest
from paddletag import config
from paddletag.data import manifest
from paddletag.data.splits import hold_out
from paddletag.features import mfcc, shards
from paddletag.models import classic, model_folder, registry
from paddletag.runtime import UserError
from paddletag.tagging import pipeline
from paddletag.tagging.windows import LogMelStream
from paddletag.training import fit_classic
from prepared import SECONDS, call, prepare, refusal, settings
from safetensors.numpy import load_file
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

KINDS = ("knn", "svm", "forest", "tree", "logistic")
SKLEARN = {
    "knn": KNeighborsClassifier(8),
    "svm": CalibratedClassifierCV(SVC(kernel="linear", C=0.1), ensemble=False),
    "forest": RandomForestClassifier(500, random_state=3),
    "tree": DecisionTreeClassifier(random_state=3),
    "logistic": LogisticRegression(max_iter=5000),
}
# librosa 0.11: melspectrogram (reflected edges), power_to_db, mfcc of 13 without the first; means, then deviations
LIBROSA = """27.7732 12.8477 -4.1439 -11.4073 -7.6727 -0.4525 3.0506 1.3053 -3.6181 -6.0351 -4.3236 -0.6857
17.3950 20.7570 26.5083 25.1307 23.2762 25.6234 25.0235 23.8159 24.0291 23.3912 22.3966 22.3886"""


def chirp(seconds=2, rate=44100):
    """A chirp in noise from a generator of a few lines, float32 [N]."""
    n, state = np.arange(seconds * rate), 1
    noise = np.empty(len(n))
    for i in range(len(n)):
        state = (1664525 * state + 1013904223) % 2**32
        noise[i] = state / 2**32 - 0.5
    time = n / rate
    return (0.5 * np.sin(2 * np.pi * (100 * time + 345 * time**2)) + 0.02 * noise).astype(np.float32)


def clouds(classes, n=90, width=6):
    """Rows around as many points as classes, with their classes: a problem that is neither easy nor hopeless."""
    generator = np.random.default_rng(classes)
    centres = generator.standard_normal((classes, width))
    targets = np.arange(n) % classes
    scale = 10.0 ** np.arange(-2, width - 2)
    return ((centres[targets] + generator.standard_normal((n, width))) * scale + 5).astype(np.float32), targets


def test_mfccs_are_librosas():
    found = mfcc.statistics(mfcc.MFCC.log_mel(chirp())[None])[0]
    expected = np.array(LIBROSA.split(), float)
    np.testing.assert_allclose(np.delete(found, (12, 25)), expected, atol=2e-3)


def test_zero_crossings_are_counted_by_hop():
    rate = mfcc.MFCC.sample_rate
    wave = np.sign(np.sin(2 * np.pi * (np.arange(rate) + 0.5) * 1000 / rate)).astype(np.float32)
    frames = mfcc.MFCC.log_mel(wave)
    assert frames.shape == (mfcc.MFCC.frames(rate), 129)
    # 2000 changes of sign a second, of rate steps between samples; a hop holds 23 or 24 of them
    assert frames[1:-1, -1].mean() == pytest.approx(2000 / rate, rel=0.01)
    assert set(np.round(frames[1:-1, -1] * 511).astype(int)) <= {23, 24}
    np.testing.assert_allclose(frames[20, -1], np.mean(np.diff(wave[20 * 512 - 256 : 20 * 512 + 256]) != 0))
    found = mfcc.statistics(frames[None])[0]
    assert found[12] == pytest.approx(frames[:, -1].mean()) and found[25] == pytest.approx(frames[:, -1].std())


def test_a_decoders_noise_in_silence_crosses_no_zero():
    noise = np.random.default_rng(0).uniform(-1e-5, 1e-5, 44100).astype(np.float32)
    assert (mfcc.MFCC.log_mel(noise)[:, -1] == 0).all()
    assert (mfcc.MFCC.log_mel(100 * noise)[:, -1] > 0.2).all()


def test_what_is_80_db_below_the_loudest_is_raised():
    log_mel = np.full((1, 4, 129), -100, np.float32)
    log_mel[0, 0, 3], log_mel[..., -1] = 20, 0
    raised = log_mel.copy()
    raised[..., :-1] = np.maximum(log_mel[..., :-1], -60)
    np.testing.assert_array_equal(mfcc.statistics(log_mel), mfcc.statistics(raised))
    assert not np.allclose(mfcc.statistics(log_mel), mfcc.statistics(np.maximum(raised, -50)))


def test_a_stream_gives_the_columns_of_the_whole():
    wave = chirp()
    stream = LogMelStream(mfcc.MFCC)
    parts = [stream.feed(part) for part in np.array_split(wave, [5000, 5100, 40000, 70001])]
    np.testing.assert_allclose(np.concatenate([*parts, stream.finish()]), mfcc.MFCC.log_mel(wave), atol=1e-3)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_scikit_learns(kind, classes):
    rows, targets = clouds(classes)
    train, test = slice(0, 60), slice(60, None)
    arrays = fit_classic.fit(kind, rows[train], targets[train], classes, 3)
    scaler = StandardScaler().fit(rows[train].astype(float))
    expected = SKLEARN[kind].fit(scaler.transform(rows[train].astype(float)), targets[train])
    expected = expected.predict_proba(scaler.transform(rows[test].astype(float)))
    found = classic.scores(kind, arrays, rows[test])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found.argmax(1) == targets[test]).mean() > 1.3 / classes
    again = fit_classic.fit(kind, rows[train], targets[train], classes, 3)
    assert all((arrays[name] == again[name]).all() for name in arrays)


def test_rows_as_they_are():
    rows, targets = clouds(3)
    expected = KNeighborsClassifier(8).fit(rows, targets).predict_proba(rows[:20])
    arrays = fit_classic.fit("knn", rows, targets, 3, 0, standardise=False)
    np.testing.assert_allclose(classic.scores("knn", arrays, rows[:20]), expected)
    assert not np.allclose(classic.scores("knn", fit_classic.fit("knn", rows, targets, 3, 0), rows[:20]), expected)


def test_a_feature_that_never_changes():
    rows, targets = clouds(2)
    rows[:, 0] = 7
    assert np.isfinite(classic.scores("logistic", fit_classic.fit("logistic", rows, targets, 2, 0), rows)).all()


def test_labels_without_a_clip_score_nothing():
    rows, targets = clouds(2)
    found = classic.scores("tree", fit_classic.fit("tree", rows, np.array([1, 3])[targets], 5, 0), rows)
    assert found.shape == (90, 5) and (found[:, [0, 2, 4]] == 0).all()
    assert (found.argmax(1) == np.array([1, 3])[targets]).all()


def test_what_cannot_be_fitted():
    rows, targets = clouds(2)
    with pytest.raises(UserError, match="one label"):
        fit_classic.fit("knn", rows, 0 * targets, 2, 0)
    with pytest.raises(UserError, match="svm.*two"):
        fit_classic.fit("svm", rows[:5], np.array([0, 0, 0, 0, 1]), 2, 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    records, _ = prepare(folder)
    shards.extract(folder, records, mfcc.MFCC, SECONDS, 8, 0, 1)
    return folder


def train(data, exp, features, kind, *opts, fold=1):
    path, _ = settings(data)
    options = ["--config", path, "--data", data, "--fold", fold, "--exp", exp]
    options += ["--features", features, "--classifier", kind, *(["--opts", *opts] if opts else [])]
    return options


@pytest.mark.parametrize("features, kind", [("mfcc", "svm"), ("embeddings", "forest")])
def test_from_training_to_the_table(data, tmp_path, features, kind):
    for fold in (1, 2):
        call("train_classic", *train(data, tmp_path / f"fold{fold}", features, kind, fold=fold))
        call("evaluate", "--model", tmp_path / f"fold{fold}", "--data", data)
    call("summarize", "--exp", tmp_path, "--folds", 1, 2)
    meta = model_folder.read_meta(tmp_path / "fold1")
    assert meta["run"]["fold"] == 1 and meta["labels"] == ["high", "low"] and meta["trained"]["rows"] == 16
    assert f"{kind} on {'mfcc' if features == 'mfcc' else 'mn01_as'}" in (tmp_path / "RESULTS.md").read_text()
    metrics = json.loads((tmp_path / "fold1" / "metrics.json").read_text())
    assert metrics["n"] == 8 and (metrics["accuracy"] == 1 or features == "embeddings")  # of random weights
    assert (tmp_path / "fold1" / "confusion.png").exists()

    record = next(r for r in manifest.read(data)[0] if r["fold"] == 1)
    model, meta = model_folder.load_model(tmp_path / "fold1")
    found = pipeline.tag_clip(model, meta, record["audio"])
    with np.load(tmp_path / "fold1" / "scores.npz") as saved:
        expected = saved["scores"][list(saved["ids"]).index(record["id"])]
    assert found["scores"].sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found["scores"][0], expected, atol=0.02)  # stored features are float16


def test_a_run_is_not_fitted_again_for_its_seed(data, tmp_path, monkeypatch):
    call("train_classic", *train(data, tmp_path / "fold1", "mfcc", "knn"))
    monkeypatch.setattr(fit_classic, "fit", lambda *args: pytest.fail("it is fitted again"))
    call("train_classic", *train(data, tmp_path / "seed0" / "fold1", "mfcc", "knn"))
    one, other = (model_folder.read_meta(tmp_path / name) for name in ("fold1", "seed0/fold1"))
    assert one == other and (tmp_path / "seed0" / "fold1" / "model.safetensors").is_file()


def test_a_launcher_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    assert "one process" in refusal("train_classic", *train(data, tmp_path / "fold1", "mfcc", "knn"))
    assert not (tmp_path / "fold1" / "model.json").exists()


def test_what_is_loaded_scores_as_what_was_saved(data, tmp_path, monkeypatch):
    saved = {}
    to_arrays = classic.Classic.to_arrays
    monkeypatch.setattr(classic.Classic, "to_arrays", lambda model: saved.update(model=model) or to_arrays(model))
    call("train_classic", *train(data, tmp_path, "embeddings", "logistic"))
    loaded, _ = model_folder.load_model(tmp_path)
    log_mel = np.random.default_rng(0).standard_normal((5, 1, 128, 60)).astype(np.float32)
    import paddle

    with paddle.no_grad():
        scores = [model(paddle.to_tensor(log_mel)).numpy() for model in (saved["model"], loaded)]
    np.testing.assert_array_equal(*scores)
    assert registry.entry("mn01_as").front_end == loaded.front_end


def test_the_held_out_fold_is_not_met(data, tmp_path):
    call("train_classic", *train(data, tmp_path, "mfcc", "knn", fold=2))
    arrays = load_file(tmp_path / "model.safetensors")
    records, _ = hold_out(manifest.read(data)[0], 2)
    features = shards.open_shards(data, mfcc.MFCC, SECONDS, records)
    rows = np.stack([mfcc.statistics(features[r["id"]].astype(np.float32)[None])[0] for r in records])
    np.testing.assert_allclose(arrays["classifier/mean"], rows.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(arrays["classifier/scale"], rows.std(0), rtol=1e-6, atol=1e-9)
    assert len(arrays["classifier/rows"]) == len(records) == 16


def test_clips_of_several_windows(data):
    path, resolved = settings(data, "data.clip_seconds", "0.1", "classic.classifier", "knn")
    records, _ = manifest.read(data)
    front_end = registry.front_end(resolved)
    model = classic.Classic(front_end)
    stored = shards.open_shards(data, front_end, SECONDS, records)
    ids, rows = fit_classic.window_features(model, records[:2], stored, 0.1, 4)
    assert ids == [records[0]["id"]] * 3 + [records[1]["id"]] * 3 and rows.shape == (6, 26)
    length = front_end.frames(4410)
    first = stored[records[0]["id"]][:length].astype(np.float32)
    np.testing.assert_allclose(rows[0], mfcc.statistics(first[None])[0])


def test_online_features_make_the_same_model(data, tmp_path):
    for name in ("stored", "online"):
        call("train_classic", *train(data, tmp_path / name, "mfcc", "knn", "features.online", str(name == "online")))
        call("evaluate", "--model", tmp_path / name, "--data", data)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("stored", "online"))
    assert all(np.array_equal(one[name], other[name]) for name in {*one, *other})
    one, other = (np.load(tmp_path / name / "scores.npz")["scores"] for name in ("stored", "online"))
    np.testing.assert_array_equal(one, other)


def test_stage_1_makes_the_features_of_a_classic_config(data, tmp_path):
    shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("features"))
    path, _ = settings(tmp_path)
    opts = ("--opts", "classic.classifier", "knn")
    call("extract_features", "--config", path, "--data", tmp_path / "data", "--workers", 1, *opts)
    records, _ = manifest.read(data)
    one, other = (shards.open_shards(folder, mfcc.MFCC, SECONDS, records) for folder in (data, tmp_path / "data"))
    assert all(np.array_equal(one[record["id"]], other[record["id"]]) for record in records)


def test_a_classic_model_has_no_graph(data, tmp_path):
    call("train_classic", *train(data, tmp_path, "mfcc", "knn"))
    words = "knn on mfcc"
    pytest.importorskip("onnxruntime")
    for kind, out in (("onnx", "a.onnx"), ("paddle", "a")):
        assert words in refusal("export", "--model", tmp_path, "--out", tmp_path / out, "--format", kind)
        assert not (tmp_path / out).exists()
    record = manifest.read(data)[0][0]
    assert words in refusal("audio_tag", "--model", tmp_path, record["audio"], "--engine", "onnxruntime")


def test_a_finished_run_is_not_run_again_and_another_is_refused(data, tmp_path, capsys):
    call("train_classic", *train(data, tmp_path, "mfcc", "tree"))
    before = (tmp_path / "model.json").stat().st_mtime_ns
    call("train_classic", *train(data, tmp_path, "mfcc", "tree"))
    assert (tmp_path / "model.json").stat().st_mtime_ns == before and "is up to date" in capsys.readouterr().out
    line = refusal("train_classic", *train(data, tmp_path, "mfcc", "knn"))
    assert all(word in line for word in ("classic.classifier", "tree", "knn"))


@pytest.mark.parametrize(
    "opts, words",
    [
        (["task", "multi_label"], "task multi_label:"),
        (["data.clip_seconds", "0.4"], "stage 1"),
        (["features.front_end", "{n_mel: 40}"], "features.front_end.n_mel:"),
    ],
)
def test_refusals(data, tmp_path, opts, words):
    assert words in refusal("train_classic", *train(data, tmp_path / "e", "mfcc", "knn", *opts))
    assert not (tmp_path / "e" / "model.json").exists()


def test_without_a_classifier(data, tmp_path):
    path, _ = settings(data)
    line = refusal("train_classic", "--config", path, "--data", data, "--fold", 1, "--exp", tmp_path)
    assert "classic.classifier" in line and "knn, svm, forest, tree, logistic" in line
    assert registry.front_end(config.load(path)) == registry.entry("mn01_as").front_end


def test_weights_that_have_met_the_fold_are_refused(data, tmp_path):
    call("train_classic", *train(data, tmp_path / "fold1", "mfcc", "tree"))
    weights = tmp_path / "fold1" / "model.safetensors"
    line = refusal("train_classic", *train(data, tmp_path / "e", "embeddings", "knn", "model.weights", weights, fold=2))
    assert "fold 2" in line


def test_a_folder_that_lacks_a_part(data, tmp_path):
    call("train_classic", *train(data, tmp_path, "embeddings", "logistic"))
    meta = model_folder.read_meta(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    for name in ("classifier/mean", "classifier/coef", "backbone/features.0.0.weight"):
        arrays = {key: array for key, array in whole.items() if key != name}
        with pytest.raises(UserError) as caught:
            classic.load(meta, arrays, model_folder.saved_front_end(meta), "there")
        assert str(caught.value).startswith("there: ") and name.partition("/")[2] in str(caught.value)


@pytest.mark.parametrize("name, value", [("column", 10**6), ("left", -(10**6)), ("roots", 10**6), ("cycle", 0)])
def test_a_tree_that_leads_astray_ends(name, value):
    rows, targets = clouds(2)
    arrays = fit_classic.fit("tree", rows, targets, 2, 0)
    if name == "cycle":  # from the root to a child and back, for ever
        for side in ("left", "right"):
            arrays[side][:2] = 1, 0
        assert classic.scores("tree", arrays, rows).shape == (90, 2)
    else:
        arrays[name][:] = value
        with pytest.raises((IndexError, ValueError)):
            classic.scores("tree", arrays, rows)
