"""What several tests need: where real data may lie, and how to run a script."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Started in a script's background, tests ignore SIGINT, and so would what they start: no shell can undo it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"  # real data and weights, beside the project where somebody has put them


@pytest.fixture
def shared():
    """A function: path below the folder of real data -> Path; skips the test, naming the file, where it is absent."""

    def find(path):
        if not (SHARED / path).exists():
            pytest.skip(f"real data not at hand: ../shared/{path}")
        return SHARED / path

    return find


@pytest.fixture
def script():
    """A function that runs a Python script of the project: (path, *arguments) -> CompletedProcess with text output."""

    def run(path, *args, **env):
        env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
        command = [sys.executable, str(ROOT / path), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)

    return run
