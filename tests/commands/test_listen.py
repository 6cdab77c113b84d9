"""`paddletag listen`: the same lines as `audio_tag.py --stream`, from a pipe or a microphone, and what it refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from paddletag import config
from paddletag.commands import listen
from paddletag.features import frontend
from paddletag.models import model_folder, registry
from prepared import call, refusal, tone
from test_live import loud

RATE = 32000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model that has learnt nothing: its scores lie around 0.5."""
    folder = tmp_path_factory.mktemp("model")
    run = {"config": config.to_dict(config.defaults()), "data": "abc", "fold": 1, "processes": 1}
    meta = {"backbone": "mn01_as", "labels": list("abcdef"), "task": "multi_label", "clip_seconds": 1.0, "run": run}
    model_folder.save_model(folder, registry.create_model("mn01_as", 6, seed=3), meta)
    return folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A WAV file of another rate: silence, a tone, silence."""
    path = tmp_path_factory.mktemp("sound") / "a.wav"
    wave = tone(800, 1.0, np.random.default_rng(0), 16000)
    soundfile.write(path, np.concatenate([np.zeros(8000, np.float32), wave, np.zeros(8000, np.float32)]), 16000)
    return path


@pytest.mark.parametrize("options", [(), ("--json", "--sample_duration", "1", "--hop_duration", "0.25")])
def test_a_wav_stream_gives_the_lines_of_audio_tag(program, model, sound, tmp_path, options):
    options = ["--model", model, "--threshold", "0.5", "--low_threshold", "0.49", *options]
    command = [sys.executable, ROOT / "local" / "audio_tag.py", "--stream", *options]
    with open(sound, "rb") as file:
        ours = program("listen", "-", *options, stdin=file)
    with open(sound, "rb") as file:
        theirs = subprocess.run(list(map(str, command)), stdin=file, capture_output=True, text=True)
    assert ours.returncode == theirs.returncode == 0
    assert ours.stdout == theirs.stdout and len(ours.stdout.splitlines()) >= 2
    assert ours.stderr.startswith("paddletag listen: listening at 32000 Hz")
    assert theirs.stderr.startswith("audio_tag.py: listening at 32000 Hz")
    assert ours.stderr.count("\n") == theirs.stderr.count("\n") == 1


def test_a_microphone(model, monkeypatch, capsys):
    """Heard in parts at the model's rate, until Ctrl-C; what is still there goes at the end."""
    wave = np.zeros(4 * RATE, np.float32)
    wave[RATE : 2 * RATE] = wave[3 * RATE :] = np.random.default_rng(0).standard_normal(RATE) * 0.1
    rates = []

    def microphone(rate):
        rates.append(rate)
        yield from np.split(wave, 40)
        raise KeyboardInterrupt

    monkeypatch.setattr(listen, "microphone", microphone)
    monkeypatch.setattr(
        listen, "open_predictor", lambda *_, **__: lambda log_mel: {"scores": np.tile(loud(log_mel)["scores"], 6)}
    )
    options = ("--model", model, "--sample_duration", 1)
    call("listen", "mic", *options)
    text = capsys.readouterr()
    lines = text.out.splitlines()
    assert rates == [frontend.MN.sample_rate] and "listening at 32000 Hz" in text.err
    assert [line.split()[1:3] for line in lines] == [[sign, label] for sign in "+-+-" for label in "abcdef"]
    times = [float(line.split()[0]) for line in lines[::6]]
    assert times == pytest.approx([1.2, 2.2, 3.2, 4.0], abs=0.21)

    call("listen", *options, "--json")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event["kind"], event["label"]) for event in events[::6]] == [("onset", "a"), ("offset", "a")] * 2
    assert [round(event["time"], 2) for event in events[::6]] == times


def test_without_sounddevice(program, no_paddle, model, tmp_path):
    """One line, before paddle is imported."""
    (tmp_path / "python" / "sounddevice.py").write_text("raise ImportError\n")
    done = program("listen", "--model", model, PYTHONPATH=no_paddle)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("paddletag listen: error: ") and done.stderr.count("\n") == 1
    assert "pip install sounddevice" in done.stderr


@pytest.mark.parametrize(
    "words, name",
    [
        ("- --sample_duration 0", "--sample_duration 0"),
        ("- --sample_duration nan", "--sample_duration nan"),
        ("- --sample-duration inf", "--sample_duration inf"),
        ("- --hop_duration -1", "--hop_duration -1"),
        ("- --window 0", "--window 0"),  # as it was written
        ("- --hop=2.5", "--hop 2.5"),
        ("- --hop_duration 2.5", "--hop_duration 2.5"),  # longer than a window
        ("- --hop_duration 0.0001", "--hop_duration 0.0001"),  # shorter than a frame
        ("mic --hop_duration 2.5", "--hop_duration 2.5"),
        ("- --threshold 1", "--threshold"),
        ("- --threshold 0.1", "--threshold"),  # below the low one
        ("- --low_threshold 0", "--low_threshold"),
        ("- --pcm_rate 10", "--pcm_rate 10"),
        ("- --pcm_rate 16000 --pcm_channels 0", "--pcm_channels 0"),
        ("- --device tpu", "--device tpu"),
        ("- --engine onnxruntime --device gpu", "--device gpu"),
        ("mic --pcm_rate 32000", "--pcm_rate"),
        ("--pcm_format s16le", "--pcm_format"),
        ("--pcm_channels 1", "--pcm_channels"),
    ],
)
def test_refusals(model, words, name):
    assert name in refusal("listen", *words.split(), "--model", model)


def test_other_sources_and_models(model, capsys):
    for words in (["somewhere.wav"], ["-", "mic"], ["--output_dir", "o"]):
        with pytest.raises(SystemExit) as caught:
            call("listen", *words, "--model", model)
        assert caught.value.code == 2 and words[-1] in capsys.readouterr().err
    assert "nowhere" in refusal("listen", "-", "--model", "nowhere")
