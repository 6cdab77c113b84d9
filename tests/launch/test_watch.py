"""watch.py: two nodes on the loopback that utils/recipe.sh starts, how they meet, and how they end together."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from paddletag.launch.addresses import interface

RUN = """
cd "$(dirname "$0")" || exit
stage=0
stop_stage=2
config=conf/x.yaml
. ../../utils/recipe.sh
stage 0 prepare "$python" -c "$ALONE"
one() { stage 2 train launch "$WORK" "$fold" "$exp"; }
each_fold one
"""
MEET = """
import json, os, sys
from paddletag.training import distributed
import paddle
fold, exp = sys.argv[1:]
distributed.init()
rank = distributed.rank()
tensor = paddle.full([3], float(rank))
distributed.average_([tensor])
record = {"size": distributed.world_size(), "local": [distributed.local_rank(), distributed.local_world_size()]}
record |= {"all": distributed.gather(rank), "mean": tensor.tolist(), "gloo": os.environ["GLOO_SOCKET_IFNAME"]}
open(f"{exp}/{fold}.{rank}.json", "w").write(json.dumps(record))
print("rank", rank, "has met", flush=True)
distributed.gather(None)
"""
STEPS = """
import os, sys, time
from paddletag.training import distributed
distributed.init()
distributed.gather(None)
open(f"{sys.argv[2]}/{distributed.rank()}.pid", "w").write(f"{os.getpid()} {os.getppid()}")
for step in range(300):
    distributed.gather(step)
    time.sleep(0.2)
"""
RAISES = """
import time
from paddletag.training import distributed
distributed.init()
distributed.gather(None)
if distributed.rank() == 1:
    print("a line before")
    raise ValueError("boom")
distributed.gather(None)
"""
MISTAKE = """
import time
from paddletag import runtime
from paddletag.training import distributed
def main():
    if distributed.rank() == 1:
        raise runtime.UserError("clip.wav: not audio")
    time.sleep(60)
runtime.run(main)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class Cluster:
    """Two folders of exp would be one on a shared file system: so it is here."""

    def __init__(self, folder):
        self.folder, self.exp, self.port, self.nodes = folder, folder / "exp", free_port(), []
        recipe = folder / "examples" / "x"
        for path in (recipe, folder / "utils", folder / "local", self.exp):
            path.mkdir(parents=True)
        shutil.copy(ROOT / "utils/recipe.sh", folder / "utils")
        (folder / "local" / "paddletag").symlink_to(ROOT / "local/paddletag")
        (recipe / "run.sh").write_text(RUN)

    def start(self, node, script=MEET, *options, host="localhost", nodes=2, alone="", **env):
        work = self.folder / "local" / "train.py"
        work.write_text(script)
        command = ["bash", self.folder / "examples/x/run.sh", "--exp", self.exp, "--nnodes", str(nodes)]
        command += ["--node-rank", str(node), "--master", f"{host}:{self.port}", *options]
        env = {**os.environ, "PYTHON": sys.executable, "WORK": str(work), "ALONE": alone, **env}
        env["PYTHONWARNINGS"] = "ignore:No ccache found"  # as the scripts of `local` have it
        kinds = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        process = subprocess.Popen(command, env=env, **kinds)
        self.nodes.append(process)
        return process

    def pids(self, ranks=(0, 1)):
        """{rank: (worker, its parent)} once all have met and written them."""
        files = [self.exp / f"{rank}.pid" for rank in ranks]
        end = time.monotonic() + 40
        while not all(file.exists() and file.read_text() for file in files) and time.monotonic() < end:
            time.sleep(0.05)
        return {rank: [int(pid) for pid in file.read_text().split()] for rank, file in zip(ranks, files, strict=True)}

    def orphans(self):
        """What still runs of this cluster."""
        running = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True, check=True).stdout
        lines = [line for line in running.splitlines() if str(self.folder) in line and " Z" not in line]
        return [line for line in lines if "pytest" not in line]

    def stop(self):
        for process in self.nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.communicate()


