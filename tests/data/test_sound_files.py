"""Which sounds a command line means, and names for their results that tell them apart."""

import os

import pytest
from paddletag.data import find_sounds
from paddletag.runtime import UserError, log


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function that makes empty files in a folder, which is the current one."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")

    return make


def names(*items):
    return {path.as_posix(): name for path, name in find_sounds.find(items).items()}


def test_find(make, tmp_path):
    make("a.wav", "b.flac", "in/a.wav", "in/c/d.mp4", "in/e.MP3", "in/notes.txt", "odd[1].wav")
    assert names("a.wav", "b.flac") == {"a.wav": "a", "b.flac": "b"}
    assert names("in") == {"in/a.wav": "a", "in/c/d.mp4": "c/d", "in/e.MP3": "e"}
    assert names("in/notes.txt", "odd[1].wav") == {"in/notes.txt": "notes", "odd[1].wav": "odd[1]"}  # as named
    assert list(names("*.wav", "**/*.wav")) == ["a.wav", "odd[1].wav", "in/a.wav"]  # none twice
    assert names("a.wav", "./a.wav", str(tmp_path / "a.wav")) == {"a.wav": "a"}
    for name, words in (
        ("none.wav", "none.wav: no such file"),
        ("none*", r"none\*: .*pattern"),
        ("empty", "empty: .*folder"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=words):
            find_sounds.find([name])


def test_names_that_would_be_the_same_mirror_the_folders(make, tmp_path):
    make("a/x.wav", "b/x.wav", "b/c/x.wav", "b/y.wav", "x.wav")
    assert names("a/x.wav") == {"a/x.wav": "x"} and names("a/x.wav", "b/y.wav") == {"a/x.wav": "x", "b/y.wav": "y"}
    assert names("a/x.wav", "b/x.wav") == {"a/x.wav": "a/x", "b/x.wav": "b/x"}
    assert names("*/x.wav") == {"a/x.wav": "a/x", "b/x.wav": "b/x"}
    assert names("a", "b") == {"a/x.wav": "a/x", "b/c/x.wav": "b/c/x", "b/x.wav": "b/x", "b/y.wav": "b/y"}
    assert names("b/x.wav", "b/c/x.wav") == {"b/x.wav": "x", "b/c/x.wav": "c/x"}
    assert names(str(tmp_path / "a" / "x.wav"), "b/../x.wav") == {str(tmp_path / "a/x.wav"): "a/x", "b/../x.wav": "x"}
    assert set(names("a/x.wav", "b").values()) == set(names("b", "a/x.wav").values())


def test_the_suffix_tells_apart_what_nothing_else_does(make):
    make("a/x.wav", "a/x.flac", "a/x.wav.mp3", "a/y.wav", "b/x.wav")
    expected = {"a/x.flac": "x.flac", "a/x.wav": "x.wav", "a/x.wav.mp3": "x.wav.mp3", "a/y.wav": "y"}
    assert names("a") == expected and names("a/x.wav", "a/x.flac") == {"a/x.wav": "x.wav", "a/x.flac": "x.flac"}
    assert names("a", "b/x.wav") == {**{path: f"a/{name}" for path, name in expected.items()}, "b/x.wav": "b/x"}


def test_hidden_files_and_folders_are_left_out(make):
    make("a.wav", ".b.wav", ".venv/lib/c.wav", "in/.git/d.wav", "in/e.wav", "in/__MACOSX/._e.wav")
    assert list(names(".")) == ["a.wav", "in/e.wav"] == list(names("*.wav", "**/*.wav"))
    assert names(".b.wav", ".venv") == {".b.wav": ".b", ".venv/lib/c.wav": "lib/c"}  # who names them means them


def test_links(make, tmp_path):
    make("real/a.wav", "in/b.wav")
    (tmp_path / "in" / "self.wav").symlink_to("self.wav")
    (tmp_path / "in" / "back").symlink_to("..")
    (tmp_path / "in" / "same.wav").symlink_to("b.wav")
    (tmp_path / "in" / "gone.wav").symlink_to("nowhere.wav")
    assert names("in") == {"in/b.wav": "b", "in/back/real/a.wav": "back/real/a"}
    with pytest.raises(UserError, match=r"self\.wav: no such file"):
        find_sounds.find(["in/self.wav"])


def test_a_folder_that_may_not_be_read_is_left_out(make, monkeypatch, caplog):
    make("in/a.wav", "in/secret/b.wav")

    def scandir(path, real=os.scandir):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    monkeypatch.setattr(log, "propagate", True)
    assert names("in") == {"in/a.wav": "a"} and "in/secret: " in caplog.text and "permission denied" in caplog.text
