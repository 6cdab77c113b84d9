"""The installation: pins within pyproject's ranges, one-line errors, nothing half-made, no shadowed module."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from setuptools.config.pyprojecttoml import read_configuration

PYTHONS = ("3.10", "3.11", "3.12")


def pins(python, extras=("dev", "parity")):
    """{name: version} of requirements.lock on that Python, with some of what is optional."""
    found = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        text, _, comment = line.partition("#")
        if not text.strip() or (comment.strip() in ("dev", "parity") and comment.strip() not in extras):
            continue
        pin = Requirement(text)
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            (specifier,) = pin.specifier
            assert specifier.operator == "==" and "*" not in specifier.version, line
            name = canonicalize_name(pin.name)
            assert name not in found, f"{name} is pinned twice"
            found[name] = Version(specifier.version)
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_pinned_within_its_range(python):
    project = read_configuration(ROOT / "pyproject.toml", ignore_option_errors=False)["project"]
    extras = project["optional-dependencies"]
    assert sorted(extras) == ["archives", "dev", "parity", "ray", "recipes", "reports"]
    del extras["ray"]  # tools/install.sh leaves it to those who have a cluster
    for extra, requirements in {"": project["dependencies"], **extras}.items():
        locked = pins(python, (extra,))
        for requirement in map(Requirement, requirements):
            if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
                continue
            name = canonicalize_name(requirement.name)
            if name == "paddletag":  # an extra that holds another one
                assert requirement.extras <= {"archives", "reports"}
                continue
            assert name in locked, f"{name} is not in requirements.lock"
            assert locked[name] in requirement.specifier, f"{requirement}: the lock has {locked[name]}"


def test_supported_pythons_are_the_tested_ones():
    project = read_configuration(ROOT / "pyproject.toml", ignore_option_errors=False)["project"]
    minors = [f"3.{minor}" for minor in range(6, 20)]
    assert [v for v in minors if Requirement(f"x{project['requires-python']}").specifier.contains(v)] == list(PYTHONS)


def copy_of_project(folder):
    for name in ("pyproject.toml", "requirements.lock", "tools/install.sh"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder / "tools/install.sh"


def install(script, *arguments, **environment):
    return subprocess.run(
        ["/bin/bash", str(script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--bogus"], "--bogus"),
        (["--gpu", "12.6"], "12.6"),
        (["--gpu=12.6"], "12.6"),
        (["--python"], "--python"),
        (["--python", "/nowhere/python3"], "--python"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, arguments, named):
    result = install(copy_of_project(tmp_path), *arguments)
    assert result.returncode == 2
    assert result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("install.sh: error: ") and named in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_no_suitable_python_is_one_line(tmp_path):
    """Pythons that are too old, too new, or stand in PATH and fail (as pyenv's shims do) are passed over."""
    script = copy_of_project(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "cat", "cksum", "dirname", "basename", "sed", "tr"):
        (programs / name).symlink_to(shutil.which(name))
    for name in ("python3.12", "python3.11", "python3.10", "python3"):
        (programs / name).write_text("#!/bin/bash\nexit 127\n")
        (programs / name).chmod(0o755)
    result = install(script, PATH=str(programs))
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert "no Python 3.10 to 3.12" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_failed_download_leaves_no_environment(tmp_path):
    nowhere = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": str(tmp_path)}
    result = install(copy_of_project(tmp_path), "--python", sys.executable, **nowhere)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert re.match(r"install\.sh: error: pip could not install requirements\.lock: .*paddlepaddle==", line)
    assert not (tmp_path / ".venv").exists()


def test_a_strange_environment_is_left_alone(tmp_path):
    script = copy_of_project(tmp_path)
    mine = tmp_path / ".venv/keep.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    result = install(script)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert list((tmp_path / ".venv").iterdir()) == [mine]


def test_no_script_shadows_the_standard_library():
    """A script's folder is first on sys.path, so local/parser.py would be what others get by `import parser`."""
    stems = {path.stem for folder in ("local", "tools") for path in (ROOT / folder).glob("*.py")}
    assert not stems & set(sys.stdlib_module_names)
