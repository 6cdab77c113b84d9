"""Fetch a file whose checksum is known: resumed, tried again, verified before it bears its name."""

import errno
import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from paddletag.files import locked
from paddletag.runtime import UserError, log, progress
from paddletag.type_aliases import File

TRIES = 4  # failures in a row, none of which got any further
BACKOFF = 1.0  # seconds before the second try; doubles with each one after it
TIMEOUT = 30.0  # seconds without a byte
_BROKEN = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError)


def checksum(path: File, kind: str = "sha256") -> str:
    """The hexadecimal digest of a file; `kind` is sha256 or md5."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def mismatch(path: File, sha256: str = "", md5: str = "") -> str:
    """What is wrong with the checksum of `path`, as a clause for an error; empty if all that are given agree."""
    for kind, expected in (("sha256", sha256), ("md5", md5)):
        if expected and (actual := checksum(path, kind)) != expected.lower():
            return f"its {kind} is {actual}, expected {expected.lower()}"
    return ""


def fetch(
    url: str, path: File, sha256: str = "", md5: str = "", hint: str = "run the same command again, it resumes"
) -> Path:
    """Download `url` to `path`, unless a file with the right checksum lies there already.

    The bytes collect in `<path>.part`, which a later call resumes, and get their final name once the checksum agrees
    (at least one is required). The environment variable PADDLETAG_MIRROR replaces all of the address but the file's
    name. Of two processes with the same `path` the second waits, and then finds the file.

    Returns the path. UserError: the server does not have the file, cannot be reached, or sends another one; `hint` says
    in its text what the user can do instead, besides naming another server.
    """
    if not (sha256 or md5):
        raise ValueError(f"{url}: a checksum is required")
    path, url = Path(path), mirrored(url)
    mirror = "it names this server" if os.environ.get("PADDLETAG_MIRROR") else "to the folder's address there"
    hint = f"{hint}; or take the file from another server: set PADDLETAG_MIRROR ({mirror})"
    part, tag = _beside(path, ".part"), _beside(path, ".part.etag")
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if path.is_file() and not mismatch(path, sha256, md5):
            log.info("%s is here already", path)
            return path
        _download(url, part, tag, hint)
        difference = mismatch(part, sha256, md5)
        tag.unlink(missing_ok=True)
        if difference:
            part.unlink()
            raise UserError(f"{url}: not the file that was published: {difference}; {hint}")
        part.replace(path)
    return path


def mirrored(url: str) -> str:
    """`url`, or the file of the same name under PADDLETAG_MIRROR where that is set.

    UserError for what is no address of http or https.
    """
    mirror = os.environ.get("PADDLETAG_MIRROR", "")
    try:
        if mirror:
            url = f"{mirror.rstrip('/')}/{urllib.parse.urlsplit(url).path.rpartition('/')[2]}"
        if urllib.parse.urlsplit(url).scheme in ("http", "https"):
            return url
    except ValueError:
        pass
    raise UserError(f"{url}: not an http or https address")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download(url: str, part: Path, tag: Path, hint: str) -> None:
    """Fetch `url` into `part`, with as many requests as it takes. UserError with `hint` where they get no further."""
    failures, furthest = 0, _size(part)
    while True:
        try:
            return _stream(url, part, tag)
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code not in (408, 425, 429) and error.code < 500:
                raise UserError(f"{url}: {reason}: {hint}") from None
        except (http.client.InvalidURL, ValueError) as error:
            raise UserError(f"{url}: not an address: {error}") from None
        except _BROKEN as error:
            reason = f"no answer ({getattr(error, 'reason', error) or type(error).__name__})"
        reached = _size(part)
        failures = 1 if reached > furthest else failures + 1
        furthest = max(furthest, reached)
        if failures == TRIES:
            raise UserError(f"{url}: {reason}, {TRIES} times: {hint}")
        log.info("%s: %s; trying again", url, reason)
        time.sleep(BACKOFF * 2 ** (failures - 1))


def _stream(url: str, part: Path, tag: Path) -> None:
    """One request: append to `part` what it lacks, or start it anew if the server has another file or ignores ranges.

    `tag` keeps the server's name for the version of the file that `part` begins with.
    """
    received = _size(part)
    headers = {"User-Agent": "paddletag"}
    if received:
        headers["Range"] = f"bytes={received}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text(encoding="latin-1")
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not received:
            raise
        if error.headers.get("Content-Range") == f"bytes */{received}":
            return  # nothing is lacking
        part.unlink()
        raise ConnectionError("the server's file is another one than before") from None
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {received}-"):
            part.unlink()
            raise ConnectionError("the server sends another range than the one asked for")
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if not resumed:
            received = 0
            tag.unlink(missing_ok=True)
            if version and version.isprintable() and not version.startswith("W/"):  # weak: equal bytes not promised
                tag.write_text(version, encoding="latin-1")
        total = None if response.length is None else received + response.length
        bar = progress(total=total, initial=received, unit="B", unit_scale=True, desc=url.rpartition("/")[2])
        try:
            with bar, open(part, "ab" if resumed else "wb") as file:
                while block := response.read1(1 << 16):
                    received += file.write(block)
                    bar.update(len(block))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                error.filename = str(part)
            raise
        if total is not None and received < total:
            raise ConnectionError(f"the connection broke after {received} of {total} bytes")
