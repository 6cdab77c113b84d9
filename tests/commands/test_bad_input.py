"""What users' data and configs bring along, through the stage scripts: one clear line, or it simply works."""

import errno
import hashlib
import http.server
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
from conftest import ROOT
from paddletag import runtime
from paddletag.data import manifest
from paddletag.features import frontend, shards
from prepared import call, tone

LOCAL = ROOT / "local"
CLIPS = [(f"{label}{fold}{n}", fold, label) for fold in (1, 2) for label in ("cat", "dog") for n in (0, 1)]
SECONDS = 0.5
YAML = f"""
data:
  metadata: meta/clips.csv
  audio: audio/{{filename}}
  label: category
  fold: fold
  clip_seconds: {SECONDS}
model:
  name: mn01_as
  weights: none
features:
  shard_size: 4
"""


class DataSet:
    """A small data set of eight WAV files, its config, and the two stages that work on it."""

    def __init__(self, folder, script):
        self.script, self.raw, self.data, self.yaml = script, folder / "raw", folder / "data", folder / "conf.yaml"
        (self.raw / "audio").mkdir(parents=True)
        (self.raw / "meta").mkdir()
        self.yaml.write_text(YAML)
        for seed, (name, _, _) in enumerate(CLIPS):
            self.put(f"{name}.wav", tone(300 * (1 + seed), 0.3, np.random.default_rng(seed), 16000), 16000)
        self.table([(f"{name}.wav", fold, label) for name, fold, label in CLIPS])

    def put(self, name, wave, rate=16000, subtype=None):
        soundfile.write(self.raw / "audio" / name, wave, rate, subtype)
        return self.raw / "audio" / name

    def table(self, rows, header="filename,fold,category"):
        text = "\n".join([header, *(row if isinstance(row, str) else ",".join(map(str, row)) for row in rows)])
        (self.raw / "meta" / "clips.csv").write_text(text + "\n")

    def replace(self, name, wave=None, rate=16000, subtype=None, kind="wav"):
        """Let the clip `name` be another file: its path. Without a wave, only the table says so."""
        self.table([(f"{n}.{kind}" if n == name else f"{n}.wav", fold, label) for n, fold, label in CLIPS])
        (self.raw / "audio" / f"{name}.wav").unlink()
        path = self.raw / "audio" / f"{name}.{kind}"
        return path if wave is None else self.put(path.name, wave, rate, subtype)

    def prepare(self, *opts, raw=None, **env):
        raw = ["--raw", self.raw] if raw is None else raw
        opts = ["--opts", *opts] if opts else []
        return self.script("local/prepare.py", "--config", self.yaml, *raw, "--data", self.data, *opts, **env)

    def extract(self, *opts):
        opts = ["--opts", *opts] if opts else []
        return self.script("local/extract_features.py", "--config", self.yaml, "--data", self.data, *opts)

    def files(self):
        """{path below the data folder: its bytes}."""
        return {str(p.relative_to(self.data)): p.read_bytes() for p in self.data.rglob("*") if p.is_file()}

    def features(self):
        """{id: log-mel} of all clips that are in use."""
        records, _ = manifest.read(self.data)
        features = shards.open_shards(self.data, frontend.MN, SECONDS, records)
        return {record["id"]: features[record["id"]].astype(np.float32) for record in records}


@pytest.fixture
def dataset(tmp_path, script):
    return DataSet(tmp_path, script)


def works(done):
    assert (done.returncode, done.stderr) == (0, "")


