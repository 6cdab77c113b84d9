"""Temperatures, thresholds and calibration errors: against scipy on logits, scikit-learn and brute force; calibrate."""

import shutil
from functools import partial

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sklearn.calibration
import sklearn.metrics
from paddletag import runtime
from paddletag.commands import calibrate as calibrate_command
from paddletag.commands import listen
from paddletag.data import clip_list, manifest
from paddletag.data.splits import hold_out, validation_part
from paddletag.features import frontend, shards
from paddletag.files import read_json, write_json
from paddletag.models import calibration, model_folder
from paddletag.tagging import export, labels
from paddletag.training import evaluation, fit_calibration, reliability
from prepared import LABELS, SECONDS, call, prepare, refusal, settings

pytestmark = pytest.mark.filterwarnings("ignore:When training, we now always track")


def synthetic(task, n=3000, classes=5, temperature=2.5):
    """(logits, float32 scores, targets): what is true follows the logits divided by `temperature`."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(n, classes)) * 5
    if task == "single_label":
        p = scipy.special.softmax(logits / temperature, axis=1)
        truth = (p.cumsum(1) > generator.uniform(size=(n, 1))).argmax(1)
        return logits, scipy.special.softmax(logits, axis=1).astype(np.float32), np.eye(classes)[truth]
    targets = generator.uniform(size=(n, classes)) < scipy.special.expit(logits / temperature)
    return logits, scipy.special.expit(logits).astype(np.float32), targets.astype(float)


def logit_loss(temperature, task, logits, targets):
    if task == "single_label":
        return -(targets * scipy.special.log_softmax(logits / temperature, axis=1)).sum(1).mean()
    return np.logaddexp(0, np.where(targets > 0, -1, 1) * logits / temperature).mean()


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_a_temperature_is_that_of_the_logits(task):
    logits, scores, targets = synthetic(task)
    found = fit_calibration.fit_temperature(scores, targets, task)
    expected = scipy.optimize.minimize(logit_loss, [1.0], (task, logits, targets), method="Nelder-Mead", tol=1e-6).x[0]
    assert found == pytest.approx(expected, rel=2e-3) and found == pytest.approx(2.5, rel=0.1)
    tempered = calibration.temper(scores, task, found)
    assert fit_calibration.log_loss(tempered, targets, task) == pytest.approx(
        logit_loss(found, task, logits, targets), rel=1e-4
    )
    activation = scipy.special.expit if task == "multi_label" else lambda x: scipy.special.softmax(x, axis=1)
    np.testing.assert_allclose(tempered, activation(logits / found), atol=1e-3)  # float32 scores near 1
    parts = np.arange(len(scores)) % 5
    kept, other = fit_calibration.useful_temperature(scores, targets, task, parts)
    before, after = (reliability.reliability(task, each, targets)["ece"] for each in (scores, other))
    assert kept == found and after < before / 3


def test_a_temperature_is_kept_at_1_where_no_other_helps():
    """No clip mistaken: the loss falls for ever. And true probabilities: nothing is to be mended."""
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]], np.float32)
    targets = np.eye(2)[[0, 1, 0, 1]]
    assert fit_calibration.fit_temperature(scores, targets, "single_label") == 1
    logits, _, targets = synthetic("single_label", n=60, temperature=1.0)
    scores = scipy.special.softmax(logits, axis=1)
    temperature, same = fit_calibration.useful_temperature(scores, targets, "single_label", np.arange(60) % 5)
    assert temperature == 1 and same is scores


def test_a_temperature_is_kept_at_1_where_mistakes_are_few():
    """Scores that are far too low: another temperature would help, but two mistakes may be chance."""
    scores = np.full((100, 2), 0.5) + np.where(np.eye(2)[np.arange(100) % 2] > 0, 0.05, -0.05)
    for wrong, kept in ((2, True), (8, False)):
        targets = np.eye(2)[np.arange(100) % 2]
        targets[:wrong] = targets[:wrong, ::-1]
        temperature, _ = fit_calibration.useful_temperature(scores, targets, "single_label", np.arange(100) % 5)
        assert (temperature == 1) == kept


def test_each_part_has_the_temperature_of_the_others():
    _, scores, targets = synthetic("multi_label", n=40)
    parts = np.array([1, 2] * 20)
    found = fit_calibration.cross_fitted(scores, targets, "multi_label", parts)
    other = fit_calibration.fit_temperature(scores[1::2], targets[1::2], "multi_label")
    np.testing.assert_array_equal(found[::2], calibration.temper(scores[::2], "multi_label", other))


@pytest.mark.parametrize("seed", range(8))
def test_thresholds_are_those_of_brute_force(seed):
    generator = np.random.default_rng(seed)
    targets = (generator.uniform(size=60) < 0.3).astype(int)
    targets[0] = 1
    scores = np.clip(0.4 * targets + generator.normal(0.3, 0.25, 60), 0, 1).round(2).astype(np.float32)  # with ties
    found = fit_calibration.choose_threshold(scores, targets)
    best = max(sklearn.metrics.f1_score(targets, scores >= value) for value in np.unique(scores))
    assert sklearn.metrics.f1_score(targets, scores >= np.float32(found)) == pytest.approx(best)
    for wanted in (0.5, 0.7, 0.9, 1.0):
        precision, recall, _ = sklearn.metrics.precision_recall_curve(targets, scores)
        reached = recall[:-1][precision[:-1] >= wanted]
        found = fit_calibration.choose_threshold(scores, targets, wanted)
        if not len(reached):
            assert found is None
            continue
        accepted = scores >= np.float32(found)
        assert sklearn.metrics.precision_score(targets, accepted) >= wanted
        assert sklearn.metrics.recall_score(targets, accepted) == pytest.approx(reached.max())


def test_a_threshold_lies_between_what_it_accepts_and_the_rest():
    assert fit_calibration.choose_threshold(np.float32([0.9, 0.7, 0.3]), np.array([1, 1, 0])) == pytest.approx(0.5)
    lower = np.float32(0.7)
    upper = np.nextafter(lower, np.float32(1))  # no number lies between them
    found = np.float32(fit_calibration.choose_threshold(np.array([upper, lower]), np.array([1, 0])))
    assert lower < found <= upper


def test_few_clips_share_a_threshold():
    generator = np.random.default_rng(0)
    targets = np.zeros((60, 3))
    targets[:40, 0] = targets[40:49, 1] = targets[49:, 2] = 1  # 9 clips of the second class
    scores = (0.5 * targets + generator.uniform(0, 0.6, targets.shape)).astype(np.float32)
    found = fit_calibration.choose_thresholds(scores, targets)
    assert found.own.tolist() == [True, False, True] and found.values.dtype == np.float32
    overall = fit_calibration.choose_threshold(scores.ravel(), targets.ravel())
    assert found.values[1] == np.float32(overall) == np.float32(found.overall)
    assert found.values[2] == np.float32(fit_calibration.choose_threshold(scores[:, 2], targets[:, 2]))
    assert fit_calibration.choose_thresholds(1 - scores, targets, 0.99) is None


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_the_calibration_error_is_that_of_others(task):
    _, scores, targets = synthetic(task, n=400)
    found = reliability.reliability(task, scores, targets)
    confidence, right = scores.ravel(), targets.ravel()
    if task == "single_label":
        confidence, right = scores.max(1), (scores.argmax(1) == targets.argmax(1)).astype(float)
    shares, means = sklearn.calibration.calibration_curve(right, confidence, n_bins=15)
    assert [row["accuracy"] for row in found["bins"]] == pytest.approx(shares)
    assert [row["confidence"] for row in found["bins"]] == pytest.approx(means)
    error = 0.0
    for low in range(15):
        inside = [i for i, p in enumerate(confidence) if low / 15 < p <= (low + 1) / 15 or (low == 0 and p == 0)]
        rows = [row for row in found["bins"] if row["from"] == low / 15]
        assert [row["n"] for row in rows] == ([len(inside)] if inside else [])
        if inside:
            error += len(inside) / len(right) * abs(np.mean(confidence[inside]) - np.mean(right[inside]))
    assert found["ece"] == pytest.approx(error, abs=1e-6) and set(rows[0]) == {
        "from", "to", "confidence", "accuracy", "n",
    }  # fmt: skip


def test_the_answer_of_a_clip():
    scores = np.float32([0.2, 0.5, 0.3])
    assert labels.answers(scores, list("abc"), None, 2) == labels.top_k(scores, list("abc"), 2)
    assert labels.answers(scores, list("abc"), np.float32([0.9, 0.5, 0.9]), 1) == [("b", 0.5)]
    assert labels.answers(scores, list("abc"), np.float32([0.9, 0.6, 0.9])) == [("unknown", 0.5)]


# ------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(folder, clips=8)
    return folder


def train(data, exp, *opts):
    path, _ = settings(data)
    call("train", "--config", path, "--data", data, "--fold", 1, "--exp", exp, "--opts", "train.epochs", "1", *opts)
    return exp


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("exp") / "fold1", "train.validation", "0.5")


@pytest.fixture
def model(trained, tmp_path):
    """A copy of the trained model, without calibration."""
    shutil.copytree(trained, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoints", "calibration.json"))
    return tmp_path / "model"


def calibrate(model, data, *options):
    call("calibrate", "--model", model, "--data", data, *options)
    return read_json(model / "calibration.json", "")


def other_data(folder, clips, **changes):
    """A prepared data set of copies of clips under other names."""
    (folder / "other").mkdir(parents=True)
    rows = []
    for n, clip in enumerate(clips):
        path = folder / "other" / f"{n}.wav"
        shutil.copy(clip["audio"], path)
        rows.append({**clip, "id": path.stem, "audio": str(path), "fold": n // 2 % 3, **changes})
    manifest.write(folder, rows, sorted({row["labels"][0] for row in rows}), [])
    shards.extract(folder, rows, frontend.MN, SECONDS, 8, 0, 1)
    return folder


def test_it_uses_the_clips_that_training_set_aside(model, data, monkeypatch, capsys):
    scored = []

    def evaluate(network, records, *args, compute=evaluation.evaluate):
        scored.extend(record["id"] for record in records)
        return compute(network, records, *args)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    found = calibrate(model, data)
    learn, held_out = hold_out(manifest.read(data)[0], 1)
    _, expected = validation_part(learn, 0.5, 0)
    assert sorted(scored) == sorted(record["id"] for record in expected) and len(scored) == found["clips"] == 16
    assert not {record["id"] for record in held_out} & set(scored)
    assert found["fallback"] == LABELS and len(set(found["thresholds"].values())) == 1  # 8 clips of each
    assert found["source"] == "train.validation 0.5" and found["model"] == model_folder.read_meta(model)["sha256"]
    output = capsys.readouterr().out
    assert all(word in output for word in ("temperature", "ECE", "fallback", str(model / "calibration.json")))
    assert model_folder.describe_model(model)["calibration"] == found
    calibrate(model, data, "--precision", "0.5")
    assert "precision 0.5" in capsys.readouterr().out


def test_it_uses_another_data_set(model, data, tmp_path):
    other = tmp_path / "new"
    prepare(other, clips=9, seconds=0.29)  # the same names, but other sounds
    found = calibrate(model, other)
    assert found["clips"] == 54 and found["source"] == str(other) and found["fallback"] == []
    assert set(found["thresholds"]) == set(LABELS)


@pytest.mark.parametrize(("fold", "words"), [(1, ("fold 1", "testing")), (2, ("training",))])
def test_clips_that_the_model_is_tested_or_trained_on_are_refused(model, data, tmp_path, fold, words):
    """Whatever they are called."""
    _, records = hold_out(manifest.read(data)[0], fold)
    line = refusal("calibrate", "--model", model, "--data", other_data(tmp_path / "new", records))
    assert all(word in line for word in (*words, str(tmp_path / "new"), "16"))
    assert not (model / "calibration.json").exists()


def test_clips_of_an_older_model_are_known_by_their_names(model, data, tmp_path):
    """Its list has no checksums of the clips that were held out."""
    other = tmp_path / "new"
    prepare(other, clips=9, seconds=0.29)
    records, _ = manifest.read(data)
    clip_list.write_clip_list(model / "clips.jsonl.gz", records, [None] * len(records))
    line = refusal("calibrate", "--model", model, "--data", other)
    assert "16" in line and "fold 1" in line
    (model / "clips.jsonl.gz").unlink()
    assert "clips.jsonl.gz" in refusal("calibrate", "--model", model, "--data", other)


def test_wrong_labels_are_refused(model, data, monkeypatch):
    """Or a model of another data set: where most answers are wrong, thresholds would mean nothing."""

    def scores(folders, metas, features, records, wrong):
        right = np.array([LABELS.index(record["labels"][0]) for record in records])
        right[:wrong] = 1 - right[:wrong]
        return np.eye(2, dtype=np.float32)[right] * 0.8 + 0.1

    for wrong, refused in ((9, True), (7, False)):  # of 16
        monkeypatch.setattr(calibrate_command, "mean_scores", partial(scores, wrong=wrong))
        if refused:
            assert "right for 7 of 16" in refusal("calibrate", "--model", model, "--data", data)
            assert not (model / "calibration.json").exists()
        else:
            assert calibrate(model, data)["clips"] == 16


def test_copies_in_another_encoding_are_known_by_their_files(tmp_path):
    """By a name that has a long number; short ones, as data sets of all kinds have them, say nothing."""
    kept = [
        {"id": str(n), "audio": f"/a/{name}", "labels": ["x"], "fold": n}
        for n, name in enumerate(("1-100032-A-0.wav", "clip_0001.wav", "dog.wav"))
    ]
    clip_list.write_clip_list(tmp_path / "clips", kept, ["a sound", "another", "a third"])
    known = clip_list.read_clip_list(tmp_path / "clips")
    new = [{**clip, "audio": clip["audio"].replace("/a/", "/b/").replace("wav", "ogg")} for clip in kept]
    sounds = {"0": "a sound, encoded", "1": "new", "2": "new too"}
    assert clip_list.same_clips(known, new, sounds) == [("b/1-100032-A-0.ogg", 0)]
    later = [{**new[0], "start": 1.0, "end": 2.0}]
    assert clip_list.same_clips(known, later, sounds) == []


def test_what_cannot_be_calibrated_is_refused(model, data, tmp_path):
    meta = read_json(model / "model.json", "")
    settings = meta["run"]["config"]["train"]
    settings["validation"] = 0.0
    write_json(model / "model.json", meta)
    line = refusal("calibrate", "--model", model, "--data", data)
    assert all(word in line for word in ("train.validation", "--data", "fold 1"))  # both ways out
    assert "--precision" in refusal("calibrate", "--model", model, "--data", data, "--precision", "1.1")
    assert str(tmp_path) in refusal("calibrate", "--model", tmp_path, "--data", data)
    records, _ = manifest.read(data)
    strange = other_data(tmp_path / "strange", records[:12], labels=["cow"])
    assert "cow" in refusal("calibrate", "--model", model, "--data", strange)
    settings["validation"] = 0.2  # 6 of 32 clips
    write_json(model / "model.json", meta)
    assert "10" in refusal("calibrate", "--model", model, "--data", data)
    assert not list(tmp_path.rglob("calibration.json"))


def test_a_classic_model_has_no_clips_set_aside(data, tmp_path):
    path, _ = settings(data)
    options = ("--config", path, "--data", data, "--fold", 1, "--exp", tmp_path / "tree", "--classifier", "tree")
    options += ("--features", "embeddings")
    call("train_classic", *options, "--opts", "train.validation", "0.5")  # which it is fitted to
    assert "--data" in refusal("calibrate", "--model", tmp_path / "tree", "--data", data)
    call("evaluate", "--model", tmp_path / "tree", "--data", data)
    found = read_json(tmp_path / "tree" / "metrics.json", "")["calibration"]
    assert set(found) == {"ece", "bins"} and sum(row["n"] for row in found["bins"]) == 16
    prepare(tmp_path / "new", clips=9, seconds=0.29)
    assert calibrate(tmp_path / "tree", tmp_path / "new")["clips"] == 54


def written(model, /, **changes):
    """Write a calibration into a model's folder, with changes; None removes a key."""
    meta = model_folder.read_meta(model)
    found = {"model": meta["sha256"], "temperature": 2.0, "thresholds": {"high": 0.9, "low": 0.6}, **changes}
    write_json(model / "calibration.json", {key: value for key, value in found.items() if value is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "abc"}, {"model": None}, {"temperature": None}, {"temperature": 0}, {"temperature": -1.0},
        {"temperature": "2"}, {"temperature": float("nan")}, {"temperature": 1e9}, {"temperature": True},
        {"thresholds": None}, {"thresholds": [0.1, 0.2]}, {"thresholds": {"high": 0.1}},
        {"thresholds": {"high": 0.1, "low": 1.5}}, {"thresholds": {"high": 0.1, "low": float("inf")}},
        {"thresholds": {"high": 0.1, "low": None}}, {"thresholds": {"high": 0.1, "low": 0.1, "cow": 0.1}},
    ],
)  # fmt: skip
def test_a_damaged_calibration_or_that_of_other_weights_is_refused(model, data, changes):
    written(model)
    assert model_folder.describe_model(model)["calibration"]["temperature"] == 2
    written(model, **changes)
    with pytest.raises(runtime.UserError, match=r"calibration\.json: .*calibrate the model again"):
        model_folder.describe_model(model)


