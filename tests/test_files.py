"""Names that file systems take, and folders with links and hidden files in them."""

import os

import pytest
from paddletag import files, runtime


@pytest.mark.parametrize("letter", ["a", "é", "猫"])
def test_names_up_to_the_longest_that_a_file_system_takes(tmp_path, letter):
    """A name that is too long becomes one that fits and is no other's."""
    long = letter * 300
    names = [files.file_name(stem, ".npz") for stem in (long, long + "b", long + "c")]
    assert len(set(names)) == 3 and all(name.endswith(".npz") and name.startswith(letter * 50) for name in names)
    assert all(200 < len(os.fsencode(name)) <= 255 for name in names)
    for name in names:
        runtime.write_text(tmp_path / name, "whole")  # whose temporary file has a name as well
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    fits = "a" * 251
    assert files.file_name(fits, ".npz") == fits + ".npz"


def test_walk(tmp_path):
    """Hidden files and folders are left out; a link to itself, or back, is no end."""
    for name in ("a.wav", "b/c.wav", ".venv/d.wav", "b/.e.wav", "__MACOSX/f.wav", "real/g.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "b" / "back").symlink_to("..")
    (tmp_path / "linked").symlink_to("real")
    (tmp_path / "gone.wav").symlink_to("nowhere.wav")
    assert sorted(files.walk(tmp_path)) == ["a.wav", "b/c.wav", "gone.wav", "loop.wav", "real/g.wav"]