@pytest.fixture
def nodes(tmp_path):
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.stop()


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def both_end(processes, seconds=30):
    """[(status, out, err), ...] of nodes that end within so many seconds."""
    end = time.monotonic() + seconds
    return [(p.returncode, out, err) for p in processes for out, err in [p.communicate(timeout=end - time.monotonic())]]


def outside():
    """The address of this machine that others see, or the loopback's where it has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return probe.getsockname()[0]
    return "127.0.0.1"


def test_two_nodes_meet(nodes):
    """At an address that is not what this machine's name means to it, past a scheduler's variables and a proxy."""
    host = outside()
    confusing = {"MASTER_ADDR": "10.9.9.9", "MASTER_PORT": "1", "HTTP_PROXY": "http://10.9.9.9:1", "POD_IP": "10.9.9.9"}
    one = nodes.start(1, MEET, host=host, **confusing)
    zero = nodes.start(0, MEET, host=host, alone="import time; time.sleep(4); print('prepared')", **confusing)
    (status0, out0, err0), (status1, out1, err1) = both_end([zero, one], 60)
    assert (status0, err0, status1, err1) == (0, "", 0, ""), (out0, err0, out1, err1)
    for rank in (0, 1):
        record = json.loads((nodes.exp / f"1.{rank}.json").read_text())
        assert record.pop("gloo") == interface(host)
        assert record == {"size": 2, "local": [0, 1], "all": [0, 1], "mean": [0.5] * 3}
    train = "== stage 2: train (fold 1)"
    assert out0.splitlines() == ["== stage 0: prepare", "prepared", train, "rank 0 has met"]
    first, *waits, last = out1.splitlines()
    assert (first, last) == (train, "rank 1 has met") and len(waits) in (1, 2)
    assert waits[-1].startswith("run.sh: node 1 ") and waits[-1].endswith("stage 0: prepare")
    names = [path.name for path in sorted((nodes.exp / "log/train.fold1.node1").iterdir())]
    assert names == ["launcher.log", "workerlog.0"]
    assert nodes.orphans() == []


@pytest.mark.full
@pytest.mark.parametrize("host", ["localhost", "127.0.1.1", socket.gethostname()])
def test_names_of_the_loopback_two_folds_and_two_processes_on_each_node(nodes, host):
    options = ("--folds", "1 2", "--nproc", "2")
    both = [nodes.start(node, MEET, *options, host=host) for node in (0, 1)]
    for status, out, err in both_end(both, 90):
        warnings = [line for line in err.splitlines() if line.startswith("run.sh: --nproc 2")]  # of a single core
        assert (status, err.splitlines()) == (0, warnings), out
    for fold in "12":
        for rank in range(4):
            record = json.loads((nodes.exp / f"{fold}.{rank}.json").read_text())
            assert record["all"] == [0, 1, 2, 3] and record["mean"] == [1.5] * 3
            assert record["local"] == [rank % 2, 2]


def after_a_kill(nodes, victim, node):
    """Both nodes' last words after SIGKILL for a process of `node`."""
    both = [nodes.start(0, STEPS), nodes.start(1, STEPS)]
    worker, keeper = nodes.pids()[node]
    launcher = parent(keeper)
    watcher = parent(launcher)
    assert parent(watcher) == both[node].pid
    pid = {"worker": worker, "launcher": launcher, "watcher": watcher, "run.sh": both[node].pid}[victim]
    os.kill(pid, signal.SIGKILL)
    before = time.monotonic()
    ends = both_end(both)
    assert time.monotonic() - before < 15
    assert all(status for status, _, _ in ends)
    end = time.monotonic() + 3
    while nodes.orphans() and time.monotonic() < end:
        time.sleep(0.1)
    assert nodes.orphans() == []
    return [err.splitlines() for _, _, err in ends]


CAUSES = {
    "worker": ("node {n}", "rank {n}", "status 137", "signal 9", "{log}/workerlog.0"),
    "launcher": ("node {n}", "launcher", "status 137", "signal 9", "{log}/launcher.log"),
    "watcher": ("node {n} lost", "killed", "{log}"),
    "run.sh": ("node {n}", "run.sh was killed"),
}
STAGE = "stage 2: train (fold 1)"