def test_a_file_of_anything_else_is_refused_and_can_be_replaced(model, data):
    (model / "calibration.json").write_text("[")
    assert "calibration.json" in refusal("evaluate", "--model", model, "--data", data)
    assert calibrate(model, data)["clips"] == 16


def test_weights_that_are_written_anew_remove_it(model):
    written(model)
    network, _ = model_folder.load_model(model)
    model_folder.save_model(model, network, model_folder.read_meta(model))
    assert not (model / "calibration.json").exists() and "calibration" not in model_folder.describe_model(model)


def test_evaluation_tells_both(model, data, capsys):
    call("evaluate", "--model", model, "--data", data)
    before = read_json(model / "metrics.json", "")
    scores = dict(np.load(model / "scores.npz"))
    expected = reliability.reliability("single_label", scores["scores"], scores["targets"])
    assert before["calibration"] == expected and sum(row["n"] for row in expected["bins"]) == 16
    written(model, thresholds={"high": 0.5, "low": 1.0})
    call("evaluate", "--model", model, "--data", data)  # not up to date
    after, now = read_json(model / "metrics.json", ""), np.load(model / "scores.npz")["scores"]
    np.testing.assert_allclose(now, scipy.special.softmax(np.log(scores["scores"]) / 2, axis=1), atol=1e-6)
    for key in ("accuracy", "accuracy_ci", "macro_f1", "per_class", "confused", "n"):
        assert after[key] == before[key]
    found = after["calibration"]
    assert found["ece_before"] == expected["ece"] and found["temperature"] == 2
    known = now[:, 0] >= 0.5  # of LABELS, high
    assert found["unknown"] == (~known).sum()
    right = scores["targets"][:, 0] == 1  # a score of 0.5 makes `high` the answer
    assert found["accuracy_of_known"] == (right[known].mean() if known.any() else None)
    capsys.readouterr()
    call("evaluate", "--model", model, "--data", data)
    assert "up to date" in capsys.readouterr().out
    (model / "calibration.json").unlink()
    call("evaluate", "--model", model, "--data", data)
    np.testing.assert_array_equal(np.load(model / "scores.npz")["scores"], scores["scores"])
    assert read_json(model / "metrics.json", "")["calibration"] == expected


