"""Object stores through pyarrow.fs, or fsspec where that has none: their sounds listed, and copied here ahead."""

import contextlib
import errno
import os
import tempfile
import threading
import urllib.parse
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import fs

from paddletag.data.audio import AudioError
from paddletag.runtime import UserError, escaped

AHEAD = 4  # files that are copied at a time, before they are asked for
TRIES, PAUSE = 4, 1.0  # seconds before the second try; four times as long before each further one
BLOCK = 2**20  # bytes
PYARROW = ("s3", "gs", "gcs", "file")  # for the others: fsspec


def is_address(name: str) -> bool:
    """Whether a name is the address of an object, as s3://bucket/key, and no path."""
    scheme, found, _ = name.partition("://")
    return bool(found) and scheme.isidentifier()


def without_secrets(address: str) -> str:
    """An address without user, password and options."""
    place, _, _ = address.partition("?")
    scheme, _, rest = place.partition("://")
    host, slash, path = rest.partition("/")
    user, _, bucket = host.rpartition("@")
    return f"{scheme}://{bucket if ':' in user else host}{slash}{path}"


class Stores:
    """The file systems of addresses. That of the source keeps the options and keys of the source's own address."""

    def __init__(self, source: str) -> None:
        self._known: dict[str, Any] = {}
        if is_address(source):
            self._known[_root(source)] = _file_system(source)

    def find(self, address: str) -> tuple[Any, str]:
        """(the file system of an address, the path in it). UserError for one that cannot be opened."""
        root = _root(address)
        if root not in self._known:
            self._known[root] = _file_system(root)
        return self._known[root], _path(self._known[root], address)


def list_objects(source: str, endings: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """(address, bytes) of the objects below an address with one of `endings`, by name; hidden ones left out.

    UserError for an address that cannot be listed.
    """
    address = without_secrets(source)
    system, root = Stores(source).find(address)
    prefix = address.rstrip("/")
    with _told(address):
        kind = system.get_file_info(root).type
    if kind == fs.FileType.File:
        raise UserError(
            f"{address}: is one object: name a bucket or a prefix; lists and tables must lie on a disk here"
        )
    if kind == fs.FileType.NotFound:
        raise UserError(f"{address}: no such bucket or prefix")
    folders = [root]
    while folders:
        folder = folders.pop()
        with _told(address):
            infos = sorted(system.get_file_info(fs.FileSelector(folder)), key=lambda info: info.path)
        infos = [info for info in infos if not info.base_name.startswith(".")]
        folders += [info.path for info in reversed(infos) if info.type == fs.FileType.Directory]
        for info in infos:
            if info.type == fs.FileType.File and info.path.lower().endswith(endings):
                yield prefix + "/" + info.path[len(root.rstrip("/")) :].lstrip("/"), info.size


class Copy:
    """The local file of an item: its own, or a copy that is removed when all who share it have released it."""

    def __init__(self, address: str, path: str, future: "Future[None] | None") -> None:
        self.address, self.path, self._future, self._users = address, path, future, 1
        self._lock = threading.Lock()

    def share(self) -> bool:
        """Use it once more, if it is still there."""
        with self._lock:
            self._users += self._users > 0
            return self._users > 0

    def wait(self) -> AudioError | None:
        """Wait for the copy: None, or why this object cannot be had. UserError where it is no fault of the object."""
        try:
            if self._future:
                self._future.result()
        except AudioError as error:
            return error
        return None

    def release(self) -> None:
        """It is not needed any more."""
        with self._lock:
            self._users -= 1
            if self._future and not self._users:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)


