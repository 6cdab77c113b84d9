"""`paddletag tag-archive`: every row of a source once, whatever goes wrong, with the scores of `paddletag tag`.

A stand-in for the model gives each window scores that depend on its log-mel; one test takes mn04_as itself.
"""

import collections
import contextlib
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import CLIPS, ROOT
from paddletag import files, runtime
from paddletag.archives import parts, plan, sources
from paddletag.commands import tag, tag_archive
from paddletag.data import audio
from paddletag.models import model_folder, registry
from paddletag.tagging import tagger
from prepared import call, refusal

LABELS = registry.audioset_labels()
WEIGHTS = np.random.default_rng(0).standard_normal((128, 527)).astype(np.float32) / 8
SECONDS = [0.3, 1.2, 2.5, 0.7, 3.0, 1.0]  # of the sounds
STAND_IN = """
import sys, time
sys.path[:0] = [{tests!r}, {archives!r}]
import test_tag_archive
from paddletag import commands
from paddletag.commands import tag_archive
def slow(log_mel):
    time.sleep({pause})
    return test_tag_archive.predict(log_mel)
tag_archive.open_predictor = lambda *args, **options: slow
commands.main()
"""


def predict(log_mel):
    """A stand-in for mn04_as: [B, T, 128] -> scores [B, 527], embeddings [B, 384]."""
    mean = log_mel.mean(1)
    return {"scores": 1 / (1 + np.exp(-mean @ WEIGHTS)), "embeddings": np.tile(mean, 3)}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder to stand in, and the stand-in for the model in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tag_archive, "open_predictor", lambda *args, **options: predict)
    monkeypatch.setattr(tag, "open_predictor", lambda *args, **options: predict)
    return tmp_path


@pytest.fixture
def sounds(place):
    """A folder of six WAV files, three of them below another folder."""
    generator = np.random.default_rng(1)
    for number, seconds in enumerate(SECONDS):
        path = place / "sounds" / ("b" if number % 2 else "") / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = generator.standard_normal(round(8000 * seconds)) * np.linspace(0.01, 0.5, round(8000 * seconds))
        soundfile.write(path, wave.astype(np.float32), 8000)
    return place / "sounds"


def rows(out="o", kind="tags"):
    """All rows of a data set, in the order of its parts."""
    return ds.dataset(f"{out}/{kind}", format="parquet").to_table().to_pylist()


def files_of(out="o", kind="tags"):
    """{file: its rows}, by the names below the folder of sounds."""
    return collections.Counter(os.path.basename(row["file"]) for row in rows(out, kind))


def expected(folder, window=1.0, hop=1.0):
    """{file: windows} as `paddletag tag` cuts them: one at each hop that fits, and one at the end."""
    return {
        path.name: len(tagger.pipeline.only_result(arrays_of(path, window, hop))["start"])
        for path in sorted(folder.rglob("*.wav"))
    }


def arrays_of(path, window, hop):
    meta = model_folder.describe_model("mn04_as")
    return tagger.pipeline.tag_sounds(predict, meta, model_folder.saved_front_end(meta), [path], window, hop)


def archive(source, *words, out="o", window=1):
    call("tag_archive", source, "--out", out, "--window", window, *words)


def test_the_rows_are_those_of_tag(sounds, capsys):
    archive(sounds, "--hop", 0.4, "--top_k", 3, "--part_files", 4)
    capsys.readouterr()
    call("audio_tag", sounds, "--window", 1, "--hop", 0.4, "--json", "--top_k", 3)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {(row["file"], round(row["start"], 3)): row for row in rows()}
    assert len(found) == len(printed) == len(rows()) > 12
    for line in printed:
        row = found[os.path.abspath(line["file"]), round(line["start"], 3)]
        assert row["end"] == pytest.approx(line["end"], abs=1e-3)
        assert row["labels"] == list(line["tags"])
        assert row["scores"] == pytest.approx(list(line["tags"].values()), abs=1e-4)
    assert rows(kind="refused") == []


