"""Connections between the watchers of several nodes: lines of JSON, from those who belong to this run.

Anybody may connect to the port of node 0. The nodes share a file system: node 0 writes a secret into a file that its
user alone may read, and asks who connects for the HMAC of a random number with it. Until that has come, nothing else is
read from a connection; a wrong answer, or none within ANSWER seconds, closes it.
"""

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddletag.launch.launch_failed import LaunchFailed
from paddletag.runtime import UserError

SILENCE = 15  # seconds after which a node is lost whose connection did not even close (no power, no network)
ANSWER = 10  # seconds in which one who connects must answer and say hello
CANDIDATES = 64  # connections that have not done so: for one more, the oldest is closed
LINE = 1 << 20  # bytes of a message, at most
HEX = 64  # digits of a secret and of an answer

Message = dict[str, Any]  # has a text `kind`


class Link:
    """A connection to the watcher of another node.

    open: False once the other side has closed it, or has sent what is no message (`nonsense`). node: the number of the
    other node, once it is known. explained: whether that node has said why it ends.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        self.socket, self.buffer, self.last_heard = connection, b"", time.monotonic()
        self.open, self.nonsense, self.explained = True, False, False
        self.node: int | None = None

    def fileno(self) -> int:
        """For `select`."""
        return self.socket.fileno()

    def send(self, kind: str, **content: object) -> None:
        """Send a message, unless the other side is gone."""
        self.write(json.dumps({"kind": kind, **content}).encode())

    def write(self, line: bytes) -> None:
        """Send a line, given without its end, unless the other side is gone."""
        try:
            self.socket.sendall(line + b"\n")
        except OSError:
            self.open = False

    def read(self, size: int) -> None:
        """Up to `size` bytes more, into the buffer."""
        try:
            received = self.socket.recv(size)
        except OSError:
            received = b""
        self.open = self.open and bool(received)
        self.last_heard = time.monotonic()
        self.buffer += received

    def receive(self) -> list[Message]:
        """The messages that have come since, each with a `failure`: the LaunchFailed that it tells of, or None.

        None at all if one of them is no message; the connection then counts as closed.
        """
        self.read(1 << 16)
        *lines, self.buffer = self.buffer.split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
            if len(self.buffer) > LINE or not all(type(m) is dict and type(m.get("kind")) is str for m in messages):
                raise ValueError("not a message")
            for message in messages:
                is_end = message["kind"] == "ended"
                message["failure"] = LaunchFailed.from_message(message) if is_end else None
        except (ValueError, RecursionError):
            self.open, self.nonsense = False, True
            return []
        self.explained = self.explained or any(message["failure"] for message in messages)
        return messages

    def silent(self) -> bool:
        """Whether nothing has come for SILENCE seconds."""
        return time.monotonic() - self.last_heard > SILENCE

    def close(self) -> None:
        """Close the connection from this side."""
        self.open = False
        self.socket.close()


class Candidate(Link):
    """A connection to node 0 from whom has yet to show that they belong to this run.

    file: where the others find the `secret`.
    """

    def __init__(self, connection: socket.socket, file: Path, secret: str) -> None:
        super().__init__(connection)
        self.came, self.verified = time.monotonic(), False
        number = secrets.token_hex(16)
        self.expected = _sign(secret, number) + b"\n"
        self.send("question", file=str(file), number=number)  # into an empty buffer: never waits

    def hear(self) -> list[Message]:
        """What has come since, once the right answer has; before, none. A wrong answer closes the connection."""
        if self.verified:
            return self.receive()
        self.read(HEX + 1 - len(self.buffer))
        if len(self.buffer) > HEX:
            self.verified = hmac.compare_digest(self.buffer, self.expected)
            self.open, self.buffer = self.open and self.verified, b""
        return []


class Listener:
    """The port of node 0, and those who have connected to it and not yet shown that they belong to this run.

    address: where to listen, "" for everywhere. folder: for the file with the secret; all nodes can see it.
    OSError for a port that cannot be had, UserError for a folder that cannot be written.
    """

    def __init__(self, address: str, port: int, folder: str | Path) -> None:
        self.socket = _listen(address, port)
        self.candidates: list[Candidate] = []
        self.secret = secrets.token_hex(HEX // 2)
        # A name that nobody has looked up before: a network file system may remember for a while what is not there.
        self.file = Path(folder).absolute() / f"token.{secrets.token_hex(8)}"
        try:
            with open(self.file, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(self.secret)
        except OSError as error:
            raise UserError(f"{self.file}: {(error.strerror or str(error)).lower()}") from None

    def waiting(self) -> list[socket.socket | Candidate]:
        """What `select` is to look at."""
        return [self.socket, *self.candidates]

    def admit(self, ready: Sequence[object]) -> list[tuple[Link, list[Message]]]:
        """[(link, its messages)] of those among `ready` who belong to this run and have now said hello."""
        if self.socket in ready:
            self._accept()
        admitted: list[tuple[Link, list[Message]]] = []
        for candidate in list(self.candidates):
            messages = candidate.hear() if candidate in ready else []
            late = time.monotonic() - candidate.came > ANSWER
            if messages and messages[0]["kind"] == "hello" and _is_number(messages[0].get("node")):
                admitted.append((candidate, messages))
            elif messages or late or not candidate.open:
                candidate.close()
            else:
                continue
            self.candidates.remove(candidate)
        return admitted

    def close(self) -> None:
        """Listen no more, and remove the file with the secret."""
        with contextlib.suppress(OSError):
            self.file.unlink()
        for waiting in self.waiting():
            waiting.close()
        self.candidates.clear()

    def _accept(self) -> None:
        for _ in range(CANDIDATES):
            try:
                connection = self.socket.accept()[0]
            except OSError:  # nobody else
                return
            self.candidates.append(Candidate(connection, self.file, self.secret))
            if len(self.candidates) > CANDIDATES:
                self.candidates.pop(0).close()


def answer(question: Message) -> bytes | None:
    """The answer to node 0's question, or None as long as the file that it names cannot be read here.

    ValueError for a question that node 0 would not ask.
    """
    path, number = question.get("file"), question.get("number")
    if type(path) is not str or type(number) is not str or not re.fullmatch(r".*/token\.[0-9a-f]{16}", path):
        raise ValueError("not a question")
    try:
        secret = Path(path).read_text() if Path(path).is_file() else ""
    except (OSError, ValueError):
        return None
    return _sign(secret, number) if re.fullmatch(rf"[0-9a-f]{{{HEX}}}", secret) else None


def _sign(secret: str, number: str) -> bytes:
    return hmac.new(secret.encode(), number.encode(), hashlib.sha256).hexdigest().encode()


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < 1_000_000


def _listen(address: str, port: int) -> socket.socket:
    """A socket that listens, and that `accept` does not wait for. OSError if the port is taken."""
    end = time.monotonic() + 3  # a run that was just killed may still be letting go of it
    while True:
        try:
            listening = socket.create_server((address, port), backlog=CANDIDATES)
            break
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
    listening.setblocking(False)
    return listening
