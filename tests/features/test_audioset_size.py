"""Training's start with two million clips: time, memory of a process, memory of its readers."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

CLIPS = 2_000_000
SECONDS, MEGABYTES, READER = 30, 700, 20  # the bars: of CPU time; anonymous memory; what a reader's memory may grow by
YAML = """
task: multi_label
data: {clip_seconds: 10.0}
model: {name: mn04_as, weights: none}
train: {batch_size: 16, class_weights: balanced, workers: 2}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    pytest.importorskip("paddle")
    import many_clips

    folder = tmp_path_factory.mktemp("many") / "data"
    many_clips.write(folder, CLIPS)
    (folder / "config.yaml").write_text(YAML)
    return folder


def start(data, exp, *opts):
    script = ROOT / "tests" / "features" / "start_of_training.py"
    args = ["--config", data / "config.yaml", "--data", data, "--fold", "test", "--exp", exp, "--opts", *opts]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "local"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.full
@pytest.mark.parametrize("opts", [("train.sampler", "balanced"), ("train.shuffle", "buffer"), ()])
def test_training_of_two_million_clips_starts(data, tmp_path, opts):
    if not (data / "cache").exists():
        start(data, tmp_path / "first")  # which makes the columns
    found = start(data, tmp_path / "exp", *opts)
    assert found["passes"] == CLIPS * 99 // 100 // 16
    assert found["cpu_seconds"] < SECONDS and found["anonymous_MB"] < MEGABYTES
    assert len(found["workers_MB"]) == 2
    assert all(end - begin < READER for begin, end in found["workers_MB"])
