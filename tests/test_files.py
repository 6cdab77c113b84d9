"""Files that are whole or absent, names that file systems take, folders with links and hidden files in them."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paddletag import files
from paddletag.files import atomic, file_name, read_json, walk, write_json, write_text
from paddletag.runtime import UserError

LOCAL = Path(__file__).resolve().parents[1] / "local"


@pytest.mark.parametrize("letter", ["a", "é", "猫"])
def test_names_up_to_the_longest_that_a_file_system_takes(tmp_path, letter):
    """A name that is too long becomes one that fits and is no other's."""
    long = letter * 300
    names = [file_name(stem, ".npz") for stem in (long, long + "b", long + "c")]
    assert len(set(names)) == 3 and all(name.endswith(".npz") and name.startswith(letter * 50) for name in names)
    assert all(200 < len(os.fsencode(name)) <= 255 for name in names)
    for name in names:
        write_text(tmp_path / name, "whole")  # whose temporary file has a name as well
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    fits = "a" * 251
    assert file_name(fits, ".npz") == fits + ".npz"


def test_walk(tmp_path):
    """Hidden files and folders are left out; a link to itself, or back, is no end."""
    for name in ("a.wav", "b/c.wav", ".venv/d.wav", "b/.e.wav", "__MACOSX/f.wav", "real/g.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "b" / "back").symlink_to("..")
    (tmp_path / "linked").symlink_to("real")
    (tmp_path / "gone.wav").symlink_to("nowhere.wav")
    assert sorted(walk(tmp_path)) == ["a.wav", "b/c.wav", "gone.wav", "loop.wav", "real/g.wav"]


def test_atomic_makes_the_folder_and_replaces_the_file(tmp_path):
    path = tmp_path / "deep" / "er" / "result.txt"
    for text in ("first", "second"):
        with atomic(path) as temporary:
            assert temporary.parent == path.parent and temporary != path
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["result.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_atomic_leaves_nothing_of_a_failure(tmp_path, error):
    path = tmp_path / "result.txt"
    path.write_text("before")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half")
        raise error
    assert os.listdir(tmp_path) == ["result.txt"] and path.read_text() == "before"


def test_atomic_says_which_file_could_not_be_written(tmp_path):
    with pytest.raises(OSError) as caught, atomic(tmp_path / "result.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as write() raises it: without a name
    assert caught.value.filename == str(tmp_path / "result.txt")


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_atomic_respects_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "result.txt", "x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "result.txt").stat().st_mode & 0o777 == mode


def test_json(tmp_path):
    value = {"label": "Hühnerhof", "scores": [0.1, 2], "none": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "") == value
    assert "Hühnerhof" in (tmp_path / "a.json").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"b\.json: no such file: make it first"):
        read_json(tmp_path / "b.json", "make it first")
    for content in (b"{", b"", b"\xff\xfe"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.json: .*JSON"):
            read_json(tmp_path / "a.json", "")


KILLED = """
import sys, time
from paddletag.files import atomic
with atomic(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    time.sleep(60)
"""


def writing(path):
    """(a process that is writing `path`, its temporary file)."""
    env = {**os.environ, "PYTHONPATH": str(LOCAL)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True, env=env)
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_run_left_is_removed_by_the_next_and_what_a_live_one_writes_is_not(tmp_path):
    path, other = tmp_path / "curve.png", tmp_path / "curve.png.txt"
    processes = [writing(path) for _ in range(3)]
    elsewhere, half = writing(other)
    temporaries = [temporary for _, temporary in processes]
    assert len({*temporaries, half}) == 4 and all(name.name.startswith(".") for name in temporaries)
    try:
        for process, _ in processes[:2]:
            process.kill()
            process.wait()
        write_text(path, "whole")
        assert sorted(tmp_path.iterdir()) == sorted([path, temporaries[2], half])
        processes[2][0].kill()
        processes[2][0].wait()
        write_text(path, "again")
        assert path.read_text() == "again" and sorted(tmp_path.iterdir()) == sorted([path, half])
    finally:
        for process, _ in [*processes, (elsewhere, half)]:
            process.kill()
            process.communicate()


def test_atomic_where_the_file_system_knows_no_locks(tmp_path, monkeypatch):
    """Nothing can be told of what is left, so it stays; and nobody's is overwritten."""

    def flock(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with atomic(tmp_path / "a") as first, atomic(tmp_path / "a") as second:
        first.write_text("1")
        second.write_text("2")
        assert first != second
    assert (tmp_path / "a").read_text() == "1" and os.listdir(tmp_path) == ["a"]


def test_many_processes_that_write_one_file(tmp_path):
    """Each write is whole, and nothing is left."""
    code = (
        "import sys\nfrom paddletag.files import write_text\n"
        "for n in range(200): write_text(sys.argv[1], sys.argv[2] * 1000)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(LOCAL)}
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    processes = [subprocess.Popen([*command, letter], env=env, stderr=subprocess.PIPE) for letter in "abcd"]
    assert [process.communicate()[1] for process in processes] == [b""] * 4
    assert {*(tmp_path / "a").read_text()} < {*"abcd"} and len((tmp_path / "a").read_text()) == 1000
    assert os.listdir(tmp_path) == ["a"]


def test_atomic_writes_through_links_and_into_pipes(tmp_path):
    (tmp_path / "link").symlink_to("target")
    write_text(tmp_path / "link", "whole")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "whole"
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    write_text(tmp_path / "pipe", "whole")
    assert reader.communicate(timeout=20)[0] == "whole" and (tmp_path / "pipe").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe", "target"]