def test_all_scores_and_embeddings(sounds):
    archive(sounds, "--scores", "all", "--embeddings")
    archive(sounds, out="top")
    table = ds.dataset("o/tags").to_table()
    assert table.schema.field("scores").type == pa.list_(pa.float16(), 527)
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 384) and "labels" not in table.schema.names
    path = str(sounds / "2.wav")
    arrays = tagger.pipeline.only_result(arrays_of(path, 1.0, 1.0))
    mine = [row for row in table.to_pylist() if row["file"] == path]
    assert np.array_equal(np.float16([row["scores"] for row in mine]), arrays["scores"].astype(np.float16))
    assert np.array_equal(np.float16([row["embedding"] for row in mine]), arrays["embeddings"].astype(np.float16))
    for row, top in zip(table.to_pylist(), rows("top"), strict=True):
        assert sorted(top["scores"], reverse=True) == top["scores"] and len(top["labels"]) == 5
        assert [np.float16(score) for score in top["scores"]] == sorted(row["scores"], reverse=True)[:5]
    metadata = pq.read_schema("o/tags/part-000000.parquet").metadata
    meta = model_folder.describe_model("mn04_as")
    assert json.loads(metadata[b"labels"]) == LABELS and metadata[b"model"].decode() == meta["sha256"]
    assert json.loads(metadata[b"settings"])["scores"] == "all" and "pyarrow" in json.loads(metadata[b"versions"])


def test_whole_files(sounds):
    archive(sounds, window=0)
    assert [(row["start"], row["end"]) for row in rows()] == [(0, s) for s in (0.3, 2.5, 3.0, 1.2, 0.7, 1.0)]


def test_with_the_model_itself(program, place):
    """The scores of mn04_as are those that its `Tagger` gives."""
    (place / "clips").mkdir()
    for path in sorted(CLIPS.glob("1-*.ogg"))[:3]:
        shutil.copy(path, place / "clips")
    done = program("tag-archive", place / "clips", "--out", place / "o", "--window", 2, "--engine", "onnxruntime")
    assert done.returncode == 0, done.stderr
    mn04 = tagger.Tagger("mn04_as", "onnxruntime")
    tags = [tag for path in sorted((place / "clips").iterdir()) for tag in mn04.tag(path, 2, 2)]
    found = [pair for row in rows() for pair in zip(row["labels"], row["scores"], strict=True)]
    assert [label for label, _ in found] == [tag.label for tag in tags]
    assert [score for _, score in found] == pytest.approx([tag.score for tag in tags], abs=1e-5)


