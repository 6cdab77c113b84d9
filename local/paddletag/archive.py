"""Unpack an archive into a folder that it cannot leave."""

import contextlib
import errno
import lzma
import os
import posixpath
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

from paddletag.runtime import UserError, show

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
