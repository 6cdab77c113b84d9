"""The program `paddletag`: its commands, what it says of others, and that the scripts run the same."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import paddletag
import pytest
from conftest import ROOT
from paddletag import commands, runtime
from paddletag.commands import COMMANDS
from prepared import RUN, command
from test_interrupt import Process

FILES = {path.stem for path in Path(paddletag.__file__).with_name("commands").glob("*.py")} - {"__init__", "options"}
WRAPPERS = [
    path
    for folder in ("local", "tools")
    for path in (ROOT / folder).glob("*.py")
    if "commands import run" in path.read_text()
]
# Prints what a result would remember as its command, instead of running it.
RECORDED = """
from paddletag import commands, runtime
commands.run = lambda name: print(name, runtime.program(), runtime.command(), sep="|")
commands.main()
"""


def on_command_line(name):
    """A command's name as people type it."""
    return name.replace("_", "-")


def test_every_file_is_a_command_and_every_command_has_a_file():
    assert FILES == set(COMMANDS)


def test_help_fits_a_screen_and_names_every_command(program, no_paddle):
    done = program("--help", PYTHONPATH=no_paddle)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert set(map(on_command_line, COMMANDS)) <= {line.split()[0] for line in lines if line.strip()}
    assert program().stdout == program("-h").stdout == done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(program, no_paddle, name):
    done = program(on_command_line(name), "--help", PYTHONPATH=no_paddle)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: paddletag {on_command_line(name)}")
    text = command(name).__doc__
    assert text.split()[:5] == done.stdout[done.stdout.index("\n\n") :].split()[:5]


def test_version(program, no_paddle):
    done = program("--version", PYTHONPATH=no_paddle)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"paddletag {paddletag.__version__}\n", "")


@pytest.mark.parametrize(
    "word, near",
    [
        ("trian", "train?"),
        ("train-clasic", "train-classic?"),
        ("list-models", "models?"),
        ("xyzzy\x1b[2J\n", ""),
        ("--jsno", ""),
    ],
)
def test_an_unknown_command(program, no_paddle, word, near):
    done = program(word, "--data", "x", PYTHONPATH=no_paddle)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("paddletag: error: ") and done.stderr.count("\n") == 1 and "\x1b" not in done.stderr
    assert word[:5] in done.stderr and near in done.stderr and ("?" in done.stderr) == bool(near)


@pytest.mark.parametrize("spelling", ["train-classic", "train_classic"])
def test_a_mistake_is_one_line_with_status_2(program, no_paddle, spelling):
    done = program(spelling, "--data", "x", PYTHONPATH=no_paddle)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"paddletag {spelling}: error: ") and done.stderr.count("\n") == 1
    assert "--config" in done.stderr


def test_the_program_that_is_installed(tmp_path):
    """`paddletag`, beside the Python that runs the tests, is the same as `python -m paddletag`."""
    path = Path(sys.executable).with_name("paddletag")
    if not path.exists():
        pytest.skip("paddletag is not installed beside this Python (tools/install.sh)")
    done = subprocess.run([path, "tag", "--topk", "3"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("paddletag tag: error: ") and "--top_k?" in done.stderr


def test_each_script_runs_the_command_that_it_names():
    assert len(WRAPPERS) == 14
    for path in WRAPPERS:
        text = path.read_text()
        ((name, _),) = re.findall(RUN, text)
        assert name in COMMANDS and f"`paddletag {on_command_line(name)}`" in text.split('"""')[1], path
        assert command(path.stem).__name__ == f"paddletag.commands.{name}"
    assert set(COMMANDS) - {command(path.stem).__name__.rpartition(".")[2] for path in WRAPPERS} == {
        "calibrate",
        "compare",
        "find",
        "listen",
        "new_recipe",
        "tag_archive",
    }


def test_a_script_takes_the_options_of_its_command(program, script, no_paddle):
    ours, theirs = program("parse", "--help", PYTHONPATH=no_paddle), script("local/parse_result.py", "--help")
    assert theirs.returncode == 0 and theirs.stdout.startswith("usage: parse_result.py ")
    assert [text[text.index("\n\n") :] for text in (ours.stdout, theirs.stdout)] == [
        ours.stdout[ours.stdout.index("\n\n") :]
    ] * 2


@pytest.mark.parametrize(
    "words, recorded",
    [
        (["train", "--exp", "a b", "--fold", "1"], "train|paddletag train|paddletag train --exp 'a b' --fold 1"),
        (["train-classic", "--opts"], "train_classic|paddletag train-classic|paddletag train-classic --opts"),
    ],
)
def test_the_command_line_that_results_remember(tmp_path, monkeypatch, words, recorded):
    monkeypatch.delenv("RECIPE_COMMAND", raising=False)
    (tmp_path / "paddletag").write_text("import sys\n" + RECORDED)  # as pip installs it, in some folder
    done = subprocess.run([sys.executable, tmp_path / "paddletag", *words], capture_output=True, text=True, check=True)
    assert done.stdout == recorded + "\n"


def test_the_command_line_of_a_run_sh_comes_before(tmp_path, monkeypatch):
    monkeypatch.setenv("RECIPE_COMMAND", "bash run.sh --folds 1")
    command = [sys.executable, "-c", "import sys\n" + RECORDED, "train", "--fold", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "train|paddletag train|bash run.sh --folds 1\n"


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_ctrl_c_while_a_command_is_imported(tmp_path, delay):
    process = Process(tmp_path, "-m", "paddletag", "train-classic", "--help")
    assert process.interrupt(delay) == (130, "paddletag train-classic: interrupted\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_libraries_find_their_variables(monkeypatch, name):
    """They are set before a command is imported; what the user has set stays."""
    environments = []

    def load(module):
        environments.append(dict(os.environ))
        return types.SimpleNamespace(main=lambda **settings: None)

    monkeypatch.setattr(commands.importlib, "import_module", load)
    monkeypatch.setattr(commands.interrupt, "begin", lambda: None)
    monkeypatch.setattr(commands, "ignore_warnings", lambda: None)
    monkeypatch.setattr(runtime, "run", lambda main: main())
    for variables in ({}, {"OMP_NUM_THREADS": "7", "GLOG_minloglevel": "0"}):
        monkeypatch.setattr(os, "environ", dict(variables))
        commands.run(name)
    quiet = {"GLOG_minloglevel": "2"} if name in ("tag", "tag_archive", "listen", "video", "export") else {}
    assert environments[0] == ({"OMP_NUM_THREADS": "1"} if name == "features" else quiet)
    assert environments[1] == {"OMP_NUM_THREADS": "7", "GLOG_minloglevel": "0"}


@pytest.mark.parametrize("words", [["--help"], ["tag", "--help"], ["models", "mn01"]])
def test_output_that_nobody_reads_or_that_has_no_room(words, tmp_path):
    command = [sys.executable, "-m", "paddletag", *words]
    for unbuffered in ("", "1") if "tag" not in words else ("",):  # argparse itself passes over it then
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        read_end, write_end = os.pipe()
        os.close(read_end)
        done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, env=environment)
        os.close(write_end)
        assert (done.returncode, done.stderr) == (141, "")
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no space" in done.stderr


@pytest.mark.parametrize("closed", [1, 2])
def test_closed_streams(closed):
    command = f"{sys.executable} -m paddletag models mn01 {closed}>&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert ("mn01_as" in done.stdout) == (closed == 2)


def test_help_is_a_command_too(program):
    assert program("help").stdout == program("--help").stdout
    assert program("help", "tag").stdout == program("tag", "--help").stdout