def names(line, *words):
    """Whether this is one line of run.sh, with all of these words."""
    return line.startswith("run.sh: ") and len(line.splitlines()) == 1 and all(word in line for word in words)


@pytest.mark.parametrize(
    ("victim", "node"),
    [
        ("worker", 1),
        *(pytest.param(v, n, marks=pytest.mark.full) for v in CAUSES for n in (0, 1) if (v, n) != ("worker", 1)),
    ],
)
def test_whoever_is_killed_both_nodes_end_and_name_it(nodes, victim, node, request):
    errors = after_a_kill(nodes, victim, node)
    log = nodes.exp / f"log/train.fold1.node{node}"
    own, other = errors[node][-1], errors[1 - node][-1]
    assert names(other, STAGE, *(words.format(n=node, log=log) for words in CAUSES[victim]))
    assert names(own, STAGE, "killed") if victim == "watcher" else own == other
    assert "recipe.sh" not in str(errors)
    if request.config.getoption("markexpr") != "not full":  # the same port again, at once
        assert [status for status, _, _ in both_end([nodes.start(0), nodes.start(1)])] == [0, 0]


@pytest.mark.full
def test_a_node_that_falls_silent_is_lost(nodes):
    zero, one = nodes.start(0, STEPS), nodes.start(1, STEPS)
    worker, keeper = nodes.pids()[1]
    for pid in (parent(parent(keeper)), worker):  # as if the machine had lost its power
        os.kill(pid, signal.SIGSTOP)
    ((status, _, err),) = both_end([zero])
    log = nodes.exp / "log/train.fold1.node1"
    assert status == 1 and names(err, STAGE, "node 1 lost", "15 s", str(log))
    one.send_signal(signal.SIGTERM)
    both_end([one])
    assert nodes.orphans() == []


@pytest.mark.full
def test_an_exception_on_one_node_shows_its_log_on_both(nodes):
    ends = both_end([nodes.start(0, RAISES), nodes.start(1, RAISES)])
    log = f"{nodes.exp}/log/train.fold1.node1/workerlog.0"
    (status0, _, err0), (status1, out1, err1) = ends
    assert (status0, status1) == (1, 1)
    assert err0.splitlines()[-2] == "rank 1 | ValueError: boom"
    assert names(err0.splitlines()[-1], STAGE, "node 1", "rank 1", "status 1", "ValueError: boom", log)
    assert "rank 1 | a line before" in err0.splitlines() and "a line before" in out1.splitlines()
    assert "ValueError: boom" in out1.splitlines() and err1.splitlines()[-1] == err0.splitlines()[-1]


@pytest.mark.full
def test_a_user_s_mistake_on_one_node_is_one_line_on_both(nodes):
    for status, out, err in both_end([nodes.start(0, MISTAKE), nodes.start(1, MISTAKE)]):
        assert status == 2
        assert (out + err).count("train.py: error: clip.wav: not audio\n") == 1  # the script's own words
        assert "run.sh" not in err


@pytest.mark.full
def test_ctrl_c_on_one_node_ends_the_other(nodes):
    zero, one = nodes.start(0, STEPS), nodes.start(1, STEPS)
    nodes.pids()
    one.send_signal(signal.SIGINT)
    (status0, _, err0), (status1, _, err1) = both_end([zero, one])
    assert (status0, status1, err1) == (130, 130, "")
    assert names(err0, STAGE, "node 1", "SIGINT")
    assert nodes.orphans() == []


