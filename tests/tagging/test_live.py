"""Live tagging: events of known scores and sounds, windows compared with those of the whole, and a real pipe."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
import soundfile
from conftest import CLIPS, ROOT
from paddletag.data import audio
from paddletag.data.microphone import microphone
from paddletag.features import frontend
from paddletag.runtime import UserError
from paddletag.tagging import live
from paddletag.tagging.events import find_events
from prepared import call, refusal, tone

HOP, WINDOW = 0.2, 1.0
STEP = 6400  # samples of a hop


def scripted(*rows):
    """A predict that gives these scores, one row for each window, whatever it hears."""
    left = list(rows)

    def predict(log_mels):
        return {"scores": np.array([left.pop(0) for _ in log_mels], np.float32)}

    return predict


def loud(log_mels):
    """Scores of a label that is there while the last 0.15 s of a window are loud."""
    return {"scores": (log_mels[:, -15:].mean((1, 2)) > -0.5).astype(np.float32)[:, None]}


def listen(predict, wave, part=STEP, labels=("sound",), high=0.4, low=0.2):
    """(events while it was heard, events of the flush)."""
    listener = live.Live(predict, frontend.MN, labels, WINDOW, HOP, high, low)
    parts = [wave[i : i + part] for i in range(0, len(wave), part)]
    return [event for part in parts for event in listener.feed(part)], listener.flush()


def shown(events):
    return [(event.kind, event.label, round(event.time, 3), round(event.score, 3)) for event in events]


def test_a_label_comes_once_and_goes_once():
    """0.3 is between the thresholds: no onset by itself, no offset either."""
    scores = [0.3, 0.5, 0.3, 0.6, 0.25, 0.1, 0.3, 0.45, 0.3]
    events, last = listen(scripted(*[[score] for score in scores]), np.zeros(9 * STEP, np.float32))
    assert shown(events + last) == [
        ("onset", "sound", 0.4, 0.5),
        ("offset", "sound", 1.2, 0.6),  # the highest since
        ("onset", "sound", 1.6, 0.45),
        ("offset", "sound", 1.8, 0.45),  # the end of the sound
    ]
    assert [event.onset for event in events + last] == pytest.approx([0.4, 0.4, 1.6, 1.6])
    assert shown(last)[-1:] == [("offset", "sound", 1.8, 0.45)]


@pytest.mark.parametrize("part", [STEP, 3 * STEP + 5, 10**6])
def test_events_are_those_of_a_file(part):
    """Of windows side by side with these scores; told when a window is over, which is a hop after it began."""
    scores = (np.random.default_rng(3).random((60, 4)).round(1)).astype(np.float32)  # many are a threshold exactly
    wave, labels = np.zeros(60 * STEP, np.float32), ("a", "b", "c", "d")
    events, last = listen(scripted(*scores), wave, part, labels, 0.7, 0.3)
    found = [(event.onset, event.time, event.label, event.score) for event in events + last if event.kind == "offset"]
    start = HOP * np.arange(60)
    arrays = {"start": start, "end": start + HOP, "scores": scores, "labels": np.array(labels)}
    expected = [
        (event["onset"] + HOP, min(event["offset"] + HOP, 60 * HOP), event["label"], event["peak"])
        for event in find_events(arrays, 0.7, 0.3)
    ]
    (*times, names, peaks), (*times2, names2, peaks2) = (
        zip(*sorted(rows, key=lambda row: (row[2], row[0])), strict=True) for rows in (found, expected)
    )
    assert names == names2 and peaks == peaks2 and len(names) > 20
    np.testing.assert_allclose(times, times2, atol=1e-6)


def test_labels_are_apart():
    rows = [[0.9, 0.1, 0.5], [0.9, 0.6, 0.1], [0.1, 0.6, 0.1]]
    events, last = listen(scripted(*rows), np.zeros(3 * STEP, np.float32), labels=("a", "b", "c"))
    expected = [("onset", "a", 0.2), ("onset", "c", 0.2), ("offset", "c", 0.4), ("onset", "b", 0.4)]
    assert [event[:3] for event in shown(events + last)] == [*expected, ("offset", "a", 0.6), ("offset", "b", 0.6)]


@pytest.mark.parametrize("part", [321, STEP, 20_000, 10**6])
def test_the_windows_end_at_the_hops(part):
    """Each is the log-mel of the second before a hop; before the beginning there was silence."""
    heard = []

    def predict(log_mels):
        heard.extend(log_mels)
        return {"scores": np.zeros((len(log_mels), 1), np.float32)}

    wave = tone(700, 1.5, np.random.default_rng(0))
    assert listen(predict, wave, part) == ([], [])
    log_mel = frontend.MN.log_mel(np.concatenate([np.zeros(4 * STEP, np.float32), wave, np.zeros(STEP, np.float32)]))
    assert len(heard) == 8  # 1.5 s: seven hops, and the tail
    for k, window in enumerate(heard[:7]):
        np.testing.assert_allclose(window, log_mel[20 * k : 20 * k + 100], atol=1e-5)
    np.testing.assert_allclose(heard[7][:88], log_mel[140:228], atol=1e-5)


@pytest.mark.parametrize("part", [500, STEP, 10**6])
def test_a_noise_in_silence(part):
    wave = np.zeros(32000 * 4, np.float32)
    wave[32000:64000] = np.random.default_rng(0).standard_normal(32000) * 0.1
    events, last = listen(loud, wave, part)
    assert [event.kind for event in events] == ["onset", "offset"] and not last
    assert 1 < events[0].time <= 1 + HOP + 1e-6 and 2 < events[1].time <= 2 + HOP + 1e-6


def test_what_came_after_the_last_hop_is_heard():
    """The tail of 0.19 s is scored when the sound ends, and the label goes with the sound."""
    wave = np.zeros(STEP * 3 - 320, np.float32)
    wave[STEP * 2 :] = np.random.default_rng(0).standard_normal(STEP - 320) * 0.1
    events, last = listen(loud, wave)
    assert not events and [event.kind for event in last] == ["onset", "offset"]
    assert [event.time for event in last] == pytest.approx([0.59, 0.59])


def test_a_minute_takes_no_more_memory_than_a_window():
    listener = live.Live(scripted(*[[0.0]] * 300), frontend.MN, ["a"], WINDOW, HOP, 0.4, 0.2)
    sizes = set()
    for _ in range(300):
        listener.feed(np.zeros(STEP, np.float32))
        sizes.add(len(listener.windows.frames) + len(listener.log_mel.wave))
    assert max(sizes) < 10_000 and listener.log_mel.head == []


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--hop 2.0.* 1.0 s"):
        live.Live(None, frontend.MN, ["a"], 1.0, 2.0, 0.4, 0.2)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match="sounddevice"):
        next(microphone(32000))


def test_a_microphone(monkeypatch):
    """A sound card that calls back ten times at once, with a buffer that it uses again: nothing is lost or mixed up."""

    class InputStream:
        def __init__(self, samplerate, channels, dtype, callback):
            assert (samplerate, channels, dtype) == (16000, 1, "float32")
            self.callback = callback

        def __enter__(self):
            buffer = np.empty((3, 1), np.float32)
            for k in range(10):
                buffer[:, 0] = [3 * k, 3 * k + 1, 3 * k + 2]
                self.callback(buffer, 3, None, None)

        def __exit__(self, *_):
            closed.append(True)

    closed = []
    card = types.SimpleNamespace(InputStream=InputStream, PortAudioError=type("PortAudioError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    waves = microphone(16000)
    assert next(waves).tolist() == list(range(30))
    waves.close()
    assert closed

    def refuse(**_):
        raise card.PortAudioError("Invalid sample rate")

    card.InputStream = refuse
    with pytest.raises(UserError, match=r"16000 Hz \(Invalid sample rate\)"):
        next(microphone(16000))


class Pipe(subprocess.Popen):
    """audio_tag.py --stream, once it listens; each line that it prints is kept with the time at which it came."""

    def __init__(self, *options):
        command = [sys.executable, str(ROOT / "local" / "audio_tag.py"), "--stream", *map(str, options)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        super().__init__(command, **pipes, env={**os.environ, "OMP_NUM_THREADS": "1"}, bufsize=0)
        assert b"listening at" in self.stderr.readline()
        self.lines = []
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.stdout:
            self.lines.append((time.monotonic(), line.decode()))


def test_latency_at_real_time(record_property):
    """A rooster after a second of silence, through a pipe at the speed of sound: told within 1.5 s of its first cry."""
    clip = audio.load(CLIPS / "1-26806-A-1.ogg", 32000)[: 32000 * 3]
    wave = np.concatenate([np.zeros(32000, np.float32), clip])
    first = np.flatnonzero(np.abs(wave) > 0.02)[0] / 32000
    with Pipe("--json") as process:
        began = time.monotonic()
        for i in range(0, len(wave), 640):
            time.sleep(max(0, began + (i + 640) / 32000 - time.monotonic()))  # a microphone has it when it is over
            process.stdin.write((wave[i : i + 640] * 32767).astype("<i2").tobytes())
        process.stdin.close()
        assert process.wait(timeout=20) == 0
        process.reader.join()
    events = [(when - began, json.loads(line)) for when, line in process.lines]
    when, event = next((when, event) for when, event in events if "rooster" in event["label"])
    record_property("latency", float(when - first))
    print(f"latency {when - first:.2f} s, of which {when - event['time']:.3f} s are the program's")
    assert event["kind"] == "onset" and when - first < 1.5
    assert when - event["time"] < 0.5  # from the end of the window to the line
    onsets = [event["label"] for _, event in events if event["kind"] == "onset"]
    offsets = [event["label"] for _, event in events if event["kind"] == "offset"]
    assert sorted(onsets) == sorted(offsets)  # all are over at the end


def test_ctrl_c_ends_it():
    clip = audio.load(CLIPS / "1-26806-A-1.ogg", 16000)[: 16000 * 3]
    with Pipe("--pcm_rate", 16000, "--pcm_format", "f32le") as process:
        process.stdin.write(clip.astype("<f4").tobytes())
        for _ in range(100):
            time.sleep(0.1)
            if process.lines:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        process.reader.join()
        assert process.stderr.read() == b""
    lines = [line for _, line in process.lines]
    assert any(" + Chicken, rooster" in line for line in lines) and any(" - Chicken, rooster" in line for line in lines)


def test_a_wav_stream_knows_its_rate(tmp_path):
    """Piped at once and in another rate: the events are those of the same sound as PCM, in the same places."""
    clip = audio.load(CLIPS / "1-26806-A-1.ogg", 32000)[: 32000 * 3]
    soundfile.write(tmp_path / "a.wav", clip, 32000)
    results = []
    for data in ((tmp_path / "a.wav").read_bytes(), (clip * 32768).clip(-32768, 32767).round().astype("<i2").tobytes()):
        with Pipe() as process:
            process.stdin.write(data)
            process.stdin.close()
            assert process.wait(timeout=20) == 0
            process.reader.join()
        results.append([line.split()[:3] for _, line in process.lines])
    assert results[0] == results[1] and results[0]


def test_script_refuses(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert "sounddevice" in refusal("audio_tag", "--stream", "mic")
    assert "--hop_duration 3.0: " in refusal("audio_tag", "--stream", "--hop_duration", 3)
    with pytest.raises(SystemExit):
        call("audio_tag", "--stream", "somewhere.wav")
