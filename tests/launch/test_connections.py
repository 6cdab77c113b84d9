"""Who may speak to node 0, messages that are none, and what node_0.py and other_node.py do with them."""

import json
import os
import select
import socket
import stat
import threading
import time
from types import SimpleNamespace

import pytest
from paddletag.launch import connections, other_node
from paddletag.launch.connections import Link, Listener, answer
from paddletag.launch.launch_failed import LaunchFailed
from paddletag.launch.node_0 import Node0
from paddletag.launch.other_node import OtherNode
from paddletag.launch.watch_options import Options
from paddletag.runtime import UserError
from test_watch import free_port

HELLO = {"kind": "hello", "node": 1, "nodes": 2, "job": "train", "command": []}


def options(node, port, folder, wait=5):
    master = f"127.0.0.1:{port}"
    return Options("stage 2: train", "train", str(folder), [], node=node, nodes=2, master=master, node_wait=wait)


def command():
    """A stub of the command of a node: it runs, and no signal comes."""
    return SimpleNamespace(check=lambda: None, signal=None)


@pytest.fixture
def listener(tmp_path):
    listener = Listener("127.0.0.1", free_port(), tmp_path)
    listener.port = listener.socket.getsockname()[1]
    yield listener
    listener.close()


def serve(listener, seconds=0.0, until=1):
    """What the listener admits within so many seconds, or until there is so much of it."""
    admitted, end = [], time.monotonic() + seconds
    while True:
        admitted += listener.admit(select.select(listener.waiting(), [], [], 0.02)[0])
        if len(admitted) >= until or time.monotonic() > end:
            return admitted


class Client:
    """Who connects to the port of node 0."""

    def __init__(self, port, host="127.0.0.1"):
        self.socket = socket.create_connection((host, port), timeout=5)
        self.file = self.socket.makefile("rb")

    def question(self):
        return json.loads(self.file.readline())

    def send(self, *lines):
        for line in lines:
            self.socket.sendall((line if type(line) is bytes else json.dumps(line).encode()) + b"\n")

    def closed(self):
        """Whether node 0 has closed the connection, after what it has said."""
        self.socket.settimeout(2)
        try:
            while self.socket.recv(4096):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


def test_who_can_read_the_file_is_let_in(listener, tmp_path):
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and len(file.read_text()) == 64
    client = Client(listener.port)
    serve(listener)
    question = client.question()
    assert question["file"] == str(file) and file.read_text() not in str(question)
    client.send(answer(question), HELLO, {"kind": "alive"})
    ((link, messages),) = serve(listener, 2)
    assert [message["kind"] for message in messages] == ["hello", "alive"] and messages[0]["node"] == 1
    assert listener.candidates == [] and link.open
    listener.close()
    assert list(tmp_path.iterdir()) == []


WRONG = {
    "brackets": [b"[" * 50_000],
    "a bare hello": [{"kind": "hello"}],
    "a hello without an answer": [HELLO],
    "a wrong answer": [b"0" * 64, HELLO],
    "a short answer": [b"0" * 10, HELLO],
    "a text that is none": [b"\xff" * 64, HELLO],
    "http": [b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100],
    "no end": [b"x" * 3_000_000],
}


@pytest.mark.parametrize("case", WRONG)
def test_who_cannot_is_not(listener, case, monkeypatch):
    monkeypatch.setattr(connections, "ANSWER", 0.3)
    client = Client(listener.port)
    serve(listener)

    def speak():
        try:
            client.send(*WRONG[case])
        except OSError:  # the connection is closed already
            pass

    thread = threading.Thread(target=speak)
    thread.start()
    assert serve(listener, 0.5) == [] and listener.candidates == []
    thread.join()
    assert client.closed()


def test_an_answer_is_of_use_once(listener):
    clients = [Client(listener.port), Client(listener.port)]
    serve(listener, 0.2)
    first, second = (client.question() for client in clients)
    assert first["number"] != second["number"]
    clients[1].send(answer(first), HELLO)
    assert serve(listener, 0.3) == [] and clients[1].closed()


@pytest.mark.parametrize(
    "hello", [{"kind": "hello"}, {**HELLO, "node": "1"}, {**HELLO, "node": [1]}, {"kind": "go"}, b"["]
)
def test_a_hello_that_is_none(listener, hello):
    client = Client(listener.port)
    serve(listener)
    client.send(answer(client.question()), hello)
    assert serve(listener, 0.3) == [] and listener.candidates == [] and client.closed()