def tag(model, sound, output, *options):
    call("audio_tag", "--model", model, sound, "--output_dir", output, *options)
    (path,) = output.glob("*.npz")
    return dict(np.load(path)), path


def test_tagging_uses_it(model, data, tmp_path, capsys):
    records, _ = manifest.read(data)
    sound, output = records[0]["audio"], tmp_path / "tags"
    plain, path = tag(model, sound, output)
    assert "thresholds" not in plain and str(plain["model"]) == model_folder.read_meta(model)["sha256"]
    call("parse", "--tagging_file", path, "--output_dir", output, "--format", "csv", "text")
    assert "unknown" not in path.with_suffix(".txt").read_text()
    written(model)
    found, _ = tag(model, sound, output)  # the result of before is not up to date
    assert found["thresholds"].dtype == np.float32 and found["thresholds"].tolist() == np.float32([0.9, 0.6]).tolist()
    expected = scipy.special.softmax(np.log(plain["scores"].astype(float)) / 2, axis=1)
    np.testing.assert_allclose(found["scores"], expected, atol=1e-6)
    for name in ("time", "start", "end", "labels", "backbone"):
        np.testing.assert_array_equal(found[name], plain[name])
    capsys.readouterr()
    tag(model, sound, output)
    assert "up to date" in capsys.readouterr().out
    (model / "calibration.json").unlink()
    again, _ = tag(model, sound, output)
    assert again["scores"].tobytes() == plain["scores"].tobytes() and set(again) == set(plain)


