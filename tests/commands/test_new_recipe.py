"""`paddletag new-recipe`: a recipe in the clone that the library lies in, or a line that there is none."""

import shutil
from pathlib import Path

import numpy as np
import paddletag
import pytest
import soundfile
from conftest import ROOT
from paddletag.data import manifest
from prepared import call, refusal


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone with two recipes, in which the library seems to lie."""
    for name in ("esc50", "gtzan"):
        shutil.copytree(
            ROOT / "examples" / name, tmp_path / "examples" / name, ignore=shutil.ignore_patterns("data", "exp")
        )
    (tmp_path / "utils").mkdir()
    shutil.copy(ROOT / "utils" / "new_recipe.sh", tmp_path / "utils")
    monkeypatch.setattr(paddletag, "__file__", str(tmp_path / "local" / "paddletag" / "__init__.py"))
    monkeypatch.chdir("/")
    return tmp_path


def test_a_recipe_from_each_of_two(clone, capfd):
    call("new_recipe", "mine")
    call("new_recipe", "other", "--from", "gtzan")
    assert f"made {clone}/examples/mine\n" in capfd.readouterr().out
    texts = []
    for name in ("mine", "other"):
        folder = clone / "examples" / name
        (path,) = folder.rglob("*.yaml")
        texts.append(path.read_text())
        assert name in (folder / "run.sh").read_text() and "layout: folders" in texts[-1]
    assert texts[0].replace("mine", "other") != texts[1]


def test_a_recipe_of_a_table_anywhere(clone, tmp_path, capfd):
    """Its config is used as it is: a table with usual names of columns, and with absolute paths."""
    call("new_recipe", "mine", "--table")
    folder = clone / "examples" / "mine"
    assert "--raw TABLE" in capfd.readouterr().out and "--raw TABLE" in (folder / "run.sh").read_text()
    (yaml,) = folder.rglob("*.yaml")
    rows = ["path,class"]
    for n in range(8):
        path = tmp_path / "sounds" / f"{n}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.random.default_rng(n).normal(0, 0.1, 8000), 8000)
        rows.append(f"{path},{'ab'[n % 2]}")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "table.csv").write_text("\n".join(rows))
    words = ("--config", yaml, "--data", tmp_path / "data", "--opts", "data.folds", "2")
    call("prepare", *words, "--raw", tmp_path / "t" / "table.csv")
    records, labels = manifest.read(tmp_path / "data")
    assert labels == ["a", "b"] and {Path(record["audio"]).parent for record in records} == {tmp_path / "sounds"}
    divided = sorted((record["fold"], record["labels"][0]) for record in records)
    assert divided == [(1, "a"), (1, "a"), (1, "b"), (1, "b"), (2, "a"), (2, "a"), (2, "b"), (2, "b")]
    assert "--raw" in refusal("prepare", *words[:3], tmp_path / "other", "--raw", tmp_path / "t")
    assert "nowhere.csv" in refusal("prepare", *words[:3], tmp_path / "other", "--raw", tmp_path / "nowhere.csv")


def test_the_clone_that_one_stands_in_comes_first(clone, tmp_path_factory, monkeypatch, capfd):
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(clone, other, dirs_exist_ok=True)
    monkeypatch.chdir(other / "examples")
    call("new_recipe", "mine")
    assert (other / "examples" / "mine").is_dir() and not (clone / "examples" / "mine").exists()
    monkeypatch.chdir(clone)
    call("new_recipe", "mine")
    assert "made examples/mine\n" in capfd.readouterr().out


@pytest.mark.parametrize("words", [["esc50"], ["a/b"], ["mine", "--from", "nowhere"]])
def test_what_the_script_refuses(clone, capfd, words):
    before = sorted(clone.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        call("new_recipe", *words)
    err = capfd.readouterr().err
    assert caught.value.code == 2 and words[-1] in err and err.count("\n") == 1
    assert sorted(clone.rglob("*")) == before


def test_where_there_is_no_clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "lib" / "python3" / "site-packages" / "paddletag" / "__init__.py"
    monkeypatch.setattr(paddletag, "__file__", str(place))
    assert "clone" in refusal("new_recipe", "mine")


def test_the_program_in_this_clone(program):
    done = program("new-recipe", "mine", "--from", "nowhere")
    assert done.returncode == 2 and "nowhere" in done.stderr and "esc50" in done.stderr
    assert not (ROOT / "examples" / "mine").exists()
