"""A campaign: 1,500 damaged or forged sound files, none of which may end a batch, or take much memory or time."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from paddletag.data import audio, ffmpeg
from paddletag.models import model_folder, registry

COUNT, SEED = 1500, 20
MEGABYTES, SECONDS = 2000, 20  # at most, for one file
KINDS = [  # (suffix, format, subtype) of the files that are to be spoilt
    ("wav", "WAV", "PCM_16"), ("wav", "WAV", "FLOAT"), ("wav", "WAV", "PCM_U8"), ("wav", "WAV", "IMA_ADPCM"),
    ("wav", "WAV", "ULAW"), ("wav", "WAVEX", "PCM_24"), ("rf64", "RF64", "PCM_16"), ("w64", "W64", "PCM_16"),
    ("flac", "FLAC", "PCM_16"), ("flac", "FLAC", "PCM_24"), ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"), ("aiff", "AIFF", "PCM_16"), ("aiff", "AIFF", "DOUBLE"), ("caf", "CAF", "PCM_16"),
    ("caf", "CAF", "ALAC_16"), ("au", "AU", "PCM_16"), ("au", "AU", "ULAW"), ("snd", "AU", "FLOAT"),
]  # fmt: skip
FILMS = [("m4a", "ipod", "aac"), ("mkv", "matroska", "flac"), ("avi", "avi", "pcm_s16le"), ("ts", "mpegts", "aac")]
FIELDS = {  # where headers have rate, channels, bits, sizes: (format, offset, struct's code)
    "WAV": [(4, "<I"), (16, "<I"), (20, "<H"), (22, "<H"), (24, "<I"), (28, "<I"), (32, "<H"), (34, "<H"), (40, "<I")],
    "AU": [(4, ">I"), (8, ">I"), (12, ">I"), (16, ">I"), (20, ">I")],
    "AIFF": [(4, ">I"), (20, ">H"), (22, ">I"), (26, ">H"), (28, ">H"), (30, ">I")],
    "W64": [(16, "<Q"), (56, "<Q"), (64, "<H"), (66, "<H"), (68, "<I"), (76, "<H"), (78, "<H")],
    "RF64": [(4, "<I"), (16, "<I"), (20, "<Q"), (28, "<Q"), (36, "<Q"), (56, "<H"), (58, "<H"), (60, "<I")],
    "CAF": [(12, ">Q"), (20, ">d"), (36, ">I"), (40, ">I"), (44, ">I"), (48, ">I")],
    "FLAC": [(8, ">H"), (10, ">H"), (18, ">I"), (22, ">I")],
    "OGG": [(6, "<Q"), (26, "<B"), (39, "<B"), (40, "<I"), (44, "<I"), (56, "<B")],
}
FIELDS["WAVEX"] = FIELDS["WAV"]
VALUES = (0, 1, 2, 3, 7, 8, 255, 999, 1000, 44100, 65535, 768000, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def originals():
    """[(suffix, format, bytes)] of short sounds in every kind."""
    generator, found = np.random.default_rng(SEED), []
    for channels, rate, seconds in ((1, 16000, 0.5), (2, 44100, 0.3)):
        wave = 0.2 * generator.standard_normal((round(seconds * rate), channels))
        for suffix, kind, subtype in KINDS:
            file = io.BytesIO()
            soundfile.write(file, wave, 48000 if subtype == "OPUS" else rate, subtype, format=kind)
            found.append((suffix, kind, file.getvalue()))
    try:
        program = ffmpeg.ffmpeg_program("tests")
    except audio.AudioError:
        return found
    for suffix, kind, codec in FILMS:
        sound = f"anoisesrc=duration=0.5:sample_rate=32000:seed={SEED}"
        command = [program, "-v", "error", "-f", "lavfi", "-i", sound, "-c:a", codec, "-f", kind]
        if kind == "ipod":
            command += ["-movflags", "frag_keyframe+empty_moov"]  # a pipe cannot be gone back in
        content = subprocess.run([*command, "pipe:1"], check=True, capture_output=True).stdout
        found.append((suffix, kind, content))
    return found


def spoil(content, kind, generator):
    """Another file made of `content`, in one of the ways in which files come to be damaged, or are forged."""
    content = bytearray(content)
    way = generator.choice(["bits", "header bits", "field", "fields", "cut", "hole", "joined", "noise"])
    if way in ("field", "fields") and kind not in FIELDS:
        way = "header bits"
    if way in ("bits", "header bits"):
        for at in generator.integers(len(content) if way == "bits" else 100, size=generator.integers(1, 30)):
            content[at % len(content)] ^= 1 << generator.integers(8)
    elif way in ("field", "fields"):
        for _ in range(1 if way == "field" else 3):
            at, code = FIELDS[kind][generator.integers(len(FIELDS[kind]))]
            size, value = struct.calcsize(code), VALUES[generator.integers(len(VALUES))]
            value = float(value) if code[1] == "d" else value % 256**size
            content[at : at + size] = struct.pack(code, value)
    elif way == "cut":
        content = content[: generator.integers(1, len(content))]
    elif way == "hole":
        begin, end = sorted(generator.integers(len(content), size=2))
        content[begin:end] = bytes(end - begin) if generator.random() < 0.5 else b""
    elif way == "joined":
        content += content[generator.integers(len(content)) :]
    else:
        kept = generator.integers(0, 60)
        content = content[:kept] + generator.bytes(generator.integers(1, 20_000))
    return bytes(content)


def hostile(folder):
    """Write the files; they are the same in every run with the same versions of the encoders."""
    generator, sources = np.random.default_rng(SEED), originals()
    for number in range(COUNT):
        suffix, kind, content = sources[generator.integers(len(sources))]
        (folder / f"{number:04d}.{suffix}").write_bytes(spoil(content, kind, generator))


LOAD = """
import json, resource, sys, time
from pathlib import Path
from paddletag.data import audio

