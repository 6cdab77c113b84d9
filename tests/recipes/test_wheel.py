"""The project as a wheel, installed elsewhere: what works without a clone, and what says that it needs one."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from packaging.requirements import Requirement
from paddletag.models import model_folder, registry
from paddletag.tagging import pipeline
from prepared import prepare, settings, tone
from test_convert_weights import write
from test_install import pins

LIGHT = ("numpy", "scipy", "soundfile", "soxr", "onnxruntime")  # all that tagging with mn04_as needs
OF_SOUNDFILE = ("cffi", "pycparser", "typing-extensions")  # what it requires
PIP = ("-m", "pip", "--disable-pip-version-check", "-q")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project as a wheel, built from a copy of what belongs into it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "local", folder / "local", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    options = ("--no-deps", "--no-index", "--no-build-isolation", "-w", folder / "dist")
    subprocess.run([sys.executable, *PIP, "wheel", *options, folder], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder with the wheel's files, and nothing of the clone."""
    folder = tmp_path_factory.mktemp("site")
    install = ("install", "--no-deps", "--no-index", "--target", folder, wheel)
    subprocess.run([sys.executable, *PIP, *install], check=True)
    return folder


@pytest.fixture(scope="module")
def light(wheel, tmp_path_factory):
    """A function that runs `paddletag` in a new environment, which holds the wheel and LIGHT and nothing else."""
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pinned = pins(f"3.{sys.version_info[1]}", ())
    packages = [f"{name}=={pinned[name]}" for name in (*LIGHT, *OF_SOUNDFILE)]
    subprocess.run([python, *PIP, "install", "--no-deps", "--only-binary", ":all:", *packages, wheel], check=True)

    def run(*words, status=0):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"PADDLETAG_HOME": str(folder / "home"), "PATH": "/usr/bin:/bin"}
        command = [python.with_name("paddletag"), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    run.python = python
    run.folder = folder
    return run


def test_the_declared_requirements_are_those_of_tagging(wheel):
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith("/METADATA"))
        lines = file.read(name).decode().splitlines()
    required = {Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist: ")}
    assert {requirement.name for requirement in required if requirement.marker is None} == set(LIGHT)


def test_tagging_needs_no_paddle(light, real_scene):
    """The wheel and five packages: the scores are those of Paddle, to 1e-4."""
    lines = light("tag", real_scene, "--sample_duration", 0, "--top_k", 527).splitlines()
    scores = {label: float(score) for label, score in (line.rsplit(maxsplit=1) for line in lines)}
    model, meta = model_folder.load_model("mn04_as")
    expected = pipeline.tag_clip(model, meta, real_scene)
    assert len(scores) == 527
    for label, score in zip(expected["labels"], expected["scores"][0], strict=True):
        assert abs(scores[str(label)] - score) < 6e-4  # the lines have three digits
    assert not (light.folder / "home").exists()  # nothing was exported or downloaded
    code = "import paddletag, sys\nprint(len(paddletag.tag(sys.argv[1], window=2, hop=0.5, top_k=1)))"
    done = subprocess.run([light.python, "-c", code, real_scene], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 11  # windows of a sound of 7 s


def test_what_needs_more_packages_says_so(light, real_scene):
    for words in (["tag", real_scene, "--engine", "paddle"], ["train", "--config", "x"]):
        (line,) = light(*words, status=2).splitlines()
        assert "paddletag[recipes]" in line
    for words in (["report", "x.npz"], ["tag", real_scene, "--report"], ["tag", real_scene, "--video"]):
        (line,) = light(*words, status=2).splitlines()
        assert "paddletag[reports]" in line  # pillow: told before anything is tagged


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
