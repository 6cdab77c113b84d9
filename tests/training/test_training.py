"""The training loop: against uninterrupted runs, whole batches, one process, and sums worked out by hand."""

import contextlib
import csv
import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import ROOT
from paddletag import config as configs
from paddletag import runtime
from paddletag.data import manifest
from paddletag.data.splits import hold_out, validation_part
from paddletag.features import frontend, shards
from paddletag.features.batches import TrainBatches, multi_hot
from paddletag.models import backbone, model_folder, registry, weight_files
from paddletag.tagging import scoring
from paddletag.training import bad_steps, checkpoint, evaluation, learners, loop, mixed_precision
from prepared import LABELS, PLAIN, SECONDS, call, command, prepare, refusal, report_data, settings
from safetensors import safe_open

pytestmark = pytest.mark.filterwarnings("ignore:When training, we now always track")

LOCAL = ROOT / "local"
EVERYTHING = (  # all that has a state of its own, or is drawn at random
    "train.epochs", "3", "train.ema", "0.9", "train.sampler", "balanced", "train.accumulate", "2",
    "train.save_steps", "1", "train.batch_size", "4", "train.frozen_epochs", "1", "train.layer_decay", "0.9",
    "train.validation", "0.2", "train.select", "best", "train.clip_norm", "5",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(folder)
    settings(folder)
    return folder


@pytest.fixture(scope="module")
def warm(data, tmp_path_factory):
    """`--opts` for weights that know the tones a little: frozen BatchNorms of random ones let nothing through."""
    exp = tmp_path_factory.mktemp("warm")
    train(data, exp, *PLAIN, "model.bn_momentum", "0.5", "train.epochs", "2")
    return "model.weights", exp / "model.safetensors"


def arguments(data, exp, *opts):
    return "--config", data / "tiny.yaml", "--data", data, "--fold", 1, "--exp", exp, "--opts", *opts


def train(data, exp, *opts):
    """(the trained weights as arrays, the rows of history.csv)."""
    call("train", *arguments(data, exp, *opts))
    return weights(exp), history(exp)


def weights(exp):
    return weight_files.read(exp / "model.safetensors")


def history(exp):
    with open(exp / "history.csv") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def same(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def killed_until_done(command, exp, kills, seed, longest=0.4):
    """Run a command again and again, killing it at random moments of its training, until it ends by itself.

    Every other time the moment is in the middle of writing a checkpoint. Returns how often it was killed.
    """
    generator, killed, log = random.Random(seed), 0, exp / "train.log"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(LOCAL)}
    while True:
        old = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        begin, wait = None, generator.uniform(0, longest)
        while process.poll() is None:
            if begin is None:
                begin = time.monotonic() if log.exists() and log.stat().st_size > old else None
            elif killed < kills and time.monotonic() > begin + wait:
                if killed % 2 or list((exp / "checkpoints").glob(".last.*.tmp")):
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    killed += 1
                    break
            time.sleep(0.001)
        else:
            output = process.communicate()[0]
            assert process.returncode == 0, output
            return killed


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.full)])
def test_killed_at_random_moments_it_ends_in_the_same_bits(data, tmp_path, kills):
    opts = (*EVERYTHING, "train.epochs", str(4 * kills))
    whole, _ = train(data, tmp_path / "whole", *opts)
    command = [sys.executable, LOCAL / "train.py", *arguments(data, tmp_path / "killed", *opts)]
    assert killed_until_done([str(word) for word in command], tmp_path / "killed", kills, seed=kills) == kills
    assert same(weights(tmp_path / "killed"), whole)
    for one, other in zip(history(tmp_path / "killed"), history(tmp_path / "whole"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6) and one["valid_loss"] == other["valid_loss"]


def spoil(monkeypatch, is_bad):
    """Clips of the steps for which is_bad(step of the run) are not numbers; an epoch has 4 steps."""
    item = TrainBatches.__getitem__

    def spoilt(self, step):
        log_mel, targets = item(self, step)
        return (log_mel * np.float32(np.nan) if is_bad(self.epoch * 4 + step) else log_mel), targets

    monkeypatch.setattr(TrainBatches, "__getitem__", spoilt)


def test_a_step_that_is_not_finite_is_skipped_and_counted(data, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, lambda step: step == 6)
    trained, rows = train(data, tmp_path, "train.ema", "0.5")
    assert all(np.isfinite(array).all() for array in trained.values())  # BatchNorm's statistics among them
    assert [row["skipped"] for row in rows] == [0, 1, 1] and all(math.isfinite(row["loss"]) for row in rows)
    assert model_folder.read_meta(tmp_path)["trained"]["skipped"] == 1
    assert "skipped step 3 of epoch 2" in capsys.readouterr().out


def test_a_run_of_such_steps_ends_and_goes_on_when_its_cause_is_gone(data, tmp_path, monkeypatch):
    opts = ("train.epochs", "5", "train.max_bad_steps", "3")
    with monkeypatch.context() as patch:
        spoil(patch, lambda step: step >= 6)
        line = refusal("train", *arguments(data, tmp_path, *opts))
    assert "3 steps in a row" in line and "step 1 of epoch 3" in line
    call("train", *arguments(data, tmp_path, *opts))
    assert "going on after epoch 1 of 5" in (tmp_path / "train.log").read_text()
    whole, _ = train(data, tmp_path / "whole", *opts)
    assert same(weights(tmp_path), whole)


def test_the_last_steps_of_an_epoch_and_of_the_run_may_be_bad(data, tmp_path, monkeypatch):
    spoil(monkeypatch, lambda step: step in (3, 11))
    trained, rows = train(data, tmp_path)
    assert [row["skipped"] for row in rows] == [1, 1, 2] and all(np.isfinite(array).all() for array in trained.values())
    call("train", *arguments(data, tmp_path, "train.epochs", "4"), "--extend", "true")
    assert [row["epoch"] for row in history(tmp_path)] == [1, 2, 3, 4]


class Scaler:
    """A stand-in for a loss scaler on a GPU: the steps of these numbers overflow, and are not taken."""

    overflows: set = set()

    def __init__(self, enable):
        self.enabled, self.number, self.factor = enable, 0, 1024.0

    def is_enable(self):
        return self.enabled

    def scale(self, loss):
        return loss * (np.float32(np.inf) if self.number in self.overflows else 1)

    def step(self, optimizer):
        if self.number not in self.overflows:
            optimizer.step()

    def update(self):
        self.factor /= 1 + (self.number in self.overflows)
        self.number += 1

    def state_dict(self):
        return {"scale": np.array([self.factor], np.float32), "number": self.number}

    def load_state_dict(self, state):
        self.factor, self.number = float(state["scale"][0]), int(state["number"])


def scaled(data, exp, monkeypatch, overflows, *opts, drawn=None):
    """A run in float16 whose steps of these numbers overflow: its history, and the epochs of its checkpoints.

    drawn: a list that the rows of its learning curve are added to.
    """
    monkeypatch.setattr(paddle.amp, "GradScaler", Scaler)
    monkeypatch.setattr(Scaler, "overflows", set(overflows))
    path, epochs = data / "tiny.yaml", []
    config = configs.load(path, ["train.amp", "O1", "train.amp_dtype", "float16", *PLAIN, *opts])
    save_state = checkpoint.save_state

    def save(path, model, optimizer, progress, *others):
        epochs.append(progress["epoch"])
        save_state(path, model, optimizer, progress, *others)

    monkeypatch.setattr(checkpoint, "save_state", save)
    records, labels = manifest.read(data)
    features = shards.open_shards(data, frontend.MN, SECONDS, records)
    learn, _ = hold_out(records, 1)
    model = registry.create_model("mn01_as", len(labels))
    draw = None if drawn is None else drawn.extend
    result = loop.train(model, config, learn, labels, features, exp, draw=draw)
    assert all(np.isfinite(tensor.numpy()).all() for tensor in model.state_dict().values())
    return result, history(exp), epochs


@pytest.mark.filterwarnings("ignore:amp_guard")
def test_an_overflow_of_the_loss_scale_ends_no_run_and_costs_no_checkpoint(data, tmp_path, monkeypatch):
    """At an epoch's end, and at the very last step; and more of them in a row than an epoch has steps."""
    result, rows, epochs = scaled(data, tmp_path / "a", monkeypatch, (3, 11))
    assert result["skipped"] == 2 and [row["skipped"] for row in rows] == [1, 1, 2] and epochs == [1, 2, 3]
    result, rows, epochs = scaled(data, tmp_path / "b", monkeypatch, range(6))
    assert result["skipped"] == 6 and epochs == [1, 2, 3]
    with pytest.raises(runtime.UserError, match="3 steps in a row"):
        scaled(data, tmp_path / "c", monkeypatch, range(12), "train.max_bad_steps", "3", drawn=(drawn := []))
    assert drawn == []
    with pytest.raises(runtime.UserError, match="last epoch"):
        scaled(data, tmp_path / "d", monkeypatch, range(8, 12), drawn=drawn)
    assert [row["epoch"] for row in drawn] == [1, 2, 3]  # the curve shows what has gone wrong


@pytest.mark.filterwarnings("ignore:amp_guard")
def test_a_loss_scale_is_part_of_a_checkpoint(data, tmp_path, monkeypatch):
    scaled(data, tmp_path, monkeypatch, (2, 3, 5), "train.epochs", "2")
    with safe_open(tmp_path / "checkpoints/last.safetensors", "numpy") as file:
        kept = json.loads(file.metadata()["progress"])
    assert kept["scaler"] == {"scale": [128.0], "number": 8}
    result, rows, epochs = scaled(data, tmp_path, monkeypatch, (9,))
    assert epochs == [3] and len(rows) == 3 and result["skipped"] == 4  # step 9 is the second of the third epoch
    with safe_open(tmp_path / "checkpoints/last.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["progress"])["scaler"] == {"scale": [64.0], "number": 12}


def test_validation_computes_in_the_precision_of_training(data, tmp_path, monkeypatch):
    inside, cast, evaluate = [], mixed_precision.Precision.cast, evaluation.evaluate

    @contextlib.contextmanager
    def recorded(self):
        inside.append(True)
        with cast(self):
            yield
        inside.pop()

    def checked(*args, **kwargs):
        assert inside
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(mixed_precision.Precision, "cast", recorded)
    monkeypatch.setattr(evaluation, "evaluate", checked)
    train(data, tmp_path, "train.validation", "0.3", "train.epochs", "1")


def test_statistics_are_undone_where_batchnorm_follows_the_batches(data):
    model = registry.create_model("mn01_as", 2)
    backbone.freeze(model, 3)
    learners.train_mode(model)
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    backup = bad_steps.StatisticsBackup(model)
    backup.save()
    model(paddle.randn([2, 1, 128, 40]))
    moved = {name for name, tensor in model.state_dict().items() if (tensor.numpy() != before[name]).any()}
    norms = {name for name in before if name.endswith(("._mean", "._variance"))}
    assert moved == {name for name in norms if not name.startswith(("features.0.", "features.1.", "features.2."))}
    assert sum(tensor.size for tensor in backup.tensors) == sum(before[name].size for name in moved)
    backup.restore()
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name], err_msg=name)


