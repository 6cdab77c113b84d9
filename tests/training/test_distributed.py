"""distributed.py on two CPU processes that utils/recipe.sh launches: what ranks exchange, and how a run ends."""

import json
import os
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
from paddletag.runtime import UserError
from paddletag.training import distributed

RUN = """
cd "$(dirname "$0")" || exit
stage=2
stop_stage=3
config=conf/x.yaml
. ../../utils/recipe.sh
script=$WORK
one() { stage 2 train launch "$script" "$fold" "$exp"; }
each_fold one
stage 3 after "$python" -c "print('after')"
"""
EXCHANGE = """
import json, os, sys
import numpy as np
import paddle
from paddletag.training import distributed
fold, exp = sys.argv[1:]
distributed.init()
rank = distributed.rank()
found = {"rank": rank, "size": distributed.world_size()}
found["local"] = [distributed.local_rank(), distributed.local_world_size()]
array = np.full((rank + 1, 400_000), rank, "float32")
everyone = distributed.gather({"rank": rank, "array": array, "text": "x" * rank})
found["gathered"] = [(v["rank"], list(v["array"].shape), float(v["array"].mean()), v["text"]) for v in everyone]
half = paddle.to_tensor([1.0 + rank, 60000.0], dtype="float16")
double = paddle.to_tensor(1e-12 * (rank + 1), dtype="float64")
turned = paddle.arange(6, dtype="float32").reshape([2, 3]).t() * (1 + 2 * rank)
layer = paddle.nn.Linear(3, 2)
distributed.broadcast_(layer.parameters())
found["weight"] = layer.weight.numpy().tolist()
norm = paddle.nn.BatchNorm1D(2)
norm._mean.set_value(paddle.to_tensor([rank, 10.0 * rank], dtype="float32"))
flags = paddle.to_tensor([rank, 5 - rank])
distributed.broadcast_([flags])
layer(paddle.full([1, 3], 1.0 + 2 * rank)).sum().backward()
distributed.average_([half, None, double, turned, layer.weight.grad, norm._mean])
found["half"], found["double"] = half.numpy().tolist(), float(double)
found["turned"], found["mean"], found["flags"] = turned.numpy().tolist(), norm._mean.numpy().tolist(), flags.tolist()
found["gradient"] = layer.weight.grad.numpy().tolist()
distributed.gather(None)
open(f"{exp}/{fold}.{rank}.json", "w").write(json.dumps(found))
print("rank", rank, "of fold", fold, "done")
"""
MISTAKE = """
import sys, time
from paddletag import runtime
from paddletag.training import distributed
def main():
    if distributed.rank() == 1:
        raise runtime.UserError("clip.wav: not audio")
    time.sleep(30)
runtime.run(main)
"""
KILLED = """
import os, sys
from paddletag.training import distributed
distributed.init()
distributed.gather(None)
print("met", flush=True)
distributed.gather(None)
if distributed.rank() == 1:
    os.kill(os.getpid(), 9)
distributed.gather(None)
"""
RAISES = """
from paddletag.training import distributed
distributed.init()
distributed.gather(None)
if distributed.rank() == 1:
    print("line", *range(20), sep="\\nline ")
    raise ValueError("boom")
distributed.gather(None)
"""
ENDLESS = """
import os, sys, time
from paddletag.training import distributed
open(f"{sys.argv[2]}/{sys.argv[1]}.{distributed.rank()}.pid", "w").write(f"{os.getpid()} {os.getppid()}")
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path):
    """Start run.sh with a script of the test as its stage 2, on two processes."""
    recipe = tmp_path / "examples" / "x"
    for folder in (recipe, tmp_path / "utils", tmp_path / "local", tmp_path / "exp"):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "utils/recipe.sh", tmp_path / "utils")
    (tmp_path / "local" / "paddletag").symlink_to(ROOT / "local/paddletag")
    (recipe / "run.sh").write_text(RUN)

    def start(script, *options):
        work = tmp_path / "local" / "train.py"
        work.write_text(script)
        env = {**os.environ, "PYTHON": sys.executable, "WORK": str(work)}
        command = ["bash", recipe / "run.sh", "--exp", tmp_path / "exp", "--nproc", "2", *options]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def ended(pids, seconds):
    """Whether all of these processes are gone (or zombies that nobody collects) within so many seconds."""

    def runs(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    end = time.monotonic() + seconds
    while any(runs(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(runs(pid) for pid in pids)


def pids(exp, folds="1"):
    """The pids of the workers of these folds and of their parents, once they have written them."""
    files = [exp / f"{fold}.{rank}.pid" for fold in folds.split() for rank in (0, 1)]
    end = time.monotonic() + 20
    while not all(file.exists() and file.read_text() for file in files) and time.monotonic() < end:
        time.sleep(0.05)
    return [int(pid) for file in files for pid in file.read_text().split()]


def test_alone_everything_is_the_identity():
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank(), distributed.local_world_size()) == (
        *(0, 1, 0, 1),
    )
    value = object()
    assert distributed.gather(value) == [value]
    array = np.ones(2)
    distributed.average_([array, None])
    distributed.broadcast_([array])
    distributed.gather(None)
    assert array.tolist() == [1, 1]


def test_two_folds_side_by_side_on_two_processes_each(start, tmp_path):
    process = start(EXCHANGE, "--folds", "1 2", "--jobs", "2")
    out, err = process.communicate(timeout=40)
    assert (process.returncode, err) == (0, ""), out + err
    for fold in (1, 2):
        zero, one = (json.loads((tmp_path / f"exp/{fold}.{rank}.json").read_text()) for rank in (0, 1))
        assert (zero["rank"], one["rank"], zero["size"], one["size"]) == (0, 1, 2, 2)
        assert (zero["local"], one["local"]) == ([0, 2], [1, 2])
        assert zero["gathered"] == one["gathered"] == [[0, [1, 400_000], 0.0, ""], [1, [2, 400_000], 1.0, "x"]]
        assert zero["weight"] == one["weight"] and np.std(zero["weight"]) > 0
        for found in (zero, one):
            assert found["half"] == [1.5, 60000.0]  # the sum would not fit into float16
            assert found["double"] == pytest.approx(1.5e-12, rel=1e-12)
            assert found["turned"] == (2 * np.arange(6).reshape(2, 3).T).tolist()
            assert found["mean"] == [0.5, 5.0]
            assert found["flags"] == [0, 5]
            assert found["gradient"] == np.full((3, 2), 2.0).tolist()  # inputs 1 and 3
        assert f"fold {fold} | rank 0 of fold {fold} done" in out.splitlines()
        log = tmp_path / f"exp/log/train.fold{fold}"
        assert f"rank 1 of fold {fold} done" in (log / "workerlog.1").read_text()
        assert sorted(path.name for path in log.iterdir()) == ["launcher.log", "workerlog.0", "workerlog.1"]
    noise = [line for line in out.splitlines() if not line.startswith(("fold 1 | ", "fold 2 | ", "==", "after"))]
    assert noise == [] and "LAUNCH" not in out and "FLAGS" not in out
    assert out.splitlines()[-1] == "after"


def test_a_user_s_mistake_on_another_rank_is_one_line(start):
    process = start(MISTAKE)
    before = time.monotonic()
    out, err = process.communicate(timeout=40)
    assert time.monotonic() - before < 15
    assert process.returncode == 2
    assert err == "train.py: error: clip.wav: not audio\n"
    assert out == "== stage 2: train (fold 1)\n"


def test_a_killed_worker_ends_the_run_and_is_blamed(start, tmp_path):
    process = start(KILLED)
    before = time.monotonic()
    out, err = process.communicate(timeout=40)
    assert time.monotonic() - before < 20
    assert process.returncode == 128 + signal.SIGKILL
    assert "met" in out.splitlines() and "after" not in out
    line = err.splitlines()[-1]
    log = f"{tmp_path}/exp/log/train.fold1/workerlog.1"
    assert all(word in line for word in ("run.sh", "stage 2: train (fold 1)", "rank 1", "signal 9", log))


def test_an_exception_shows_the_end_of_its_rank_s_log(start, tmp_path):
    process = start(RAISES)
    out, err = process.communicate(timeout=40)
    assert process.returncode == 1
    *tail, line = err.splitlines()
    log = f"{tmp_path}/exp/log/train.fold1/workerlog.1"
    assert all(word in line for word in ("stage 2: train (fold 1)", "rank 1", "status 1", "ValueError: boom", log))
    lines = [line for line in Path(log).read_text().splitlines() if line]
    assert tail == [f"rank 1 | {line}" for line in lines[-12:]] and "line 19" in err and "line 0" not in err


@pytest.mark.parametrize(
    ("found", "asked", "processes", "words"),
    [
        (0, "", 1, "Paddle sees no GPU: "),
        (0, "9", 1, "no GPU of 9: "),
        (2, "0,1,9", 3, "--gpus 0,1,9: Paddle sees only 2 of them"),
        (2, "0,1", 2, None),
    ],
)
def test_devices_that_are_not_there(monkeypatch, found, asked, processes, words):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", str(processes))
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: found)
    monkeypatch.setattr(paddle, "set_device", lambda device: None)
    if words is None:
        return distributed.init("gpu")
    with pytest.raises(UserError, match=words):
        distributed.init("gpu")
    return None


def test_a_killed_launcher_leaves_no_worker(start, tmp_path):
    process = start(ENDLESS)
    found = pids(tmp_path / "exp")
    launcher = Path(f"/proc/{found[1]}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(launcher), signal.SIGKILL)
    assert ended(found, 3)
    process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("folds", ["1", "1 2"])
def test_ctrl_c_leaves_no_worker(start, tmp_path, folds):
    process = start(ENDLESS, "--folds", folds, "--jobs", "2")
    found = pids(tmp_path / "exp", folds)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert process.returncode == 128 + signal.SIGINT
    assert ended(found, 0)
