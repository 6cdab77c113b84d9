"""No option of any script, or command without one, is without effect: it changes what comes out, or it is refused.

EFFECTS and REFUSALS are tables of command lines. A new option that neither names makes a test fail.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import prepared
import pytest
import safetensors.numpy
import soundfile
from conftest import ESC10, ROOT
from paddletag import parallel, runtime
from paddletag.commands import COMMANDS, new_recipe, options
from paddletag.features import shards
from paddletag.models import registry
from paddletag.reports import video
from paddletag.tagging import export, onnx_engine, pipeline, tagger
from paddletag.training import distributed
from test_convert_weights import as_torch

SCRIPTS = sorted(
    path
    for folder in ("local", "tools")
    for path in (ROOT / folder).glob("*.py")
    if re.search(r"Parser\(| run\(", path.read_text())
)
ALONE = set(COMMANDS) - {name for path in SCRIPTS for name in re.findall(r'run\("(\w+)"', path.read_text())}
NAMES = [path.stem for path in SCRIPTS] + sorted(ALONE)  # scripts, and the commands that have none

TAG, PRINT = "{sound} --model {model} --output_dir o", "{sound} --model {model}"
PARSE, EVENTS = "--tagging_file {npz} --output_dir o", "--tagging_file {npz} --output_dir o --format csv"
PREPARE, EXTRACT = "--config {yaml} --raw {raw} --data o", "--config {yaml} --data {data}"
TRAIN = "--config {yaml} --data {data} --fold 2 --exp e"
AGAIN = "--config {yaml} --data {data} --fold 2 --exp {runs}/fold2 --opts train.epochs 2"
CLASSIC = "--config {yaml} --data {data} --fold 2 --exp e --classifier knn"
EVALUATE = "--model {model} --data {data} --output_dir o"
FILM = "{sound} --out o.mp4 --model {model}"
LISTEN = "- --model {model}"
ARCHIVE = "{raw} --model {model} --out o"
CALIBRATE = "--model {runs}/fold2 --data {more}"
BOTH = "{runs}/fold1 {runs}/seed7/fold1"
TOY, MIX = "--out o --clips-per-class 5 --seconds 1", "--raw {esc50} --out o --clips 6"
SCENE = f"--raw {ESC10} --out o.wav"
EFFECTS = [  # (script, a command line that works, what makes another of it); where both fail, they fail otherwise
    ("audio_tag", "{sound}", "--model {model}"),
    ("audio_tag", PRINT, "--wav {short}"),
    ("audio_tag", "--model {model}", "--data {data}"),
    ("audio_tag", PRINT, "--sample_duration 0.5"),
    ("audio_tag", PRINT + " --sample_duration 0.5", "--hop_duration 0.25"),
    ("audio_tag", "{short} --model {model} --sample_duration 1", "--pad zero"),
    ("audio_tag", PRINT, "--output_dir o"),
    ("audio_tag", PRINT, "--top_k 1"),
    ("audio_tag", PRINT, "--json"),
    ("audio_tag", TAG, "--embeddings"),
    ("audio_tag", PRINT, "--format csv"),
    ("audio_tag", PRINT + " --format csv", "--output o.csv"),
    ("audio_tag", PRINT + " --format csv", "--threshold 0.1"),
    ("audio_tag", PRINT, "--labels high"),
    ("audio_tag", PRINT, "--report"),
    ("audio_tag", PRINT, "--video"),
    ("audio_tag", PRINT, "--device gpu"),
    ("audio_tag", PRINT, "--engine onnxruntime"),
    ("audio_tag", TAG + " --sample_duration 0.5", "--batch_size 1"),
    ("audio_tag", TAG, "--workers 3"),
    ("audio_tag", "- --model {model} --pcm_rate 16000", "--pcm_rate 8000"),
    ("audio_tag", "- --model {model} --pcm_rate 16000", "--pcm_format u8"),
    ("audio_tag", "- --model {model} --pcm_rate 16000", "--pcm_channels 2"),
    ("audio_tag", "--stream --model {model}", "--pcm_format f32le"),
    ("audio_tag", "--model {model}", "--stream"),
    ("audio_tag", "--stream --model {model}", "--threshold 0.9"),
    ("audio_tag", "--stream --model {model}", "--low_threshold 0.35"),
    ("listen", "-", "--model {model}"),
    ("listen", LISTEN, "--device gpu"),
    ("listen", LISTEN, "--engine onnxruntime"),
    ("listen", LISTEN, "--sample_duration 1"),
    ("listen", LISTEN, "--hop_duration 0.5"),
    ("listen", LISTEN, "--pcm_rate 16000"),
    ("listen", LISTEN, "--pcm_format f32le"),
    ("listen", LISTEN, "--pcm_channels 2"),
    ("listen", LISTEN, "--threshold 0.9"),
    ("listen", LISTEN, "--low_threshold 0.35"),
    ("listen", LISTEN, "--json"),
    ("calibrate", CALIBRATE, "--model {runs}/fold1"),
    ("calibrate", CALIBRATE, "--data {data}"),
    ("calibrate", CALIBRATE, "--precision 0.9"),
    ("calibrate", CALIBRATE, "--device gpu"),
    ("new_recipe", "mine", "--from gtzan"),
    ("new_recipe", "mine", "--table"),
    ("tag_archive", ARCHIVE, "--out other"),
    ("tag_archive", ARCHIVE, "--model {other}"),
    ("tag_archive", ARCHIVE, "--sample_duration 0.2"),
    ("tag_archive", ARCHIVE, "--hop_duration 0.1"),
    ("tag_archive", ARCHIVE, "--top_k 1"),
    ("tag_archive", ARCHIVE, "--scores all"),
    ("tag_archive", ARCHIVE, "--embeddings"),
    ("tag_archive", ARCHIVE, "--device gpu"),
    ("tag_archive", ARCHIVE, "--engine onnxruntime"),
    ("tag_archive", ARCHIVE + " --sample_duration 0.1", "--batch_size 1"),
    ("tag_archive", ARCHIVE, "--part_files 5"),
    ("tag_archive", ARCHIVE + " --part_files 5", "--shard 2/2"),
    ("tag_archive", ARCHIVE, "--ray localhost:1"),
    ("find", "{tags}", "--label low"),
    ("find", "{tags}", "--min_score 0.1"),
    ("find", "{tags}", "--best 1"),
    ("find", "{tags}", "--output o.csv"),
    ("parse_result", PARSE, "--tagging_file {old}"),
    ("parse_result", PARSE, "--label_file {names}"),
    ("parse_result", PARSE, "--output_dir other"),
    ("parse_result", PARSE, "--format jsonl"),
    ("parse_result", PARSE, "--classes high"),
    ("parse_result", PARSE, "--median 3"),
    ("parse_result", PARSE, "--smooth False"),
    ("parse_result", PARSE, "--smooth_size 2"),
    ("parse_result", PARSE, "--report"),
    ("parse_result", PARSE + " --report", "--audio {copy}"),
    ("parse_result", PARSE, "--top_k 1"),
    ("parse_result", PARSE, "--time seconds"),
    ("parse_result", EVENTS, "--threshold 0.45"),
    ("parse_result", EVENTS + " --threshold 0.45", "--low_threshold 0.1"),
    ("parse_result", EVENTS, "--min_duration 1"),
    ("parse_result", EVENTS, "--min_gap 1"),
    ("parse_result", EVENTS + " --threshold 0.45", "--overlap 1"),
    ("evaluate", EVALUATE, "--model {model} {model}"),
    ("evaluate", EVALUATE, "--data nowhere"),
    ("evaluate", EVALUATE, "--fold 1"),
    ("evaluate", EVALUATE, "--tta 2"),
    ("evaluate", EVALUATE, "--output_dir other"),
    ("evaluate", EVALUATE, "--device gpu"),
    ("export", "--model {model} --out o.onnx", "--model {other}"),
    ("export", "--model {model} --out o.onnx", "--out other.onnx"),
    ("export", "--model {model} --out o", "--format paddle"),
    ("extract_features", EXTRACT, "--config {later}"),
    ("extract_features", EXTRACT, "--data nowhere"),
    ("extract_features", EXTRACT, "--workers 3"),
    ("extract_features", EXTRACT, "--opts features.shard_size 3"),
    ("prepare", PREPARE, "--config {later}"),
    ("prepare", PREPARE, "--raw {empty}"),
    ("prepare", PREPARE, "--data other"),
    ("prepare", PREPARE, "--opts data.fold n"),
    ("render_video", FILM, "--out other.mp4"),
    ("render_video", FILM, "--model {other}"),
    ("render_video", FILM, "--sample_duration 1"),
    ("render_video", FILM, "--hop_duration 1"),
    ("render_video", FILM, "--engine onnxruntime"),
    ("render_video", "{sound} --out o.mp4", "--tagging {npz}"),
    ("render_video", FILM, "--top_k 3"),
    ("render_video", FILM, "--size 640x360"),
    ("render_video", FILM, "--fps 10"),
    ("report", "{npz}", "--out o.html"),
    ("report", "{npz} --out o.html", "--audio {copy}"),
    ("report", "{npz} --out o.html", "--threshold 0.1"),
    ("report", "{npz} --out o.html", "--classes high"),
    ("report", "{npz} --out o.html", "--sound link"),
    ("report", "{model} --out o.html", "--data {data}"),
    ("report", "{model} --out o.html --data {data}", "--clips 0"),
    ("report", "{model} --out o.html --data {data}", "--tta 2"),
    ("compare", BOTH, "--reference best"),
    ("compare", BOTH, "--tta 2"),
    ("compare", BOTH, "--output_dir o"),
    ("summarize", "--exp {runs} --folds 1", "--exp nowhere"),
    ("summarize", "--exp {runs} --folds 1", "--folds 1 2"),
    ("summarize", "--exp {runs} --folds 1", "--seeds 7"),
    ("summarize", "--exp {runs} --folds 1", "--tta 2"),
    ("train", TRAIN, "--config {later}"),
    ("train", TRAIN, "--data nowhere"),
    ("train", TRAIN, "--fold 3"),
    ("train", TRAIN, "--exp other"),
    ("train", AGAIN, "--extend true"),
    ("train", TRAIN, "--device gpu"),
    ("train", TRAIN, "--opts train.lr 0.1"),
    ("train_classic", CLASSIC, "--config nowhere.yaml"),
    ("train_classic", CLASSIC, "--data nowhere"),
    ("train_classic", CLASSIC, "--fold 3"),
    ("train_classic", CLASSIC, "--exp other"),
    ("train_classic", CLASSIC, "--features embeddings"),
    ("train_classic", CLASSIC, "--classifier tree"),
    ("train_classic", CLASSIC, "--device gpu"),
    ("train_classic", CLASSIC, "--opts classic.standardise false"),
    ("convert_weights", "{weights} --model mn01_as --out o.safetensors", "--model mn02_as"),
    ("convert_weights", "{weights} --model mn01_as --out o.safetensors", "--out other.safetensors"),
    ("fetch_weights", "mn20_as", "--from {sound}"),
    ("make_mixtures", MIX, "--raw {empty}"),
    ("make_mixtures", MIX, "--out other"),
    ("make_mixtures", MIX, "--clips 7"),
    ("make_mixtures", MIX, "--seed 1"),
    ("make_scene", SCENE, "--raw {empty}"),
    ("make_scene", SCENE, "--out other.wav"),
    ("make_scene", SCENE, "--fold 2"),
    ("make_scene", SCENE, "--labels dog rooster"),
    ("make_scene", SCENE, "--background sea_waves"),
    ("make_toy_dataset", TOY, "--out other"),
    ("make_toy_dataset", TOY, "--layout music_speech"),
    ("make_toy_dataset", TOY, "--multi-label"),
    ("make_toy_dataset", TOY, "--clips-per-class 6"),
    ("make_toy_dataset", TOY, "--seconds 1.5"),
    ("make_toy_dataset", TOY, "--seed 1"),
    ("zero_shot", "--data {data}", "--data nowhere"),
    ("zero_shot", "--data {esc10}", "--model nowhere"),
]
LIVE = "--stream --model {model}"
REFUSALS = [  # (script, a command line that works, an option that would change nothing there, even its own default)
    ("tag_archive", ARCHIVE + " --scores all", "--top_k 5"),
    ("tag_archive", ARCHIVE + " --sample_duration 0", "--hop_duration 1"),
    ("audio_tag", PRINT, "--data {data}"),
    ("audio_tag", PRINT, "--hop_duration 0"),
    ("audio_tag", PRINT, "--embeddings"),
    ("audio_tag", PRINT, "--threshold 0.4"),
    ("audio_tag", PRINT, "--low_threshold 0.2"),
    ("audio_tag", PRINT, "--pcm_rate 16000"),
    ("audio_tag", PRINT, "--pcm_format s16le"),
    ("audio_tag", PRINT, "--pcm_channels 1"),
    ("audio_tag", TAG, "--top_k 5"),
    ("audio_tag", TAG, "--json"),
    ("audio_tag", TAG, "--labels high"),
    ("audio_tag", TAG, "--threshold 0.3"),
    ("audio_tag", PRINT, "--output o.csv"),
    ("audio_tag", PRINT + " --format csv", "--json"),
    ("audio_tag", PRINT + " --format csv", "--embeddings"),
    ("audio_tag", "- --model {model}", "--pcm_format s16le"),
    ("audio_tag", "- --model {model}", "--pcm_channels 1"),
    *(("audio_tag", LIVE, f"--{name}") for name in ("top_k 5", "pad zero", "batch_size 8", "workers 2", "embeddings")),
    *(("audio_tag", LIVE, f"--{name}") for name in ("data {data}", "wav {sound}", "output_dir o")),
    *(("audio_tag", LIVE, f"--{name}") for name in ("report", "video", "format csv", "labels high", "output o.csv")),
    *(("audio_tag", "--stream mic --model {model}", f"--{name}") for name in ("pcm_rate 32000", "pcm_format s16le")),
    ("audio_tag", "--stream mic --model {model}", "--pcm_channels 1"),
    *(("listen", "mic --model {model}", f"--{name}") for name in ("pcm_rate 32000", "pcm_format s16le")),
    ("listen", "--model {model} mic", "--pcm_channels 1"),
    ("parse_result", PARSE, "--audio {copy}"),
    *(("parse_result", PARSE, f"--{name}") for name in ("threshold 0.3", "low_threshold 0.3", "min_duration 0")),
    *(("parse_result", PARSE, f"--{name}") for name in ("min_gap 0", "overlap 0.5")),
    ("parse_result", EVENTS, "--time fraction"),
    ("parse_result", EVENTS, "--smooth_size 5"),
    ("parse_result", PARSE + " --smooth False", "--smooth_size 5"),
    ("render_video", "{sound} --out o.mp4 --tagging {npz}", "--model mn04_as"),
    ("render_video", "{sound} --out o.mp4 --tagging {npz}", "--sample_duration 2"),
    ("render_video", "{sound} --out o.mp4 --tagging {npz}", "--hop_duration 0.3"),
    ("render_video", "{sound} --out o.mp4 --tagging {npz}", "--engine paddle"),
    ("report", "{npz} --out o.html", "--data {data}"),
    ("report", "{npz} --out o.html", "--clips 40"),
    ("report", "{npz} --out o.html", "--tta 1"),
    ("report", "{model} --data {data} --out o.html", "--audio {sound}"),
    ("report", "{model} --data {data} --out o.html", "--threshold 0.3"),
    ("report", "{model} --data {data} --out o.html", "--classes high"),
    ("report", "{model} --data {data} --out o.html", "--sound embed"),
    ("train_classic", CLASSIC, "--extend true"),
    ("make_toy_dataset", TOY + " --layout music_speech", "--multi-label"),
    ("extract_features", EXTRACT + " --opts features.online true", "--workers 0"),
]
YAML = """
data: {layout: folders, audio: "{fold}-{n}-{label}.wav", fold: fold, clip_seconds: 0.3}
model: {name: mn01_as, weights: none}
train: {epochs: 1, batch_size: 4, lr: 3.0e-3, workers: 0}
classic: {features: mfcc}
"""


def named(text):
    """The name of the first option in a text, as argparse calls it."""
    return re.match(r"--([\w-]+)", text)[1].replace("-", "_")


class Stopped(Exception):
    pass


@pytest.mark.parametrize("script", NAMES)
def test_the_tables_know_every_option(script, monkeypatch):
    def parse_args(parser, *args):
        raise Stopped([action.dest for action in parser.options.values()])

    monkeypatch.setattr(options.Parser, "parse_args", parse_args)
    monkeypatch.syspath_prepend(ROOT / "tools")
    with pytest.raises(Stopped) as caught:
        prepared.command(script).main()
    (names,) = caught.value.args
    destinations = {"from": "source"}
    shown = {named(more) for name, _, more in EFFECTS if name == script}
    assert {destinations.get(name, name) for name in shown} | {"help"} | extra(script) == set(names)


def extra(script):
    """Options that are there to be refused alone, or whose effect another test shows."""
    if script == "zero_shot":
        return {"cut", "pad", "min_seconds"}  # test_tagging.py: they need the backbone's weights, or a stand-in
    shown = {named(more) for name, _, more in EFFECTS if name == script}
    return {named(more) for name, _, more in REFUSALS if name == script} - shown if script == "train_classic" else set()


def test_the_tables_name_scripts_that_there_are():
    assert ALONE == {"calibrate", "compare", "find", "listen", "new_recipe", "tag_archive"}
    assert {row[0] for row in EFFECTS + REFUSALS} == set(NAMES) - {"list_models"}  # which has no option


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """{what command lines call it: path}, of prepared data, trained and evaluated models, sounds and results."""
    folder = tmp_path_factory.mktemp("world")
    generator = np.random.default_rng(0)
    prepared.prepare(folder / "data", clips=2)
    prepared.prepare(folder / "more", clips=3, seconds=0.29)
    (folder / "a.yaml").write_text(YAML)
    (folder / "later.yaml").write_text(YAML.replace("clip_seconds: 0.3", "clip_seconds: 0.4"))
    yaml, data, runs = folder / "a.yaml", folder / "data", folder / "runs"
    for fold, place in ((1, "fold1"), (2, "fold2"), (1, "seed7/fold1")):
        options = ["--fold", fold, "--exp", runs / place, "--opts", "train.seed", 7 if "7" in place else 0]
        prepared.call("train", "--config", yaml, "--data", data, *options)
        prepared.call("evaluate", "--model", runs / place, "--data", data)
    options = ["--opts", "classic.classifier", "knn"]
    prepared.call("extract_features", "--config", yaml, "--data", data, *options)  # MFCCs
    model = registry.create_model("mn01_as", seed=1)
    safetensors.numpy.save_file(as_torch(model), folder / "weights.safetensors")
    soundfile.write(folder / "sound.wav", prepared.tone(500, 2.5, generator), 32000)
    soundfile.write(folder / "copy.wav", prepared.tone(700, 2.5, generator, 16000), 16000)
    soundfile.write(folder / "short.wav", prepared.tone(900, 0.2, generator), 32000)
    start = np.arange(5) * 0.5
    scores = np.float32([[0.5, 0.2], [0.35, 0.6], [0.2, 0.9], [0.5, 0.2], [0.5, 0.4]])
    stat = (folder / "sound.wav").stat()
    source = json.dumps([str(folder / "sound.wav"), stat.st_size, stat.st_mtime_ns, 0.5, 0.5])
    arrays = {"time": start / 2.5, "start": start, "end": start + 0.5, "scores": scores, "labels": prepared.LABELS}
    np.savez(folder / "sound.npz", **arrays, source=source)
    np.savez(folder / "old.npz", **{**arrays, "scores": scores[::-1]}, source=source)
    (folder / "names.txt").write_text("treble\nbass\n")
    (folder / "empty").mkdir()
    (folder / "esc50" / "meta").mkdir(parents=True)
    (folder / "esc50" / "audio").symlink_to(data / "audio")
    rows = ["filename,fold,category"]
    for path in sorted((data / "audio").glob("*.wav")):
        fold, _, label = path.stem.split("-")
        rows.append(f"{path.name},{fold},{label}")
    (folder / "esc50" / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    (folder / "esc10").mkdir()
    for name in ("manifest.jsonl", "labels.txt"):
        text = (data / name).read_text().replace('"high"', '"rooster"').replace('"low"', '"dog"')
        (folder / "esc10" / name).write_text(text.replace("high\n", "rooster\n").replace("low\n", "dog\n"))
    names = {"sound": "sound.wav", "copy": "copy.wav", "short": "short.wav", "npz": "sound.npz", "old": "old.npz"}
    names |= {"names": "names.txt", "yaml": "a.yaml", "later": "later.yaml", "data": "data", "raw": "data/audio"}
    names |= {"model": "runs/fold2", "other": "runs/fold1", "weights": "weights.safetensors"}
    with pytest.MonkeyPatch.context() as patch:
        for place, name, replacement in fake([]):
            patch.setattr(place, name, replacement)
        words = ("--window", 0.1, "--out", folder / "tags")
        prepared.call("tag_archive", data / "audio", "--model", runs / "fold2", *words)
    names |= {name: name for name in ("tags", "empty", "runs", "more", "cache", "esc10", "esc50")}
    return {name: folder / place for name, place in names.items()}


def fake(record):
    """What replaces the slow parts of the commands, and what writes elsewhere: each notes its calls in `record`."""

    width_of_embeddings = registry.entry("mn01_as").embedding

    def predictor(model, *args):
        calls = iter(range(10**6))
        record.append(model if isinstance(model, str) else float(model.parameters()[0].sum()))

        def predict(log_mel):
            record.append(f"{len(log_mel)} windows of {log_mel.shape[1]} frames")
            width = [0.5 + 0.001 * log_mel[:1].mean(), 0.1]
            scores = np.float32([width if next(calls) % 2 == 0 else [0.3, 0.1] for _ in log_mel])
            if isinstance(model, str) and model == "mn04_as":
                scores = np.pad(scores, ((0, 0), (0, 525)))  # as many as its labels
            with_embeddings = any(arg is True for arg in args)
            embeddings = {"embeddings": np.repeat(scores, width_of_embeddings // 2, 1)} if with_embeddings else {}
            return {"scores": scores, **embeddings}

        return predict

    def render(path, arrays, output, *settings, **options):
        Path(output).write_text(f"{arrays['scores'].tolist()} {settings} {options}")
        return 1.0

    def save(model, meta, path):
        record.append(path.name)
        path.mkdir() if not path.suffix else path.write_text(str(meta["run"]["fold"]))
        return {"scores": 0.0}

    def init(device="cpu"):
        record.append(f"computes on {device}")

    def extract(data, records, *args):
        record.append(f"{args[1:]} {data}")
        return data, {"rejected": 0, "made": 1, "kept": 0}

    def run(words):
        record.append(words[2:])
        return types.SimpleNamespace(returncode=0)

    class Threads(parallel.Threads):
        def __init__(self, workers):
            record.append(f"{workers} threads")
            super().__init__(workers)

    return [
        (parallel, "Threads", Threads),
        (pipeline, "predictor", predictor), (video, "render", render), (export, "save_onnx", save),
        (onnx_engine, "predictor", lambda *args: record.append("onnxruntime") or predictor(*args)),
        (export, "save_paddle", save), (distributed, "init", init), (shards, "extract", extract),
        (tagger, "use_device", init), (new_recipe, "subprocess", types.SimpleNamespace(run=run)),
    ]  # fmt: skip


def content(path):
    """What a file says, without what another run of the same would say otherwise."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {name: file[name].tolist() for name in file}
    if path.suffix == ".json":
        values = json.loads(path.read_text())
        return {key: value for key, value in values.items() if key not in ("trained", "machine", "versions", "command")}
    if path.name == "README.md":  # a model's card has the seconds of training
        return re.sub(r"\| Training .*", "", path.read_text())
    if path.suffix == ".html":  # an Ogg file has a random number in it
        return re.sub(r'"sound": "[^"]*"', '"sound": "embedded"', json.dumps(prepared.report_data(path), indent=0))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def outcome(world, folder, script, words):
    """(the refusal or None, everything that can be seen of a call): what is printed, and the files that it leaves.

    {runs} in words is a copy of the folder, since it is written into.
    """
    folder.mkdir()
    names = {**world, "runs": "runs"}
    if "{runs}" in words:
        shutil.copytree(world["runs"], folder / "runs")
    (folder / "stdin").write_bytes((20000 * np.sin(np.arange(96000) / 20)).astype("<i2").tobytes())
    record, printed, refusal, stdin = [], io.StringIO(), None, os.dup(0)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        for place, name, replacement in fake(record):
            patch.setattr(place, name, replacement)
        patch.syspath_prepend(ROOT / "tools")
        patch.chdir(folder)
        patch.setenv("PADDLETAG_HOME", str(world["cache"]))
        patch.setattr(sys, "argv", [script, *(word.format(**names) for word in shlex.split(words))])
        with open(folder / "stdin", "rb") as file:
            os.dup2(file.fileno(), 0)
        stack.callback(os.close, stdin)
        stack.callback(os.dup2, stdin, 0)
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(printed))
        try:
            prepared.command(script).main(**prepared.settings_of(script))
        except runtime.UserError as error:
            refusal = str(error).replace(str(folder), "")
    text = re.sub(r"\[\d{4}-[^]]*\]|\d[\d.]* s\b(?! to|:)|ETA.*|\w+_cost=\S+|ips=\S+", "", printed.getvalue())
    seen = {}
    for path in folder.rglob("*.*"):
        place = path.relative_to(folder)
        volatile = path.suffix in (".log", ".lock") or path.name in ("history.csv", "history.png")
        if path.is_file() and not volatile and not {"checkpoints", "vdl"} & set(place.parts):
            seen[str(place)] = content(path)
    return refusal, (refusal, text.replace(str(folder), ""), record, seen)