def test_a_run_of_before_counted_the_clips_of_a_process(data, tmp_path):
    """Its record is understood in today's words: a step of 4 clips on each of two processes is one of 8."""
    opts = ("train.epochs", "1")
    train(data, tmp_path, *opts)
    meta = json.loads((tmp_path / "model.json").read_text())
    assert meta["run"].pop("batch") == "step"
    for path in (tmp_path / "model.json", tmp_path / "checkpoints/run.json"):
        run = {**meta["run"], "processes": 2}
        path.write_text(json.dumps({**meta, "run": run} if path.name == "model.json" else run))
        line = refusal("train", *arguments(data, tmp_path, *opts))
        assert re.search(r"train\.batch_size .*8.*4.*train\.batch_size .*8", line)
        assert re.search(r"processes .*2.*1", line)
        assert "batch_size" not in refusal("train", *arguments(data, tmp_path, *opts, "train.batch_size", "8"))
        path.write_text(json.dumps(meta if path.name == "model.json" else meta["run"]))
        if path.name == "model.json":
            call("train", *arguments(data, tmp_path, *opts))  # one process and pass: nothing has changed
            path.unlink()  # as if it had been interrupted


def test_a_run_of_before_had_fewer_settings(data, tmp_path, capsys):
    """Those that came later have the defaults that it was trained under."""
    train(data, tmp_path)
    meta = json.loads((tmp_path / "model.json").read_text())
    del meta["run"]["config"]["train"]["loss"], meta["run"]["config"]["classic"]
    (tmp_path / "model.json").write_text(json.dumps(meta))
    call("train", *arguments(data, tmp_path))
    assert "up to date" in capsys.readouterr().out
    line = refusal("train", *arguments(data, tmp_path, "train.loss", "binary"))
    assert re.search("train.loss .*cross_entropy.*binary", line)


