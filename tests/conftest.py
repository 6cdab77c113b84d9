"""What several tests need: where real data may lie, and how to run a script."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

# Started in a script's background, tests ignore SIGINT, and so would what they start: no shell can undo it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
ESC10 = ROOT / "examples" / "esc10" / "clips"  # 150 real clips of ten classes, in ESC-50's layout
CLIPS = ESC10 / "audio"  # 5 s, 32 kHz, mono
SHARED = ROOT.parent / "shared"  # real data and weights, beside the project where somebody has put them


@pytest.fixture
def shared():
    """A function: path below the folder of real data -> Path; skips the test, naming the file, where it is absent."""

    def find(path):
        if not (SHARED / path).exists():
            pytest.skip(f"real data not at hand: ../shared/{path}")
        return SHARED / path

    return find


@pytest.fixture(scope="session")
def reference():
    """{clip: {log_mel [21, 128] (every 25th frame), logits [527], embedding [384]}} of ten real clips, one of a class.

    EfficientAT's own PyTorch code made them, with the published weights of mn04_as, from what soundfile reads.
    """
    arrays: dict = {}
    with np.load(ROOT / "tests" / "reference" / "mn04_as.npz") as file:
        for name in file:
            clip, _, kind = name.partition("/")
            arrays.setdefault(CLIPS / f"{clip}.ogg", {})[kind] = file[name]
    assert len(arrays) == 10
    return arrays


@pytest.fixture(scope="session")
def real_scene(tmp_path_factory):
    """A WAV file of 7 s: a rooster, a crying baby, a dog; 32 kHz, mono."""
    parts = {"1-26806-A-1": 2.5, "1-187207-A-20": 3.0, "1-100032-A-0": 1.5}
    waves = [soundfile.read(CLIPS / f"{clip}.ogg", int(32000 * seconds))[0] for clip, seconds in parts.items()]
    path = tmp_path_factory.mktemp("scene") / "scene.wav"
    soundfile.write(path, np.concatenate(waves), 32000)
    return path


@pytest.fixture
def no_paddle(tmp_path):
    """A value for PYTHONPATH: with it, a paddle that cannot be imported without being noticed."""
    (tmp_path / "python" / "paddle").mkdir(parents=True)
    (tmp_path / "python" / "paddle" / "__init__.py").write_text("raise SystemExit('paddle was imported')\n")
    return str(tmp_path / "python")


@pytest.fixture
def program(tmp_path):
    """A function that runs `paddletag` in an empty folder: (*arguments, **environment) -> CompletedProcess."""

    def run(*args, stdin=None, **env):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
        command = [sys.executable, "-m", "paddletag", *map(str, args)]
        streams = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.run(command, **streams, env=env, timeout=300, cwd=tmp_path / "elsewhere")

    return run


@pytest.fixture
def script():
    """A function that runs a Python script of the project: (path, *arguments) -> CompletedProcess with text output."""

    def run(path, *args, **env):
        env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
        command = [sys.executable, str(ROOT / path), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)

    return run


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A function: path of a report -> its page in Chromium, offline; `page.faults` are what should not have been."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("Chromium is not installed (Debian, Ubuntu: apt-get install chromium)")
    switches = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    switches = [f"--{name}" for name in f"{switches} disable-component-update disable-sync".split()]
    with sync_api.sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=program, headless=True, args=switches, offline=True, color_scheme="light"
        )

        def visit(path, width=1280):
            page = context.new_page()
            page.set_viewport_size({"width": width, "height": 900})
            page.faults = []
            page.on("console", lambda message: page.faults.append(message.text))
            page.on("pageerror", lambda error: page.faults.append(str(error)))
            page.on("dialog", lambda dialog: page.faults.append(dialog.message))
            allowed = ("file:", "data:", "blob:")
            page.on("request", lambda r: None if r.url.startswith(allowed) else page.faults.append(r.url))
            page.goto(path.resolve().as_uri())
            return page

        yield visit
        context.close()