def peak():  # of this process since it was last asked, in MB
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return int(line.split()[1]) / 1024

def stream(path):
    with audio.opened(path) as source:
        return sum(len(part) for part in source.at(32000))

def pipe(path):
    with open(path, "rb", buffering=0) as file:
        return sum(len(part) for part in audio.piped(file.read, path.name).at(32000))

ways = {"load": lambda path: len(audio.load(path, 32000)), "stream": stream, "pipe": pipe}

limit = int(sys.argv[2]) << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    row = {"name": path.name}
    for how, read in ways.items():
        if how == "load" and path.suffix in audio.VIDEO or how == "pipe" and path.suffix not in (".wav", ".rf64"):
            continue
        peak()
        begun = time.monotonic()
        try:
            row[how] = read(path)
        except audio.AudioError as error:
            row[how] = str(error)
        row[f"{how} seconds"], row[f"{how} MB"] = time.monotonic() - begun, peak()
    print(json.dumps(row), flush=True)
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps({"children MB": children}))
"""
TAG = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
sys.argv = ["audio_tag.py", *sys.argv[2:]]
try:
    runpy.run_module("audio_tag", run_name="__main__")
finally:
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "in"
    folder.mkdir()
    hostile(folder)
    return folder


def run(code, *args, timeout):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "local")}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=timeout)


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="memory is read from Linux's /proc")


@pytest.mark.full
@needs_proc
def test_each_is_read_or_refused_within_bounds(files):
    """In a process that may have 2 GB: none is killed, none takes more, and what both ways read is of one length."""
    done = run(LOAD, files, MEGABYTES, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    *rows, last = map(json.loads, done.stdout.splitlines())
    assert len(rows) == COUNT and last["children MB"] < MEGABYTES
    read = [row for row in rows if isinstance(row["stream"], int)]
    assert COUNT / 20 < len(read) < COUNT * 0.9  # some are still sound, and many are not
    for row in rows:
        for how in {"load", "stream", "pipe"} & set(row):
            assert row[f"{how} seconds"] < SECONDS and row[f"{how} MB"] < MEGABYTES, row
            if isinstance(row[how], str):
                assert row["name"] in row[how] and "\n" not in row[how], row
        if "load" in row:  # reasons may differ: a length that is a lie does not fit into memory, or is not there
            lengths = {row[how] if isinstance(row[how], int) else None for how in ("load", "stream")}
            assert len(lengths) == 1, row


@pytest.mark.full
@needs_proc
def test_a_batch_of_them_is_tagged_to_its_end(files, tmp_path):
    """audio_tag.py gives every file a result or a line, and good files among them their results."""
    folder = tmp_path / "in"
    shutil.copytree(files, folder)
    for name in ("0000a.wav", "0750a.wav", "9999.wav"):
        soundfile.write(folder / name, np.random.default_rng(0).uniform(-0.3, 0.3, 16000), 16000)
    model = registry.create_model("mn01_as", 3, seed=1)
    meta = {"labels": ["a", "b", "c"], "task": "single_label", "clip_seconds": 0.5, "backbone": "mn01_as", "run": {}}
    model_folder.save_model(tmp_path / "model", model, {**meta, "front_end": model.front_end.to_dict()})
    options = ["--model", tmp_path / "model", "--output_dir", tmp_path / "out", "--sample_duration", 0.5]
    done = run(TAG, ROOT / "local", folder, *options, timeout=900)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("audio_tag.py: error: ")]  # libmpg123 talks
    results = {path.name for path in (tmp_path / "out").rglob("*.npz")}
    failed = {line.split(": ")[2].rpartition("/")[2] for line in lines[:-1]}
    assert len(results) + len(failed) == COUNT + 3
    assert {"0000a.npz", "0750a.npz", "9999.npz"} <= results
    assert f"{len(failed)} of {COUNT + 3} sounds" in lines[-1]
    assert int(done.stdout.split()[-1]) / 1024 < MEGABYTES
