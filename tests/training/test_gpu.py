"""What needs one or two GPUs: `bash tools/test.sh --gpu`. Where there are fewer, each test is skipped and says so."""

import csv
import os
import subprocess
import sys

import numpy as np
import paddle
import pytest
from conftest import ROOT
from paddletag.models import weight_files
from prepared import PLAIN, prepare, settings
from test_training import CURVE, LOCAL

pytestmark = pytest.mark.gpu


def need(count):
    found = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if found < count:
        pytest.skip(f"needs {count} GPU{'s' * (count > 1)}: Paddle sees {found}")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(folder)
    settings(folder)
    return folder


@pytest.fixture
def run(script):
    """A function that runs a script in a process of its own, which must succeed."""

    def run(path, *words):
        done = script(path, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def arguments(data, exp, *opts, device="gpu"):
    fixed = ("--config", data / "tiny.yaml", "--data", data, "--fold", 1, "--exp", exp, "--device", device)
    return *fixed, "--opts", *opts


def history(exp):
    with open(exp / "history.csv") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def launched(folder, worker, *words, ranks):
    """Run a script on so many GPUs."""
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", ranks]
    command += ["--log_dir", folder / "log", LOCAL / "paddletag" / "launch" / "worker.py", worker, *words]
    devices = ",".join(map(str, range(ranks)))
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": devices, "PYTHONPATH": str(LOCAL), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], env=env, capture_output=True, timeout=300)
    assert done.returncode == 0, "".join(file.read_text() for file in (folder / "log").glob("workerlog.*"))


def test_float32_learns_as_on_the_cpu(data, run, tmp_path):
    need(1)
    for device in ("gpu", "cpu"):
        run("local/train.py", *arguments(data, tmp_path / device, *PLAIN, device=device))
    for one, other in zip(history(tmp_path / "gpu"), history(tmp_path / "cpu"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=0.02)  # but for dropout, which differs


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision(dtype, data, run, tmp_path):
    """Training, validation, evaluation and the model: finite, learning, and float32 in the end."""
    need(1)
    amp = ("train.amp", "O1", "train.amp_dtype", dtype, "train.validation", "0.25", "train.select", "best")
    run("local/train.py", *arguments(data, tmp_path, *PLAIN, *amp, "train.epochs", "10", "train.ema", "0.5"))
    rows = history(tmp_path)
    assert (
        len(rows) == 10
        and np.isfinite([row["loss"] for row in rows]).all()
        and min(row["loss"] for row in rows) < 0.8 * rows[0]["loss"]
    )
    assert all(np.isfinite(row["valid_loss"]) for row in rows)
    arrays = weight_files.read(tmp_path / "model.safetensors")
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values())
    run("local/evaluate.py", "--model", tmp_path, "--data", data, "--device", "gpu")


@pytest.mark.parametrize("opts", [(), ("train.amp", "O1", "train.amp_dtype", "float16")], ids=["O0", "O1 float16"])
def test_an_interrupted_run_goes_on(opts, data, run, tmp_path):
    """Two epochs and then two more are close to four: a GPU's sums have no fixed order."""
    need(1)
    opts = (*PLAIN, *opts, "train.schedule", "linear", "train.final_lr", "1", "train.warmup_epochs", "0")
    run("local/train.py", *arguments(data, tmp_path / "whole", *opts, "train.epochs", "4"))
    run("local/train.py", *arguments(data, tmp_path / "parts", *opts, "train.epochs", "2"))
    run("local/train.py", "--extend", "true", *arguments(data, tmp_path / "parts", *opts, "train.epochs", "4"))
    for one, other in zip(history(tmp_path / "whole"), history(tmp_path / "parts"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=0.02)


def test_tagging_agrees_with_the_cpu(data, run, tmp_path):
    need(1)
    run("local/train.py", *arguments(data, tmp_path / "exp", "train.epochs", "1"))
    sound = next((data / "audio").iterdir())
    for device in ("gpu", "cpu"):
        words = ("--model", tmp_path / "exp", sound, "--device", device, "--output_dir", tmp_path / device)
        run("local/audio_tag.py", *words, "--sample_duration", 0.1)
    one, other = (np.load(tmp_path / device / f"{sound.stem}.npz")["scores"] for device in ("gpu", "cpu"))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_two_gpus_learn_as_one_with_the_whole_batch(data, run, tmp_path):
    need(2)
    run("local/train.py", *arguments(data, tmp_path / "warm", *PLAIN, "model.bn_momentum", "0.5"))
    worker = tmp_path / "worker.py"
    worker.write_text(CURVE.replace("distributed.init()", 'distributed.init("gpu")'))
    for name, ranks in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        start = tmp_path / "warm/model.safetensors"
        launched(tmp_path / name, worker, data, data / "tiny.yaml", tmp_path / name, start, ranks=ranks)
    for one, two in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-3)


def test_sync_batchnorm_sees_the_clips_of_both_gpus(data, tmp_path):
    """After an epoch on two GPUs, its statistics are those of one GPU with all the clips."""
    need(2)
    opts = (*PLAIN, "model.sync_bn", "true", "train.epochs", "1", "train.batch_size", "8")
    for name, ranks in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        words = arguments(data, tmp_path / name / "exp", *opts)
        launched(tmp_path / name, ROOT / "local/train.py", *words, ranks=ranks)
    one, two = (weight_files.read(tmp_path / name / "exp/model.safetensors") for name in ("one", "two"))
    for key in one:
        if key.endswith("._mean"):
            np.testing.assert_allclose(two[key], one[key], atol=0.02, err_msg=key)
