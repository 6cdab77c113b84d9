"""Ctrl-C at every moment of a script: one line, status 130, nothing half-written, no process left behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from prepared import call, prepare, settings, tone

# Python imports this before any script. It makes the file BEGUN when the script imports something after
# `paddletag.interrupt`, which is to say when it has called `interrupt.begin`.
SITE = """
import os, sys
imported = []
def hook(event, args):
    if event == "import" and len(imported) < 2 and (imported or args[0] == "paddletag.interrupt"):
        imported.append(args[0])
        if len(imported) == 2:
            os.close(os.open(os.environ["BEGUN"], os.O_CREAT))
sys.addaudithook(hook)
"""


class Process(subprocess.Popen):
    """A script in a process group of its own, from when it has called `interrupt.begin`."""

    def __init__(self, folder, *command, preexec_fn=None):
        (folder / "site").mkdir(exist_ok=True)
        (folder / "site" / "sitecustomize.py").write_text(SITE)
        begun = folder / "begun"
        begun.unlink(missing_ok=True)
        env = {**os.environ, "BEGUN": str(begun), "OMP_NUM_THREADS": "1"}
        env["PYTHONPATH"] = f"{folder / 'site'}{os.pathsep}{ROOT / 'local'}"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, *map(str, command)]
        super().__init__(command, **pipes, env=env, start_new_session=True, preexec_fn=preexec_fn)
        while not begun.exists() and self.poll() is None:
            time.sleep(0.001)

    def interrupt(self, delay=0.0):
        """Ctrl-C after `delay` seconds: (status, what is on standard error)."""
        time.sleep(delay)
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGINT)
        _, err = self.communicate(timeout=120)
        return self.returncode, err


@pytest.fixture
def script(tmp_path):
    """A function: (what `main` does, what is imported before) -> a Process that says "now" at the right moment."""

    def start(main, imports="", **kwargs):
        (tmp_path / "tool.py").write_text(
            "from paddletag import interrupt\ninterrupt.begin()\nimport atexit, time, sys, os\n"
            f"{imports}\nfrom paddletag import files, runtime\n"
            "def main():\n" + "".join(f"    {line}\n" for line in main.splitlines()) + "runtime.run(main)\n"
        )
        process = Process(tmp_path, tmp_path / "tool.py", **kwargs)
        assert process.stdout.readline() == "now\n"
        return process

    return start


NOW = "print('now', flush=True)\n"


def test_while_libraries_are_imported(script):
    assert script("pass", NOW + "time.sleep(60)").interrupt() == (130, "tool.py: interrupted\n")


def test_while_it_works(script, tmp_path):
    main = f"with files.atomic({str(tmp_path / 'result')!r}) as temporary:\n    {NOW}\n    time.sleep(60)"
    assert script(main).interrupt() == (130, "tool.py: interrupted\n")
    assert not list(tmp_path.glob(".result*")) and not (tmp_path / "result").exists()


@pytest.mark.parametrize("reaction", ["pass", "raise ImportError('initialization failed')"])
def test_an_import_that_would_swallow_it_is_waited_for(script, tmp_path, reaction):
    (tmp_path / "site").mkdir()
    text = f"import time\ntry:\n    {NOW}\n    time.sleep(0.5)\nexcept BaseException:\n    {reaction}\n"
    (tmp_path / "site" / "greedy.py").write_text(text)
    process = script("import greedy\nprint('imported', flush=True)\ntime.sleep(60)")
    assert process.interrupt() == (130, "tool.py: interrupted\n")


def test_an_error_that_becomes_of_it(script):
    main = f"try:\n    {NOW}\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    raise RuntimeError('in C++')"
    assert script(main).interrupt() == (130, "tool.py: interrupted\n")


def test_where_nothing_can_be_raised(script):
    """In a __del__, and in what C++ calls."""
    imports = f"class Slow:\n    def __del__(self):\n        {NOW}\n        time.sleep(0.3)\n"
    assert script("Slow()\ntime.sleep(60)", imports).interrupt() == (130, "tool.py: interrupted\n")
    imports = f"@interrupt.undisturbed\ndef inner():\n    {NOW}\n    time.sleep(0.3)\n    print('whole', flush=True)\n"
    process = script("inner()\ntime.sleep(60)", imports)
    os.kill(process.pid, signal.SIGINT)
    assert process.stdout.readline() == "whole\n"
    assert process.wait(timeout=60) == 130


def test_pressed_twice(script):
    main = f"try:\n    {NOW}\n    time.sleep(60)\nfinally:\n    print('tidies', flush=True)\n    time.sleep(60)"
    process = script(main)
    os.kill(process.pid, signal.SIGINT)
    assert process.stdout.readline() == "tidies\n"
    assert process.interrupt() == (130, "tool.py: interrupted\n")


def test_after_the_work_is_done(script):
    """Then there is nothing to interrupt."""
    assert script(f"atexit.register(lambda: ({NOW.strip()}, time.sleep(0.5)))").interrupt() == (0, "")


def test_processes_that_it_forks_leave_it_to_their_parent(script):
    main = f"if not os.fork():\n    time.sleep(0.5)\n    os._exit(7)\n{NOW}\n"
    main += "try:\n    time.sleep(60)\nfinally:\n    assert os.wait()[1] == 7 << 8"
    assert script(main).interrupt() == (130, "tool.py: interrupted\n")


def test_where_it_is_ignored_it_stays_so(script):
    """As for what a shell's script starts in its background."""
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    assert script(f"{NOW}\ntime.sleep(0.5)", **ignore).interrupt() == (0, "")


