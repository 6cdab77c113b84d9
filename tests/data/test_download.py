import errno
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from paddletag.data import download
from paddletag.files import locked
from paddletag.runtime import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` under every path but /missing, as badly as its attributes say."""

    daemon_threads = True
    content = CONTENT
    etag = '"one"'
    ranges = True  # honour Range
    drops = 0  # so many answers more break off after `drop_after` bytes
    drop_after = 100_000
    status = 0  # answer all requests with this
    delay = 0.0  # seconds, in the middle of the answer

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen = []  # the Range header of each request
        self.paths = []

    def url(self, name="file.bin"):
        return f"http://127.0.0.1:{self.server_port}/a/{name}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, content = self.server, self.server.content
        asked = self.headers.get("Range")
        server.seen.append(asked)
        server.paths.append(self.path)
        if server.status or self.path.endswith("missing"):
            return self.send_error(server.status or 404)
        start = 0
        if asked and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        body = content[start:]
        if server.drops > 0:
            server.drops -= 1
            self.wfile.write(body[: server.drop_after])
            self.close_connection = True
            return
        self.wfile.write(body[:1000])
        time.sleep(server.delay)
        self.wfile.write(body[1000:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("PADDLETAG_MIRROR", raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def one_line(caught, *words):
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text
    return text


def test_fetch(server, tmp_path):
    path = tmp_path / "new" / "file.bin"
    assert download.fetch(server.url(), path, sha256=SHA256.upper(), md5=MD5) == path
    assert path.read_bytes() == CONTENT and files(path.parent) == ["file.bin"]
    download.fetch(server.url(), path, md5=MD5)
    assert server.seen == [None]  # the second call asked nothing


def test_fetch_needs_a_checksum(server, tmp_path):
    with pytest.raises(ValueError, match="checksum"):
        download.fetch(server.url(), tmp_path / "x")


def test_fetch_resumes_after_each_dropped_connection(server, tmp_path):
    server.drops, server.drop_after = 5, 50_000  # more than TRIES, but each gets further
    download.fetch(server.url(), tmp_path / "x", sha256=SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert server.seen == [None] + [f"bytes={n * 50_000}-" for n in range(1, 6)]


def test_fetch_resumes_what_an_earlier_run_left(server, tmp_path):
    (tmp_path / "x.part").write_bytes(CONTENT[:1234])
    download.fetch(server.url(), tmp_path / "x", sha256=SHA256)
    assert server.seen == ["bytes=1234-"] and files(tmp_path) == ["x"]


def test_fetch_finds_a_part_that_is_whole(server, tmp_path):
    (tmp_path / "x.part").write_bytes(CONTENT)
    download.fetch(server.url(), tmp_path / "x", sha256=SHA256)
    assert server.seen == [f"bytes={len(CONTENT)}-"] and files(tmp_path) == ["x"]


def test_fetch_starts_anew_where_the_part_is_too_long(server, tmp_path):
    (tmp_path / "x.part").write_bytes(CONTENT + b"more")
    download.fetch(server.url(), tmp_path / "x", sha256=SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_fetch_starts_anew_where_ranges_are_ignored(server, tmp_path):
    server.ranges, server.drops = False, 2
    download.fetch(server.url(), tmp_path / "x", sha256=SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT and len(server.seen) == 3


def test_fetch_gives_up_where_it_gets_no_further(server, tmp_path):
    server.ranges, server.drops = False, 100
    with pytest.raises(UserError) as caught:
        download.fetch(server.url(), tmp_path / "x", sha256=SHA256, hint="use --raw DIR")
    one_line(caught, server.url(), "100000 of 300000 bytes", "use --raw DIR")
    assert len(server.seen) == download.TRIES and not (tmp_path / "x").exists()


def test_fetch_does_not_splice_two_versions(server, tmp_path):
    server.drops = download.TRIES
    server.drop_after = 0
    server.content = b"old" * 100_000
    with pytest.raises(UserError):
        download.fetch(server.url(), tmp_path / "x", sha256=SHA256)
    (tmp_path / "x.part").write_bytes(server.content[:1000])  # with the ETag that the server gave
    server.content, server.etag = CONTENT, '"two"'
    download.fetch(server.url(), tmp_path / "x", sha256=SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert server.seen[-1] == "bytes=1000-" and files(tmp_path) == ["x"]


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_fetch_refuses_another_file(server, tmp_path, kind):
    server.content = b"<html>log in first</html>"
    right = {"sha256": SHA256, "md5": MD5}[kind]
    with pytest.raises(UserError) as caught:
        download.fetch(server.url(), tmp_path / "x", **{kind: right})
    one_line(caught, server.url(), right, hashlib.new(kind, server.content).hexdigest())
    assert files(tmp_path) == []


@pytest.mark.parametrize("status", [404, 403, 410])
def test_fetch_reports_what_the_server_refuses_at_once(server, tmp_path, status):
    server.status = status
    with pytest.raises(UserError) as caught:
        download.fetch(server.url(), tmp_path / "x", sha256=SHA256, hint="use --from FILE")
    one_line(caught, server.url(), str(status), "use --from FILE")
    assert len(server.seen) == 1 and files(tmp_path) == []


def test_fetch_tries_again_when_the_server_is_busy(server, tmp_path):
    server.status = 503
    with pytest.raises(UserError) as caught:
        download.fetch(server.url(), tmp_path / "x", sha256=SHA256)
    one_line(caught, server.url(), "503")
    assert len(server.seen) == download.TRIES


def test_fetch_without_a_server(server, tmp_path, monkeypatch):
    url = server.url()
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError) as caught:
        download.fetch(url, tmp_path / "x", sha256=SHA256, hint="use --from FILE")
    one_line(caught, url, "refused", "use --from FILE", "set PADDLETAG_MIRROR")
    assert files(tmp_path) == []


def test_fetch_times_out(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    server.delay = 1.0
    server.ranges = False
    with pytest.raises(UserError) as caught:
        download.fetch(server.url(), tmp_path / "x", sha256=SHA256)
    one_line(caught, server.url(), "timed out")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "nonsense", "http://a b/x", "http://[/x"])
def test_fetch_refuses_other_addresses(tmp_path, url):
    with pytest.raises(UserError) as caught:
        download.fetch(url, tmp_path / "x", sha256=SHA256)
    one_line(caught, url, "address")


def test_mirror(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLETAG_MIRROR", f"http://127.0.0.1:{server.server_port}/mirror/")
    download.fetch("https://example.invalid/some/where/w%3D1.pt?download=1", tmp_path / "x", sha256=SHA256)
    assert server.paths == ["/mirror/w%3D1.pt"]
    with pytest.raises(UserError) as caught:
        download.fetch("https://example.invalid/other.pt", tmp_path / "y", md5="0" * 32)
    one_line(caught, str(server.server_port), "expected " + "0" * 32, "PADDLETAG_MIRROR")


def test_full_disk_leaves_no_final_file(server, tmp_path):
    (tmp_path / "x.part").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        download.fetch(server.url(), tmp_path / "x", sha256=SHA256)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "x.part")
    assert not (tmp_path / "x").exists() and len(server.seen) == 1


def test_two_processes_download_once(server, tmp_path):
    server.delay = 1.0
    code = "import sys; from paddletag.data.download import fetch; fetch(sys.argv[1], sys.argv[2], sha256=sys.argv[3])"
    command = [sys.executable, "-c", code, server.url(), str(tmp_path / "x"), SHA256]
    environment = {**os.environ, "PYTHONPATH": str(Path(download.__file__).parents[2])}
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert server.seen == [None] and files(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_locked_admits_one_at_a_time(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(20):
            with locked(tmp_path / "x"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80 and max(most) == 1 and files(tmp_path) == []
