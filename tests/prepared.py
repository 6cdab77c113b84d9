"""A prepared folder of short tones for tests of what comes after stage 1, and scripts called in this process."""

import importlib
import json
import re
import sys

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from paddletag import commands, config, runtime
from paddletag.data import manifest
from paddletag.features import frontend, shards

SECONDS = 0.3
AUGMENT = ("mixup", "roll", "gain", "freq_mask", "time_mask")
PLAIN = [word for key in AUGMENT for word in (f"augment.{key}", "0")]  # options: no augmentation
LABELS = ["high", "low"]
YAML = f"""
data: {{clip_seconds: {SECONDS}}}
model: {{name: mn01_as, weights: none}}
augment: {{mixup: 0.3, roll: 0.05, gain: 3, freq_mask: 8, time_mask: 4}}
train: {{epochs: 3, batch_size: 4, lr: 3.0e-3, log_freq: 2}}
evaluate: {{batch_size: 5}}
"""


RUN = r'run\("(\w+)"(?:, (\w+)=True)?\)'  # in a script: the command, and what its `main` is told


def tone(hertz, seconds, generator, rate=32000):
    """A tone of any phase in noise: float32 [N]."""
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * (hertz * time + generator.uniform()))
    return (wave + 0.02 * generator.standard_normal(len(time))).astype(np.float32)


def prepare(folder, folds=(1, 2, 3), clips=4, seconds=SECONDS):
    """Sound, manifest and features in `folder`: `clips` of each label in each fold. Returns (records, Features)."""
    generator, records = np.random.default_rng(0), []
    (folder / "audio").mkdir(parents=True)
    for fold in folds:
        for n in range(clips):
            for label, hertz in (("low", 400), ("high", 4000)):
                path = folder / "audio" / f"{fold}-{n}-{label}.wav"
                soundfile.write(path, tone(hertz * generator.uniform(0.8, 1.25), seconds, generator), 32000)
                row = {"id": path.stem, "audio": str(path), "labels": [label], "fold": fold, "seconds": seconds}
                records.append(row)
    manifest.write(folder, records, LABELS, [])
    shards.extract(folder, records, frontend.MN, SECONDS, 8, 0, 1)
    return records, shards.open_shards(folder, frontend.MN, SECONDS, records)


def settings(folder, *opts):
    """(the path of a YAML file in `folder`, the config that it and `opts` make)."""
    path = folder / "tiny.yaml"
    path.write_text(YAML)
    return path, config.load(path, opts)


def report_data(path):
    """What a report holds: the JSON in its HTML."""
    html = path.read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(text)


def command(script):
    """The module of the command that a script of local/ or tools/ runs, or that is called so.

    A script that runs no command is its own.
    """
    for folder in ("local", "tools"):
        path = ROOT / folder / f"{script}.py"
        if path.is_file() and (name := re.search(RUN, path.read_text())):
            return importlib.import_module(f"paddletag.commands.{name[1]}")
    return importlib.import_module(f"paddletag.commands.{script}" if script in commands.COMMANDS else script)


def settings_of(script):
    """What a script gives to the `main` of its command."""
    path = ROOT / "local" / f"{script}.py"
    found = re.search(RUN, path.read_text()) if path.is_file() else None
    return {found[2]: True} if found and found[2] else {}


def call(script, *args):
    """Run a script, or a command without one, in this process, as its command line would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", *map(str, args)])
        command(script).main(**settings_of(script))


def refusal(script, *args):
    """The line with which a script or command refuses. It must be the user's error, and one line."""
    with pytest.raises(runtime.UserError) as caught:
        call(script, *args)
    assert "\n" not in str(caught.value)
    return str(caught.value)