def test_every_bad_file_is_refused_once(sounds, place, monkeypatch):
    """A file that is gone, one that is cut short, an empty one, one that is no sound, a folder that cannot be read."""
    content = (sounds / "0.wav").read_bytes()
    (sounds / "cut.wav").write_bytes(content[: len(content) // 2])
    (sounds / "empty.wav").touch()
    (sounds / "text.flac").write_text("no sound")
    (sounds / "gone.wav").write_bytes(content)
    (sounds / "shut").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(files.os, "scandir", refuse)
    tag_part = parts.tag_part

    def lose(*args, **options):
        (sounds / "gone.wav").unlink(missing_ok=True)  # after the plan was made
        return tag_part(*args, **options)

    monkeypatch.setattr(parts, "tag_part", lose)
    archive(sounds, "--part_files", 3)
    assert files_of() == {f"{n}.wav": max(1, int(np.ceil(s - 0.05))) for n, s in enumerate(SECONDS)}
    reasons = {os.path.basename(row["file"]): row["reason"] for row in rows(kind="refused")}
    assert len(reasons) == len(rows(kind="refused")) == 5
    assert reasons["gone.wav"] == "no such file" and reasons["empty.wav"] == "is empty"
    assert "truncated" in reasons["cut.wav"] or "cut" in reasons["cut.wav"]
    assert "not a sound file" in reasons["text.flac"] and reasons["shut"] == "a folder that cannot be read"


def test_a_list_keeps_what_stands_twice_and_other_letters(sounds, place):
    name = "Vögel 鸟.wav"
    shutil.copy(sounds / "0.wav", sounds / name)
    latin = os.fsencode(sounds) + b"/f\xfcr.wav"  # a name in Latin-1
    shutil.copy(sounds / "0.wav", latin)
    lines = [b"\xef\xbb\xbfsounds/2.wav", b"", b"sounds/2.wav\r", os.fsencode(sounds / name), b"   ", latin, b"no.wav"]
    (place / "list.txt").write_bytes(b"\n".join(lines))
    archive("list.txt", "--part_files", 2)
    assert collections.Counter(row["file"] for row in rows()) == {
        "sounds/2.wav": 6, str(sounds / name): 1, f"{sounds}/f\\xfcr.wav": 1,
    }  # fmt: skip
    assert [(row["file"], row["reason"]) for row in rows(kind="refused")] == [("no.wav", "no such file")]


def test_spans_of_a_table(sounds, place):
    path = str(sounds / "4.wav")  # 3 s
    spans = [
        (None, None),
        (1.0, 2.5),
        (2.0, 99.0),
        (0.5, None),
        (3.5, 4.0),
        (2.0, 1.0),
        (-1.0, 1.0),
        (float("nan"), 1.0),
    ]
    table = {"file": [path] * len(spans), "start": [a for a, _ in spans], "end": [b for _, b in spans], "x": [0] * 8}
    pq.write_table(pa.table(table), "t.parquet")
    archive("t.parquet", "--hop", 1, "--scores", "all")
    assert [(row["start"], row["end"]) for row in rows()] == [
        (0, 1), (1, 2), (2, 3),
        (1, 2), (1.5, 2.5),
        (2, 3),
        (0.5, 1.5), (1.5, 2.5), (2, 3),
    ]  # fmt: skip
    refused = rows(kind="refused")
    assert [(row["start"], row["end"]) for row in refused[:3]] == spans[4:7] and len(refused) == 4
    assert all("do not lie within" in row["reason"] for row in refused)
    wave, rate = soundfile.read(path, start=8000, stop=20000)
    soundfile.write("cut.wav", wave, rate, subtype="FLOAT")
    cut = tagger.pipeline.only_result(arrays_of("cut.wav", 1.0, 1.0))["scores"]
    mine = np.float32([row["scores"] for row in rows()[3:5]])
    assert np.abs(mine - cut).max() < 2e-3  # 16 bits; the file itself has 16 too


def test_spans_of_a_film(sounds):
    """Those that ffmpeg decodes are the same part of the sound."""
    program = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed").get_ffmpeg_exe()
    subprocess.run([program, "-v", "error", "-i", sounds / "4.wav", "-c:a", "pcm_s16le", "film.mkv"], check=True)

    def decode(sound):
        with audio.opened(sound) as source:
            return np.concatenate(list(source.at(8000)))

    whole = decode("film.mkv")
    assert np.array_equal(decode(audio.Span("film.mkv", 1.25, 2.5)), whole[10000:20000])
    assert np.array_equal(decode(audio.Span("film.mkv", 2.5, 99)), whole[20000:])
    for wrong in ((5.0, None), (2.0, 1.0), (float("nan"), None)):
        with pytest.raises(audio.AudioError):
            decode(audio.Span("film.mkv", *wrong))


@pytest.mark.parametrize(
    "table, words",
    [
        ({"name": ["a.wav"]}, "no column path or file"),
        ({"path": ["a.wav", None]}, "row 2 has no path"),
        ({"path": ["a.wav"], "start": ["soon"]}, "not a Parquet table of paths"),
        (None, "not a Parquet table"),
    ],
)
def test_a_table_that_is_none(place, table, words):
    pq.write_table(pa.table(table), "t.parquet") if table else (place / "t.parquet").write_text("no")
    assert words in refusal("tag_archive", "t.parquet", "--out", "o")
    assert not list(place.glob("o/*"))


def test_sources_that_are_none(place, sounds):
    (place / "empty").mkdir()
    (place / "blank.txt").write_text("\n \n")
    (place / "binary").write_bytes(bytes(100))
    for source, words in {
        "empty": "lists no sound files", "blank.txt": "lists no sound files", "nowhere": "no such file or folder",
        "binary": "not a text file", "sounds/0.wav": "is a sound", "xyz://a/b": "xyz",
    }.items():  # fmt: skip
        assert words in refusal("tag_archive", source, "--out", "o"), source
    assert not list(place.glob("o/*"))
    for wrong in ("0/2", "3/2", "1", "a/b", "1/0"):
        with pytest.raises(SystemExit):
            archive(sounds, "--shard", wrong)


def test_finished_parts_are_kept_and_missing_ones_made(sounds, monkeypatch):
    archive(sounds, "--part_files", 2)
    before = {path.name: path.stat().st_mtime_ns for path in (sounds.parent / "o/tags").iterdir()}
    (sounds.parent / "o/tags/part-000001.parquet").unlink()
    done = []
    tag_part = parts.tag_part
    monkeypatch.setattr(parts, "tag_part", lambda job, part, *rest: done.append(part) or tag_part(job, part, *rest))
    archive(sounds, "--part_files", 2)
    archive(sounds, "--part_files", 2)
    after = {path.name: path.stat().st_mtime_ns for path in (sounds.parent / "o/tags").iterdir()}
    assert done == [1] and len(after) == 3
    assert {name for name in after if after[name] != before[name]} == {"part-000001.parquet"}
    assert files_of() == expected(sounds)


def test_shards_do_each_part_once(sounds):
    for number in (2, 1, 3):
        archive(sounds, "--part_files", 1, "--shard", f"{number}/3")
        seen = len(list((sounds.parent / "o/tags").glob("*.parquet")))
        assert seen == {2: 2, 1: 4, 3: 6}[number]
    archive(sounds, "--part_files", 1, out="one")
    assert rows() == rows("one")


def test_another_job_is_refused_and_changes_nothing(sounds, place, monkeypatch):
    archive(sounds, "--part_files", 4)
    before = sorted((str(p), p.read_bytes()) for p in (place / "o").rglob("*.*"))
    again = [sounds, "--out", "o", "--window", 1, "--part_files", 4]
    assert "window 1.0, not 2.0" in refusal("tag_archive", *again, "--window", 2)
    assert "hop 1.0, not 0.5" in refusal("tag_archive", *again, "--hop", 0.5)
    assert "scores top 5, not top 4" in refusal("tag_archive", *again, "--top_k", 4)
    assert "embeddings False, not True" in refusal("tag_archive", *again, "--embeddings")
    assert "part_files 4, not 3" in refusal("tag_archive", *again, "--part_files", 3)
    shutil.copy(sounds / "0.wav", sounds / "new.wav")
    assert "7 rows now, 6 then" in refusal("tag_archive", *again)
    (sounds / "new.wav").unlink()
    (sounds / "0.wav").write_bytes((sounds / "0.wav").read_bytes()[:-2])
    assert "other files, spans or sizes" in refusal("tag_archive", *again)
    describe = model_folder.describe_model
    monkeypatch.setattr(model_folder, "describe_model", lambda name: {**describe(name), "sha256": "other"})
    assert "model " in refusal("tag_archive", *again)
    assert before == sorted((str(p), p.read_bytes()) for p in (place / "o").rglob("*.*"))
    (place / "o/plan.json").unlink()
    assert "without their plan.json" in refusal("tag_archive", *again)


def test_a_model_that_changes_half_way(sounds, monkeypatch):
    """Between two parts: the first stays, the second is not made."""
    describe, calls = model_folder.describe_model, itertools.count()
    changed = lambda name: {**describe(name), **({"sha256": "other"} if next(calls) > 1 else {})}  # noqa: E731
    monkeypatch.setattr(model_folder, "describe_model", changed)
    assert "was begun with model" in refusal("tag_archive", sounds, "--out", "o", "--window", 1, "--part_files", 3)
    assert sorted(os.listdir("o/tags")) == os.listdir("o/refused") == ["part-000000.parquet"]


def test_a_part_that_is_damaged_or_of_another_job(sounds, place):
    archive(sounds, "--part_files", 4)
    path = place / "o/tags/part-000001.parquet"
    path.write_bytes(path.read_bytes()[:100])
    assert f"{path}: damaged, or not of this job" in refusal(
        "tag_archive", sounds, "--out", "o", "--window", 1, "--part_files", 4
    )
    (place / "other").mkdir()
    shutil.copy(sounds / "0.wav", place / "other")
    archive(place / "other", out="p")
    shutil.copy(place / "p/tags/part-000000.parquet", path)
    assert "not of this job" in refusal("tag_archive", sounds, "--out", "o", "--window", 1, "--part_files", 4)


@pytest.mark.parametrize("full", ["tags", "refused"])
def test_a_full_disk_leaves_no_part(sounds, monkeypatch, capsys, full):
    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, *args, **options):
        file = open(path, *args, **options)
        return Full(file) if f"/{full}/" in str(path) else file

    monkeypatch.setattr(parts, "open", opened, raising=False)
    with pytest.raises(SystemExit) as caught:
        monkeypatch.setattr(sys, "argv", ["paddletag tag-archive", str(sounds), "--out", "o", "--window", "1"])
        runtime.run(tag_archive.main)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1 and "no space left on the disk" in error
    assert not [path for path in (sounds.parent / "o").rglob("*part*")]
    monkeypatch.undo()
    monkeypatch.setattr(tag_archive, "open_predictor", lambda *args, **options: predict)
    monkeypatch.chdir(sounds.parent)
    archive(sounds)
    assert files_of() == expected(sounds)


@contextlib.contextmanager
def started(place, *words, pause=0.0):
    """A process of `paddletag tag-archive` with the stand-in, which takes `pause` seconds for each batch."""
    code = STAND_IN.format(tests=str(ROOT / "tests"), archives=str(ROOT / "tests/archives"), pause=pause)
    command = [sys.executable, "-c", code, "tag-archive", *map(str, words), "--out", "o", "--window", "1"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT / "local")}, **streams) as own:
        try:
            yield own
        finally:
            own.kill()


