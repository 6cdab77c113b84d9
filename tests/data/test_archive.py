"""Archives: what is whole is unpacked, what would leave the folder or is damaged leaves nothing."""

import errno
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from paddletag.data import archive as archives
from paddletag.runtime import UserError
from test_download import CONTENT, files, one_line


def make_zip(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members:
            archive.writestr(name, text)


def zip_link(name, mode=0o120777):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def tar_member(name, kind=tarfile.REGTYPE, link="", data=b""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


def make_tar(path, *members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))


GOOD = [("set/meta/a.csv", b"a,b\n"), ("set/audio/1.wav", CONTENT), ("set/empty.wav", b"")]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_unpack(tmp_path, kind):
    archive = tmp_path / "in" / "download"  # told apart by content, not by name
    archive.parent.mkdir()
    if kind == "zip":
        make_zip(archive, ("set/", ""), *GOOD)
    else:
        mode = "w:" + kind.partition(".")[2]
        make_tar(archive, tar_member("./set", tarfile.DIRTYPE), *(tar_member(n, data=d) for n, d in GOOD), mode=mode)
    folder = archives.unpack(archive, tmp_path / "out" / "raw")
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == dict(GOOD)
    assert files(folder.parent) == ["raw"] and folder.stat().st_mode & 0o500 == 0o500
    with pytest.raises(UserError, match=r"out/raw: exists"):
        archives.unpack(archive, folder)


def test_unpack_links_that_stay_inside(tmp_path):
    make_tar(
        tmp_path / "a",
        tar_member("a/1.wav", data=b"x"),
        tar_member("b/2.wav", tarfile.SYMTYPE, "../a/1.wav"),
        tar_member("3.wav", tarfile.LNKTYPE, "a/1.wav"),
    )
    folder = archives.unpack(tmp_path / "a", tmp_path / "out")
    assert (folder / "b/2.wav").read_bytes() == b"x" and (folder / "3.wav").read_bytes() == b"x"


FINE = tar_member("fine.txt", data=b"fine")
S, H = tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE_TAR = {
    "parent": [tar_member("../evil", data=b"x")],
    "parent inside": [tar_member("a/../../evil", data=b"x")],
    "absolute": [tar_member("/tmp/evil", data=b"x")],
    "symlink out": [tar_member("evil", S, "../../etc/passwd")],
    "symlink absolute": [tar_member("evil", S, "/etc/passwd")],
    "symlink empty": [tar_member("evil", S, "")],
    "hardlink out": [tar_member("evil", H, "../outside")],
    "hardlink absolute": [tar_member("evil", H, "/etc/passwd")],
    "through a link": [tar_member("l", S, "."), tar_member("l/evil", data=b"x")],
    # taken literally p/q/s/../evil is inside; but s leads to the root
    "link to a link": [tar_member("p/q/s", S, "../.."), tar_member("evil", S, "p/q/s/../evil")],
    "device": [tar_member("evil", tarfile.CHRTYPE)],
    "fifo": [tar_member("evil", tarfile.FIFOTYPE)],
}


def check_refused(tmp_path, archive):
    (tmp_path / "outside").write_text("before")
    with pytest.raises(UserError) as caught:
        archives.unpack(archive, tmp_path / "in" / "out")
    one_line(caught, str(archive), "refuses to unpack", "evil")
    assert files(tmp_path / "in") == [] and files(tmp_path) == [archive.name, "in", "outside"]
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("case", HOSTILE_TAR)
def test_unpack_refuses_tar_members_that_leave(tmp_path, case):
    make_tar(tmp_path / "a.tar.gz", FINE, *HOSTILE_TAR[case])
    check_refused(tmp_path, tmp_path / "a.tar.gz")


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"x"),
        ("a/../../evil", b"x"),
        ("/tmp/evil", b"x"),
        ("..\\evil", b"x"),
        (zip_link("evil"), "../../etc/passwd"),
        (zip_link("evil", 0o020777), ""),
    ],
)
def test_unpack_refuses_zip_members_that_leave(tmp_path, member):
    make_zip(tmp_path / "a.zip", ("fine.txt", b"fine"), member)
    check_refused(tmp_path, tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_unpack_reports_damage(tmp_path, kind):
    """Cut and bit-flipped archives: refused in one line with nothing left, or (flips in times, owners) the same."""
    good = tmp_path / "good"
    small = [("set/a.csv", b"a,b\n"), ("set/1.wav", CONTENT[:3000])]
    if kind == "zip":
        make_zip(good, *small)
    else:
        make_tar(good, *(tar_member(n, data=d) for n, d in small), mode="w:" + kind.partition(".")[2])
    original, random, refused = good.read_bytes(), np.random.default_rng(1), 0
    used = len(original) if kind != "tar" else 512 + 512 + 512 + 3000  # after that there is padding
    for n in range(60):
        data = bytearray(original)
        if n % 3 == 0:
            del data[int(random.integers(used)) :]
        else:
            data[int(random.integers(used))] ^= 1 << int(random.integers(8))
        (tmp_path / "bad").write_bytes(data)
        try:
            folder = archives.unpack(tmp_path / "bad", tmp_path / "in" / "out")
        except UserError as error:
            assert "\n" not in str(error) and str(tmp_path / "bad") in str(error)
            refused += 1
        else:
            found = [(str(p.relative_to(folder)), p.read_bytes()) for p in folder.rglob("*") if p.is_file()]
            # a plain tar file has no checksum over contents
            assert kind == "tar" or sorted(found) == sorted(small)
            archives.shutil.rmtree(folder)
        assert not (tmp_path / "in").exists() or files(tmp_path / "in") == []
    assert refused >= 20


def test_unpack_reports_what_is_no_archive(tmp_path):
    (tmp_path / "page").write_text("<html>")
    for name, words in (("page", "zip"), ("absent", "no such file")):
        with pytest.raises(UserError) as caught:
            archives.unpack(tmp_path / name, tmp_path / "out")
        one_line(caught, str(tmp_path / name), words)
    make_zip(tmp_path / "twice", ("a", "file"), ("a/b", "in it"))
    with pytest.raises(UserError) as caught:
        archives.unpack(tmp_path / "twice", tmp_path / "out")
    one_line(caught, "two members")
    assert files(tmp_path) == ["page", "twice"]


def test_unpack_stops_on_a_full_disk(tmp_path, monkeypatch):
    make_zip(tmp_path / "a.zip", *GOOD)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    with pytest.raises(OSError) as caught:
        archives.unpack(tmp_path / "a.zip", tmp_path / "out")
    assert caught.value.errno == errno.ENOSPC and files(tmp_path) == ["a.zip"]