def test_two_hundred_silent_ones_hold_nobody_up(listener):
    silent, spent = [], 0.0
    for _ in range(4):
        silent += [Client(listener.port) for _ in range(50)]
        start = time.monotonic()
        serve(listener)
        spent += time.monotonic() - start
    assert spent < 2 and len(listener.candidates) <= connections.CANDIDATES
    client = Client(listener.port)
    serve(listener)
    client.send(answer(client.question()), HELLO)
    assert len(serve(listener, 2)) == 1
    assert sum(one.closed() for one in silent[:20]) == 20  # the oldest had to go


def test_who_answers_too_slowly_has_to_go(listener, monkeypatch):
    monkeypatch.setattr(connections, "ANSWER", 0.5)
    client = Client(listener.port)
    serve(listener)
    late, end = answer(client.question()) + b"\n", time.monotonic() + 1
    for byte in late:
        try:
            client.socket.sendall(bytes([byte]))
        except OSError:
            break
        serve(listener)
        time.sleep(0.02)
        if time.monotonic() > end:
            break
    assert listener.candidates == [] and client.closed()


def test_it_listens_where_it_is_told(listener):
    with pytest.raises(OSError):
        Client(listener.port, "127.0.0.2")
    everywhere = Listener("", free_port(), listener.file.parent)
    Client(everywhere.socket.getsockname()[1], "127.0.0.2")
    everywhere.close()


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        Listener("127.0.0.1", free_port(), tmp_path / "nowhere")


def test_the_answer_comes_from_such_a_file_alone(tmp_path):
    path = tmp_path / f"token.{'a' * 16}"
    question = {"kind": "question", "file": str(path), "number": "1"}
    assert answer(question) is None  # not to be seen yet
    os.mkfifo(path)
    assert answer(question) is None
    path.unlink()
    for text in ("", "0" * 63, "g" * 64, "0" * 64 + "\n"):
        path.write_text(text)
        assert answer(question) is None
    path.write_text("0" * 64)
    assert len(answer(question)) == 64
    (tmp_path / "id_rsa").write_text("0" * 64)
    for wrong in ({"file": str(tmp_path / "id_rsa")}, {"file": 3}, {"number": None}, {"file": "a\0/token." + "a" * 16}):
        try:
            assert answer({**question, **wrong}) is None
        except ValueError:
            pass
    with pytest.raises(ValueError):
        answer({**question, "file": str(tmp_path / "id_rsa")})


# Messages of one who has been let in

ENDED = {"kind": "ended", "status": 1, "cause": "x", "log": ["a"], "mistake": False, "ago": 1.5}
NO_MESSAGES = {
    "brackets": b"[" * 50_000,
    "deep": b'{"kind":' * 20_000,
    "no object": b"[]",
    "no kind": b'{"node": 1}',
    "kind of another type": b'{"kind": ["hello"]}',
    "no text": b"\xff\xfe",
    "a number of many digits": b'{"kind": "done", "x": ' + b"9" * 5000 + b"}",
    "a long line": b"x" * (connections.LINE + 100_000),
    **{f"ended, no {key}": {k: v for k, v in ENDED.items() if k != key} for key in ENDED if key != "kind"},
    "ended, status": {**ENDED, "status": 1e9},
    "ended, status 0": {**ENDED, "status": 0},
    "ended, cause": {**ENDED, "cause": ["x"]},
    "ended, log": {**ENDED, "log": [["a"]]},
    "ended, log of text": {**ENDED, "log": "a"},
    "ended, mistake": {**ENDED, "mistake": "yes"},
    "ended, nan": {**ENDED, "ago": float("nan")},
    "ended, inf": {**ENDED, "ago": float("-inf")},
    "ended, far": {**ENDED, "ago": 10**400},
    "ended, text": {**ENDED, "ago": "1"},
}


@pytest.fixture
def node_0(tmp_path):
    """The hub of node 0 with a stub of a command, and who comes in as node 1."""
    port = free_port()
    hub = Node0(options(0, port, tmp_path), command())
    client = Client(port)
    hub.poll()
    client.send(answer(client.question()), HELLO)
    hub.meet()
    hub.client = client
    yield hub
    hub.close()


