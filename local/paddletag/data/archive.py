"""Unpack an archive into a folder that it cannot leave."""

import bz2
import contextlib
import errno
import gzip
import lzma
import math
import os
import posixpath
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from paddletag.runtime import UserError, show
from paddletag.type_aliases import File

# What an archive may become: so much for each of its bytes, and so much more. Sounds and tables stay far below.
_BYTES = 100, 1 << 30
_COUNT = 0.01, 50_000  # files, folders and links; one takes 2 kB of memory here
_PATH, _FOLDERS = 1000, 20  # characters and folders of a path, at most
_HEADER = 8192  # bytes of a tar file that describe a member, at most

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


class _Member(NamedTuple):
    """What an archive holds, alike for zip and tar."""

    name: str
    kind: str  # file, folder, symlink or hardlink
    target: str  # of a link
    size: int  # bytes
    source: Any  # its ZipInfo or TarInfo


def unpack(archive: File, folder: File) -> Path:
    """Unpack a zip or tar file (plain, gz, bz2, xz) into `folder`, which must not exist yet. Returns the folder.

    All members are checked before anything is written: UserError for one that would leave the folder (an absolute
    path, `..`, a link that points outside or a path through a link), and for devices and the like. An archive that is
    damaged, or would become far larger than it is, is a UserError too, and leaves nothing behind. Owners, permissions
    and times are not restored.
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
            members = list(_checked_members(archive, opened.members()))
            _check_links(archive, members)
            _check_size(archive, members)
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


def _limit(archive: Path, bound: tuple[float, int]) -> float:
    return bound[0] * archive.stat().st_size + bound[1]


class _Zip:
    """A zip file as `unpack` reads it."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.file = zipfile.ZipFile(archive)

    def members(self) -> Iterator[_Member]:
        """All members; UserError for what is not unpacked, ValueError or zipfile's errors for damage."""
        for info in self.file.infolist():
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unpacks others at once
                raise UserError(f"{self.archive}: {show(info.filename)} is neither stored nor deflated: pack it again")
            mode = info.external_attr >> 16 if info.create_system == 3 else 0
            kind, target = ("folder" if info.is_dir() else "file"), ""
            if stat.S_ISLNK(mode):
                if info.file_size > 4096:
                    raise ValueError(f"{show(info.filename)} is no link")
                kind, target = "symlink", self.file.read(info).decode()
            elif stat.S_IFMT(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"{self.archive}: refuses to unpack {show(info.filename)}: a device or the like")
            yield _Member(info.filename, kind, target, info.file_size, info)

    def open_member(self, member: _Member) -> IO[bytes]:
        """The content of a file."""
        return self.file.open(member.source)


class _Bounded:
    """An open file as tarfile reads it, but no more than `left` bytes, nor what is beyond `limit`.

    tarfile takes what describes a member, of any length, into memory.
    """

    def __init__(self, file: IO[bytes], limit: float) -> None:
        self.file, self.limit = file, limit
        self.left: float = _HEADER
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end. ValueError for more than `left`."""
        if size > self.left:
            raise ValueError("the description of a member is too long")
        self.left -= size
        return self.file.read(size)

    def seek(self, position: int) -> int:
        """Go to `position`, and give it. ValueError for one beyond `limit`."""
        if position > self.limit:
            raise ValueError("it unpacks to far more than its size")
        return self.file.seek(position)


class _Tar:
    """A tar file, compressed or not, as `unpack` reads it; `head`: its first bytes."""

    def __init__(self, archive: Path, head: bytes) -> None:
        self.archive = archive
        openers: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
        opener = openers.get(head[:2], open)
        self.inside = _Bounded(opener(archive, "rb"), _limit(archive, _BYTES))  # closed with the last reference to it
        inside: Any = self.inside  # to read, tarfile needs no more of a file than `_Bounded` has
        self.file = tarfile.open(fileobj=inside, mode="r:", errors="surrogateescape")

    def members(self) -> Iterator[_Member]:
        """All members; UserError for what is not unpacked, tarfile's errors or ValueError for damage."""
        for info in self.file:
            self.inside.left = _HEADER
            info.uname, info.gname, info.pax_headers = "", "", {}  # not needed, and long in some files
            if info.size < 0:
                raise tarfile.ReadError(f"{show(info.name)} has a negative size")
            kinds = {"file": info.isreg(), "folder": info.isdir(), "symlink": info.issym(), "hardlink": info.islnk()}
            kind = next((kind for kind, applies in kinds.items() if applies), None)
            if kind is None:
                raise UserError(f"{self.archive}: refuses to unpack {show(info.name)}: a device or the like")
            yield _Member(info.name, kind, info.linkname, info.size, info)
        # tarfile takes a header that it cannot read for the end of the archive; the end is a block of zeros.
        self.inside.left = math.inf
        self.inside.seek(self.file.offset)
        if self.inside.read(512) != bytes(512):
            raise tarfile.ReadError("it breaks off, or a header is damaged")
        while self.inside.read(1 << 20):  # gzip and the others check their sum at the very end
            self.inside.seek(self.inside.tell())

    def open_member(self, member: _Member) -> IO[bytes]:
        """The content of a file."""
        content = self.file.extractfile(member.source)
        assert content is not None  # it is a file
        return content


