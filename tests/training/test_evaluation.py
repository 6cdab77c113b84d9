"""Training and evaluation: against an uninterrupted run, scores worked out by hand, and scikit-learn."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
import scipy.special
import sklearn.metrics
from conftest import ROOT
from paddletag.data import manifest
from paddletag.features import frontend, shards
from paddletag.files import read_json, write_json
from paddletag.models import model_folder, registry
from paddletag.tagging import scoring
from paddletag.training import evaluation
from prepared import LABELS, SECONDS, call, prepare, refusal, settings

pytestmark = pytest.mark.filterwarnings("ignore:When training, we now always track")


LOCAL = ROOT / "local"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(folder)
    return folder


def arguments(data, exp, *opts, fold=1):
    path, _ = settings(data)
    return "--config", path, "--data", data, "--fold", fold, "--exp", exp, "--opts", *opts


def weights(exp):
    return (exp / "model.safetensors").read_bytes()


def finish(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def test_a_killed_run_goes_on_to_the_same_bits(data, tmp_path):
    def start(exp):
        command = [sys.executable, str(LOCAL / "train.py"), *map(str, arguments(data, exp, "train.epochs", "4"))]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole))
    process = start(killed)
    while process.poll() is None and not (killed / "checkpoints" / "last.safetensors").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (killed / "model.json").exists()
    epochs = re.search(r"going on after epoch (\d) of 4", finish(start(killed)))
    assert epochs and int(epochs[1]) in (1, 2, 3)
    assert weights(killed) == weights(whole)
    assert len(list(csv.DictReader(open(killed / "history.csv")))) == 4


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """exp/fold1 and exp/fold2, trained for a few epochs and evaluated."""
    exp = tmp_path_factory.mktemp("exp")
    for fold in (1, 2):
        call("train", *arguments(data, exp / f"fold{fold}", fold=fold))
        call("evaluate", "--model", exp / f"fold{fold}", "--data", data)
    return exp


def test_the_loss_falls_and_is_on_record(data, tmp_path):
    plain = [word for name in ("mixup", "roll", "gain", "freq_mask", "time_mask") for word in (f"augment.{name}", "0")]
    plain += ["train.epochs", "10", "train.lr", "1e-2", "train.batch_size", "16"]
    call("train", *arguments(data, tmp_path, *plain))
    rows = list(csv.DictReader(open(tmp_path / "history.csv")))
    assert [row["epoch"] for row in rows] == [str(n + 1) for n in range(10)]
    assert float(rows[0]["loss"]) == pytest.approx(np.log(2), abs=0.05)  # a fresh head knows nothing
    assert float(rows[-1]["loss"]) < 0.2 and float(rows[-1]["accuracy"]) == 1
    text = (tmp_path / "train.log").read_text()
    line = r"TRAIN\] - Epoch=10/10, Step=1/1 loss=\d\.\d+ acc=\d\.\d+ lr=\S+ reader_cost=\S+ batch_cost=\S+ ips=\S+"
    assert re.search(line + r" samples/s \| ETA 00:00:00$", text, re.M)
    assert float(rows[-1]["lr"]) == pytest.approx(1e-4) and "lr=1.000e-04" in text


def test_the_folder_says_how_it_was_made(trained, data):
    meta = model_folder.read_meta(trained / "fold2")
    assert meta["run"]["fold"] == 2 and meta["labels"] == LABELS and meta["clip_seconds"] == SECONDS
    assert meta["run"]["config"]["train"]["epochs"] == 3 and meta["trained"]["steps"] == 12
    assert {"python", "numpy", "soxr"} <= set(meta["versions"]) and "cores" in meta["machine"]


def test_a_finished_run_is_not_run_again(trained, data, capsys):
    fold = trained / "fold1"
    before = {path: path.stat().st_mtime_ns for path in fold.rglob("*") if path.name != "train.log"}
    call("train", *arguments(data, fold))
    call("train", *arguments(data, fold, "train.log_freq", "7", "train.workers", "1", "evaluate.batch_size", "3"))
    call("evaluate", "--model", fold, "--data", data)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    output = capsys.readouterr().out
    assert output.count("up to date") == 3 and "accuracy" in output


def test_another_run_in_the_same_folder_is_refused_by_the_keys_that_differ(trained, data):
    line = refusal("train", *arguments(data, trained / "fold1", "train.lr", "1", "train.log_freq", "9"))
    assert re.search(r"train\.lr .*0\.003.*1\.0", line) and "log_freq" not in line and "--exp" in line
    assert re.search(r"\bfold .*1.*3", refusal("train", *arguments(data, trained / "fold1", fold=3)))


def test_weights_of_a_path(trained, data, tmp_path, capsys):
    """They are compared by content, not needed once the run is finished, and refused if they have met the fold."""
    file = tmp_path / "start.safetensors"
    file.write_bytes((trained / "fold1" / "model.safetensors").read_bytes())
    start = ("model.weights", file, "train.epochs", "1")
    call("train", *arguments(data, tmp_path / "a", *start))
    file.write_bytes((trained / "fold2" / "model.safetensors").read_bytes())
    assert "weights" in refusal("train", *arguments(data, tmp_path / "a", *start))
    file.unlink()
    call("train", *arguments(data, tmp_path / "a", *start))
    assert "up to date" in capsys.readouterr().out
    assert str(file) in refusal("train", *arguments(data, tmp_path / "b", *start))
    leaking = ("model.weights", trained / "fold1" / "model.safetensors")  # it was trained on folds 2 and 3
    line = refusal("train", *arguments(data, tmp_path / "c", *leaking, fold=2))
    assert "model.weights" in line and "fold 2" in line
    call("train", *arguments(data, tmp_path / "d", *leaking, "train.epochs", "1", fold=1))


def test_a_folder_without_its_checkpoints_still_knows_how_it_was_trained(trained, data, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(trained / "fold1", copy, ignore=shutil.ignore_patterns("checkpoints"))
    call("train", *arguments(data, copy))
    assert "up to date" in capsys.readouterr().out
    assert re.search(r"train\.epochs .*3.*9", refusal("train", *arguments(data, copy, "train.epochs", "9")))


def test_lost_weights_come_back_from_the_last_checkpoint(trained, data, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained / "fold1", copy)
    (copy / "model.safetensors").unlink()
    call("train", *arguments(data, copy))
    assert weights(copy) == weights(trained / "fold1")


def test_a_run_that_came_to_nothing_can_be_mended_in_place(data, tmp_path):
    line = refusal("train", *arguments(data, tmp_path, "train.batch_size", "17", "train.accumulate", "17"))
    assert "16 clips" in line and "train.accumulate 17" in line
    line = refusal("train", *arguments(data, tmp_path, "train.lr", "1e30"))
    assert "4 steps" in line and line.endswith("train.lr")
    assert not (tmp_path / "model.json").exists()
    call("train", *arguments(data, tmp_path, "train.epochs", "1"))
    assert (tmp_path / "model.json").exists()


RANK = """
import sys
import numpy as np
from paddletag import config
from paddletag.data import manifest
from paddletag.data.splits import hold_out
from paddletag.features import frontend, shards
from paddletag.models import registry
from paddletag.training import distributed, evaluation, loop
data, yaml, exp = sys.argv[1:]
distributed.init()
settings = config.load(yaml, ["train.batch_size", "2", "train.epochs", "2"])
records, labels = manifest.read(data)
features = shards.open_shards(data, frontend.MN, settings.data.clip_seconds, records)
learn, held_out = hold_out(records, 1)
model = registry.create_model("mn01_as", 2, seed=distributed.rank())
loop.train(model, settings, learn, labels, features, exp)
read = []
class Listening:
    def __getitem__(self, id):
        read.append(id)
        return features[id]