def poll(hub, seconds=3):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        hub.poll()


@pytest.mark.parametrize("case", NO_MESSAGES)
def test_what_is_no_message_ends_the_connection_and_no_more(node_0, case):
    thread = threading.Thread(target=node_0.client.send, args=(NO_MESSAGES[case],), daemon=True)
    thread.start()
    with pytest.raises(LaunchFailed) as caught:
        poll(node_0)
    assert caught.value.status == 1 and "node 1 lost" in caught.value.cause, caught.value.cause


def test_messages_that_mean_nothing_are_dropped(node_0):
    node_0.client.send({"kind": "nonsense"}, {"kind": "go"}, {"kind": "finished"}, {"kind": "hello"}, {"kind": "alive"})
    poll(node_0, 0.3)
    assert node_0.done == set()
    node_0.client.send({"kind": "done", "node": 7})
    poll(node_0, 0.3)
    assert node_0.done == {1}
    node_0.client.send(ENDED)
    with pytest.raises(LaunchFailed) as caught:
        poll(node_0)
    assert (caught.value.status, caught.value.cause, caught.value.log) == (1, "x", ["a"])
    assert 1 < time.time() - caught.value.when < 5


@pytest.mark.parametrize(
    "change", [{"node": 0}, {"node": 1}, {"node": 7}, {"nodes": 3}, {"job": {"a": 1}}, {"command": 3}]
)
def test_a_node_that_comes_too_late_or_with_other_options(node_0, change):
    late = Client(node_0.port)
    poll(node_0, 0.2)
    late.send(answer(late.question()), {**HELLO, **change})
    poll(node_0, 0.3)
    assert late.question()["mistake"] is True  # it is told, and the run goes on
    assert [link.node for link in node_0.links] == [1]


# Node 1


@pytest.fixture
def node_1(tmp_path):
    """A function that starts node 1 in a thread, and gives what `meet` returns or raises there."""

    def start(port, wait=5):
        results = []

        def meet():
            try:
                results.append(OtherNode(options(1, port, tmp_path, wait), command()).meet())
            except LaunchFailed as error:
                results.append(error)

        thread = threading.Thread(target=meet, daemon=True)
        thread.start()
        return thread, results

    return start


def test_a_file_that_is_seen_late(listener, node_1, monkeypatch):
    """As on a network file system; node 0 may meanwhile have closed the connection."""
    monkeypatch.setattr(connections, "ANSWER", 0.3)
    hidden = listener.file.rename(listener.file.with_name("hidden"))
    thread, results = node_1(listener.port)
    assert serve(listener, 1) == []
    hidden.rename(listener.file)
    ((link, _),) = serve(listener, 3)
    link.send("go", endpoint="127.0.0.1:99")
    thread.join(3)
    assert results == [("127.0.0.1", "127.0.0.1:99")]


def test_a_file_that_is_never_seen(listener, node_1, monkeypatch):
    monkeypatch.setattr(other_node, "VISIBLE", 0.5)
    monkeypatch.setattr(connections, "ANSWER", 0.3)
    listener.file.unlink()
    thread, results = node_1(listener.port)
    serve(listener, 2)
    thread.join(3)
    assert results[0].status == 1 and str(listener.file) in results[0].cause


@pytest.mark.parametrize("words", [b"[" * 50_000, {"kind": "question"}, {"kind": "question", "file": "/etc/passwd"}])
def test_somebody_else_in_place_of_node_0(node_1, words):
    with socket.create_server(("127.0.0.1", 0)) as other:
        thread, results = node_1(other.getsockname()[1])
        Link(other.accept()[0]).write(words if type(words) is bytes else json.dumps(words).encode())
        thread.join(3)
    assert results[0].status == 1 and "not as node 0" in results[0].cause


def test_a_go_that_names_no_place_is_dropped(listener, node_1):
    thread, results = node_1(listener.port)
    ((link, _),) = serve(listener, 3)
    for place in (None, 3, "x; rm -rf", "127.0.0.1:1 --x"):
        link.send("go", endpoint=place)
    link.send("busy", step=["x"])
    link.send("go", endpoint="127.0.0.1:99")
    thread.join(3)
    assert results == [("127.0.0.1", "127.0.0.1:99")]
