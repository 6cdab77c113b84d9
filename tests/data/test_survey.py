"""What stage 0 finds in files: headers, lengths, copies, silence, and the words in which it tells of them."""

import numpy as np
import pytest
import soundfile
from paddletag.data import survey

RATE = 8000


def wave(seed, seconds=0.5, level=0.5):
    samples = np.random.default_rng(seed).uniform(-1, 1, round(seconds * RATE))
    return level * samples / np.abs(samples).max()


@pytest.fixture
def record(tmp_path):
    """A function: (name, waveform, what the record says further) -> record of a file of that waveform."""

    def record(name, samples, labels=("a",), rate=RATE, **values):
        soundfile.write(tmp_path / name, samples, rate)
        fold = {} if "split" in values else {"fold": 1}
        audio = str(tmp_path / name)
        return {"id": name, "audio": audio, "labels": list(labels), "seconds": 0.5, **fold, **values}

    return record


def test_headers_are_checked(record, tmp_path, monkeypatch):
    rows = [record(f"{n}.wav", wave(n)) for n in range(4)]
    soundfile.write(tmp_path / "0.wav", np.zeros((4000, 2)), 16000)
    (tmp_path / "1.wav").write_bytes(b"")
    (tmp_path / "2.wav").unlink()
    monkeypatch.chdir(tmp_path)
    rows[3]["audio"] = "3.wav"
    kept, sounds, rejected = survey.check_files(rows)
    assert [(r["id"], r["seconds"]) for r in kept] == [("0.wav", 0.25), ("3.wav", 0.5)]
    assert kept[1]["audio"] == str(tmp_path / "3.wav")
    assert sounds == [survey.Sound(16000, 2, "wav"), survey.Sound(RATE, 1, "wav")]
    reasons = [(r["id"], r["reason"].rpartition(": ")[2]) for r in rejected]
    assert reasons == [("1.wav", "is empty"), ("2.wav", "no such file")]
    assert survey.check_files([]) == ([], [], [])


def test_segments_have_their_own_length(record):
    rows = [
        record("a.wav", wave(0), start=0.1, end=0.35),
        record("b.wav", wave(0), start=0.4),
        record("c.wav", wave(0), end=9.0),
        record("d.wav", wave(0), start=0.5),
    ]
    kept, _, rejected = survey.check_files(rows)
    assert [r["seconds"] for r in kept] == [0.25, 0.1, 0.5]
    assert says(rejected[0]["reason"], "d.wav: ", "0.5 s", "0.50 s")


def listened(*rows):
    kept, sounds, rejected = survey.check_files(list(rows), listen=True)
    assert not rejected
    return kept, sounds


def test_the_same_sound_is_known_in_any_file(record):
    x, y = np.round(wave(0) * 32767) / 32768, wave(1)
    files = [
        record("a.wav", x), record("b.flac", x), record("stereo.wav", np.stack([x, x], 1)),
        record("part.wav", np.concatenate([y, x]), start=0.5), record("y.wav", y), record("start.wav", x, end=0.4),
        record("longer.wav", np.append(x, 0)), record("faster.wav", x, rate=16000),
    ]  # fmt: skip
    _, sounds = listened(*files)
    digests = [sound.digest for sound in sounds]
    assert len(set(digests[:4])) == 1 and len(set(digests)) == 5


def test_a_long_clip_is_known_by_its_first_minute_and_length(record, monkeypatch):
    monkeypatch.setattr(survey, "BLOCK", 0.1)
    x = wave(0)
    late, never = np.zeros(len(x)), np.zeros(len(x))
    late[3500] = 0.25  # beyond the first block: the search for sound goes on
    waves = (x, np.append(x[:800], x[:799:-1]), late, never)
    _, sounds = listened(*(record(f"{n}.wav", samples) for n, samples in enumerate(waves)))
    assert sounds[0].digest == sounds[1].digest != sounds[2].digest
    assert [sound.peak for sound in sounds[2:]] == [0.25, 0.0]


def lines(*rows, labels=("a",), listen=True):
    kept, sounds, _ = survey.check_files(list(rows), listen)
    return survey.warnings(kept, list(labels), sounds)


def says(line, *words):
    """Whether a line has all these words."""
    return all(word in line for word in words)


def enough(record, labels=("a",), **values):
    return [record(f"{name}{n}.wav", wave([n, ord(name)]), [name], **values) for name in labels for n in range(5)]


def test_nothing_to_warn_of(record):
    assert lines(*enough(record, "ab"), labels="ab") == []