scores = evaluation.evaluate(model, held_out[:7], Listening(), "single_label", settings.data.clip_seconds, 2)
state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
np.savez(f"{exp}/rank{distributed.rank()}.npz", read=read, scores=scores, **state)
"""


def test_two_processes_end_with_one_model_and_every_score(data, tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    path, _ = settings(data)
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--enable_gpu_log", "False"]
    command += ["--log_dir", tmp_path / "log", LOCAL / "paddletag" / "launch" / "worker.py", tmp_path / "rank.py"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XPU_VISIBLE_DEVICES": "all", "PYTHONPATH": str(LOCAL)}
    done = subprocess.run([*map(str, command), data, path, tmp_path], env=env, capture_output=True, timeout=120)
    log = "".join(file.read_text() for file in (tmp_path / "log").glob("workerlog.*"))
    assert done.returncode == 0, log
    ranks = []
    for rank in (0, 1):
        with np.load(tmp_path / f"rank{rank}.npz") as file:
            ranks.append(dict(file))
    read = [rank.pop("read").tolist() for rank in ranks]
    assert sorted(map(len, read)) == [3, 4] and len({*read[0], *read[1]}) == 7
    for name, array in ranks[0].items():  # weights and BatchNorm's statistics, though they began differently
        np.testing.assert_array_equal(array, ranks[1][name], err_msg=name)
    scores = ranks[0].pop("scores")
    model = registry.create_model("mn01_as", 2)
    model.set_state_dict(ranks[0])
    model.eval()
    records, features = opened(data)
    alone = evaluation.evaluate(model, [r for r in records if r["fold"] == 1][:7], features, "single_label", SECONDS, 2)
    np.testing.assert_allclose(scores, alone, atol=1e-6)


class Stub:
    """A model whose logits can be worked out: the mean of the window, and of its first mel."""

    layout = "FT"
    front_end = frontend.MN

    def embed(self, x):
        return x

    def classify(self, x):
        assert not paddle.is_grad_enabled()  # it would keep every activation
        return paddle.stack([x.mean([1, 2, 3]), x[:, 0, 0].mean(1)], axis=1)


def by_hand(log_mel):
    return np.array([log_mel.mean(), log_mel[:, 0].mean()])


def test_clip_scores_are_means_over_windows():
    generator = np.random.default_rng(0)
    length = frontend.MN.frames(round(SECONDS * 32000))
    clips = {key: generator.standard_normal((n * length, 128)).astype(np.float32) for key, n in (("a", 1), ("b", 3))}
    found = scoring.clip_scores(Stub(), clips.items(), "single_label", SECONDS, batch_size=3)
    assert list(found) == ["a", "b"] and found["a"].dtype == np.float32
    np.testing.assert_allclose(found["a"], scipy.special.softmax(by_hand(clips["a"])), rtol=1e-5)
    windows = [scipy.special.softmax(by_hand(clips["b"][k * length : (k + 1) * length])) for k in range(3)]
    np.testing.assert_allclose(found["b"], np.mean(windows, axis=0), rtol=1e-5)
    multi = scoring.clip_scores(Stub(), clips.items(), "multi_label", SECONDS, batch_size=3)
    np.testing.assert_allclose(multi["a"], scipy.special.expit(by_hand(clips["a"])), rtol=1e-5)


def test_layouts():
    log_mel = paddle.arange(2 * 5 * 3).reshape([2, 5, 3])
    for layout, shape, value in (("FT", [2, 1, 3, 5], log_mel[1, 4, 2]), ("TF", [2, 1, 5, 3], log_mel[1, 4, 2])):
        found = scoring.to_input(SimpleNamespace(layout=layout), log_mel)
        assert found.shape == shape and int(found[1, 0, -1, -1]) == int(value)
    assert int(scoring.to_input(SimpleNamespace(layout="FT"), log_mel)[0, 0, 2, 1]) == int(log_mel[0, 1, 2])


def test_predicting_leaves_the_callers_gradients_on():
    for _ in scoring.predict(Stub(), [(["a"], np.zeros((1, 30, 128), np.float32))] * 2, "single_label"):
        assert paddle.is_grad_enabled()


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_evaluate_scores_in_the_order_of_the_records(data, batch_size):
    records, features = opened(data)
    records = [records[i] for i in np.random.default_rng(0).permutation(len(records))[:7]]
    found = evaluation.evaluate(Stub(), records, features, "single_label", SECONDS, batch_size)
    expected = [scipy.special.softmax(by_hand(features[record["id"]].astype(np.float64))) for record in records]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def opened(data):
    records, _ = manifest.read(data)
    return records, shards.open_shards(data, frontend.MN, SECONDS, records)


def test_metrics_are_those_of_the_scores_on_record(trained, data):
    metrics = read_json(trained / "fold1" / "metrics.json", "")
    with np.load(trained / "fold1" / "scores.npz") as file:
        arrays = dict(file)
    records, _ = opened(data)
    assert arrays["ids"].tolist() == [record["id"] for record in records if record["fold"] == 1]
    truth = [LABELS.index(record["labels"][0]) for record in records if record["fold"] == 1]
    np.testing.assert_array_equal(arrays["targets"], np.eye(2)[truth])
    np.testing.assert_allclose(arrays["scores"].sum(1), 1, rtol=1e-5)
    assert metrics["n"] == 8 and metrics["fold"] == 1
    assert metrics["accuracy"] == sklearn.metrics.accuracy_score(truth, arrays["scores"].argmax(1))
    assert (trained / "fold1" / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_does_not_touch_the_model_and_can_be_repeated(trained, data, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained / "fold1", copy)
    for name in ("metrics.json", "scores.npz"):
        (copy / name).unlink()
        call("evaluate", "--model", copy, "--data", data)
    for name in ("model.safetensors", "model.json"):
        assert (copy / name).read_bytes() == (trained / "fold1" / name).read_bytes()
    one, other = (read_json(folder / "metrics.json", "") for folder in (copy, trained / "fold1"))
    assert str(copy) in one.pop("command") and str(trained / "fold1") in other.pop("command") and one == other
    write_json(copy / "metrics.json", one)  # as it was before commands were in it: up to date, too
    before = (copy / "metrics.json").stat().st_mtime_ns
    call("evaluate", "--model", copy, "--data", data)
    assert (copy / "metrics.json").stat().st_mtime_ns == before


def test_a_fold_that_the_model_was_trained_on_is_refused(trained, data):
    line = refusal("evaluate", "--model", trained / "fold1", "--data", data, "--fold", 2)
    assert "--fold 2" in line and str(trained / "fold1") in line and " fold 1 " in line
    line = refusal("evaluate", "--model", trained / "fold1", "--data", data, "--fold", 9)
    assert "fold 9" in line and "1, 2, 3" in line


@pytest.mark.parametrize("key", ["fold", "data"])
def test_a_record_without_what_was_held_out_is_refused(trained, data, tmp_path, key):
    shutil.copytree(trained / "fold1", tmp_path / "copy")
    path = tmp_path / "copy" / "model.json"
    meta = read_json(path, "")
    del meta["run"][key]
    write_json(path, meta)
    line = refusal("evaluate", "--model", tmp_path / "copy", "--data", data)
    assert str(path) in line and key in line


def test_folds_dealt_out_anew_are_refused(trained, tmp_path):
    records, _ = prepare(tmp_path)
    manifest.write(tmp_path, [{**record, "fold": record["fold"] % 3 + 1} for record in records], LABELS, [])
    line = refusal("evaluate", "--model", trained / "fold1", "--data", tmp_path)
    assert str(tmp_path) in line and str(trained / "fold1") in line
    (tmp_path / "labels.txt").write_text("low\nhigh\n")
    assert "labels" in refusal("evaluate", "--model", trained / "fold1", "--data", tmp_path)


def test_stages_out_of_order(data, tmp_path):
    assert "stage 0" in refusal("train", *arguments(tmp_path, tmp_path / "exp"))
    assert not (tmp_path / "exp").exists()
    assert "stage 2" in refusal("evaluate", "--model", tmp_path / "exp", "--data", data)
    shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("features"))
    assert "stage 1" in refusal("train", *arguments(tmp_path / "data", tmp_path / "exp"))
    assert "stage 1" in refusal("train", *arguments(data, tmp_path / "exp", "data.clip_seconds", "0.4"))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_the_result(data, trained, tmp_path, workers):
    call("train", *arguments(data, tmp_path, "train.workers", str(workers)))
    assert weights(tmp_path) == weights(trained / "fold1")


def test_the_seed_does(data, trained, tmp_path):
    call("train", *arguments(data, tmp_path, "train.seed", "1"))
    assert weights(tmp_path) != weights(trained / "fold1")
