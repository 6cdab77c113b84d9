"""The project as a wheel, installed elsewhere: what works without a clone, and what says that it needs one."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from paddletag.models import registry
from prepared import prepare, settings, tone
from test_convert_weights import write


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the wheel's files, and nothing of the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "local", folder / "local", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder / "dist", folder]
    subprocess.run(build, check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    return folder / "site"


@pytest.fixture
def paddletag(site, tmp_path):
    """A function that runs `paddletag` from the wheel, in an empty folder."""
    (tmp_path / "work").mkdir()

    def run(*words, status=0):
        environment = {**os.environ, "PYTHONPATH": str(site), "PADDLETAG_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-m", "paddletag", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "work", env=environment)
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    return run


def test_what_works_without_a_clone(paddletag, site, tmp_path):
    assert (site / "bin" / "paddletag").is_file()
    prepare(tmp_path / "data", clips=2)
    config, _ = settings(tmp_path)
    common = ("--config", config, "--data", tmp_path / "data")
    paddletag("features", *common)
    paddletag("train", *common, "--fold", 1, "--exp", "model", "--opts", "train.epochs", 1)
    paddletag("evaluate", "--model", "model", "--data", tmp_path / "data")
    assert (tmp_path / "work" / "model" / "report.html").stat().st_size > 10_000  # its templates are in the wheel
    soundfile.write(tmp_path / "work" / "a.wav", tone(500, 0.5, np.random.default_rng(0)), 32000)
    labels = paddletag("tag", "a.wav", "--model", "model").splitlines()
    assert sorted(line.split()[0] for line in labels) == ["high", "low"]
    assert "mn01_as" in paddletag("models", "mn01")
    weights = write("pt", tmp_path, registry.create_model("mn01_as"))
    paddletag("weights", "mn01_as", "--from", weights)
    assert len(paddletag("tag", "a.wav", "--model", "mn01_as", "--top_k", 3).splitlines()) == 3


def test_what_needs_a_clone_says_so(paddletag):
    (line,) = paddletag("new-recipe", "mine", status=2).splitlines()
    assert line.startswith("paddletag new-recipe: error: ") and "clone" in line