def test_a_step_that_does_not_divide_is_refused(data, tmp_path):
    line = refusal("train", *arguments(data, tmp_path, "train.accumulate", "3"))
    assert "train.batch_size 4" in line and "3 and 6" in line and not (tmp_path / "train.log").exists()
    assert "train.amp" in refusal("train", *arguments(data, tmp_path, "train.amp", "O2"))


def test_fewer_clips_than_a_batch_make_a_smaller_one(data, tmp_path, monkeypatch, capsys):
    """As a run that asks for the 16 clips there are, with the record of what was asked for; interrupted, the same."""
    few, rows = train(data, tmp_path / "few", "train.batch_size", "100")
    assert re.search(r"WARNING.*train\.batch_size 100 .*16 clips.*train\.lr", capsys.readouterr().out)
    assert same(few, train(data, tmp_path / "fitting", "train.batch_size", "16")[0]) and len(rows) == 3
    meta = model_folder.read_meta(tmp_path / "few")
    assert meta["run"]["config"]["train"]["batch_size"] == 100 and meta["trained"]["batch_size"] == 16
    assert meta["trained"]["steps"] == 3
    assert "batch_size was 100" in refusal("train", *arguments(data, tmp_path / "few", "train.batch_size", "16"))

    epoch = loop.train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", lambda run, number: epoch(run, number) if number < 2 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(data, tmp_path / "cut", "train.batch_size", "100")
    assert same(few, train(data, tmp_path / "cut", "train.batch_size", "100")[0])

    passes = ("train.batch_size", "100", "train.accumulate", "5")  # 15 of 16 clips
    train(data, tmp_path / "passes", *passes)
    assert model_folder.read_meta(tmp_path / "passes")["trained"]["batch_size"] == 15
    line = refusal("train", *arguments(data, tmp_path / "none", "train.batch_size", "100", "train.accumulate", "20"))
    assert "16 clips" in line and "20" in line and not (tmp_path / "none").exists()