def parsed(path, *options):
    call("parse", "--tagging_file", path, "--output_dir", path.parent, *options)


def test_results_bring_their_thresholds(tmp_path):
    path = tmp_path / "clip.npz"
    arrays = {"time": [0.0], "start": [0.0], "end": [2.0], "labels": ["a", "b"], "thresholds": np.float32([0.8, 0.4])}
    np.savez(path, **arrays, scores=np.float32([[0.7, 0.3]]))
    parsed(path, "--format", "text", "csv")
    assert (tmp_path / "clip.txt").read_text().splitlines()[:2] == ["0.0", f"unknown: {np.float32(0.7)}"]
    (row,) = (tmp_path / "clip.csv").read_text().splitlines()[1:]
    assert row == '0.0,2.0,"unknown",0.7,0.7'
    parsed(path, "--format", "text", "csv", "--threshold", "a=0.6", "--classes", "b")  # it is no b, and not unknown
    assert len((tmp_path / "clip.csv").read_text().splitlines()) == 1
    assert "b: " in (tmp_path / "clip.txt").read_text() and "unknown" not in (tmp_path / "clip.txt").read_text()
    np.savez(path, **arrays, scores=np.float32([[0.5, 0.5]]))
    parsed(path, "--format", "text", "csv")
    assert '"b"' in (tmp_path / "clip.csv").read_text() and '"a"' not in (tmp_path / "clip.csv").read_text()
    assert (tmp_path / "clip.txt").read_text().splitlines()[1:3] == ["a: 0.5", "b: 0.5"]
    parsed(path, "--format", "csv", "--threshold", "0.45")  # for all
    assert '"a"' in (tmp_path / "clip.csv").read_text()
    two = {**arrays, "time": [0.0, 0.5], "start": [0.0, 1.0], "end": [1.0, 2.0]}
    np.savez(path, **two, scores=np.float32([[0.7, 0.3]] * 2))  # over time there is no such answer
    parsed(path, "--format", "text", "csv")
    assert "unknown" not in (tmp_path / "clip.txt").read_text() + (tmp_path / "clip.csv").read_text()