def test_groups_that_keep_nothing_together(record):
    clips = enough(record, "ab")
    sounds = survey.check_files(clips, True)[1]

    def found(groups, **options):
        records = [{**clip, "group": str(groups(n))} for n, clip in enumerate(clips)]
        return [line for line in survey.warnings(records, "ab", sounds, **options) if "data.group" in line]

    assert len(found(lambda n: n, by_groups=True)) == 1
    assert not found(lambda n: n // 2, by_groups=True)  # two clips of each
    assert not found(lambda n: n)  # the data set divides itself


def test_rare_classes(record):
    few = [record(f"c{n}.wav", wave(50 + n), ["c"]) for n in range(4)]
    rare, absent = lines(*enough(record, "ab"), *few, record("d.wav", wave(9), ["d"]), labels="abcde")
    assert says(rare, "2 classes", "fewer than 5 clips", ": d (1), c (4)") and says(absent, "1 classes", ": e")


def test_classes_that_a_split_lacks(record):
    train, test = enough(record, "ab", split="train"), record("t.wav", wave(99), ["a", "c"], split="test")
    more = [record(f"c{n}.wav", wave(70 + n), ["c"], split="valid") for n in range(5)]
    in_test, in_train, in_valid = lines(*train, test, *more, labels="abc")
    assert says(in_test, "1 classes", "in test,", ": b") and says(in_train, "1 classes", "in train,", ": c")
    assert says(in_valid, "2 classes", "in valid,", ": a, b")


def test_copies(record):
    rows = enough(record, "ab")
    for n, values in enumerate(({"fold": 2}, {"labels": ["b"]}, {})):
        rows.append(record(f"copy{n}.wav", wave([n, ord("a")]), **{"labels": ["a"], **values}))
    across, relabelled, copies = lines(*rows, labels="ab")
    assert says(across, "1 sounds", "both sides", ": a0.wav = copy0.wav (folds 1, 2)")
    assert says(relabelled, "1 sounds", "different labels", ": a1.wav = copy1.wav (a, b)")
    assert says(copies, "1 sounds", ": a2.wav = copy2.wav") and "labels" not in copies
    assert lines(*rows, labels="ab", listen=False) == []


def test_copies_on_both_sides_of_a_split(record):
    rows = enough(record, split="train")
    rows += [record(f"t{n}.wav", wave([n, ord("a")]), split="test") for n in range(5)]
    (line,) = lines(*rows, record("more.wav", wave([0, ord("a")]), split="valid"), labels="a")[-1:]
    assert says(line, "5 sounds", "both sides", "t0.wav = more.wav (splits test, train, valid)")
    rows += [record(f"u{n}.wav", wave(200 + n), split="train") for n in range(2)]
    rows += [record(f"v{n}.wav", wave(200 + n), split="test") for n in range(2)]
    assert lines(*rows)[0].startswith("7 sounds") and lines(*rows)[0].endswith(
        "a4.wav = t4.wav (splits test, train) and 2 more"
    )


def test_silence(record):
    rows = [record("faint.wav", wave(7, level=8e-4)), record("low.wav", wave(8, level=2e-3))]
    rows += [
        record(f"null{n}.wav", np.zeros(4000)) for n in range(2)
    ]  # copies of each other, but that is not the point
    (line,) = lines(*enough(record), *rows)
    assert says(line, "3 clips", "-60 dB", "faint.wav (-62 dB), null0.wav (", "null1.wav (")


def test_short_and_broken_clips(record, tmp_path):
    rows = [*enough(record), record("short.wav", wave(3, 0.05)), record("cut.flac", wave(4, 2.0))]
    content = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    broken, short = lines(*rows)
    assert says(broken, "1 clips", "decoded", f": {tmp_path / 'cut.flac'}: ")
    assert says(short, "1 clips", "0.1 s", ": short.wav (0.05 s)")


def test_table(record):
    rows = [*enough(record, "ab", group="g"), record("x.flac", np.zeros((4000, 2)), ["a"], rate=16000, fold=3)]
    rows.append(record("none.wav", wave(0, 3.0), []))
    kept, sounds, _ = survey.check_files(rows)
    text = survey.table(kept, ["a", "b"], sounds)
    assert [" ".join(line.split()) for line in text.splitlines()] == [
        "clips 12, 0.00 hours",
        "seconds 0.25 to 3, half of them up to 0.5",
        "rate (Hz) mixed: 8000 (11), 16000 (1)",
        "channels mixed: 1 (11), 2 (1)",
        "format mixed: flac (1), wav (11)",
        "folds 1: 11, 3: 1",
        "groups 1",
        "no label 1 clips",
        "classes 2, of 5 to 6 clips (imbalance 1.2 to 1)",
        "a 6",
        "b 5",
    ]


def test_table_of_many_classes_and_splits():
    names = [f"n{n:02d}" for n in range(61)]
    splits = ("train", "test", "valid") * 20
    rows = [
        {"id": f"{n}-{k}", "labels": [name], "split": splits[k], "seconds": 7200.0}
        for n, name in enumerate(names)
        for k in range(n)
    ]
    text = survey.table(rows, names, [survey.Sound(RATE, 1, "wav")] * len(rows))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == f"clips {len(rows)}, {2 * len(rows):.2f} hours" and lines[1:5] == [
        "seconds 7200 to 7200, half of them up to 7200", "rate (Hz) 8000", "channels 1", "format wav"
    ]  # fmt: skip
    assert lines[5] == "splits train: 630, valid: 590, test: 610"
    assert lines[6] == "classes 61, of 0 to 60 clips (some have none)"
    assert lines[7:] == [
        "n60 60",
        "n59 59",
        "n58 58",
        "n57 57",
        "n56 56",
        "...",
        "n04 4",
        "n03 3",
        "n02 2",
        "n01 1",
        "n00 0",
    ]
