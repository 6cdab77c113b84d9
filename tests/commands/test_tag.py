"""`paddletag tag`: events on the screen, in every format and in Python, against `find_events` and the two old commands.

A stand-in for the model hears tones: a low one as Speech and as a label with a comma, a high one as Dog.
"""

import csv
import io
import json
import os
import re
import select
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import paddletag
import pytest
import soundfile
from conftest import ROOT
from paddletag import runtime
from paddletag.commands import tag
from paddletag.models import model_folder, registry
from paddletag.reports import video
from paddletag.tagging import result_files, tagger
from paddletag.tagging.events import find_events
from paddletag.tagging.labels import choose_labels, split_names
from prepared import call, refusal, report_data

RATE = 32000
COMMA = "Male speech, man speaking"
CHOSEN = ["Speech", COMMA, "Dog"]
STEPS = [0, 400, 400, 0, 4000, 0, 0, 400, 4000, 400, 0, 0]  # Hz of each second; 0: silence
OPTIONS = {"csv": ",", "tsv": "\t"}


def wave(hertz):
    """A second of a tone for each frequency, with a little noise: float32 [N]."""
    time = np.arange(RATE) / RATE
    tones = [0.3 * np.sin(2 * np.pi * h * time) for h in hertz]
    return np.float32(np.concatenate(tones) + 1e-3 * np.random.default_rng(0).standard_normal(len(hertz) * RATE))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder to stand in, with scene.wav, and the stand-in for mn04_as; `thresholds` calibrate it."""
    columns = [registry.audioset_labels().index(label) for label in CHOSEN]

    def predict(log_mel):
        power = np.exp(5 * log_mel.astype(float) - 4.5).mean(1)  # [B, mel]; a tone that fills a window: 47, 3900
        low, high = power[:, :50].sum(1) / 47, power[:, 75:].sum(1) / 3900
        scores = np.full((len(log_mel), 527), 0.01, np.float32)
        scores[:, columns] = 1 - np.exp(-2 * np.stack([low, 0.8 * low, high], 1))
        return {"scores": scores, "embeddings": scores[:, :2]}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tag, "open_predictor", lambda *args, **options: predict)
    monkeypatch.setattr(tagger, "open_predictor", lambda *args, **options: predict)
    soundfile.write("scene.wav", wave(STEPS), RATE)
    return tmp_path


def expected(threshold=0.3, low=None, labels=None, window=2.0, hop=0.5):
    """The events of scene.wav, through the npz file of the historical command."""
    words = ["--sample_duration", window, *(["--hop_duration", hop] if window else []), "--output_dir", "old"]
    call("audio_tag", "scene.wav", *words)
    return find_events(result_files.read_result("old/scene.npz"), threshold, low, classes=labels)


def rounded(events, digits=4):
    return [
        (round(row["onset"], digits), round(row["offset"], digits), row["label"], round(row["peak"], digits))
        for row in events
    ]


def output(capsys, *words):
    """What `paddletag tag` prints."""
    capsys.readouterr()
    call("tag", *words)
    return capsys.readouterr().out


def test_events_are_printed_in_columns(capsys):
    events = expected()
    assert {row["label"] for row in events} == set(CHOSEN) and len(events) > 4
    lines = output(capsys, "scene.wav").splitlines()
    rows = [re.fullmatch(r" *([\d.]+) s +([\d.]+) s  (.*?) +([\d.]+)", line).groups() for line in lines]
    found = [(float(start), float(end), label, float(score)) for start, end, label, score in rows]
    assert [row[:3] for row in found] == [row[:3] for row in rounded(events, 2)]
    assert [row[3] for row in found] == pytest.approx([row["peak"] for row in events], abs=6e-4)
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("old, new", [("--sample_duration", "--window"), ("--sample-duration", "--window")])
def test_two_spellings_of_one_option(capsys, old, new):
    assert output(capsys, "scene.wav", old, 1, "--hop_duration", 0.25) == output(capsys, "scene.wav", new, 1)
    assert output(capsys, "scene.wav", new, 1, "--hop", 0.5) != output(capsys, "scene.wav", new, 1)


def test_events_are_those_of_the_two_old_commands(capsys):
    words = ["--threshold", 0.4, "--low_threshold", 0.2]
    call("audio_tag", "scene.wav", "--sample_duration", 2, "--hop_duration", 0.5, "--output_dir", "old")
    formats = ["csv", "tsv", "json", "jsonl", "audacity", "raven", "labelstudio"]
    call("parse_result", "--tagging_file", "old/scene.npz", "--output_dir", "old", "--format", *formats, *words)
    call("tag", "scene.wav", "--output_dir", "new", "--format", ",".join(formats), *words)
    files = sorted(path.name for path in Path("new").iterdir())
    assert len(files) == len(formats)
    for name in files:
        assert Path("new", name).read_bytes() == Path("old", name).read_bytes()


@pytest.mark.parametrize("name", OPTIONS)
def test_tables_of_one_sound_and_of_several(capsys, name):
    events = rounded(expected())
    rows = list(csv.reader(io.StringIO(output(capsys, "scene.wav", "--format", name)), delimiter=OPTIONS[name]))
    assert rows[0] == ["onset", "offset", "label", "peak", "mean"]
    assert [(float(a), float(b), label, float(c)) for a, b, label, c, _ in rows[1:]] == events
    soundfile.write("other.wav", wave([4000] * 3), RATE)
    call("tag", "scene.wav", "other.wav", "--format", name, "--output", "all.txt")
    rows = list(csv.DictReader(Path("all.txt").open(newline=""), delimiter=OPTIONS[name]))
    assert list(rows[0]) == ["filename", "onset", "offset", "label", "peak", "mean"]
    assert [row["label"] for row in rows if row["filename"] == "scene.wav"] == [row[2] for row in events]
    assert {row["label"] for row in rows if row["filename"] == "other.wav"} == {"Dog"}


def test_json_and_json_lines(capsys):
    events = rounded(expected())
    document = json.loads(output(capsys, "scene.wav", "--format", "json"))
    (file,) = document["files"]
    assert (file["filename"], file["seconds"]) == ("scene.wav", len(STEPS)) and file["model"].startswith("mn04_as ")
    assert rounded(file["events"]) == events
    lines = output(capsys, "scene.wav", "--format", "jsonl").splitlines()
    assert rounded(map(json.loads, lines)) == events


def test_ravens_selection_table(capsys):
    """Tabs between cells; several files are one sequence, of which each begins where the one before ends."""
    events = expected()
    soundfile.write("next.wav", wave([4000] * 3)[::2], RATE // 2)
    text = output(capsys, "scene.wav", "next.wav", "--format", "raven")
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [row["Selection"] for row in rows] == [str(n) for n in range(1, len(events) + 2)]
    assert {row["View"] for row in rows} == {"Spectrogram 1"} and {row["Channel"] for row in rows} == {"1"}
    for row, event in zip(rows, events, strict=False):
        assert float(row["Begin Time (s)"]) == float(row["File Offset (s)"]) == pytest.approx(event["onset"], abs=1e-4)
        assert float(row["End Time (s)"]) == pytest.approx(event["offset"], abs=1e-4)
        assert row["Annotation"] == event["label"] and row["Begin Path"] == str(Path("scene.wav").resolve())
        assert (row["Low Freq (Hz)"], row["High Freq (Hz)"]) == ("0", "16000")
    last = rows[-1]
    assert float(last["Begin Time (s)"]) == len(STEPS) + float(last["File Offset (s)"])
    assert last["High Freq (Hz)"] == "8000" and last["Annotation"] == "Dog"


def test_tasks_of_label_studio(capsys):
    events = expected()
    (task,) = json.loads(output(capsys, "scene.wav", "--format", "labelstudio"))
    url = task["data"]["audio"]
    assert url.startswith("/data/local-files/?d=") and Path("/", unquote(url.partition("=")[2])).samefile("scene.wav")
    (prediction,) = task["predictions"]
    regions = prediction["result"]
    assert {(r["from_name"], r["to_name"], r["type"], r["value"]["channel"]) for r in regions} == {
        ("label", "audio", "labels", 0)
    }
    assert len({region["id"] for region in regions}) == len(regions)
    found = [(r["value"]["start"], r["value"]["end"], r["value"]["labels"][0], r["score"]) for r in regions]
    assert found == rounded(events)


def test_labels_whose_names_have_commas(capsys):
    def labels(*words):
        return {
            json.loads(line)["label"] for line in output(capsys, "scene.wav", "--format", "jsonl", *words).splitlines()
        }

    assert labels("--labels", f"Dog,{COMMA}") == {"Dog", COMMA}
    assert labels("--labels", COMMA) == {COMMA}
    assert labels("--labels", "Dog", "--labels", "Spee*") == {"Dog", "Speech"}
    assert labels("--top_k", 1) == {max(expected(), key=lambda row: row["peak"])["label"]}
    assert labels("--threshold", 0.3, "--threshold", "Dog=1") == {"Speech", COMMA}
    names = registry.audioset_labels()
    for text in (", ".join(names), ",".join(names)):
        assert split_names(text, names) == names
    assert split_names("a,b*, c,d ,,", ["a", "c,d"]) == ["a", "b*", "c,d"]
    assert len(choose_labels(names, split_names("*speech*,Dog", names))) > 3


def test_a_short_sound_has_labels(capsys):
    soundfile.write("short.wav", wave([400]), RATE)
    lines = output(capsys, "short.wav").splitlines()
    assert [line.split("  ")[0] for line in lines[:2]] == ["Speech", COMMA] and len(lines) == 5
    assert all(0 <= float(line.split()[-1]) <= 1 for line in lines)
    top = output(capsys, "short.wav", "--top_k", 2).splitlines()
    assert [line.split() for line in top] == [line.split() for line in lines[:2]]
    assert len(output(capsys, "scene.wav", "--window", 0).splitlines()) == 5
    assert output(capsys, "short.wav", "--threshold", 1) == "unknown\n"
    assert output(capsys, "short.wav", "--labels", "Dog").split()[0] == "Dog"


@pytest.mark.parametrize("threshold, words", [(0.9999, ["unknown"]), (0.1, ["Speech", "Male"])])
def test_a_calibrated_model_may_not_know(capsys, monkeypatch, threshold, words):
    """Its thresholds are in the result; those that the user gives come before them."""
    from paddletag.tagging import pipeline

    plain = pipeline.result_arrays
    limits = np.full(527, threshold, np.float32)
    monkeypatch.setattr(pipeline, "result_arrays", lambda *args: {**plain(*args), "thresholds": limits})
    soundfile.write("short.wav", wave([400]), RATE)
    assert [line.split()[0] for line in output(capsys, "short.wav").splitlines()][: len(words)] == words
    assert output(capsys, "short.wav", "--threshold", 0.2).startswith("Speech")
    counts = [len(output(capsys, "scene.wav", *more).splitlines()) for more in ((), ("--threshold", 0.3))]
    assert (counts[0] == 0) == (threshold > 0.9) and counts[1] > 4
    assert bool(paddletag.events("scene.wav")) == (threshold < 0.9)


def screen(monkeypatch, lines, *words):
    """What `paddletag tag` prints on a terminal of so many lines."""
    leader, follower = os.openpty()
    monkeypatch.setenv("LINES", str(lines))
    monkeypatch.setenv("PADDLETAG_PROGRESS", "0")
    with os.fdopen(follower, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        call("tag", *words)
        terminal.flush()
        text = b""
        while select.select([leader], [], [], 0.2)[0]:
            text += os.read(leader, 100_000)
    os.close(leader)
    return text.decode().replace("\r\n", "\n").splitlines()


def test_a_terminal_gets_a_screenful(monkeypatch, capsys):
    soundfile.write("long.wav", wave([400, 0, 0, 4000, 0, 0] * 10), RATE)
    everything = output(capsys, "long.wav").splitlines()
    assert len(everything) > 25
    *lines, last = screen(monkeypatch, 14, "long.wav")
    assert len(lines) <= 12 and re.search(r"\d+", last)[0] == str(len(everything) - len(lines)) and "--format" in last
    squeezed = [" ".join(line.split()) for line in everything]
    shown = [squeezed.index(" ".join(line.split())) for line in lines]
    assert shown == sorted(shown)
    scores = [float(line.split()[-1]) for line in everything]
    assert min(scores[k] for k in shown) >= max(scores[k] for k in set(range(len(scores))) - set(shown))
    assert screen(monkeypatch, 200, "long.wav") == everything


def test_a_table_on_a_terminal_is_obeyed_by_none(monkeypatch):
    Path("scene.wav").rename("\x1b[31mscene.wav")
    rows = screen(monkeypatch, 9, "\x1b[31mscene.wav", "--format", "raven")
    assert len(rows) > 5 and all(row.count("\t") == 10 and "\x1b" not in row for row in rows)


def test_one_broken_file_does_not_end_the_batch(capsys):
    Path("in").mkdir()
    for name in ("a.wav", "c.wav"):
        soundfile.write(f"in/{name}", wave([400] * 3), RATE)
    Path("in/b.wav").write_bytes(b"no sound")
    assert refusal("tag", "in", "--format", "csv", "--output", "all.csv").startswith("1 of 3 ")
    assert "in/b.wav" in capsys.readouterr().err
    rows = list(csv.DictReader(Path("all.csv").open(newline="")))
    assert {row["filename"] for row in rows} == {"in/a.wav", "in/c.wav"}
    assert refusal("tag", "in").startswith("1 of 3 ")
    headings = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert headings == ["in/a.wav:", "in/c.wav:"]
    assert refusal("tag", "in", "--format", "json", "--output_dir", "out").startswith("1 of 3 ")
    assert sorted(os.listdir("out")) == ["a.json", "c.json"]
    for name in ("a.wav", "c.wav"):
        Path("in", name).write_bytes(b"no sound")
    assert refusal("tag", "in", "--format", "csv", "--output", "none.csv").startswith("3 of 3 ")
    assert sorted(os.listdir()) == ["all.csv", "in", "out", "scene.wav"]  # no table of nothing


def test_the_page_and_the_film(capsys, monkeypatch):
    films = []
    monkeypatch.setattr(video, "render", lambda sound, arrays, out, **options: films.append((out.name, options)))
    lines = output(capsys, "scene.wav").splitlines()
    call("tag", "scene.wav", "--report", "--video", "--threshold", 0.4, "--top_k", 2)
    told = capsys.readouterr()
    assert films == [("scene.tags.mp4", {"top_k": 2})] and "scene.html" in told.err and "scene.tags.mp4" in told.err
    assert len(told.out.splitlines()) <= len(lines)
    call("audio_tag", "scene.wav", "--sample_duration", 2, "--hop_duration", 0.5, "--output_dir", "old")
    words = ["--report", "--threshold", 0.4, "--classes", "Speech", COMMA]
    call("parse_result", "--tagging_file", "old/scene.npz", "--output_dir", "old", *words)
    ours, theirs = (report_data(Path(path)) for path in ("scene.html", "old/scene.html"))
    assert {**ours, "sound": ""} == {**theirs, "sound": ""}
    call("tag", "scene.wav", "--report", "--output_dir", "pages")
    assert os.listdir("pages") == ["scene.html"]


def test_a_sound_is_not_overwritten_under_another_name(tmp_path):
    os.link("scene.wav", "hard.csv")
    assert "is one of the sounds" in refusal("tag", "scene.wav", "--format", "csv", "--output", "hard.csv")
    Path("scene.wav").rename("scene.npz")
    before = Path("scene.npz").read_bytes()
    assert "is one of the sounds" in refusal("tag", "scene.npz", "--output_dir", ".")
    assert Path("scene.npz").read_bytes() == before


def test_names_that_are_formulas_or_end_lines(capsys):
    for name in ("=1+1.wav", "a\rb.wav"):
        os.link("scene.wav", name)
    for kind, options in (("csv", {}), ("tsv", {"delimiter": "\t"})):
        text = output(capsys, "--format", kind, "--", *sorted(Path().glob("*.wav")))
        rows = list(csv.DictReader(io.StringIO(text, newline=""), **options))
        assert {row["filename"] for row in rows} == {"scene.wav", "./=1+1.wav", "a\rb.wav"}


def test_a_hop_longer_than_a_window_is_told(capsys):
    call("tag", "scene.wav", "--hop", 3)
    assert "--hop 3 is longer" in capsys.readouterr().err


def test_a_film_without_ffmpeg_is_refused_at_once(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert "imageio-ffmpeg" in refusal("tag", "scene.wav", "--video")
    assert not capsys.readouterr().out


def test_a_folder_for_results_gets_npz_files(capsys):
    call("tag", "scene.wav", "--output_dir", "tags")
    with np.load("tags/scene.npz") as file:
        np.testing.assert_allclose(np.diff(file["start"]), 0.5)
        assert file["scores"].shape == (21, 527)
    first = Path("tags/scene.npz").stat().st_mtime_ns
    call("tag", "scene.wav", "--output_dir", "tags")
    assert Path("tags/scene.npz").stat().st_mtime_ns == first
    call("tag", "--wav", "scene.wav", "--output_dir", "tags", "--format", "csv,npz")
    assert sorted(os.listdir("tags")) == ["audioset_tagging_sr_32000.npz", "scene.csv", "scene.npz"]


def test_events_in_python(capsys):
    rows = paddletag.events("scene.wav", window=2, hop=0.5, threshold=0.3)
    assert [(e.start, e.end, e.label, e.score) for e in rows] == [
        (row["onset"], row["offset"], row["label"], row["peak"]) for row in expected()
    ]
    model = paddletag.load_model()
    assert model.events("scene.wav") == rows == [tuple(row) for row in rows]
    sound, rate = soundfile.read("scene.wav", dtype="float32")
    assert model.events(sound, sample_rate=rate) == rows
    speech = [row for row in rows if row.label == COMMA]
    assert model.events("scene.wav", labels=COMMA) == model.events("scene.wav", labels=[COMMA]) == speech != rows
    for wrong in ({"threshold": 2}, {"labels": "Dogg"}, {"window": -1}, {"hop": -1}, {"window": 0, "hop": 1}):
        with pytest.raises(runtime.UserError):
            model.events("scene.wav", **wrong)


@pytest.mark.parametrize(
    "words, name",
    [
        ("--labels Dogg", "Dogg"),
        ("--labels ,", "--labels"),
        ("--format csv --format json", "--format csv,json"),
        ("--format npz", "--output_dir"),
        ("--output a.csv", "--format"),
        ("--format csv --output a.csv --output_dir b", "--output_dir"),
        ("--format csv --output scene.wav", "scene.wav"),
        ("--format csv --output .", "folder"),
        ("--window -1", "--window -1.0"),
        ("--hop 0.001", "--hop 0.001"),
        ("--window 0 --hop 1", "--window"),
        ("--threshold x", "x"),
        ("--threshold 2", "2"),
        ("--low_threshold 0.1", "--threshold"),
        ("--threshold 0.1 --low_threshold 0.2", "--low_threshold 0.2"),
        ("--json --threshold 0.2", "--threshold"),
        ("--json --format csv", "--json"),
        ("--output_dir b --labels Dog", "--labels"),
        ("--output_dir b --format csv --embeddings", "--embeddings"),
        ("--video --top_k 11", "--top_k 11"),
        ("scene.wav other.wav --format audacity", "audacity"),
        ("- --report", "--report"),
        ("- --format labelstudio", "labelstudio"),
    ],
)
def test_what_does_not_fit_together_is_refused(words, name):
    soundfile.write("other.wav", wave([400]), RATE)
    before = {path: Path(path).read_bytes() for path in os.listdir()}
    assert name in refusal("tag", "scene.wav", *words.split())
    assert {path: Path(path).read_bytes() for path in os.listdir()} == before


def test_the_first_options_of_the_help_are_those_that_most_need():
    command = [sys.executable, "-m", "paddletag", "tag", "--help"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "local")}
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    first = text.partition("\nwhere to:")[0]
    found = re.findall(r"^  (?:-h, )?(--\w+)", first, re.M)
    assert found == ["--help", "--model", "--report", "--format", "--labels", "--threshold", "--window", "--hop"]
    assert "None" not in text and "[]" not in text


def test_the_real_model_in_a_pipe(shared):
    """mn04_as, as it comes with the package: the alarm, then speech."""
    if not model_folder.describe_model("mn04_as"):
        pytest.skip("mn04_as is not installed")
    command = [sys.executable, "-m", "paddletag", "tag", shared("data/tagging/R9_ZSCveAHg_7s.wav")]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "local"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert re.search(r"^ +0\.00 s +1\.75 s  Alarm clock +0\.5", done.stdout, re.M)
    assert re.search(r"^ +1\.75 s +7\.00 s  Speech +0\.8", done.stdout, re.M)