@pytest.mark.parametrize("wrong", [[0.1], [0.1, 0.2, 0.3], [0.1, np.nan], [0.1, 2.0], ["a", "b"], [[0.1, 0.2]]])
def test_wrong_thresholds_of_a_result_are_refused(tmp_path, wrong):
    path = tmp_path / "clip.npz"
    np.savez(
        path, time=[0.0], start=[0.0], end=[2.0], labels=["a", "b"], scores=np.float32([[0.7, 0.3]]), thresholds=wrong
    )
    assert str(path) in refusal("parse", "--tagging_file", path, "--output_dir", tmp_path)


def test_listening_uses_it(model):
    written(model)
    meta = model_folder.describe_model(model)

    class Args:
        threshold, low_threshold, given = 0.4, 0.2, set()

    high, low = listen.event_thresholds(Args, meta)
    np.testing.assert_allclose([high, low], [[0.9, 0.6], [0.45, 0.3]])
    Args.given = {"threshold"}
    assert listen.event_thresholds(Args, meta) == (0.4, 0.2)
    predict = listen.calibrated(lambda log_mel: {"scores": log_mel}, meta)
    scores = np.float32([[0.8, 0.2]])
    np.testing.assert_allclose(predict(scores)["scores"], [[2 / 3, 1 / 3]], rtol=1e-6)
    plain = listen.calibrated(lambda log_mel: {"scores": log_mel}, model_folder.read_meta(model))
    assert plain(scores)["scores"] is scores


def test_an_exported_model_tells_it(model):
    network, _ = model_folder.load_model(model)
    written(model)
    found = export.information(network, model_folder.describe_model(model))
    assert found["temperature"] == 2 and found["thresholds"] == {"high": 0.9, "low": 0.6}
    assert "temperature" not in export.information(network, model_folder.read_meta(model))