@pytest.fixture(scope="module")
def without(world, tmp_path_factory):
    """A function: (script, words) -> the outcome of a call without the option, which a second call has shown again."""
    outcomes = {}

    def ask(script, words):
        if (script, words) not in outcomes:
            folder = tmp_path_factory.mktemp("base")
            first, second = (outcome(world, folder / name, script, words) for name in ("once", "twice"))
            assert first == second, "what a call gives must be the same each time, or nothing is shown by a difference"
            outcomes[script, words] = first
        return outcomes[script, words]

    return ask


def ids(rows):
    return [f"{script} {named(more)}" for script, _, more in rows]


@pytest.mark.parametrize("script, words, more", EFFECTS, ids=ids(EFFECTS))
def test_an_option_has_an_effect(world, without, tmp_path, script, words, more):
    assert outcome(world, tmp_path / "call", script, f"{words} {more}") != without(script, words)


@pytest.mark.parametrize("script, words, more", REFUSALS, ids=ids(REFUSALS))
def test_an_option_without_effect_is_refused(world, tmp_path, script, words, more):
    refusal, (_, _, _, seen) = outcome(world, tmp_path / "call", script, f"{words} {more}")
    assert refusal and not seen
    assert f"--{named(more)}" in refusal.replace("--multi-label", "--multi_label") or "--stream listens" in refusal
    if "mic" not in words:
        assert outcome(world, tmp_path / "without", script, words)[0] is None or words.startswith("- ")


def test_what_run_sh_passes_is_no_mistake(world, tmp_path):
    """--data beside --wav, an empty --wav, --extend false and --device cpu of a classic baseline, no --seeds."""
    for number, (script, words) in enumerate([
        ("audio_tag", "--model {model} --wav {sound} --data {data} --output_dir o --device cpu"),
        ("audio_tag", "--model {model} --wav '' --data {data} --output_dir o --device cpu"),
        ("parse_result", "--tagging_file {npz} --top_k 5 --output_dir o"),
        ("train_classic", CLASSIC + " --extend false --device cpu"),
        ("summarize", "--exp {runs} --folds 1 2 --seeds"),
        ("evaluate", EVALUATE + " --tta 1 --device cpu"),
        ("prepare", "--config {yaml} --raw {raw} --data o"),
    ]):  # fmt: skip
        assert outcome(world, tmp_path / str(number), script, words)[0] is None, words
