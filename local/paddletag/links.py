"""Connections between the watchers of several nodes (cluster.py): lines of JSON, from those who belong to this run.

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
from pathlib import Path

from paddletag.runtime import UserError

SILENCE = 15  # seconds after which a node is lost whose connection did not even close (no power, no network)
ANSWER = 10  # seconds in which one who connects must answer and say hello
GUESTS = 64  # connections that have not done so: for one more, the oldest is closed
LINE = 1 << 20  # bytes of a message, at most
LINES = 12  # of a failed worker's log
HEX = 64  # digits of a secret and of an answer


class Ended(Exception):
    """The end of a launch: `status` for run.sh, `cause` in one line, the last lines of a `log`, the time `when`."""

    def __init__(self, status, cause, log=(), when=None, mistake=False):
        super().__init__(cause)
        self.status, self.cause, self.log, self.mistake = status, cause, list(log), mistake
        self.when, self.decided = time.time() if when is None else when, False

    def to_message(self):
        """Clocks of two machines differ: what travels is how long ago it was."""
        return {**vars(self), "when": None, "ago": time.time() - self.when}

    @classmethod
    def from_message(cls, message):
        """What `to_message` has made on another node. ValueError for a message that is not of this form."""
        status, cause, log, mistake, ago = (message.get(key) for key in ("status", "cause", "log", "mistake", "ago"))
        texts = [cause, *log] if type(log) is list else [None]
        if type(status) is not int or not 0 < status < 256 or any(type(text) is not str for text in texts):
            raise ValueError("not a message")
        if type(mistake) is not bool or type(ago) not in (int, float) or not abs(ago) < 1e6:
            raise ValueError("not a message")
        ended = cls(status, cause[:2000], [line[:500] for line in log[:LINES]], time.time() - ago, mistake)
        ended.decided = True  # if it comes from node 0
        return ended


class Link:
    """A connection to the watcher of another node."""

    def __init__(self, connection):
        connection.settimeout(5)
        self.socket, self.buffer, self.open, self.heard = connection, b"", True, time.monotonic()
        self.node, self.ended = None, False  # its number, and whether it has said why it ends

    def fileno(self):
        return self.socket.fileno()

    def send(self, kind, **content):
        self.write(json.dumps({"kind": kind, **content}).encode())

    def write(self, line):
        try:
            self.socket.sendall(line + b"\n")
        except OSError:
            self.open = False

    def read(self, most):
        """Up to so many bytes more, into the buffer."""
        try:
            received = self.socket.recv(most)
        except OSError:
            received = b""
        self.open = self.open and bool(received)
        self.heard = time.monotonic()
        self.buffer += received

    def receive(self):
        """The messages that have come since: dicts with a text `kind`, and with an `Ended` as `end` if they tell one.

        ValueError if these are no messages; the connection is closed then.
        """
        self.read(1 << 16)
        *lines, self.buffer = self.buffer.split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
            if len(self.buffer) > LINE or not all(type(m) is dict and type(m.get("kind")) is str for m in messages):
                raise ValueError("not a message")
            for message in messages:
                message["end"] = Ended.from_message(message) if message["kind"] == "ended" else None
        except (ValueError, RecursionError):
            self.open = False
            raise ValueError("not a message") from None
        return messages

    def silent(self):
        return time.monotonic() - self.heard > SILENCE

    def close(self):
        self.open = False
        self.socket.close()


class Door:
    """The port of node 0, and those who have connected to it and not yet shown that they belong to this run.

    address: where to listen, "" for everywhere. folder: for the file with the secret; all nodes can see it.
    """

    def __init__(self, address, port, folder):
        self.listener, self.guests = _listen(address, port), []
        self.secret = secrets.token_hex(HEX // 2)
        # A name that nobody has looked up before: a network file system may remember for a while what is not there.
        self.file = Path(folder).absolute() / f"token.{secrets.token_hex(8)}"
        try:
            with open(self.file, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(self.secret)
        except OSError as error:
            raise UserError(f"{self.file}: {error.strerror.lower()}") from None

    def waiting(self):
        """What `select` is to look at."""
        return [self.listener, *self.guests]

    def admit(self, ready):
        """[(link, its messages)] of those among `ready` who belong to this run and have now said hello."""
        if self.listener in ready:
            self._accept()
        admitted = []
        for guest in list(self.guests):
            messages = self._hear(guest) if guest in ready else []
            late = time.monotonic() - guest.came > ANSWER
            if messages and messages[0]["kind"] == "hello" and _is_number(messages[0].get("node")):
                admitted.append((guest, messages))
            elif messages or late or not guest.open:
                guest.close()
            else:
                continue
            self.guests.remove(guest)
        return admitted

    def close(self):
        with contextlib.suppress(OSError):
            self.file.unlink()
        for waiting in self.waiting():
            waiting.close()
        self.guests.clear()

    def _accept(self):
        for _ in range(GUESTS):
            try:
                guest = Link(self.listener.accept()[0])
            except OSError:  # nobody else
                return
            guest.came, guest.known, guest.number = time.monotonic(), False, secrets.token_hex(16)
            guest.send("question", file=str(self.file), number=guest.number)  # into an empty buffer: never waits
            self.guests.append(guest)
            if len(self.guests) > GUESTS:
                self.guests.pop(0).close()

    def _hear(self, guest):
        """The messages of a guest, once it has given the right answer."""
        if guest.known:
            with contextlib.suppress(ValueError):
                return guest.receive()
            return []
        guest.read(HEX + 1 - len(guest.buffer))
        if len(guest.buffer) > HEX:
            guest.known = hmac.compare_digest(guest.buffer, _sign(self.secret, guest.number) + b"\n")
            guest.open, guest.buffer = guest.open and guest.known, b""
        return []


def answer(question):
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


def _sign(secret, number):
    return hmac.new(secret.encode(), number.encode(), hashlib.sha256).hexdigest().encode()


def _is_number(value):
    return type(value) is int and 0 <= value < 1_000_000


def _listen(address, port):
    """A socket that listens, and that `accept` does not wait for. OSError if the port is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end = time.monotonic() + 3  # a run that was just killed may still be letting go of it
    while True:
        try:
            listener.bind((address, port))
            break
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
    listener.listen(GUESTS)
    listener.setblocking(False)
    return listener