def refused(done, *words):
    """Exit status 2 and one line on the standard error stream, with `words` in it."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert str(word) in done.stderr


def noise(seconds=1.0, rate=16000, channels=1):
    return np.random.default_rng(0).uniform(-0.3, 0.3, (round(seconds * rate), channels))


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 5])


# Sound that cannot be used


@pytest.mark.parametrize("fault", ["missing", "empty", "text", "text.mp3", "silent", "cut.wav", "cut.ogg", "cut.mp3"])
def test_a_file_whose_header_is_bad_stops_stage_0(dataset, fault):
    kind = fault.partition(".")[2] or "wav"
    path = dataset.replace("dog10", noise(1.0, 44100), 44100, kind=kind)
    words = "truncated"
    if fault == "missing":
        path.unlink()
        words = "no such file"
    elif fault == "empty":
        path.write_bytes(b"")
        words = "empty"
    elif fault.startswith("text"):
        path.write_text("a text that somebody has renamed\n" * 100)
        words = "not a sound file"
    elif fault == "silent":
        dataset.put(path.name, np.zeros(0))
        words = "zero samples"
    else:
        truncate(path)
    refused(dataset.prepare(), path, words, "data.max_rejected")
    assert not dataset.data.exists()
    if fault in ("missing", "cut.mp3"):  # allowed, it is listed
        works(dataset.prepare("data.max_rejected", "1"))
        (row,) = manifest.read_lines(dataset.data / "rejected.jsonl")
        assert (row["id"], row["audio"]) == ("dog10", str(path)) and words in row["reason"]
        assert len(manifest.read(dataset.data)[0]) == 7


@pytest.mark.parametrize("fault", ["cut.flac", "nan"])
def test_a_file_whose_sound_is_bad_stops_stage_1(dataset, fault):
    if fault == "nan":
        wave = noise()
        wave[4321] = np.nan
        path, words = dataset.replace("dog20", wave, subtype="FLOAT"), "NaN"
    else:
        path, words = dataset.replace("dog20", noise(), kind="flac"), "decoded"
        truncate(path)
    works(dataset.prepare())
    before = dataset.files()
    refused(dataset.extract(), path, words, "data.max_rejected")
    after = dataset.files()
    assert {name: after[name] for name in before} == before
    assert [name[-12:] for name in after if name not in before] == ["000000.arrow"]  # dog20 is in the second
    assert not [name for name in after if name.endswith(".tmp")]


def test_rejected_files_and_mended_ones(dataset):
    empty = dataset.raw / "audio" / "cat10.wav"
    empty.write_bytes(b"")
    wave = noise()
    wave[77] = np.nan
    nan = dataset.put("dog20.wav", wave, subtype="FLOAT")
    limit = ("data.max_rejected", "1")
    works(dataset.prepare(*limit))
    assert [row["id"] for row in manifest.read_rejected(dataset.data)] == ["cat10"]
    refused(dataset.extract(*limit), empty, "1 more", "data.max_rejected (1 now)")
    assert [row["id"] for row in manifest.read_rejected(dataset.data)] == ["cat10"]

    limit = ("data.max_rejected", "2")
    works(dataset.prepare(*limit))
    done = dataset.extract(*limit)
    works(done)
    assert "WARNING" in done.stdout and "1 clips" in done.stdout and "rejected.jsonl" in done.stdout
    rows = {row["id"]: row["reason"] for row in manifest.read_rejected(dataset.data)}
    assert rows["cat10"].startswith(f"{empty}: ") and "empty" in rows["cat10"]
    assert rows["dog20"].startswith(f"{nan}: ") and "NaN" in rows["dog20"]
    assert len(dataset.features()) == 6
    assert "is up to date: 7 clips" in dataset.prepare(*limit).stdout
    assert "is up to date: 6 clips" in dataset.extract(*limit).stdout

    dataset.put("dog20.wav", noise())
    works(dataset.prepare(*limit))
    assert "log-mels of 1 clips" in dataset.extract(*limit).stdout
    assert [row["id"] for row in manifest.read_rejected(dataset.data)] == ["cat10"]
    dataset.put("cat10.wav", noise())
    works(dataset.prepare())
    assert "log-mels of 1 clips" in dataset.extract().stdout
    assert manifest.read_rejected(dataset.data) == [] and len(dataset.features()) == 8


# Sound that is unusual, and fine


def unusual_sound(seconds, rate, channels):
    """Tones below 3 kHz, others in each channel, in a little noise below 3.4 kHz: float64 [N, channels]."""
    generator, t = np.random.default_rng(1), np.arange(round(seconds * rate)) / rate
    low = scipy.signal.firwin(255, 3400, fs=rate)
    columns = []
    for c in range(channels):
        hiss = scipy.signal.fftconvolve(generator.standard_normal(len(t)), low, "same")
        columns.append(0.3 * np.sin(2 * np.pi * (200 + 300 * c) * t) + 0.03 * hiss)
    return np.stack(columns, 1)


UNUSUAL = [("channels", 1.0, 44100, 8), ("slow", 1.0, 8000, 1), ("fast", 1.0, 192000, 1), ("short", 0.05, 44100, 1)]


def test_unusual_sound_works_and_gives_the_right_features(dataset):
    rows = [(f"{name}.wav", fold, label) for name, fold, label in CLIPS]
    waves = {}
    for (name, *shape), (_, fold, label) in zip(UNUSUAL, CLIPS, strict=False):
        waves[name] = unusual_sound(*shape), shape[1]
        dataset.put(f"{name}.wav", *waves[name], "FLOAT")
        rows.append((f"{name}.wav", fold, label))
    dataset.table(rows)
    works(dataset.prepare())
    works(dataset.extract())
    features = dataset.features()
    assert len(features) == len(rows)
    for name, seconds, rate, _ in UNUSUAL:
        divisor = np.gcd(32000, rate)
        mono = waves[name][0].mean(1)
        wave = scipy.signal.resample_poly(mono, 32000 // divisor, rate // divisor, window=("kaiser", 14.0))
        wave = np.resize(wave, max(len(wave), round(SECONDS * 32000)))  # a short one is repeated
        assert len(features[name]) == 1 + (round(max(seconds, SECONDS) * 32000) - 1) // 320
        # The resamplers' slopes differ near the old Nyquist frequency: compare the mel bands below 3 kHz.
        bands = slice(0, 70)
        difference = np.abs(features[name] - frontend.MN.log_mel(wave))[3:-3, bands]
        assert difference.mean() < 2e-3 and difference.max() < 0.1, name
        assert features[name][:, bands].std() > 0.2


STAGE_1 = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
sys.argv = ["extract_features.py", *sys.argv[2:], "--workers", "1"]
runpy.run_module("extract_features", run_name="__main__")
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])  # largest memory, KiB
"""


