"""Files that are whole or absent, locks between processes, names of files, and what lies below a folder."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from paddletag.runtime import UserError, log, one_line
from paddletag.type_aliases import File

LONGEST_NAME = 255  # bytes of a file's name, on all common file systems
SIDE_BY_SIDE = 16  # processes that may write one file at once


def file_name(stem: str, ending: str) -> str:
    """stem + ending; where file systems would not take so long a name, less of the stem, and 8 hex digits of it all."""
    if len(os.fsencode(stem + ending)) <= LONGEST_NAME:
        return stem + ending
    encoded = os.fsencode(stem)
    ending = f"-{hashlib.sha256(encoded).hexdigest()[:8]}{ending}"
    return encoded[: LONGEST_NAME - len(os.fsencode(ending))].decode("utf-8", "ignore") + ending


def walk(folder: File, onerror: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """The paths of all files below `folder`, relative to it, with /, in the same order each time; hidden ones left out.

    Links are followed, after all else, to folders that have not been met. onerror: is called with the error of a folder
    that cannot be read, which is raised without it.
    """
    stack, links = [("", str(folder))], list[tuple[str, str]]()
    seen: set[str] = set()
    while stack or links:
        if not stack:
            links.sort()
        prefix, path = stack.pop() if stack else links.pop(0)
        real = os.path.realpath(path)
        if real in seen:  # a link that leads back, or to what has been met
            continue
        seen.add(real)
        try:
            with os.scandir(path) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".") and entry.name != "__MACOSX"]
            entries.sort(key=lambda entry: entry.name)
        except OSError as error:
            if onerror is None:
                raise
            onerror(error)
            continue
        folders = list[tuple[str, str]]()
        for entry in entries:
            if os.path.isdir(entry.path):  # False for a link to itself, where entry.is_dir() fails
                (links if entry.is_symlink() else folders).append((f"{prefix}{entry.name}/", entry.path))
            else:
                yield prefix + entry.name
        stack += reversed(folders)


@contextlib.contextmanager
def atomic(path: File) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, remove it if not.

    What a process that was killed has left of its own is removed by the next one that writes the same path. Of a link
    the file that it leads to is written. A device or a pipe stays: the whole is copied into it at the end.
    """
    if (kind := _kind(path)) and not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        with tempfile.TemporaryDirectory() as folder:
            yield (whole := Path(folder, "whole"))
            with open(whole, "rb") as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
        return
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = _temporary(path)
    except OSError as error:
        error.filename = str(path)  # the temporary name means nothing to the user
        raise
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failing write does not say where
        raise
    finally:
        os.close(handle)


def _kind(path: File) -> int:
    """What kind of file there is, at the end of links, for the functions of `stat`; 0: none."""
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def _temporary(path: Path) -> tuple[int, Path]:
    """(handle, path) of a new, empty file beside `path`. A lock on the handle says that its process is alive."""
    names = [path.with_name(file_name(f".{path.name}", f".{number}.tmp")) for number in range(SIDE_BY_SIDE)]
    for temporary in names:
        _remove_left_over(temporary)
    for temporary in names:
        with contextlib.suppress(FileExistsError):
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            _lock(handle)
            if _is_still(handle, temporary):
                return handle, temporary
            os.close(handle)  # before it had its lock, another process took it for a left-over
    raise UserError(f"{path}: {SIDE_BY_SIDE} processes write it at once, or have left .{path.name}.*.tmp: remove these")


def _remove_left_over(temporary: Path) -> None:
    """Remove a temporary file whose process is no more."""
    with contextlib.suppress(OSError):  # it is another user's, or being written, or has got its name
        handle = os.open(temporary, os.O_RDWR)
        try:
            if _lock(handle, wait=False) and _is_still(handle, temporary):
                os.unlink(temporary)
        finally:
            os.close(handle)


def _lock(handle: int, wait: bool = True) -> bool:
    """Lock an open file. False where the file system knows no locks; BlockingIOError where another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return False
    return True


def _is_still(handle: int, path: Path) -> bool:
    """Whether an open file still has this path."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


@contextlib.contextmanager
def locked(path: File, wait: bool = True, owner: str = "") -> Iterator[None]:
    """Keep other processes that ask for the same `path` out of the block: they wait for its end.

    owner: processes that give the same text, such as the ranks of one launch, are in the block together. wait: False
    for a UserError instead of waiting. The kernel releases the lock when its holder dies, in whatever way. Where the
    file system knows no locks, all are let in.
    """
    path = Path(path)
    new_folder = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, waiting_for = path.with_name(f"{path.name}.lock"), None
    while True:
        file = open(lock, "a+")
        holder = _take_lock(file, owner)
        if holder is None and _is_still(file.fileno(), lock):
            break
        file.close()
        if holder is None:  # whoever held the lock has removed its file: ours would be a lock on nothing
            continue
        if not wait:
            raise UserError(f"{path}: {holder} is at work there: wait for its end, or end it")
        if holder != waiting_for:
            log.info("waiting for %s, which is making %s", holder, path)
            waiting_for = holder
        time.sleep(0.1)
    os.register_at_fork(after_in_child=file.close)  # a child must not hold the lock when this process is no more
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # others of the same owner may still be in
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.unlink(missing_ok=True)
            if new_folder:
                path.parent.rmdir()  # if the block has written nothing
        file.close()


def _take_lock(file: TextIO, owner: str) -> str | None:
    """Take the lock for `owner`: None if that is done now, else who has it."""
    own_name = owner or f"process {os.getpid()} on {socket.gethostname()}"

    def holder() -> str:
        file.seek(0)
        return one_line(file.read(200)) or "another process"

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(own_name)
        file.flush()
        if owner:  # let the others in, if nobody else was faster
            fcntl.flock(file, fcntl.LOCK_SH)
        return None if holder() == own_name else holder()
    except BlockingIOError:
        if not owner or holder() != own_name:
            return holder()
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            return None
        raise
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return holder()
    return None if holder() == own_name else holder()


def write_text(path: File, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: File, value: object) -> None:
    """Write a value as indented JSON in UTF-8, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: File, missing: str) -> dict[str, Any]:
    """The JSON object in `path`. `missing` is what to do when there is no such file, for the error's text.

    UserError for no such file, and for one that holds anything else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        raise ValueError(f"it holds {type(value).__name__}, not an object")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: {missing}") from None
    except (ValueError, RecursionError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path}: not a JSON file: {error}") from None