@contextlib.contextmanager
def local_copies(names: Iterable[str], stores: Stores, base: str) -> Iterator[Iterator[Copy]]:
    """Yield an iterator of the `Copy` of each name, in order: objects are copied ahead, a few at a time.

    base: where relative paths begin. Neighbours of the same address share a copy.
    """
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="paddletag-archive-") as folder, ThreadPoolExecutor(AHEAD) as pool:

        def begin() -> Iterator[Copy]:
            last: Copy | None = None
            for number, name in enumerate(names):
                if not is_address(name):
                    yield Copy(name, os.path.join(base, name), None)
                elif last and last.address == name and last.share():
                    yield last
                else:
                    path = os.path.join(folder, f"{number}{PurePosixPath(name).suffix}")
                    last = Copy(name, path, pool.submit(_copy, stores, name, path, stop))
                    yield last

        def ahead() -> Iterator[Copy]:
            begun: deque[Copy] = deque()
            for copy in begin():
                begun.append(copy)
                if len(begun) > AHEAD:
                    yield begun.popleft()
            yield from begun

        try:
            yield ahead()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _copy(stores: Stores, address: str, path: str, stop: threading.Event) -> None:
    """Copy an object to `path`. AudioError for one that is not there or may not be read.

    OSError for a full disk, UserError for a store that does not answer, even when asked again.
    """
    for attempt in range(TRIES):
        try:
            system, place = stores.find(address)
            with system.open_input_stream(place) as source, open(path, "wb") as target:
                while not stop.is_set() and (block := source.read(BLOCK)):
                    target.write(block)
            return
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            if reason := _own_fault(error):
                raise AudioError(f"{path}: {reason}") from None
            if attempt == TRIES - 1 or stop.wait(PAUSE * 4**attempt):
                advice = "is the store reachable? Then run the same command again"
                raise UserError(f"{without_secrets(address)}: cannot be copied: {_short(error)}: {advice}") from None


def _own_fault(error: Exception) -> str:
    """What is wrong with the object itself; nothing where the store or the way to it is at fault."""
    text = str(error)
    if isinstance(error, FileNotFoundError) or "NO_SUCH_KEY" in text or "HTTP status 404" in text:
        return "no such file"
    if isinstance(error, PermissionError) or "ACCESS_DENIED" in text or "HTTP status 403" in text:
        return "permission denied"
    return "not a file" if isinstance(error, IsADirectoryError) else ""


def _root(address: str) -> str:
    """The scheme, and the bucket or the host, of an address."""
    scheme, _, rest = without_secrets(address).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _path(system: Any, address: str) -> str:
    """The path of an address in its file system."""
    if isinstance(system, fs.PyFileSystem):
        return str(system.handler.fs._strip_protocol(address))
    return address.partition("://")[2]


def _file_system(address: str) -> Any:
    """The file system of an address: of its bucket or host, since keys may hold what no URI may."""
    scheme, _, rest = address.partition("://")
    place, question, options = rest.partition("?")
    root = f"{scheme}://{place.partition('/')[0]}"
    try:
        if scheme in PYARROW:
            return fs.FileSystem.from_uri(f"{root if root != 'file://' else 'file:///'}{question}{options}")[0]
        import fsspec

        system, _ = fsspec.core.url_to_fs(root, **dict(urllib.parse.parse_qsl(options)))
        return fs.PyFileSystem(fs.FSSpecHandler(system))
    except ModuleNotFoundError as error:
        advice = f"{scheme}:// needs the package {error.name}, which is not installed here"
        raise UserError(f"{without_secrets(address)}: {advice}") from None
    except (ValueError, ImportError, TypeError, OSError, pa.ArrowException) as error:
        reason = _short(error).replace(root, without_secrets(root)).replace(options or "?", "...")
        raise UserError(f"{without_secrets(address)}: cannot be opened: {reason}") from None


@contextlib.contextmanager
def _told(address: str) -> Iterator[None]:
    """What goes wrong in listing is a UserError that names the address."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{address}: cannot be listed: {_short(error)}") from None


def _short(error: Exception) -> str:
    """An error of a file system in a few words."""
    return escaped(str(error).split("\n")[0])[:300]
