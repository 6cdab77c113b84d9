"""Feature files: what is in them, what is made again, and that neither ranks nor workers nor memory matter."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from paddletag.data import manifest
from paddletag.features import clip_features, frontend, shards
from paddletag.runtime import UserError
from prepared import prepare

LOCAL = ROOT / "local"
SECONDS = 0.2
FRONT_END = frontend.MN


def write_clip(path, seed, seconds=0.3):
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * 16000)), 16000)


@pytest.fixture
def data(tmp_path):
    """A prepared folder of ten clips, of 0.15 to 0.6 s."""
    rows = []
    (tmp_path / "audio").mkdir()
    for n in range(10):
        path = tmp_path / "audio" / f"clip{n}.wav"
        write_clip(path, n, seconds=0.15 + 0.05 * n)
        row = {"id": path.stem, "audio": str(path), "labels": ["ab"[n % 2]], "fold": n // 2 % 2, "seconds": 0.3}
        rows.append(row)
    manifest.write(tmp_path / "data", rows, ["a", "b"], [])
    return tmp_path / "data"


def records_of(data):
    return manifest.read(data, with_rejected=True)[0]


def extract(data, records=None, size=4, limit=0, workers=1, rank=0, ranks=1, front_end=FRONT_END, seconds=SECONDS):
    records = records_of(data) if records is None else records
    return shards.extract(data, records, front_end, seconds, size, limit, workers, rank, ranks)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stamps(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def check(data, **kwargs):
    """The features of all clips are those of the sound as it is now."""
    records = manifest.read(data)[0]
    features = shards.open_shards(data, FRONT_END, SECONDS, records)
    for record in records:
        expected = clip_features.clip_log_mel(record, FRONT_END, SECONDS).astype(np.float16)
        assert features[record["id"]].dtype == np.float16 and np.array_equal(features[record["id"]], expected)
        assert len(features[record["id"]]) == len(expected)
        assert features.source(record["id"]) == manifest.fingerprint(record)
    return features


def test_features_are_the_rounded_log_mels_of_whole_clips(data):
    folder, counts = extract(data)
    assert counts == {"made": 10, "kept": 0, "rejected": 0}
    assert folder == data / "features" / FRONT_END.folder(SECONDS)
    features = check(data)
    seconds = [max(SECONDS, 0.15 + 0.05 * n) for n in range(10)]
    assert [len(features[f"clip{n}"]) for n in range(10)] == [1 + round(32000 * s - 1) // 320 for s in seconds]
    assert "clip0" in features and "clip10" not in features and features.source("clip10") is None
    with pytest.raises(ValueError, match="read-only"):
        features["clip0"][0] = 0


@pytest.mark.parametrize("size, rows", [(1, [1] * 10), (3, [3, 3, 3, 1]), (5, [5, 5]), (10, [10]), (512, [10])])
def test_shards_hold_the_manifests_clips_in_order(data, size, rows):
    folder, _ = extract(data, size=size)
    stored = shards.Features(folder).shards
    assert [name for name, _ in stored] == [f"{k:06d}.arrow" for k in range(len(rows))]
    assert [len(pairs) for _, pairs in stored] == rows
    assert [clip_id for _, pairs in stored for clip_id, _ in pairs] == [f"clip{n}" for n in range(10)]


def test_several_batches_in_a_file(data, monkeypatch):
    monkeypatch.setattr(shards, "BATCH_BYTES", 1)
    extract(data, size=512)
    check(data)


def test_a_rerun_keeps_everything(data):
    folder, _ = extract(data)
    before = stamps(folder)
    assert extract(data)[1] == {"made": 0, "kept": 10, "rejected": 0}
    assert stamps(folder) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_one_changed_file_remakes_its_clip_alone(data, workers):
    folder, _ = extract(data)
    before = stamps(folder)
    write_clip(data.parent / "audio" / "clip5.wav", 99)
    assert extract(data, workers=workers)[1] == {"made": 1, "kept": 9, "rejected": 0}
    changed = [name for name, stamp in stamps(folder).items() if before[name] != stamp]
    assert changed == ["000001.arrow"]
    check(data)


def test_the_digest_tells_another_sound_under_the_same_name(data):
    extract(data)
    records = records_of(data)
    first = check(data).digest(records)
    assert check(data).digest(records[::-1]) == first and check(data).digest(records[1:]) != first
    path = Path(records[3]["audio"])
    path.touch()  # made again, to the same bits
    assert extract(data)[1]["made"] == 1 and check(data).digest(records) == first
    write_clip(path, seed=99, seconds=0.3)
    assert extract(data)[1]["made"] == 1 and check(data).digest(records) != first


def test_a_clip_that_leaves_the_table(data):
    folder, _ = extract(data)
    (data.parent / "audio" / "clip9.wav").unlink()
    assert extract(data, records_of(data)[:9])[1] == {"made": 0, "kept": 9, "rejected": 0}
    assert extract(data, records_of(data)[1:9])[1] == {"made": 0, "kept": 8, "rejected": 0}
    assert sorted(files(folder)) == ["000000.arrow", "000001.arrow"]
    features = shards.Features(folder)
    assert [clip_id for _, pairs in features.shards for clip_id, _ in pairs] == [f"clip{n}" for n in range(1, 9)]
    assert "clip0" not in features


@pytest.mark.parametrize("size", [1, 3, 10])
def test_another_shard_size_moves_rows_and_makes_none(data, size):
    folder, _ = extract(data, size=4)
    assert extract(data, size=size)[1] == {"made": 0, "kept": 10, "rejected": 0}
    moved = files(folder)
    shutil.rmtree(folder)
    extract(data, size=size)
    assert files(folder) == moved
    check(data)


def test_other_settings_lie_in_another_folder(data):
    folders = {
        extract(data)[0],
        extract(data, seconds=0.25)[0],
        extract(data, front_end=dataclasses.replace(FRONT_END, hop_length=160))[0],
        extract(data, front_end=frontend.PANNS)[0],
    }
    assert len(folders) == 4 and len(list((data / "features").iterdir())) == 4
    assert extract(data)[1]["kept"] == 10


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_changes_no_bit(data, workers):
    folder, _ = extract(data)
    alone = files(folder)
    shutil.rmtree(folder)
    assert extract(data, workers=workers)[1]["made"] == 10
    assert files(folder) == alone


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 0, 1)])
def test_ranks_make_together_what_one_makes(data, order):
    folder, _ = extract(data, size=2)
    alone = files(folder)
    shutil.rmtree(folder)
    made = [extract(data, size=2, rank=rank, ranks=len(order))[1]["made"] for rank in order]
    assert sum(made) == 10 and all(made)
    assert files(folder) == alone
    assert [extract(data, size=2, rank=rank, ranks=len(order))[1]["made"] for rank in order] == [0] * len(order)


def test_left_overs_of_a_killed_run_are_removed_and_strangers_are_not(data):
    folder = data / "features" / FRONT_END.folder(SECONDS)
    folder.mkdir(parents=True)
    for name in (".000000.arrow.0.tmp", ".000001.arrow.0.tmp", ".notes.arrow.x.tmp", "000009.arrow.bak"):
        (folder / name).write_bytes(b"half")
    extract(data)
    shards_and_strangers = [".notes.arrow.x.tmp", *(f"{k:06d}.arrow" for k in range(3)), "000009.arrow.bak"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(shards_and_strangers)


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, b"ARROW1\0\0" + bytes(99) + b"ARROW1", None])
def test_a_damaged_file_is_one_line(data, content):
    path = extract(data)[0] / "000001.arrow"
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    for use in (lambda: extract(data), lambda: shards.open_shards(data, FRONT_END, SECONDS, [])):
        with pytest.raises(UserError, match=r"000001\.arrow: .*stage 1"):
            use()
    path.unlink()
    assert extract(data)[1]["made"] == 4
    check(data)


def test_a_wrong_bit_does_not_kill_the_process(data):
    """Arrow itself follows a wrong offset out of its memory."""
    path = extract(data)[0] / "000000.arrow"
    intact, damaged = path.read_bytes(), 0
    generator = np.random.default_rng(0)
    for _ in range(200):
        content = bytearray(intact)
        for at in generator.integers(len(intact) if generator.uniform() < 0.2 else 2000, size=4):
            content[at] = generator.integers(256)
        path.write_bytes(content)
        try:
            shards.Features(path.parent)
        except UserError:
            damaged += 1
    assert damaged > 20


def test_missing_features_are_named(data):
    with pytest.raises(UserError, match=r"clip0\b.* 9 more.*stage 1"):
        shards.open_shards(data, FRONT_END, SECONDS, records_of(data))
    extract(data, records_of(data)[:9])
    with pytest.raises(UserError, match=r"clip9\b.*stage 1"):
        shards.open_shards(data, FRONT_END, SECONDS, records_of(data))


def spoil(data, *numbers):
    for n in numbers:
        (data.parent / "audio" / f"clip{n}.wav").write_bytes(b"RIFF of no use")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_clip_that_cannot_be_decoded(data, workers):
    spoil(data, 6)
    folder = data / "features" / FRONT_END.folder(SECONDS)
    with pytest.raises(UserError, match=r"clip6\.wav: .*data\.max_rejected"):
        extract(data, workers=workers)
    assert sorted(files(folder)) == ["000000.arrow"] and manifest.read_rejected(data) == []
    assert extract(data, workers=workers, limit=1)[1] == {"made": 5, "kept": 4, "rejected": 1}
    assert [(row["id"], row["audio"]) for row in manifest.read_rejected(data)] == [
        ("clip6", str(data.parent / "audio" / "clip6.wav"))
    ]
    assert [r["id"] for r in manifest.read(data)[0]] == [f"clip{n}" for n in range(10) if n != 6]
    check(data)
    before = stamps(folder)
    assert extract(data, limit=1)[1] == {"made": 0, "kept": 9, "rejected": 0}  # it is not tried again
    assert stamps(folder) == before


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a bug")])
def test_a_clip_that_memory_does_not_suffice_for(data, monkeypatch, workers, error):
    """It is one more that cannot be used; a fault of this program is not."""

    def clip_log_mel(record, *settings):
        if record["id"] == "clip6":
            raise error
        return clip_features.clip_log_mel(record, *settings)

    monkeypatch.setattr(shards, "clip_log_mel", clip_log_mel)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="a bug"):
            extract(data, workers=workers, limit=1)
        return
    assert extract(data, workers=workers, limit=1)[1] == {"made": 9, "kept": 0, "rejected": 1}
    (row,) = manifest.read_rejected(data)
    assert row["id"] == "clip6" and re.search(r"clip6\.wav: .*memory", row["reason"])
    monkeypatch.undo()  # there is more memory now
    assert extract(data, workers=workers, limit=1)[1] == {"made": 1, "kept": 9, "rejected": 0}
    assert not manifest.read_rejected(data)


def test_a_clip_that_is_a_link_to_itself(data):
    path = data.parent / "audio" / "clip6.wav"
    path.unlink()
    path.symlink_to(path.name)
    assert extract(data, limit=1)[1] == {"made": 9, "kept": 0, "rejected": 1}
    (row,) = manifest.read_rejected(data)
    assert row["id"] == "clip6"


def test_the_limit_counts_all_shards_and_ranks(data):
    spoil(data, 1, 5, 9)
    folder = data / "features" / FRONT_END.folder(SECONDS)
    with pytest.raises(UserError, match=r"\b2 more.*data\.max_rejected.*\b2\b"):
        extract(data, limit=2)
    assert [row["id"] for row in manifest.read_rejected(data)] == ["clip1", "clip5"]
    assert sorted(files(folder)) == ["000000.arrow", "000001.arrow"]  # of the third, nothing
    shutil.rmtree(folder)
    manifest.write(data, records_of(data), ["a", "b"], [])
    extract(data, limit=2, rank=0, ranks=2)
    with pytest.raises(UserError, match=r"\b2 more"):
        extract(data, limit=2, rank=1, ranks=2)
    assert extract(data, limit=3, rank=1, ranks=2)[1] == {"made": 3, "kept": 0, "rejected": 1}
    check(data)


def test_a_clip_rejected_at_stage_0_counts_too(data):
    row = {"id": "other", "audio": "other.wav", "reason": "other.wav: is empty"}
    manifest.write(data, records_of(data), ["a", "b"], [row])
    spoil(data, 1)
    with pytest.raises(UserError, match=r"^other\.wav: is empty.*\b1 more"):
        extract(data, limit=1)
    assert extract(data, limit=2)[1]["rejected"] == 1
    assert [row["id"] for row in manifest.read_rejected(data)] == ["other", "clip1"]


def test_a_mended_clip_is_taken_up_again(data):
    spoil(data, 2, 3)
    extract(data, limit=2)
    write_clip(data.parent / "audio" / "clip2.wav", 7)
    assert extract(data, limit=2)[1] == {"made": 1, "kept": 8, "rejected": 0}
    assert [row["id"] for row in manifest.read_rejected(data)] == ["clip3"]
    check(data)
    (data.parent / "audio" / "clip3.wav").unlink()  # another fault: it is looked at again
    assert extract(data, limit=2)[1] == {"made": 0, "kept": 9, "rejected": 1}
    assert "no such file" in manifest.read_rejected(data)[0]["reason"]


def test_a_clip_that_breaks_after_its_features_were_made(data):
    folder, _ = extract(data)
    spoil(data, 2)
    before = stamps(folder)
    with pytest.raises(UserError, match=r"clip2\.wav"):
        extract(data)
    assert stamps(folder) == before
    assert extract(data, limit=1)[1] == {"made": 0, "kept": 9, "rejected": 1}
    assert "clip2" not in shards.Features(folder)


def test_a_shard_of_nothing_but_broken_clips(data):
    spoil(data, 4, 5, 6, 7)
    extract(data, limit=4)
    check(data)
    assert extract(data, limit=4)[1] == {"made": 0, "kept": 6, "rejected": 0}


MEMORY = """
import json, sys
from paddletag.features import frontend, shards
data, wav, clips = sys.argv[1], sys.argv[2], int(sys.argv[3])
records = [{"id": str(n), "audio": wav} for n in range(clips)]
print(shards.extract(data, records, frontend.MN, 5.0, 512, 0, 2)[1]["made"])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])  # KiB
"""


def peak(*args):
    """(clips made, largest memory in MiB) of a process that runs MEMORY. (Linux's ru_maxrss would begin with ours.)"""
    environment = {**os.environ, "PYTHONPATH": str(LOCAL), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMORY, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    made, memory = map(int, done.stdout.split())
    return made, memory / 1024


def test_memory_does_not_grow_with_the_data_set(tmp_path):
    """400 clips of 8 s have 78 MiB of features."""
    write_clip(tmp_path / "a.wav", 0, seconds=8)
    few = peak(tmp_path / "few", tmp_path / "a.wav", 40)
    many = peak(tmp_path / "many", tmp_path / "a.wav", 400)
    assert (few[0], many[0]) == (40, 400)
    assert sum(path.stat().st_size for path in (tmp_path / "many").rglob("*.arrow")) > 70 << 20
    assert many[1] - few[1] < 30, (few, many)


def pair(data, tmp_path, *options, **env):
    """Two runs of stage 1 on one folder, started together: their outputs."""
    path = tmp_path / "a.yaml"
    path.write_text("data: {clip_seconds: 0.3}\nmodel: {name: mn01_as, weights: none}\nfeatures: {shard_size: 2}\n")
    command = [sys.executable, str(LOCAL / "extract_features.py"), "--config", path, "--data", data, *options]
    kinds = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": {**os.environ, **env}}
    runs = [subprocess.Popen([*map(str, command)], **kinds) for _ in range(2)]
    return [(*run.communicate(timeout=120), run.returncode) for run in runs]


def test_two_runs_share_a_folder(tmp_path):
    """The second waits for the first, says for whom, and finds its work done."""
    records, _ = prepare(tmp_path / "data", clips=40, seconds=2)
    for _ in range(3):
        shutil.rmtree(tmp_path / "data/features")
        outputs = pair(tmp_path / "data", tmp_path, "--workers", 1)
        assert [status for *_, status in outputs] == [0, 0], outputs
        texts = sorted((text for text, _, _ in outputs), key=lambda text: "up to date" in text)
        assert all(f"{len(records)} clips" in text for text in texts)
        assert ["up to date" in text for text in texts] == [False, True]
        assert re.search(r"waiting for process \d+ on \S+, ", texts[1])
        (folder,) = (tmp_path / "data/features").iterdir()
        assert all(path.suffix == ".arrow" for path in folder.iterdir())


@pytest.mark.parametrize("files", [12, 16, 20])
def test_too_few_file_descriptors(files, tmp_path):
    """Without enough of them for the workers' pipes: one line, and an end."""
    prepare(tmp_path / "data")
    (tmp_path / "a.yaml").write_text("data: {clip_seconds: 0.4}\nmodel: {name: mn01_as, weights: none}\n")
    words = f'"{LOCAL}/extract_features.py" --config a.yaml --data data --workers 4'
    command = ["bash", "-c", f'ulimit -n {files}; exec "{sys.executable}" {words}']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode in (0, 2), done.stderr
    if done.returncode:
        assert len(done.stderr.splitlines()) == 1 and "too many open files" in done.stderr
    assert not list((tmp_path / "data").rglob("*.tmp"))


HOLD = """
import sys, time
from paddletag.files import locked
with locked(sys.argv[1], owner=sys.argv[2]):
    print("in", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def test_a_killed_holder_gives_way(tmp_path):
    """The kernel releases the lock of a process that gets SIGKILL; ranks of one launch hold it together."""

    def start(owner, seconds):
        command = [sys.executable, "-c", HOLD, str(tmp_path / "x"), owner, str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=LOCAL)

    ranks = [start("launch A", 60), start("launch A", 60)]
    assert [rank.stdout.readline() for rank in ranks] == ["in\n"] * 2
    other, alone = start("launch B", 0), start("", 0)
    for rank in ranks:
        time.sleep(0.5)
        assert other.poll() is None and alone.poll() is None
        rank.kill()
        rank.communicate()
    assert other.communicate(timeout=20)[0] == alone.communicate(timeout=20)[0] == "in\n"
    assert not list(tmp_path.iterdir())  # the last one removes the lock's file
