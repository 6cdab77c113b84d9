"""Fetch a file whose checksum is known, and unpack an archive into a folder that it cannot leave."""

import contextlib
import errno
import fcntl
import hashlib
import http.client
import lzma
import os
import posixpath
import shutil
import ssl
import stat
import struct
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

from paddletag.runtime import UserError, log, progress

TRIES = 4  # failures in a row, none of which got any further
BACKOFF = 1.0  # seconds before the second try; doubles with each one after it
TIMEOUT = 30.0  # seconds without a byte
_BROKEN = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError)


def checksum(path, kind="sha256"):
    """The hexadecimal digest of a file; `kind` is sha256 or md5."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def mismatch(path, sha256="", md5=""):
    """What is wrong with the checksum of `path`, as a clause for an error; empty if all that are given agree."""
    for kind, expected in (("sha256", sha256), ("md5", md5)):
        if expected and (found := checksum(path, kind)) != expected.lower():
            return f"its {kind} is {found}, expected {expected.lower()}"
    return ""


def fetch(url, path, sha256="", md5="", hint="run the same command again, it resumes"):
    """Download `url` to `path`, unless a file with the right checksum lies there already.

    The bytes collect in `<path>.part`, which a later call resumes, and get their final name once the checksum agrees
    (at least one is required). The environment variable PADDLETAG_MIRROR replaces all of the address but the file's
    name. Of two processes with the same `path` the second waits, and then finds the file.

    Returns the path. UserError: the server does not have the file, cannot be reached, or sends another one; `hint` is
    the error's last clause, and says what the user can do instead.
    """
    if not (sha256 or md5):
        raise ValueError(f"{url}: a checksum is required")
    path, url = Path(path), mirrored(url)
    part, tag = _beside(path, ".part"), _beside(path, ".part.etag")
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if path.is_file() and not mismatch(path, sha256, md5):
            log.info("%s is here already", path)
            return path
        _download(url, part, tag, hint)
        wrong = mismatch(part, sha256, md5)
        tag.unlink(missing_ok=True)
        if wrong:
            part.unlink()
            raise UserError(f"{url}: not the file that was published: {wrong}; {hint}")
        part.replace(path)
    return path


def mirrored(url):
    """`url`, or the file of the same name under PADDLETAG_MIRROR where that is set."""
    mirror = os.environ.get("PADDLETAG_MIRROR", "")
    try:
        if mirror:
            url = f"{mirror.rstrip('/')}/{urllib.parse.urlsplit(url).path.rpartition('/')[2]}"
        if urllib.parse.urlsplit(url).scheme in ("http", "https"):
            return url
    except ValueError:
        pass
    raise UserError(f"{url}: not an http or https address")


@contextlib.contextmanager
def locked(path):
    """Keep other processes that ask for the same `path` out of the block: they wait for its end."""
    lock = _beside(Path(path), ".lock")
    while True:
        file = open(lock, "a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process that makes %s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        # Whoever held the lock has removed its file: then ours is a lock on nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                break
        file.close()
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        file.close()


def _beside(path, suffix):
    return path.with_name(path.name + suffix)


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _download(url, part, tag, hint):
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


def _stream(url, part, tag):
    """One request: append to `part` what it lacks, or start it anew if the server has another file or ignores ranges.

    `tag` keeps the server's name for the version of the file that `part` begins with.
    """
    have = _size(part)
    headers = {"User-Agent": "paddletag"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text(encoding="latin-1")
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # nothing is lacking
        part.unlink()
        raise ConnectionError("the server's file is another one than before") from None
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionError("the server sends another range than the one asked for")
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if not resumed:
            have = 0
            tag.unlink(missing_ok=True)
            if version and version.isprintable() and not version.startswith("W/"):  # weak: equal bytes not promised
                tag.write_text(version, encoding="latin-1")
        total = None if response.length is None else have + response.length
        bar = progress(total=total, initial=have, unit="B", unit_scale=True, desc=url.rpartition("/")[2])
        try:
            with bar, open(part, "ab" if resumed else "wb") as file:
                while block := response.read1(1 << 16):
                    have += file.write(block)
                    bar.update(len(block))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                error.filename = str(part)
            raise
        if total is not None and have < total:
            raise ConnectionError(f"the connection broke after {have} of {total} bytes")


# What an archive holds, alike for zip and tar. kind: file, folder, symlink or hardlink; source: ZipInfo or TarInfo.
_Member = namedtuple("_Member", "name kind target size source")

_CORRUPT = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,  # a method of compression that zipfile lacks
    RuntimeError,  # an encrypted zip file
    ValueError,
)


def unpack(archive, folder):
    """Unpack a zip or tar file (plain, gz, bz2, xz) into `folder`, which must not exist yet. Returns the folder.

    All members are checked before anything is written: UserError for one that would leave the folder (an absolute
    path, `..`, a link that points outside or a path through a link), and for devices and the like. A damaged archive
    is a UserError too, and leaves nothing behind. Owners, permissions and times are not restored.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise UserError(f"{folder}: exists already: remove it to unpack {archive} again")
    if not archive.is_file():
        raise UserError(f"{archive}: no such file")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        with _open_archive(archive) as opened:
            members = list(opened.members())
            for member in members:
                _check_name(archive, member.name)
            _check_links(archive, members)
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
            _extract(opened, members, temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        os.rename(temporary, folder)
    except _CORRUPT as error:
        raise UserError(f"{archive}: a damaged archive ({error}): get it again") from None
    except OSError as error:
        if error.errno is None:  # gzip and bz2 report damage as OSError
            raise UserError(f"{archive}: a damaged archive ({error}): get it again") from None
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and folder.exists():
            raise UserError(f"{folder}: exists already: another process has unpacked {archive}") from None
        raise
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


class _Zip:
    def __init__(self, archive):
        self.archive = archive
        self.file = zipfile.ZipFile(archive)

    def members(self):
        for info in self.file.infolist():
            mode = info.external_attr >> 16 if info.create_system == 3 else 0
            kind, target = ("folder" if info.is_dir() else "file"), ""
            if stat.S_ISLNK(mode):
                if info.file_size > 4096:
                    raise ValueError(f"{show(info.filename)} is no link")
                kind, target = "symlink", self.file.read(info).decode()
            elif stat.S_IFMT(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"{self.archive}: refuses to unpack {show(info.filename)}: a device or the like")
            yield _Member(info.filename, kind, target, info.file_size, info)

    def open(self, member):
        return self.file.open(member.source)


class _Tar:
    def __init__(self, archive):
        self.archive = archive
        self.file = tarfile.open(archive, errors="surrogateescape")

    def members(self):
        for info in self.file:
            if info.size < 0:
                raise tarfile.ReadError(f"{show(info.name)} has a negative size")
            kinds = {"file": info.isreg(), "folder": info.isdir(), "symlink": info.issym(), "hardlink": info.islnk()}
            kind = next((kind for kind, true in kinds.items() if true), None)
            if kind is None:
                raise UserError(f"{self.archive}: refuses to unpack {show(info.name)}: a device or the like")
            yield _Member(info.name, kind, info.linkname, info.size, info)
        # tarfile takes a header that it cannot read for the end of the archive; the end is a block of zeros.
        self.file.fileobj.seek(self.file.offset)
        if self.file.fileobj.read(512) != bytes(512):
            raise tarfile.ReadError("it breaks off, or a header is damaged")
        while self.file.fileobj.read(1 << 20):
            pass  # gzip and the others check their sum at the very end

    def open(self, member):
        return self.file.extractfile(member.source)


@contextlib.contextmanager
def _open_archive(archive):
    with open(archive, "rb") as file:
        head = file.read(4)
    if head in (b"PK\3\4", b"PK\5\6"):  # at its start: a tar file may end with a zip file in it
        opened = _Zip(archive)
    else:
        try:
            opened = _Tar(archive)
        except tarfile.ReadError:
            raise UserError(f"{archive}: neither a zip nor a tar file, or a damaged one: get it again") from None
    with opened.file:
        yield opened


def _leaves(name):
    """Whether a path, taken literally, leads out of the folder that it starts in."""
    plain = posixpath.normpath(name.replace("\\", "/"))
    return plain.startswith("/") or plain.split("/")[0] == ".."


def _check_name(archive, name):
    if not name or "\0" in name or _leaves(name) or ".." in name.replace("\\", "/").split("/"):
        raise UserError(f"{archive}: refuses to unpack {show(name)}: not a path inside the folder")


def _check_links(archive, members):
    """No link may point outside, and no path may go through a link: then what paths say literally is also true."""
    links = {posixpath.normpath(m.name) for m in members if m.kind == "symlink"}
    files = {posixpath.normpath(m.name) for m in members if m.kind == "file"}

    def through_link(path):
        parts = path.split("/")
        return any(posixpath.normpath("/".join(parts[:n])) in links for n in range(1, len(parts)))

    for member in members:
        if through_link(posixpath.normpath(member.name)):
            raise UserError(f"{archive}: refuses to unpack {show(member.name)}: its path goes through a link")
        if member.kind == "symlink":
            target = posixpath.join(posixpath.dirname(member.name), member.target)
            good = member.target and not _leaves(target) and not through_link(target)
        else:
            good = member.kind != "hardlink" or posixpath.normpath(member.target) in files
        if not good:
            what = f"{show(member.name)} -> {show(member.target)}"
            raise UserError(f"{archive}: refuses to unpack the link {what}: not to a path inside the folder")


def _extract(opened, members, folder):
    # Links come last, so that no file is ever written through one.
    for member in sorted(members, key=lambda m: ("folder", "file", "hardlink", "symlink").index(m.kind)):
        path = folder / member.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if member.kind == "folder":
                path.mkdir(exist_ok=True)
            elif member.kind == "symlink":
                path.symlink_to(member.target)
            elif member.kind == "hardlink":
                shutil.copyfile(folder / member.target, path)
            else:
                with opened.open(member) as source, open(path, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                if path.stat().st_size != member.size:
                    raise ValueError(f"{show(member.name)} is shorter than it says")
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise ValueError(f"two members are called {show(member.name)}") from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise ValueError(f"the name {show(member.name)} is too long") from None
            raise


def show(name):
    """A name for an error's text: short, and with nothing in it that a terminal would obey."""
    return (name if name.isprintable() else ascii(name)[1:-1])[:100]