def wait_for(path, pattern, count=1):
    end = time.monotonic() + 60
    while len(list(path.glob(pattern))) < count:
        assert time.monotonic() < end, pattern
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_that_is_killed_goes_on(sounds, place, number):
    with started(place, sounds, "--part_files", 2, pause=0.3) as process:
        wait_for(place / "o/tags", "part-000000.parquet")
        wait_for(place / "o/tags", ".part-000001.parquet.*")
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    if number == signal.SIGTERM:
        assert process.returncode == 143 and not list(place.glob("o/*/.part*"))
        assert error.startswith("paddletag tag-archive: terminated: the same command goes on\n")
        assert "Traceback" not in error
    assert not (place / "o/tags/part-000001.parquet").exists()
    archive(sounds, "--part_files", 2)
    assert files_of() == expected(sounds) and not list(place.glob("o/*/.part*")) and not list(place.glob("o/*.lock"))


def test_two_jobs_in_one_folder(sounds, place):
    """The second is refused in a line, whether it has the same parts or others; the first is not disturbed."""
    with started(place, sounds, "--part_files", 2, pause=20) as process:
        wait_for(place / "o/tags", ".part-000000.parquet.*")
        again = [sounds, "--out", "o", "--window", 1, "--part_files", 2]
        assert "is at work there" in refusal("tag_archive", *again)
        assert "a job in 1 shards is at work there" in refusal("tag_archive", *again, "--shard", "1/2")
        assert process.poll() is None
    archive(sounds, "--part_files", 2)
    assert files_of() == expected(sounds)