def test_every_script_begins_with_it():
    """A script imports nothing else before; one that runs a command of `paddletag` leaves it to `commands.run`."""
    scripts = [path for name in ("local", "tools") for path in (ROOT / name).glob("*.py")]
    scripts = [path for path in scripts if re.search(r"runtime\.run\(main\)| run\(", path.read_text())]
    assert len(scripts) > 12
    for path in scripts:
        code = path.read_text().split('"""', 2)[2].lstrip()
        if " run(" in code:
            assert re.findall("^(?:import|from) .*", code, re.M) == ["from paddletag.commands import run"], path
        else:
            assert code.startswith('if __name__ == "__main__":  # before all else\n'), path
            assert code.index("interrupt.begin()") < re.search("^(import|from) ", code, re.M).start(), path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Prepared data, a model, a folder of sounds."""
    folder = tmp_path_factory.mktemp("world")
    prepare(folder / "data", clips=2)
    path, _ = settings(folder)
    options = ["--data", folder / "data", "--fold", 2, "--exp", folder / "fold2", "--opts", "train.epochs", "1"]
    call("train", "--config", path, *options)
    (folder / "in").mkdir()
    for n in range(20):
        soundfile.write(folder / "in" / f"{n}.wav", tone(500, 0.5, np.random.default_rng(n)), 32000)
    return folder


def command(world, out, name):
    """(script, its arguments, where its results go)."""
    common = ["--config", world / "tiny.yaml", "--data", world / "data"]
    return {
        "audio_tag": [world / "in", "--model", world / "fold2", "--output_dir", out],
        "extract_features": ["--config", world / "tiny.yaml", "--data", out, "--workers", 2],
        "train": [*common, "--fold", 1, "--exp", out, "--opts", "train.epochs", 2],
    }[name]


@pytest.mark.parametrize("name, moments", [
    ("audio_tag", 10), ("extract_features", 10), pytest.param("audio_tag", 60, marks=pytest.mark.full),
    pytest.param("extract_features", 40, marks=pytest.mark.full), pytest.param("train", 40, marks=pytest.mark.full),
])  # fmt: skip
def test_at_any_moment(world, tmp_path, name, moments):
    """Spread over the whole run, from its first import on: the line and nothing else, or, at the very end, no line."""

    def start(number):
        out = tmp_path / f"out{number}"
        if name == "extract_features":
            shutil.copytree(world / "data", out, ignore=shutil.ignore_patterns("features"))
        return out, Process(tmp_path, ROOT / "local" / f"{name}.py", *command(world, out, name))

    complete, process = start("complete")
    begun = time.monotonic()
    assert process.communicate(timeout=300)[1] == "" and process.returncode == 0
    seconds, results = time.monotonic() - begun, count(complete)
    statuses = []
    for number in range(moments):
        out, process = start(number)
        status, err = process.interrupt(seconds * number / moments)
        assert (status, err) == (130, f"{name}.py: interrupted\n") or (status, err, count(out)) == (0, "", results)
        assert not list(out.rglob("*.tmp")) and not list(out.rglob("*.lock"))
        assert is_gone(process.pid)
        statuses.append(status)
        shutil.rmtree(out, ignore_errors=True)
    assert statuses[0] == 130 and statuses.count(130) > moments / 3


def is_gone(group: int) -> bool:
    """Whether nothing is left of a process group: soon, for who has ended is there until the system has counted it."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def count(folder: Path) -> int:
    """How many results lie there."""
    return sum(path.suffix in (".npz", ".arrow", ".safetensors") for path in folder.rglob("*"))