def test_ten_minutes(dataset):
    rate = 44100
    wave = np.tile(unusual_sound(10, rate, 2), (60, 1)).astype(np.float32)
    dataset.replace("dog10", wave, rate, kind="flac")
    works(dataset.prepare())
    command = [sys.executable, "-c", STAGE_1, LOCAL, "--config", dataset.yaml, "--data", dataset.data]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    works(done)
    assert int(done.stdout.split()[-1]) / 1024 < 500  # MiB; the sound alone, decoded, has 202, the libraries have 90
    log_mel = dataset.features()["dog10"]
    assert log_mel.shape == (60000, 128)
    part = scipy.signal.resample_poly(wave[300 * rate : 302 * rate].mean(1), 320, 441, window=("kaiser", 14.0))
    difference = np.abs(log_mel[30010:30190] - frontend.MN.log_mel(part)[10:190])[:, :70]
    assert difference.mean() < 2e-3 and difference.max() < 0.1


# Tables


@pytest.mark.parametrize(
    "rows, header, words",
    [
        (CLIPS, "filename,fold,kind", ("clips.csv", "'category'", "filename, fold, kind")),
        ([*CLIPS, "a.wav,1"], None, ("clips.csv:10", "fewer")),
        ([*CLIPS, "a.wav,1,dog,loud"], None, ("clips.csv:10", "more")),
        ([*CLIPS, ("cow10.wav", 2, "cow")], None, ("data.label: 'cow'", "fold 2")),
        ([*CLIPS, CLIPS[0]], None, ("cat10.wav", "id 'cat10'", "twice")),
        ([*CLIPS, ("cat10.wav", 2, "cat")], None, ("cat10.wav", "id 'cat10'", "fold 1 and in 2")),
        ([*CLIPS, ("a.wav", 1, "")], None, ("clips.csv:10", "'category'", "empty")),
        ([*CLIPS, ("a.wav", "one", "dog")], None, ("clips.csv:10", "fold='one'")),
    ],
)
def test_tables(dataset, rows, header, words):
    rows = [row if isinstance(row, str) else (row[0].removesuffix(".wav") + ".wav", *row[1:]) for row in rows]
    dataset.table(rows, header or "filename,fold,category")
    refused(dataset.prepare(), *words)
    assert not dataset.data.exists()


def test_a_label_whose_clips_are_all_broken(dataset):
    for name, _, label in CLIPS:
        if label == "cat":
            (dataset.raw / "audio" / f"{name}.wav").write_bytes(b"")
    refused(dataset.prepare("data.max_rejected", "9"), "data.label: 'cat'")
    assert not dataset.data.exists()


# Downloads