@contextlib.contextmanager
def _open_archive(archive: Path) -> Iterator[_Zip | _Tar]:
    with open(archive, "rb") as file:
        head = file.read(4)
    if head in (b"PK\3\4", b"PK\5\6"):  # at its start: a tar file may end with a zip file in it
        opened: _Zip | _Tar = _Zip(archive)
    else:
        try:
            opened = _Tar(archive, head)
        except tarfile.ReadError:
            raise UserError(f"{archive}: neither a zip nor a tar file, or a damaged one: get it again") from None
    with opened.file:
        yield opened


def _leaves_folder(name: str) -> bool:
    """Whether a path, taken literally, leads out of the folder that it starts in."""
    plain = posixpath.normpath(name.replace("\\", "/"))
    return plain.startswith("/") or plain.split("/")[0] == ".."


def _checked_members(archive: Path, members: Iterable[_Member]) -> Iterator[_Member]:
    """The members, each with a path that stays inside, as long as they are not too many; UserError for others."""
    folders: set[str] = set()
    count = 0
    for member in members:
        if any(len(path) > _PATH or path.count("/") > _FOLDERS for path in (member.name, member.target)):
            raise UserError(f"{archive}: refuses to unpack {show(member.name)}: its path is too long")
        _check_name(archive, member.name)
        count, path = count + 1, posixpath.normpath(member.name)
        while (path := posixpath.dirname(path)) and path not in folders:
            folders.add(path)
        if count + len(folders) > _limit(archive, _COUNT):
            raise UserError(f"{archive}: refuses to unpack it: too many members for its size")
        yield member


def _check_size(archive: Path, members: Sequence[_Member]) -> None:
    sizes = {posixpath.normpath(m.name): m.size for m in members if m.kind == "file"}
    copies = [sizes.get(posixpath.normpath(m.target), 0) for m in members if m.kind == "hardlink"]
    if sum(m.size for m in members if m.kind == "file") + sum(copies) > _limit(archive, _BYTES):
        raise UserError(f"{archive}: refuses to unpack it: it unpacks to far more than its size")


def _check_name(archive: Path, name: str) -> None:
    if not name or "\0" in name or _leaves_folder(name) or ".." in name.replace("\\", "/").split("/"):
        raise UserError(f"{archive}: refuses to unpack {show(name)}: not a path inside the folder")


def _check_links(archive: Path, members: Sequence[_Member]) -> None:
    """No link may point outside, and no path may go through a link: then what paths say literally is also true."""
    links = {posixpath.normpath(m.name) for m in members if m.kind == "symlink"}
    files = {posixpath.normpath(m.name) for m in members if m.kind == "file"}

    def through_link(path: str) -> bool:
        parts = path.split("/")
        return any(posixpath.normpath("/".join(parts[:n])) in links for n in range(1, len(parts)))

    for member in members:
        if through_link(posixpath.normpath(member.name)):
            raise UserError(f"{archive}: refuses to unpack {show(member.name)}: its path goes through a link")
        if member.kind == "symlink":
            target = posixpath.join(posixpath.dirname(member.name), member.target)
            inside = bool(member.target) and not _leaves_folder(target) and not through_link(target)
        else:
            inside = member.kind != "hardlink" or posixpath.normpath(member.target) in files
        if not inside:
            what = f"{show(member.name)} -> {show(member.target)}"
            raise UserError(f"{archive}: refuses to unpack the link {what}: not to a path inside the folder")


def _extract(opened: _Zip | _Tar, members: Sequence[_Member], folder: Path) -> None:
    """Write the members below `folder`. ValueError for two of one name, and for a name or a content that is damaged."""
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
                with opened.open_member(member) as source, open(path, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                if path.stat().st_size != member.size:
                    raise ValueError(f"{show(member.name)} is shorter than it says")
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise ValueError(f"two members are called {show(member.name)}") from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise ValueError(f"the name {show(member.name)} is too long") from None
            raise