def test_a_run_is_not_trained_again_for_its_seed(data, tmp_path, monkeypatch, capsys):
    """With --seeds and without, in either order; another seed, and other settings, are other runs."""
    call("train", *arguments(data, tmp_path / "fold1"))
    (tmp_path / "fold1" / "metrics.json").write_text("{}")
    before = {path: path.read_bytes() for path in (tmp_path / "fold1").rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", lambda *args: pytest.fail("it is trained again"))
        call("train", *arguments(data, tmp_path / "seed0" / "fold1", "train.seed", "0"))
    assert same(weights(tmp_path / "fold1"), weights(tmp_path / "seed0" / "fold1"))
    assert not (tmp_path / "seed0" / "fold1" / "metrics.json").exists()  # stage 3 makes it there
    call("train", *arguments(data, tmp_path / "seed1" / "fold1", "train.seed", "1"))
    assert not same(weights(tmp_path / "fold1"), weights(tmp_path / "seed1" / "fold1"))
    call("train", *arguments(data, tmp_path / "other" / "seed0" / "fold1"))
    call("train", *arguments(data, tmp_path / "other" / "fold1", "train.epochs", "2"))
    assert [len(history(tmp_path / "other" / name)) for name in ("fold1", "seed0/fold1")] == [2, 3]
    assert before == {path: path.read_bytes() for path in (tmp_path / "fold1").rglob("*") if path.is_file()}
    # what was copied is a run like any other
    capsys.readouterr()
    call("train", *arguments(data, tmp_path / "seed0" / "fold1", "train.seed", "0"))
    assert "up to date" in capsys.readouterr().out
    call("train", "--extend", "true", *arguments(data, tmp_path / "seed0" / "fold1", "train.epochs", "4"))
    assert len(history(tmp_path / "seed0" / "fold1")) == 4 and len(history(tmp_path / "fold1")) == 3


def test_epochs_that_leave_nothing_to_learn_are_a_warning(tmp_path, capsys):
    runtime.start_log()

    def warning(*opts):
        command("train").warn_of_epochs(settings(tmp_path, *opts)[1])
        return capsys.readouterr().out

    for opts in ("train.frozen_epochs 3", "train.warmup_epochs 3"):
        assert re.fullmatch(f".*WARNING.*{opts} of train.epochs 3.*\n", warning(*opts.split()))
    assert not warning("train.frozen_epochs", "2") and not warning("train.frozen_epochs", "3", "model.freeze", "all")


def test_extending_a_finished_run(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RECIPE_COMMAND", "bash run.sh")
    train(data, tmp_path)
    longer = arguments(data, tmp_path, "train.epochs", "5")
    assert "--extend true" in refusal("train", *longer)
    assert model_folder.read_meta(tmp_path)["command"] == "bash run.sh"
    monkeypatch.setenv("RECIPE_COMMAND", "bash run.sh --extend true")
    call("train", "--extend", "true", *longer)
    assert model_folder.read_meta(tmp_path)["command"] == "bash run.sh\nbash run.sh --extend true"
    assert "going on after epoch 3 of 5" in capsys.readouterr().out
    assert [row["epoch"] for row in history(tmp_path)] == [1, 2, 3, 4, 5]
    assert model_folder.read_meta(tmp_path)["trained"]["epochs"] == 5
    call("train", "--extend", "true", *longer)
    assert "up to date" in capsys.readouterr().out
    shorter = arguments(data, tmp_path, "train.epochs", "4")
    assert re.search(r"train\.epochs .*5.*4", refusal("train", "--extend", "true", *shorter))
    line = refusal("train", "--extend", "true", *arguments(data, tmp_path, "train.epochs", "9", "train.lr", "1"))
    assert re.search(r"train\.lr .*0\.003.*1\.0", line)


def test_gradients_gathered_over_two_passes_are_those_of_the_whole_batch(data, warm, tmp_path):
    """Where nothing depends on the batch: BatchNorm frozen, no dropout, no augmentation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paddle.nn.Dropout, "forward", lambda self, x: x)
        opts = (*PLAIN, *warm, "model.freeze_bn", "true", "train.optimizer", "sgd", "train.lr", "0.01")
        whole, _ = train(data, tmp_path / "whole", *opts, "train.batch_size", "8")
        parts, _ = train(data, tmp_path / "parts", *opts, "train.batch_size", "8", "train.accumulate", "4")
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], atol=2e-6, err_msg=name)
    start = weight_files.read(warm[1])
    assert any(np.abs(whole[name] - start[name]).max() > 1e-3 for name in whole)


def test_while_frozen_the_head_alone_learns(data, tmp_path):
    start = {name: tensor.numpy() for name, tensor in registry.create_model("mn01_as", 2).state_dict().items()}
    frozen, _ = train(data, tmp_path / "frozen", "train.frozen_epochs", "3")
    changed = {name for name in start if not np.array_equal(start[name], frozen[name])}
    assert changed == {"classifier.5.weight", "classifier.5.bias"}
    freed, _ = train(data, tmp_path / "freed", "train.frozen_epochs", "1")
    assert sum(not np.array_equal(start[name], freed[name]) for name in start) > 100


def test_a_linear_probe_learns_from_what_the_head_is_given(data, warm, tmp_path):
    start = weight_files.read(warm[1])
    opts = (*warm, "model.freeze", "all", "train.epochs", "40", "train.lr", "0.1", "train.validation", "0.3")
    trained, rows = train(data, tmp_path, *opts)
    changed = {name for name in start if not np.array_equal(start[name], trained[name])}
    assert changed == {"classifier.5.weight", "classifier.5.bias"}
    assert rows[-1]["loss"] < 0.75 * rows[0]["loss"]
    model, _ = model_folder.load_model(tmp_path)
    records, _ = manifest.read(data)
    features = shards.open_shards(data, frontend.MN, SECONDS, records)
    given = evaluation.embeddings(model, records[:5], features, SECONDS, 2)
    for record in records[:5]:
        log_mel = paddle.to_tensor(features[record["id"]].astype(np.float32))[None]
        with paddle.no_grad():
            logits = model(scoring.to_input(model, log_mel))
            np.testing.assert_allclose(
                evaluation.head_layer(model)(paddle.to_tensor(given[record["id"]])), logits, atol=1e-5
            )
    # what the loop says of its validation clips is what evaluation finds of them
    _, validation = validation_part([r for r in records if r["fold"] != 1], 0.3, 0)
    scores = evaluation.evaluate(model, validation, features, "single_label", SECONDS, 4)
    right = scores.argmax(1) == multi_hot(validation, ["high", "low"]).argmax(1)
    assert rows[-1]["valid_accuracy"] == pytest.approx(right.mean())


def test_the_seconds_of_a_linear_probe_have_those_of_its_embeddings(data, tmp_path, monkeypatch, capsys):
    embeddings = evaluation.embeddings
    monkeypatch.setattr(evaluation, "embeddings", lambda *args: (time.sleep(3), embeddings(*args))[1])
    _, rows = train(data, tmp_path, "model.freeze", "all")
    seconds = model_folder.read_meta(tmp_path)["trained"]["seconds"]
    assert 3 <= seconds - sum(row["seconds"] for row in rows) < 6
    assert "embeddings of 16 clips" in capsys.readouterr().out


def test_the_best_epoch_on_validation_is_kept(data, tmp_path):
    opts = ("train.validation", "0.3", "train.select", "best", "train.epochs", "6", "train.ema", "0.6")
    _, rows = train(data, tmp_path, *opts)
    scores = [row["valid_accuracy"] for row in rows]
    assert model_folder.read_meta(tmp_path)["trained"]["best_epoch"] == scores.index(max(scores)) + 1
    model, _ = model_folder.load_model(tmp_path)
    records, labels = manifest.read(data)
    _, validation = validation_part([r for r in records if r["fold"] != 1], 0.3, 0)
    features = shards.open_shards(data, frontend.MN, SECONDS, records)
    scored = evaluation.evaluate(model, validation, features, "single_label", SECONDS, 4)
    targets = multi_hot(validation, labels)
    assert (scored.argmax(1) == targets.argmax(1)).mean() == pytest.approx(max(scores))
    loss = -np.log((scored * targets).sum(1)).mean()
    assert loss == pytest.approx(rows[scores.index(max(scores))]["valid_loss"], rel=1e-4)


def split(data, folder, keep=lambda record: True):
    """`data` with splits in the place of folds 1, 2, 3: test, valid, train, of the clips that `keep` lets pass."""
    shutil.copytree(data, folder)
    records = [{**record, "split": ["test", "valid", "train"][record["fold"] - 1]} for record in manifest.read(data)[0]]
    for record in records:
        del record["fold"]
    manifest.write(folder, [record for record in records if keep(record)], LABELS, [])
    return folder


@pytest.mark.parametrize("script", ["train", "train_classic"])
def test_a_changed_data_set_is_described(script, data, tmp_path):
    """What was added, removed, relabelled, moved to another fold, or sounds otherwise, by the names of the clips."""
    shutil.copytree(data, tmp_path / "d")
    kind = ("classic.classifier", "knn", "classic.features", "embeddings") if script == "train_classic" else ()
    words = arguments(tmp_path / "d", tmp_path / "exp", "train.epochs", "1", *kind)
    call(script, *words)
    records, _ = manifest.read(tmp_path / "d")
    own = tmp_path / "a sound of mine.wav"
    shutil.copy(records[-1]["audio"], own)
    new = {**records[-1], "id": "mine", "audio": str(own)}
    trained = next(n for n, record in enumerate(records) if record["fold"] == 2)

    def refused(*rows):
        manifest.write(tmp_path / "d", [*rows], LABELS, [])
        shards.extract(tmp_path / "d", [*rows], frontend.MN, SECONDS, 8, 0, 1)
        return refusal(script, *words)

    assert f"{len(records) + 1} clips, trained with {len(records)}: + {tmp_path.name}/{own.name}:" in refused(
        *records, new
    )
    line = refusal("evaluate", "--model", tmp_path / "exp", "--data", tmp_path / "d")
    assert f"trained with {len(records)}: + {tmp_path.name}/{own.name}:" in line
    name = Path(records[0]["audio"]).name
    assert f"{len(records) - 1} clips, trained with {len(records)}: - audio/{name}:" in refused(*records[1:])
    changed = {**records[trained], "labels": [LABELS[records[trained]["labels"] == [LABELS[0]]]], "fold": 3}
    line = refused(*records[:trained], changed, *records[trained + 1 :])
    assert f"audio/{Path(changed['audio']).name} (fold 2, now fold 3, " in line
    assert f", now {changed['labels'][0]}" in line
    changed = {**records[trained], "audio": str(own)}
    line = refused(*records[:trained], changed, *records[trained + 1 :])
    assert f"{len(records)} clips, trained with {len(records)}: {tmp_path.name}/{own.name} (another sound)" in line
    (tmp_path / "exp" / "clips.jsonl.gz").unlink()  # as a model of before
    assert "its clips, labels, folds or sounds" in refused(*records, new)
    manifest.write(tmp_path / "d", records, LABELS, [])
    shards.extract(tmp_path / "d", records, frontend.MN, SECONDS, 8, 0, 1)
    call(script, *words)  # up to date


def test_a_changed_setting_is_no_other_sound(data, tmp_path):
    call("train", *arguments(data, tmp_path, "train.epochs", "1"))
    line = refusal("train", *arguments(data, tmp_path, "train.epochs", "1", "features.online", "true"))
    assert re.search("features.online .*False.*True", line) and ";" not in line


def held_out(data, exp, *opts):
    return "--config", data / "tiny.yaml", "--data", data, "--fold", "test", "--exp", exp, "--opts", *opts


def test_data_with_splits(data, tmp_path):
    splits = split(data, tmp_path / "data")
    call("train", *held_out(splits, tmp_path / "best", "train.select", "best", "train.epochs", "6"))
    scores = [row["valid_accuracy"] for row in history(tmp_path / "best")]
    assert model_folder.read_meta(tmp_path / "best")["trained"]["best_epoch"] == scores.index(max(scores)) + 1
    model, meta = model_folder.load_model(tmp_path / "best")
    assert meta["run"]["fold"] == "test"
    records, labels = manifest.read(splits)
    validation = [record for record in records if record["split"] == "valid"]
    features = shards.open_shards(splits, frontend.MN, SECONDS, records)
    scored = evaluation.evaluate(model, validation, features, "single_label", SECONDS, 4)
    assert (scored.argmax(1) == multi_hot(validation, labels).argmax(1)).mean() == pytest.approx(max(scores))

    call("evaluate", "--model", tmp_path / "best", "--data", splits)
    line = refusal("evaluate", "--model", tmp_path / "best", "--data", splits, "--fold", "valid")
    assert "--fold valid" in line and str(tmp_path / "best") in line
    metrics = json.loads((tmp_path / "best" / "metrics.json").read_text())
    assert (metrics["fold"], metrics["n"]) == ("test", 8)
    with np.load(tmp_path / "best" / "scores.npz") as file:
        assert {clip_id[0] for clip_id in file["ids"].tolist()} == {"1"}


def test_what_validates_is_never_trained_on(data, tmp_path):
    for name, keep in (("with", lambda record: True), ("without", lambda record: record["split"] != "valid")):
        call("train", *held_out(split(data, tmp_path / name, keep), tmp_path / f"exp {name}"))
    assert same(*(weights(tmp_path / f"exp {name}") for name in ("with", "without")))
    rows = history(tmp_path / "exp with")
    assert "valid_loss" in rows[0] and "valid_loss" not in history(tmp_path / "exp without")[0]


def test_a_fold_that_does_not_fit_the_data(data, tmp_path):
    splits = split(data, tmp_path / "data")
    line = refusal("train", *arguments(splits, tmp_path / "e"))
    assert "fold 1" in line and "test, valid" in line
    line = refusal("train", *held_out(data, tmp_path / "e"))
    assert "fold test" in line and "1, 2, 3" in line
    line = refusal("train", *held_out(splits, tmp_path / "e", "train.validation", "0.3"))
    assert "train.validation 0.3" in line and "split valid" in line
    assert not (tmp_path / "e").exists()


def test_validation_clips_without_a_mean_average_precision(data, tmp_path, capsys):
    """Where all clips have the one label, and none the other."""
    splits = split(data, tmp_path / "data", lambda record: record["split"] == "train" or record["labels"] == ["low"])
    opts = ("task", "multi_label", "train.epochs", "2")
    line = refusal("train", *held_out(splits, tmp_path / "best", *opts, "train.select", "best"))
    assert "train.select best" in line and "4 clips" in line and "mAP" in line
    call("train", *held_out(splits, tmp_path / "last", *opts))
    assert "valid_loss" in history(tmp_path / "last")[0] and "valid_mAP" not in history(tmp_path / "last")[0]
    call("evaluate", "--model", tmp_path / "last", "--data", splits)
    assert re.search("test: .*mAP.* 4 clips", capsys.readouterr().out)
    assert json.loads((tmp_path / "last" / "metrics.json").read_text())["mAP"] is None


def test_a_classic_config_is_refused(data, tmp_path):
    line = refusal("train", *arguments(data, tmp_path, "classic.classifier", "knn"))
    assert "classic.classifier knn" in line and "train_classic.py" in line


def test_what_cannot_be_done_on_a_cpu_is_refused(data, tmp_path):
    assert "train.amp" in refusal("train", *arguments(data, tmp_path, "train.amp", "O1"))
    assert "model.sync_bn" in refusal("train", *arguments(data, tmp_path, "model.sync_bn", "true"))
    assert "train.validation" in refusal("train", *arguments(data, tmp_path, "train.select", "best"))
    assert not (tmp_path / "train.log").exists()


def test_a_folder_in_which_another_process_trains_is_refused(data, tmp_path):
    """A lock ends with its process, however it ends, and though its children live on (as loaders of data do)."""
    program = "import os, sys, time; from paddletag import files; lock = files.locked(sys.argv[1], wait=False)"
    program += "; lock.__enter__(); os.fork() and time.sleep(30); print(flush=True); time.sleep(30)"
    environment = {**os.environ, "PYTHONPATH": str(LOCAL)}
    command = [sys.executable, "-c", program, str(tmp_path / "train")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True) as holder:
        try:
            holder.stdout.readline()
            line = refusal("train", *arguments(data, tmp_path))
            assert str(tmp_path / "train") in line and f"process {holder.pid} on " in line
            holder.kill()
            holder.wait()
            train(data, tmp_path, *PLAIN, "train.epochs", "1")
            assert not (tmp_path / "train.lock").exists()
        finally:
            os.killpg(holder.pid, signal.SIGKILL)


def test_stored_and_online_features_train_the_same_model(data, tmp_path):
    stored, _ = train(data, tmp_path / "stored", *PLAIN)
    online, _ = train(data, tmp_path / "online", *PLAIN, "features.online", "true")
    assert same(stored, online)
    for exp in ("stored", "online"):
        call("evaluate", "--model", tmp_path / exp, "--data", data)
    one, other = (np.load(tmp_path / exp / "scores.npz")["scores"] for exp in ("stored", "online"))
    np.testing.assert_array_equal(one, other)


def test_processes_that_read_ahead_change_no_bit(data, tmp_path):
    opts = ("train.validation", "0.3", "features.online", "true", "augment.wavmix", "0.5")
    alone, rows = train(data, tmp_path / "alone", *opts)
    helped, others = train(data, tmp_path / "helped", *opts, "train.workers", "2")
    assert same(alone, helped)
    assert [row["valid_loss"] for row in rows] == [row["valid_loss"] for row in others]
    call("evaluate", "--model", tmp_path / "helped", "--data", data)
    scores = np.load(tmp_path / "helped" / "scores.npz")["scores"]
    call("evaluate", "--model", tmp_path / "alone", "--data", data)
    np.testing.assert_array_equal(np.load(tmp_path / "alone" / "scores.npz")["scores"], scores)


def test_rolled_copies_and_several_models_are_averaged(data, tmp_path):
    for name in ("a", "b"):
        train(data, tmp_path / name, "train.seed", str(ord(name)))
    records, _ = manifest.read(data)
    held_out = [record for record in records if record["fold"] == 1]
    features = shards.open_shards(data, frontend.MN, SECONDS, records)

    class Rolled:
        def __getitem__(self, clip_id):
            return np.roll(features[clip_id], len(features[clip_id]) // 2, axis=0)

    def scores(name, log_mels):
        model, _ = model_folder.load_model(tmp_path / name)
        return evaluation.evaluate(model, held_out, log_mels, "single_label", SECONDS, 4)

    expected = np.mean([scores(name, log_mels) for name in ("a", "b") for log_mels in (features, Rolled())], axis=0)
    both = ("--model", tmp_path / "a", tmp_path / "b", "--data", data)
    assert "--output_dir" in refusal("evaluate", *both)
    call("evaluate", *both, "--tta", "2", "--output_dir", tmp_path / "both")
    with np.load(tmp_path / "both" / "scores.tta2.npz") as file:
        np.testing.assert_allclose(file["scores"], expected, atol=1e-6)
    metrics = json.loads((tmp_path / "both" / "metrics.tta2.json").read_text())
    assert metrics["tta"] == 2 and metrics["fold"] == 1 and not list((tmp_path / "a").glob("metrics*"))
    assert shlex.split(metrics["command"])[2:] == [
        *map(str, both),
        "--tta",
        "2",
        "--output_dir",
        str(tmp_path / "both"),
    ]
    page = report_data(tmp_path / "both" / "report.tta2.html")
    assert page["metrics"] == metrics and page["model"] == "mn01_as" and page["history"] == {}
    assert [about["run"]["config"]["train"]["seed"] for about in page["about"]] == [ord("a"), ord("b")]
    for name in ("report.tta2.html", "confusion.tta2.png"):
        (tmp_path / "both" / name).unlink()
        call("evaluate", *both, "--tta", "2", "--output_dir", tmp_path / "both")
        assert (tmp_path / "both" / name).exists()
    assert report_data(tmp_path / "both" / "report.tta2.html")["metrics"] == metrics
    assert "--tta 0" in refusal("evaluate", *both, "--tta", "0", "--output_dir", tmp_path / "none")
    call("evaluate", *both, "--output_dir", tmp_path / "both")  # the plain evaluation beside the other one
    plain = json.loads((tmp_path / "both" / "metrics.json").read_text())
    assert plain["tta"] == 1 and json.loads((tmp_path / "both" / "metrics.tta2.json").read_text()) == metrics
    alone = ("--model", tmp_path / "a", "--data", data)
    assert "both/metrics" in refusal("evaluate", *alone, "--output_dir", tmp_path / "both")
    assert "both/metrics" in refusal("evaluate", *alone, "--tta", "3", "--output_dir", tmp_path / "both")
    assert f"--output_dir {tmp_path / 'b'}:" in refusal("evaluate", *both, "--output_dir", tmp_path / "b")
    assert f"--output_dir {tmp_path / 'b'}:" in refusal("evaluate", *alone, "--output_dir", tmp_path / "b")
    call("evaluate", *alone, "--output_dir", tmp_path / "a")
    assert json.loads((tmp_path / "both" / "metrics.json").read_text()) == plain


CURVE = """
import sys
import paddle
from paddletag import config
from paddletag.data import manifest
from paddletag.data.splits import hold_out
from paddletag.features import frontend, shards
from paddletag.models import registry
from paddletag.training import checkpoint, distributed, loop
data, yaml, exp, start = sys.argv[1:]
distributed.init()
paddle.nn.Dropout.forward = lambda self, x: x
plain = [w for key in ("mixup", "roll", "gain", "freq_mask", "time_mask") for w in (f"augment.{key}", "0")]
settings = config.load(yaml, [*plain, "train.batch_size", "8", "train.epochs", "10", "model.freeze_bn", "true",
                              "train.log_freq", "1", "train.accumulate", "1", "train.lr", "1e-3"])
records, labels = manifest.read(data)
features = shards.open_shards(data, frontend.MN, settings.data.clip_seconds, records)
learn, _ = hold_out(records, 1)
model = registry.create_model("mn01_as", 2, pretrained=start)
loop.train(model, settings, learn, labels, features, exp)
if distributed.rank() == 0:
    checkpoint.save_weights(exp + "/end.safetensors", model)
"""


def launched(folder, worker, *args, ranks=2):
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", ranks]
    command += ["--enable_gpu_log", "False", "--log_dir", folder / "log"]
    command += [LOCAL / "paddletag" / "launch" / "worker.py", worker, *args]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XPU_VISIBLE_DEVICES": "all", "PYTHONPATH": str(LOCAL)}
    done = subprocess.run([*map(str, command)], env=env, capture_output=True, timeout=200)
    log = "".join(file.read_text() for file in (folder / "log").glob("workerlog.*"))
    assert done.returncode == 0, log
    return log


def test_two_processes_learn_as_one_with_the_whole_batch(data, warm, tmp_path):
    """20 steps of 8 clips, as 2 x 4 clips and as 8: the loss of every epoch, and the weights."""
    worker = tmp_path / "worker.py"
    worker.write_text(CURVE)
    for name, ranks in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        launched(tmp_path / name, worker, data, data / "tiny.yaml", tmp_path / name, warm[1], ranks=ranks)
    one, two = (history(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 10 and one[-1]["loss"] < 0.9 * one[0]["loss"]
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
    one, two = (weight_files.read(tmp_path / name / "end.safetensors") for name in ("one", "two"))
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=1e-3, err_msg=name)


@pytest.mark.full
def test_two_processes_killed_at_random_moments_end_in_the_same_bits(data, tmp_path):
    opts = [*EVERYTHING, "train.epochs", "16", "train.validation", "0.25"]
    command = ["bash", "-c", LAUNCH, "bash", sys.executable, tmp_path / "log", LOCAL]

    def start(exp):
        return [str(word) for word in (*command, LOCAL / "train.py", *arguments(data, exp, *opts))]

    assert killed_until_done(start(tmp_path / "whole"), tmp_path / "whole", 0, 0) == 0
    assert killed_until_done(start(tmp_path / "killed"), tmp_path / "killed", 5, 2) == 5
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


LAUNCH = """
python=$1 log=$2 local=$3; shift 3; rm -rf "$log"
export XPU_VISIBLE_DEVICES=all
exec "$python" -m paddle.distributed.launch --nproc_per_node 2 --enable_gpu_log False --log_dir "$log" \\
  "$local/paddletag/launch/worker.py" "$@"
"""


def test_the_log_line_is_the_ecosystems(data, tmp_path):
    train(data, tmp_path)
    line = (
        r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\] \[   TRAIN\] - Epoch=1/3, Step=2/4 loss=\d+\.\d+ acc=\d\.\d+"
        r" lr=\S+ reader_cost=\d+\.\d+ batch_cost=\d+\.\d+ ips=\d+\.\d+ samples/s \| ETA \d\d:\d\d:\d\d$"
    )
    assert re.search(line, (tmp_path / "train.log").read_text(), re.M)
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_checkpoints_within_an_epoch_do_not_flatter_the_throughput(data, tmp_path, monkeypatch):
    """With a slow reader the last step's line must count all of the epoch, and the run's seconds nothing twice."""
    item = TrainBatches.__getitem__
    monkeypatch.setattr(TrainBatches, "__getitem__", lambda self, k: (time.sleep(0.2), item(self, k))[1])
    train(data, tmp_path, "train.save_steps", "1", "train.epochs", "1", "train.log_freq", "1")
    costs = re.findall(r"batch_cost=([\d.]+)", (tmp_path / "train.log").read_text())
    assert len(costs) == 4 and all(float(cost) >= 0.2 for cost in costs)
    (row,) = history(tmp_path)
    seconds = model_folder.read_meta(tmp_path)["trained"]["seconds"]
    assert row["seconds"] >= 0.8 and seconds == pytest.approx(row["seconds"], abs=0.3)


@pytest.mark.full
def test_shards_through_a_buffer_go_on_in_the_same_bits(tmp_path):
    """With shards of 4 clips and a buffer of 6, killed in the middle of epochs; and it is not the global order."""
    prepare(tmp_path / "data")
    settings(tmp_path / "data")
    records, _ = manifest.read(tmp_path / "data")
    for path in (tmp_path / "data" / "features").rglob("*.arrow"):
        path.unlink()
    shards.extract(tmp_path / "data", records, frontend.MN, 0.3, 4, 0, 1)
    opts = ("features.shard_size", "4", "train.shuffle", "buffer", "train.shuffle_buffer", "6", "train.save_steps", "1")
    opts = (*opts, "train.epochs", "8")
    whole, _ = train(tmp_path / "data", tmp_path / "whole", *opts)
    command = [sys.executable, LOCAL / "train.py", *arguments(tmp_path / "data", tmp_path / "killed", *opts)]
    assert killed_until_done([str(word) for word in command], tmp_path / "killed", 2, seed=1) == 2
    assert same(weights(tmp_path / "killed"), whole)
    otherwise, _ = train(tmp_path / "data", tmp_path / "global", *opts, "train.shuffle", "global")
    assert not same(otherwise, whole)


@pytest.mark.parametrize(
    "opts, word",
    [
        (("features.online", "true"), "features.online"),
        (("train.sampler", "balanced"), "train.sampler"),
        (("model.freeze", "all"), "model.freeze"),
        (("train.shuffle_buffer", "0"), "train.shuffle_buffer"),
    ],
)
def test_a_buffer_that_would_do_nothing_is_refused(data, tmp_path, opts, word):
    line = refusal("train", *arguments(data, tmp_path / "exp", "train.shuffle", "buffer", *opts))
    assert word in line and not (tmp_path / "exp").exists()