SIGNALLED = """
cd "$(dirname "$0")" || exit
stage=0
stop_stage=0
config=conf/x.yaml
set -T
trap '[[ $BASH_COMMAND != children+=* ]] || kill -s "$SIGNAL" $$' DEBUG
. ../../utils/recipe.sh
stage 0 prepare sleep 20
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_right_after_a_fork_leaves_nothing_running(nodes, number):
    """The process is there, but run.sh has not remembered it yet."""
    (nodes.folder / "examples/x/run.sh").write_text(SIGNALLED)
    env = {**os.environ, "PYTHON": sys.executable, "SIGNAL": str(int(number))}
    command = ["bash", nodes.folder / "examples/x/run.sh"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=9)
    assert (done.returncode, done.stderr) == (128 + number, "")  # and nobody else holds its stderr any more


def test_ctrl_c_while_the_options_are_read(nodes, tmp_path):
    """Only run.sh gets the signal, while it waits for a command that knows nothing of it."""
    grep = tmp_path / "bin" / "grep"
    grep.parent.mkdir()
    grep.write_text("#!/bin/sh\nkill -INT $PPID\nexit 1\n")
    grep.chmod(0o755)
    process = nodes.start(0, MEET, "--stage", "1", "--stop-stage", "1", PATH=f"{grep.parent}:{os.environ['PATH']}")
    ((status, _, err),) = both_end([process])
    assert (status, err) == (130, "")


# ------------------------------------------------------------------------------------------ before any launcher starts


def test_the_other_node_hears_of_a_stage_that_failed(nodes):
    one = nodes.start(1)
    zero = nodes.start(0, alone="import time; time.sleep(1); raise SystemExit(7)")
    (status0, _, err0), (status1, _, err1) = both_end([zero, one])
    assert (status0, status1) == (7, 7)
    assert names(err0, "stage 0: prepare", "status 7") and STAGE not in err0
    assert names(err1, STAGE, "node 0", "stage 0: prepare", "status 7")


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_never_comes(nodes, node):
    """Node 0 does not let itself be disturbed by others that come meanwhile."""
    process = nodes.start(node, MEET, "--node-wait", "4")
    for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"kind": 3}\n[]\n', b"\xff\n", b"") if node == 0 else ():
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("localhost", nodes.port)) as stranger:
                stranger.sendall(words)
                break
            time.sleep(0.05)
    ((status, out, err),) = both_end([process])
    at = f"localhost:{nodes.port}"
    assert status == 1 and names(err, STAGE, f"node {1 - node}", at, "4 s")
    assert names(out.splitlines()[-1], f"node {node} waits", f"node {1 - node}", at, "4 s")


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (("--folds", "3"), ("'train.fold1' on node 0", "'train.fold3' on node 1")),
        (("--exp", "{tmp}/x"), ("'{exp}' on node 0", "'{tmp}/x' on node 1")),
    ],
)
def test_nodes_with_different_options(nodes, tmp_path, theirs, words):
    theirs = [word.format(tmp=tmp_path) for word in theirs]
    words = [word.format(exp=nodes.exp, tmp=tmp_path) for word in words]
    for status, _, err in both_end([nodes.start(0), nodes.start(1, MEET, *theirs)]):
        assert status == 2 and names(err, "error", *words)


def test_two_machines_with_one_number(nodes):
    both = [nodes.start(node, nodes=3) for node in (0, 1, 1)]
    for status, _, err in both_end(both):
        assert status == 2 and names(err, "error", "--node-rank 1", "two")


def test_the_port_is_taken(nodes):
    with socket.socket() as taken:
        taken.bind(("", nodes.port))
        taken.listen()
        ((status, out, err),) = both_end([nodes.start(0)])
    assert status == 2 and "stage 2" not in out
    assert names(err, "error", f"--master localhost:{nodes.port}", "in use")


@pytest.mark.parametrize(
    ("node", "host", "words"),
    [
        (1, "no-such-host.invalid", "--master no-such-host.invalid: no IPv4"),
        (0, "192.0.2.77", "192.0.2.77 is no address"),
    ],
)
def test_a_master_that_cannot_be(nodes, node, host, words):
    ((status, _, err),) = both_end([nodes.start(node, host=host)])
    assert status == 2 and names(err, "error", words)


def test_somebody_else_at_the_port(nodes):
    with socket.socket() as other:
        other.bind(("", nodes.port))
        other.listen()
        one = nodes.start(1)
        other.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        ((status, _, err),) = both_end([one])
    assert status == 1 and names(err, STAGE, f"localhost:{nodes.port}", "not as node 0")