@pytest.mark.full
def test_shards_at_the_same_time(sounds, place):
    with contextlib.ExitStack() as stack:
        words = sounds, "--part_files", 1, "--shard"
        processes = [stack.enter_context(started(place, *words, f"{n}/3", pause=0.05)) for n in (1, 2, 3)]
        for process in processes:
            _, error = process.communicate(timeout=60)
            assert process.returncode == 0, error
    assert files_of() == expected(sounds) and len(list(place.glob("o/tags/*.parquet"))) == 6


def test_a_source_is_listed_in_the_same_order(place):
    names = [f"{a}/{b}.wav" for a in "zaqb" for b in "931"] + ["y.wav", "c.flac", "notes.txt", ".hidden.wav"]
    for name in names:
        (place / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "s" / name).touch()
    listed = [os.path.relpath(item.file, "s") for item in sources.list_items("s")]
    assert listed == ["c.flac", "y.wav", *sorted(name for name in names if "/" in name)]


def test_a_plan_that_is_damaged(sounds, place):
    archive(sounds)
    content = (place / "o/plan.parquet").read_bytes()
    (place / "o/plan.parquet").write_bytes(content[:50])
    assert "plan.json: damaged" in refusal("tag_archive", sounds, "--out", "o", "--window", 1)


def test_too_many_parts(sounds, monkeypatch):
    monkeypatch.setattr(plan, "MOST_PARTS", 2)
    assert "more than 2 parts" in refusal("tag_archive", sounds, "--out", "o", "--part_files", 2)
    assert not os.path.exists("o")


def test_ray_that_is_not_installed(sounds, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'paddletag[ray]'" in refusal("tag_archive", sounds, "--out", "o", "--ray", "local")
    assert "--shard" in refusal("tag_archive", sounds, "--out", "o", "--ray", "local", "--shard", "1/1")
