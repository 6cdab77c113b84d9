"""Two nodes on the loopback, while others connect to the port of node 0: the run goes on as without them."""

import contextlib
import json
import os
import random
import socket
import time
from types import SimpleNamespace

import pytest
from paddletag.launch.node_0 import Node0
from paddletag.launch.watch_options import Options
from test_watch import both_end, nodes  # noqa: F401 (nodes is a fixture)

WAITS = """
import os, sys, time
from pathlib import Path
exp = Path(sys.argv[2])
(exp / f"{os.environ['PADDLE_TRAINER_ID']}.pid").write_text(f"{os.getpid()} {os.getppid()}")
while not (exp / "go").exists():
    time.sleep(0.05)
"""
HELLO = {"kind": "hello", "node": 1, "nodes": 2, "job": "train.fold1", "command": []}


def speak(port, *words):
    """Connect, send each of the words, and close. Node 0 may close before."""
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=5) as stranger:
        for word in words:
            stranger.sendall(word)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(4096):
            pass


def silence(port, count=200):
    """Connections that say nothing, as many as get through."""
    silent = []
    for _ in range(count):
        stranger = socket.socket()
        stranger.setblocking(False)
        stranger.connect_ex(("127.0.0.1", port))
        silent.append(stranger)
    return silent


def line(message):
    return json.dumps(message).encode() + b"\n"


STRANGERS = {
    "brackets": lambda port: speak(port, b"[" * 50_000 + b"\n"),
    "a bare hello": lambda port: speak(port, line({"kind": "hello"})),
    "a wrong token": lambda port: speak(port, b"0" * 64 + b"\n", line(HELLO)),
    "an end": lambda port: speak(port, line(HELLO), line({"kind": "ended", "status": 1})),
    "garbage": lambda port: [speak(port, random.Random(n).randbytes(5000)) for n in range(20)],
    "a long line": lambda port: speak(port, b"x" * 3_000_000),
    "silence": silence,
}


def listening(port):
    """Wait until somebody listens."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
            return
        time.sleep(0.1)


def tokens(folder):
    return list(folder.rglob("token.*"))


@pytest.mark.parametrize(
    "case", ["brackets", *(pytest.param(case, marks=pytest.mark.full) for case in ("silence", "all"))]
)
def test_in_the_middle_of_a_run(nodes, case):  # noqa: F811
    both = [nodes.start(node, WAITS) for node in (0, 1)]
    nodes.pids()
    kept = [STRANGERS[name](nodes.port) for name in (STRANGERS if case == "all" else [case])]
    time.sleep(1)
    (nodes.exp / "go").write_text("")
    ends = both_end(both)
    assert [(status, err) for status, _, err in ends] == [(0, ""), (0, "")], ends
    assert kept and nodes.orphans() == []


@pytest.mark.parametrize(
    "case", ["a bare hello", *(pytest.param(case, marks=pytest.mark.full) for case in ("silence", "all"))]
)
def test_while_node_0_waits(nodes, case):  # noqa: F811
    (nodes.exp / "go").write_text("")
    zero = nodes.start(0, WAITS)
    listening(nodes.port)
    time.sleep(1)  # stage 0, whose port that may have been, is over
    listening(nodes.port)
    kept = [STRANGERS[name](nodes.port) for name in (STRANGERS if case == "all" else [case])]
    ends = both_end([zero, nodes.start(1, WAITS)])
    assert [(status, err) for status, _, err in ends] == [(0, ""), (0, "")], ends
    assert kept and nodes.orphans() == []


def test_the_token_of_an_earlier_run_is_of_no_use(nodes):  # noqa: F811
    """Node 0 was killed, its file was left, and node 1 of the next run is there first."""
    log = nodes.exp / "log" / "train.fold1.node0"
    log.mkdir(parents=True)
    (log / f"token.{'0' * 16}").write_text("0" * 64)
    one = nodes.start(1, WAITS)
    time.sleep(1)
    zero = nodes.start(0, WAITS)
    nodes.pids()
    (token,) = tokens(nodes.exp)
    assert token.parent == log and token.stat().st_mode & 0o777 == 0o600 and token.read_text() != "0" * 64
    (nodes.exp / "go").write_text("")
    ends = both_end([zero, one])
    assert [(status, err) for status, _, err in ends] == [(0, ""), (0, "")], ends
    assert tokens(nodes.exp) == []


def test_nobody_is_heard_at_another_address(nodes):  # noqa: F811
    """`--master 127.0.0.1` listens there alone."""
    zero = nodes.start(0, WAITS, host="127.0.0.1")
    listening(nodes.port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", nodes.port), timeout=5)
    os.kill(zero.pid, 15)
    both_end([zero])


def test_the_silent_do_not_hold_node_0_up(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = Options("stage 2: train", "train", str(tmp_path), [], nodes=2, master=f"127.0.0.1:{port}")
    hub, kept = Node0(options, SimpleNamespace(check=lambda: None, signal=None)), silence(port, 2)
    start = time.monotonic()
    for _ in range(4):
        hub.poll()
    assert kept and time.monotonic() - start < 2