@pytest.fixture
def serve(tmp_path):
    """A function: (name, content) -> the address of that file on a server of this machine."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def put(name, content):
            (folder / name).write_bytes(content)
            return f"http://127.0.0.1:{server.server_address[1]}/{name}"

        yield put
        server.shutdown()


def zipped(dataset, *more):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(dataset.raw.rglob("*.*")):
            archive.write(path, Path("set-1.0", path.relative_to(dataset.raw)))
        for name in more:
            archive.writestr(name, "malice")
    return buffer.getvalue()


def download(dataset, url, content, **settings):
    settings = {"url": url, "md5": hashlib.md5(content).hexdigest(), "root": "set-1.0", **settings}
    opts = [word for key, value in settings.items() for word in (f"data.{key}", value)]
    return dataset.prepare(*opts, raw=[], NO_PROXY="127.0.0.1", no_proxy="127.0.0.1", PADDLETAG_MIRROR="")


def test_a_data_set_is_downloaded_once(dataset, serve):
    content = zipped(dataset)
    url = serve("set.zip", content)
    works(download(dataset, url, content))
    assert sorted(path.name for path in dataset.data.iterdir()) == [
        "labels.txt", "manifest.jsonl", "prepare.json", "raw", "rejected.jsonl"
    ]  # fmt: skip
    records, labels = manifest.read(dataset.data)
    assert len(records) == 8 and labels == ["cat", "dog"]
    serve("set.zip", b"another")
    assert "is up to date: 8 clips" in download(dataset, url, content).stdout
    refused(download(dataset, url, content, root="set-2.0"), "set-2.0", "data.root")


def test_archives_that_reach_out_of_their_folder(dataset, serve):
    content = zipped(dataset, "set-1.0/../../../evil.txt")
    refused(download(dataset, serve("a.zip", content), content), "a.zip", "../evil.txt")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../evil.txt"))
    content = buffer.getvalue()
    refused(download(dataset, serve("b.tar.gz", content), content), "b.tar.gz", "../evil.txt")
    assert not list(dataset.data.parents[0].rglob("evil.txt"))
    assert sorted(path.name for path in dataset.data.iterdir()) == ["a.zip", "b.tar.gz"]


def test_archives_that_are_not_what_was_published(dataset, serve):
    content = zipped(dataset)
    url = serve("set.zip", content)
    refused(download(dataset, url, b"the original"), url, "not the file that was published", "--raw DIR")
    refused(download(dataset, url, content, md5=""), "data.url", "data.md5")
    refused(download(dataset, url + "x", content), f"{url}x", "404", "--raw DIR")
    assert not dataset.data.exists() or not list(dataset.data.iterdir())


# Configs and calls


@pytest.mark.parametrize(
    "text, words",
    [
        ("trian: {lr: 1}", ("conf.yaml", "key trian", "task, data")),
        ("data: {lable: category}", ("conf.yaml", "key data.lable", "data.label")),
        ("data: {clip_seconds: long}", ("conf.yaml", "data.clip_seconds", "'long'")),
        ("data: [", ("conf.yaml", "YAML")),
        (None, ("conf.yaml", "no such")),
    ],
)
def test_configs(dataset, text, words):
    dataset.yaml.unlink() if text is None else dataset.yaml.write_text(text)
    refused(dataset.prepare(), *words)
    refused(dataset.extract(), *words)
    assert not dataset.data.exists()


def test_calls(dataset, tmp_path):
    refused(dataset.prepare("data.clip_second", "1"), "--opts", "key data.clip_second")
    refused(dataset.prepare("data.clip_seconds"), "--opts", "data.clip_seconds")
    refused(dataset.prepare(raw=["--raw", tmp_path / "nowhere"]), "nowhere", "--raw")
    refused(dataset.prepare(raw=["--raw", dataset.yaml]), "conf.yaml", "--raw")
    refused(dataset.prepare(raw=["--raw", tmp_path]), "meta/clips.csv", "no such file")
    refused(dataset.prepare(raw=[]), "--raw", "data.url")
    refused(dataset.script("local/prepare.py", "--config", dataset.yaml), "--data")
    refused(dataset.extract(), "data/manifest.jsonl", "stage 0")
    refused(dataset.extract("model.name", "mn99_as"), "'mn99_as'", "model.name")
    assert not dataset.data.exists()
    dataset.data.write_text("a file where the folder should be")
    refused(dataset.prepare(), dataset.data, "is there already")


def test_another_raw_folder_into_the_same_data_folder(dataset, tmp_path):
    works(dataset.prepare())
    before = dataset.files()
    dataset.raw = dataset.raw.rename(tmp_path / "other")
    refused(dataset.prepare(), dataset.data, tmp_path / "raw", "--data")
    assert dataset.files() == before


def test_stage_0_makes_what_somebody_has_removed(dataset):
    works(dataset.prepare())
    before = dataset.files()
    for name in ("labels.txt", "manifest.jsonl"):
        (dataset.data / name).unlink()
        refused(dataset.extract(), name, "no such file", "stage 0")
        works(dataset.prepare())
        assert dataset.files() == before
    (dataset.data / "prepare.json").write_text("{")
    refused(dataset.prepare(), "prepare.json", "JSON")


# A full disk, a kill, Ctrl-C


def test_a_full_disk(dataset, tmp_path):
    dataset.data = tmp_path / "small" / "data"
    dataset.data.parent.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", dataset.data.parent]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted: not root, or not permitted here")
    try:
        dataset.put("cat10.wav", noise(60.0))  # 1.5 MiB of features
        works(dataset.prepare())
        before = dataset.files()
        refused(dataset.extract(), "000000.arrow", "no space")
        assert dataset.files() == before
        dataset.put("cat10.wav", noise(0.5))
        works(dataset.extract())
        assert len(dataset.features()) == 8
    finally:
        subprocess.run(["umount", "-l", dataset.data.parent], check=True)


@pytest.mark.parametrize("method", ["add", "flush"])
def test_a_disk_that_fills_up_during_stage_1(dataset, monkeypatch, capsys, method):
    works(dataset.prepare())
    before, write = dataset.files(), getattr(shards._Writer, method)

    def fail_in_the_second_file(writer, *args):
        if "000001" in writer.path:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, *args)

    def named(writer, path, schema, start=shards._Writer.__init__):
        writer.path = str(path)
        start(writer, path, schema)

    monkeypatch.setattr(shards._Writer, "__init__", named)
    monkeypatch.setattr(shards._Writer, method, fail_in_the_second_file)
    with pytest.raises(SystemExit) as caught:
        runtime.run(lambda: call("extract_features", "--config", dataset.yaml, "--data", dataset.data))
    line = capsys.readouterr().err
    assert caught.value.code == 2 and line.count("\n") == 1
    assert "000001.arrow" in line and "no space" in line
    assert [name[-12:] for name in dataset.files() if name not in before] == ["000000.arrow"]
    monkeypatch.undo()
    assert "log-mels of 4 clips" in dataset.extract().stdout


@pytest.mark.parametrize("name", ["labels.txt", "manifest.jsonl", "prepare.json"])
def test_a_disk_that_fills_up_during_stage_0(dataset, monkeypatch, capsys, name):
    def fail(path, text, write=Path.write_text, **kwargs):
        if name in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, text, **kwargs)

    monkeypatch.setattr(Path, "write_text", fail)
    arguments = ("--config", dataset.yaml, "--raw", dataset.raw, "--data", dataset.data)
    with pytest.raises(SystemExit) as caught:
        runtime.run(lambda: call("prepare", *arguments))
    line = capsys.readouterr().err
    assert caught.value.code == 2 and name in line and "no space" in line
    assert name not in dataset.files() and not [file for file in dataset.files() if file.endswith(".tmp")]
    monkeypatch.undo()
    works(dataset.prepare())
    works(dataset.extract())


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_stage_1_interrupted(dataset, number, status):
    """No worker outlives the run or keeps it from ending, and the next run goes on where it stopped."""
    rows = [(f"{name}.wav", fold, label) for name, fold, label in CLIPS]
    for n in range(200):
        path = dataset.raw / "audio" / f"more{n}.wav"
        path.symlink_to("long.wav")
        rows.append((path.name, 1 + n % 2, "dog"))
    dataset.put("long.wav", noise(5.0))
    dataset.table(rows)
    works(dataset.prepare())
    command = [sys.executable, LOCAL / "extract_features.py", "--config", dataset.yaml, "--data", dataset.data]
    process = subprocess.Popen(
        [*map(str, command), "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(list(dataset.data.rglob("*.arrow"))) < 5:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, err = process.communicate(timeout=60)  # the streams end when the last worker has ended
    assert process.returncode == status
    assert err == (b"extract_features.py: interrupted\n" if number == signal.SIGINT else b"")
    done = len(list(dataset.data.rglob("*.arrow")))
    assert 5 <= done < 52
    again = dataset.extract()
    works(again)
    assert f"({4 * done} were there)" in again.stdout
    assert not [name for name in dataset.files() if name.endswith(".tmp")]
    assert len(dataset.features()) == 208
