"""Tagging results as text and as events: against PaddleAudio's bytes, scipy and hand computation; damaged files."""

import csv
import json
import shutil

import numpy as np
import pytest
import yaml
from paddletag import runtime
from paddletag.tagging import result_files, result_formats
from paddletag.tagging.events import active_windows, find_events, median_scores, smooth_scores, window_spans
from paddletag.tagging.labels import choose_labels, label_thresholds, top_k
from prepared import call, refusal
from scipy import signal

SCORES = np.array([[0.1, 0.7, 0.2], [0.25, 0.25, 0.5]], np.float32)
ARRAYS = {"time": np.array([0.0, 1 / 3]), "scores": SCORES, "labels": np.array(["Dog", "Speech", "Bell, ringing"])}
TEXT = """0.0
Speech: 0.699999988079071
Bell, ringing: 0.20000000298023224

0.3333333333333333
Bell, ringing: 0.5
Dog: 0.25

"""

# Seven windows, and the text that PaddleAudio's own script writes for them with --top_k 2 --smooth_size 3.
OLD_SCORES = [[90, 5, 30], [80, 10, 35], [10, 60, 20], [5, 70, 15], [2, 90, 10], [1, 85, 5], [30, 30, 90]]
OLD = {"time": np.arange(0, 1, 0.15), "scores": np.array(OLD_SCORES, np.float32) / 100}
OLD_LABELS = "Speech\nMale speech, man speaking\nTelephone\n"
OLD_TEXT = """0.0
Speech: 0.8999999761581421
Telephone: 0.30000001192092896

0.15
Speech: 0.8500000238418579
Telephone: 0.32499998807907104

0.3
Speech: 0.6000000238418579
Telephone: 0.28333333134651184

0.44999999999999996
Male speech, man speaking: 0.46666669845581055
Speech: 0.31666669249534607

0.6
Male speech, man speaking: 0.7333332896232605
Telephone: 0.15000000596046448

0.75
Male speech, man speaking: 0.8166666030883789
Telephone: 0.10000000149011612

0.8999999999999999
Male speech, man speaking: 0.6833333373069763
Telephone: 0.3499999940395355

"""


@pytest.fixture
def result(tmp_path):
    np.savez(tmp_path / "scene.npz", **ARRAYS)
    return tmp_path / "scene.npz"


def refused(path):
    with pytest.raises(runtime.UserError) as caught:
        result_files.read_result(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_text_is_paddleaudios_format(result):
    assert result_formats.scores_text(result_files.read_result(result), 2) == TEXT


def test_top_k_is_in_order_and_no_longer_than_the_labels():
    found = top_k(np.array([0.2, 0.9, 0.2, 0.5], np.float32), ["a", "b", "c", "d"], 9)
    assert [label for label, _ in found] == ["b", "d", "a", "c"]
    assert [score for _, score in found] == pytest.approx([0.9, 0.5, 0.2, 0.2])
    assert len(top_k(SCORES[0], ARRAYS["labels"], 1)) == 1


def test_missing_and_not_a_result(tmp_path):
    refused(tmp_path / "none.npz")
    refused(tmp_path)
    for name, data in {"empty": b"", "text": b"0.0\nSpeech: 0.7\n", "zip": b"PK\x03\x04" + b"x" * 90}.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name)
    np.save(tmp_path / "one.npy", SCORES)
    refused(tmp_path / "one.npy")


@pytest.mark.parametrize("key", ARRAYS)
def test_arrays_that_lack_or_do_not_fit(tmp_path, key):
    path = tmp_path / "odd.npz"
    np.savez(path, **{k: v for k, v in ARRAYS.items() if k != key})
    assert key in refused(path)
    for wrong in (ARRAYS[key][:1], np.array(1.0)):
        np.savez(path, **{**ARRAYS, key: wrong})
        refused(path)


@pytest.mark.parametrize("key", ["scores", "time"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(tmp_path, key, value):
    wrong = np.array(ARRAYS[key], float)
    wrong.flat[0] = value
    np.savez(tmp_path / "wrong.npz", **{**ARRAYS, key: wrong})
    refused(tmp_path / "wrong.npz")


def test_a_pickle_is_refused(tmp_path):
    path = tmp_path / "trap.npz"
    np.savez(path, **{**ARRAYS, "labels": np.array(["Dog", None, {}], object)}, allow_pickle=True)
    refused(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_damage_is_one_line_or_harmless(tmp_path, save):
    path = tmp_path / "damaged.npz"
    save(path, **ARRAYS)
    whole = path.read_bytes()
    refusals = 0
    for position in range(0, len(whole), 5):
        for data in (whole[:position], whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :]):
            path.write_bytes(data)
            try:
                assert result_files.read_result(path)["scores"].shape[0] == 2
            except runtime.UserError as error:
                refusals += 1
                assert str(path) in str(error)
    assert refusals > len(whole) / 10


def windows(length, window, hop, inside=False):
    """start, end of windows over `length` seconds: one every hop, the last ones cut at the end.

    inside: as many as lie within the file, and one that ends with it, less than a hop after the one before.
    """
    start = np.arange(0, length, hop)
    if inside:
        start = np.append(start[start + window < length - 1e-9], max(0, length - window))
    return {"start": start, "end": np.minimum(start + window, length)}


def seconds(*columns, labels="ABC"):
    """A result of windows of one second side by side, so that an event's times can be read off its windows."""
    scores = np.array(columns, np.float32).T
    return {**windows(len(scores), 1, 1), "scores": scores, "labels": np.array(list(labels[: len(columns)]))}


def times(events):
    return [(event["onset"], event["offset"]) for event in events]


def test_an_impulse_through_the_mean_is_a_fifth_on_five_windows():
    impulse = np.zeros((12, 2), np.float32)
    impulse[5, 0] = impulse[0, 1] = 1
    smooth = smooth_scores(impulse, 5)
    assert smooth.dtype == np.float32
    np.testing.assert_allclose(smooth[:, 0], [0] * 5 + [0.2] * 5 + [0] * 2, rtol=1e-6)
    # At the start the mean is over as many windows as there are.
    np.testing.assert_allclose(smooth[:, 1], [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5] + [0] * 7, rtol=1e-6)
    np.testing.assert_array_equal(impulse.sum(0), [1, 1])  # the scores are left as they were
    np.testing.assert_array_equal(smooth_scores(impulse, 1), impulse)
    np.testing.assert_allclose(smooth_scores(impulse, 99)[-1], [1 / 12] * 2, rtol=1e-6)


@pytest.mark.parametrize("size", [3, 5, 9])
def test_median_is_scipys(size):
    scores = np.random.default_rng(0).random((40, 3)).astype(np.float32)
    median = median_scores(scores, size)
    for k in range(3):  # medfilt pads with zeros, so its ends differ
        inner = slice(size // 2, -(size // 2))
        np.testing.assert_array_equal(median[inner, k], signal.medfilt(scores[:, k], size)[inner])
    mirrored = np.concatenate([scores[: size // 2][::-1], scores[: size // 2 + 1]])
    np.testing.assert_array_equal(median[0], np.sort(mirrored, axis=0)[size // 2])


def test_events_by_hand():
    arrays = seconds([0.1, 0.7, 0.5, 0.2, 0.9, 0.6], [0.8, 0.1, 0.1, 0.1, 0.1, 0.1])
    found = find_events(arrays, 0.5)
    assert times(found) == [(0, 1), (1, 3), (4, 6)] and [event["label"] for event in found] == ["B", "A", "A"]
    assert [event["peak"] for event in found] == pytest.approx([0.8, 0.7, 0.9])
    assert [event["mean"] for event in found] == pytest.approx([0.8, 0.6, 0.75])
    assert times(find_events(arrays, 0.7)) == [(0, 1), (1, 2), (4, 5)]  # a score at the threshold is enough
    assert times(find_events(arrays, np.array([0.5, 0.9]))) == [(1, 3), (4, 6)]
    assert times(find_events(arrays, 0.5, classes=["B"])) == [(0, 1)]
    assert find_events(arrays, 0.95) == []
    assert find_events({key: value[:0] if key != "labels" else value for key, value in arrays.items()}) == []


def test_an_event_starts_at_the_threshold_and_lasts_while_not_below_the_lower_one():
    arrays = seconds([0.4, 0.4, 0.8, 0.4, 0.8, 0.3, 0.1, 0.4, 0.4])
    assert times(find_events(arrays, 0.5)) == [(2, 3), (4, 5)]
    assert times(find_events(arrays, 0.5, low=0.3)) == [(2, 6)]
    assert times(find_events(arrays, 0.5, low=0.35)) == [(2, 5)]
    assert times(find_events(arrays, 0.5, low=0.0)) == [(2, 9)]


def test_near_events_become_one_before_short_ones_go():
    arrays = seconds([0.9, 0.1, 0.9, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.9])
    assert times(find_events(arrays, 0.5, min_gap=1.5)) == [(0, 3), (5, 6), (9, 10)]
    assert times(find_events(arrays, 0.5, min_gap=2)) == [(0, 3), (5, 6), (9, 10)]  # two seconds are not less than 2
    assert times(find_events(arrays, 0.5, min_gap=2.5)) == [(0, 6), (9, 10)]
    assert times(find_events(arrays, 0.5, min_duration=1)) == [(0, 1), (2, 3), (5, 6), (9, 10)]
    assert times(find_events(arrays, 0.5, min_duration=1.5)) == []
    assert times(find_events(arrays, 0.5, min_gap=1.5, min_duration=1.5)) == [(0, 3)]
    (first, _) = find_events(arrays, 0.5, min_gap=2.5)
    assert first["mean"] == pytest.approx((3 * 0.9 + 3 * 0.1) / 6)
    two = seconds([0.9, 0.1, 0.1], [0.1, 0.1, 0.9])
    assert len(find_events(two, 0.5, min_gap=99)) == 2  # of two classes


def test_a_gap_of_the_limit_is_no_matter_of_rounding():
    arrays = {**windows(3, 0.3, 0.3), "labels": np.array(["A"])}
    arrays["scores"] = np.array([[1, 1, 1, 0, 1, 1, 1, 1, 1, 1]], np.float32).T
    assert len(find_events(arrays, 0.5, min_gap=0.3)) == 2 and len(find_events(arrays, 0.5, min_gap=0.31)) == 1


SOUNDS = {"Dog": (1.37, 4.12), "Speech": (3.05, 9.61), "Bell": (8.2, 12.75)}  # the last one until the end


def scene(heard, sounds=SOUNDS, length=12.75, window=2.0, hop=0.3, inside=False):
    """Scores that rise with the part of a window that a sound fills, up to 1 where it fills twice `heard` of it."""
    arrays = windows(length, window, hop, inside)
    fill = [
        np.clip(np.minimum(arrays["start"] + window, b) - np.maximum(arrays["start"], a), 0, None) / window
        for a, b in sounds.values()
    ]
    return {
        **arrays,
        "scores": np.minimum(np.array(fill, np.float32).T / (2 * heard), 1),
        "labels": np.array([*sounds]),
    }


@pytest.mark.parametrize("inside", [False, True])
def test_onset_and_offset_of_three_sounds_are_within_a_hop_of_the_truth(inside):
    found = {event["label"]: event for event in find_events(scene(0.5, inside=inside), 0.5)}
    assert list(found) == ["Dog", "Speech", "Bell"]
    for label, truth in SOUNDS.items():
        assert (found[label]["onset"], found[label]["offset"]) == pytest.approx(truth, abs=0.16)
        assert found[label]["peak"] == pytest.approx(1, abs=0.01)
    assert found["Bell"]["offset"] == 12.75


@pytest.mark.parametrize("heard", [0.25, 0.4, 0.5])
def test_any_sound_is_within_a_hop_for_what_a_window_must_hold_of_it(heard):
    generator = np.random.default_rng(1)
    for n in range(50):
        begin = generator.uniform(2, 5)  # sooner, the first window might hear it
        truth = begin, begin + generator.uniform(1.7, 4)
        length = truth[1] + 2 + 0.1 * generator.random() if n % 2 else 12.75  # the last window ends where it will
        (found,) = find_events(scene(heard, {"Dog": truth}, length, inside=bool(n % 2)), 0.5, overlap=heard)
        assert (found["onset"], found["offset"]) == pytest.approx(truth, abs=0.16)


@pytest.mark.parametrize(
    "length, window, hop",
    [(12.7, 2, 0.3), (7, 2, 0.3), (5, 1, 1), (4.99, 1, 0.5), (2.01, 2, 0.3), (2, 2, 1), (0.7, 2, 1)],
)
def test_a_window_speaks_for_what_is_nearest_to_its_centre(length, window, hop):
    """Up to the ends of the file, and with a last window less than a hop after the one before."""
    arrays = windows(length, window, hop, inside=True)
    first, last = window_spans(arrays["start"], arrays["end"])
    assert first[0] == 0 and last[-1] == length and np.array_equal(first[1:], last[:-1])
    moments = np.linspace(0, length, 499)[:-1] + 1e-4
    centres = (arrays["start"] + arrays["end"]) / 2
    nearest = np.abs(moments[:, None] - centres).argmin(1)
    assert np.array_equal(np.searchsorted(last, moments), nearest)


@pytest.mark.parametrize("inside", [False, True])
def test_an_event_keeps_a_hop_however_few_windows_there_are(inside):
    """Where a tenth of a window makes a sound heard, an event of the first two windows ends sooner."""
    arrays = windows(2.4, 2, 0.3, inside)  # inside: three windows, the last one 0.1 s after the second
    scores = (np.arange(len(arrays["start"])) < 2)[:, None]
    arrays |= {"scores": scores.astype(np.float32), "labels": np.array(["A"])}
    (whole,), (part,) = (find_events(arrays, 0.5, overlap=overlap) for overlap in (0.5, 0.1))
    assert whole["offset"] == pytest.approx(1.35 if inside else 1.45)
    assert part["offset"] == pytest.approx(whole["offset"] - (whole["offset"] - 0.3) / 2, abs=1e-6)


def test_a_class_is_heard_from_the_threshold_until_below_the_lower_one():
    generator = np.random.default_rng(0)
    scores = generator.random((200, 6)).round(1).astype(np.float32)
    high, low = np.array([0.7, 0.9, 0.5, 0.7, 0.0, 1.0]), np.array([0.3, 0.9, 0.1, 0.7, 0.0, 0.0])
    expected, now = [], np.array([False, True, False, True, False, True])
    before = now
    for row in scores:
        now = np.where(now, row >= low.astype(np.float32), row >= high.astype(np.float32))
        expected.append(now)
    np.testing.assert_array_equal(active_windows(scores, high, low, before), expected)
    np.testing.assert_array_equal(active_windows(scores[:, 0], 0.7, 0.3), np.array(expected)[:, 0])
    parts = [active_windows(scores[:90], high, low, before)]  # in parts, as it is heard live
    parts.append(active_windows(scores[90:], high, low, parts[0][-1]))
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_a_sound_of_the_whole_file_lasts_from_its_start_to_its_end():
    assert times(find_events(scene(0.5, {"Rain": (-9, 99)}), 0.5)) == [(0, 12.75)]
    whole = {"start": np.zeros(1), "end": np.array([5.25]), "scores": np.ones((1, 1)), "labels": np.array(["Rain"])}
    for overlap in (0.1, 0.5, 1):
        assert times(find_events(whole, 0.5, overlap=overlap)) == [(0, 5.25)]


@pytest.mark.parametrize("overlap", [0.1, 0.5, 1])
def test_any_event_has_a_length_lies_in_the_file_and_overlaps_none_of_its_class(overlap):
    generator = np.random.default_rng(2)
    arrays = windows(10.1, 2, 0.3)
    arrays |= {"labels": np.array(["A", "B"]), "scores": generator.random((len(arrays["start"]), 2), np.float32)}
    found = find_events(arrays, 0.8, overlap=overlap)
    assert found == sorted(found, key=lambda event: event["onset"]) and len(found) >= 2
    for label in "AB":
        mine = [event for event in found if event["label"] == label]
        assert all(0 <= event["onset"] < event["offset"] <= 10.1 for event in mine)
        assert all(one["offset"] < two["onset"] for one, two in zip(mine, mine[1:], strict=False))
    last = np.zeros_like(arrays["scores"])
    last[-1, 0] = 1  # heard only where a window is mostly padding
    (event,) = find_events({**arrays, "scores": last}, 0.5, overlap=overlap)
    assert arrays["start"][-1] - 1 < event["onset"] < event["offset"] == 10.1


def test_labels_by_name_and_by_glob():
    labels = ["Speech", "Male speech, man", "Dog", "[x]", "x"]
    assert choose_labels(labels, ["Dog", "Speech"]).tolist() == [0, 2]
    assert choose_labels(labels, ["*peech*"]).tolist() == [0, 1]
    assert choose_labels(labels, ["[x]"]).tolist() == [3]  # a name before a glob
    assert choose_labels(labels, ["dog", "SPEECH"]).tolist() == [0, 2]
    assert choose_labels(labels, ["*SPEECH*"]).tolist() == [0, 1]
    assert choose_labels(["cat", "Cat"], ["Cat"]).tolist() == [1]  # capitals count where they tell two names apart
    assert choose_labels(["cat", "Cat"], ["C*"]).tolist() == [1]
    assert choose_labels(labels, None).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(runtime.UserError, match="speach.*Speech"):
        choose_labels(labels, ["speach"])
    with pytest.raises(runtime.UserError, match="cat"):
        choose_labels(labels, ["*cat*"])


def test_thresholds_from_words_and_files(tmp_path):
    labels = ["Speech", "Male speech, man", "Dog", "a=b"]
    assert label_thresholds([], labels).tolist() == [0.3] * 4
    words = ["Male speech, man=0.6", "0.5", "a=b=0.1"]
    assert label_thresholds(words, labels).tolist() == [0.5, 0.6, 0.5, 0.1]
    assert label_thresholds(["*peech*=0.2", "Speech=0.4"], labels).tolist() == [0.4, 0.2, 0.3, 0.3]
    values = {"Male speech, man": 0.7, "Dog": 1}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(values))
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([("label", "threshold"), *values.items()])
    for name in ("t.yaml", "t.csv"):
        assert label_thresholds(["0.5", str(tmp_path / name)], labels).tolist() == [0.5, 0.7, 1, 0.5]


# Forty lists of twice the list before: 2 ** 40 numbers, if one wrote them down.
ALIASES = b"x0: &x0 [1]\n" + b"".join(b"x%d: &x%d [*x%d, *x%d]\n" % (n + 1, n + 1, n, n) for n in range(40))


@pytest.mark.parametrize(
    "word, content, message",
    [
        ("high", None, "threshold high: "),
        ("1.5", None, "threshold 1.5: "),
        ("nan", None, "threshold nan: "),
        ("Cat=0.5", None, "Cat: "),
        ("Dog=high", None, "threshold Dog=high: "),
        ("t.yaml", None, "t.yaml: no such file"),
        ("t.yaml", b"Dog: [", "t.yaml: not a YAML file"),
        ("t.yaml", b"- Dog", "t.yaml: must hold"),
        ("t.yaml", b"Dog: high", "t.yaml: Dog, high: "),
        ("t.yaml", b"\xff\xfe", "t.yaml: not a text file"),
        ("t.yaml", b"Dog: " + b"[" * 9999, "t.yaml: not a YAML file"),
        ("t.yaml", ALIASES, "t.yaml: x0,: "),
        ("t.csv", b"Dog", "t.csv: Dog: "),
    ],
)
def test_wrong_thresholds(tmp_path, monkeypatch, word, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / word).write_bytes(content)
    with pytest.raises(runtime.UserError) as caught:
        label_thresholds([word], ["Speech", "Dog"])
    assert message in str(caught.value) and "\n" not in str(caught.value)


ODD = ['He said "hi", twice', "two\nlines\tand a tab", "\r", "=1+1"]


def test_odd_labels_survive_every_format():
    rows = [{"onset": i + 0.123456, "offset": i + 1.0, "label": ODD[i], "peak": 0.98765, "mean": 0.5} for i in range(4)]
    text = result_formats.events_csv(rows).splitlines(keepends=True)
    assert text[0] == '"onset","offset","label","peak","mean"\n'
    table = list(csv.DictReader(text))
    assert [row["label"] for row in table] == ODD
    assert [float(row["onset"]) for row in table] == [0.1235, 1.1235, 2.1235, 3.1235]
    found = [json.loads(line) for line in result_formats.events_jsonl(rows).split("\n")[:-1]]
    assert [row["label"] for row in found] == ODD and found[0]["peak"] == 0.9877
    track = result_formats.events_audacity(rows).split("\n")[:-1]
    assert [line.split("\t") for line in track[:2]] == [
        ["0.123456", "1.000000", 'He said "hi", twice'],
        ["1.123456", "2.000000", "two lines and a tab"],
    ]
    assert all(line.count("\t") == 2 for line in track) and len(track) == 4


def test_script_writes_paddleaudios_bytes_from_its_result(tmp_path):
    np.savez(tmp_path / "audioset_tagging_sr_44100.npz", **OLD)
    (tmp_path / "labels.txt").write_text(OLD_LABELS)
    words = ["--tagging_file", tmp_path / "audioset_tagging_sr_44100.npz", "--top_k", 2, "--smooth", "True"]
    words += ["--smooth_size", 3, "--label_file", tmp_path / "labels.txt", "--output_dir", tmp_path / "out"]
    call("parse_result", *words)
    assert (tmp_path / "out" / "audioset_tagging_sr_44100.txt").read_bytes() == OLD_TEXT.encode()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["audioset_tagging_sr_44100.txt"]


def test_a_time_too_many_as_paddleaudio_wrote_it(tmp_path):
    time = np.arange(0, 1, 1600 / 78400)
    assert len(time) == 50  # though 78400 samples hold 49 hops of 1600
    np.savez(tmp_path / "old.npz", time=time, scores=np.ones((49, 3), np.float32), labels=["a", "b", "c"])
    assert len(result_files.read_result(tmp_path / "old.npz")["time"]) == 49


def test_labels_from_a_file(tmp_path):
    path, labels = tmp_path / "old.npz", tmp_path / "labels.txt"
    np.savez(path, **OLD)
    assert "--label_file" in refused(path)
    for content, count in (("", 0), ("Dog\nCat\n", 2), (OLD_LABELS + "Cat\n", 4)):
        labels.write_text(content)
        with pytest.raises(runtime.UserError, match=f"labels.txt.* {count} .*old.npz.* 3 "):
            result_files.read_result(path, labels)
    labels.write_bytes(b"\xef\xbb\xbf" + OLD_LABELS.replace("\n", "\r\n").encode())
    assert result_files.read_result(path, labels)["labels"].tolist() == OLD_LABELS.splitlines()
    with pytest.raises(runtime.UserError, match="none.txt"):
        result_files.read_result(path, tmp_path / "none.txt")


def test_script_writes_a_text_for_each_result(tmp_path, result, capsys):
    np.savez(tmp_path / "other.npz", **ARRAYS)
    call(
        *("parse_result", "--tagging-file", tmp_path, "--top-k", 2, "--smooth", "false"),
        *("--output_dir", tmp_path / "out"),
    )
    texts = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert texts == {"scene.txt": TEXT, "other.txt": TEXT}
    assert "0.475  Speech" in capsys.readouterr().out  # the mean over the windows
    call("parse_result", "--tagging_file", result, "--top_k", 2, "--output_dir", tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["scene.txt"]
    assert "Speech: 0.4749999940395355" in (tmp_path / "one" / "scene.txt").read_text()  # smoothed unless told not to


def test_script_finds_results_in_folders_of_folders(tmp_path, result):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.b.npz", "deep/a.b.npz"):
        shutil.copy(result, tmp_path / "in" / name)
    call("parse_result", "--tagging_file", tmp_path / "in", "--output_dir", tmp_path / "out")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.txt"))
    assert found == ["a.b.txt", "deep/a.b.txt"]


def test_script_writes_events(tmp_path):
    arrays = scene(0.5)
    arrays["scores"] = arrays["scores"] * np.array([0.8, 1, 1], np.float32)
    np.savez(tmp_path / "mix.npz", **arrays, time=arrays["start"] / 12.75)
    common = ["parse_result", "--tagging_file", tmp_path / "mix.npz", "--output_dir", tmp_path / "out"]
    call(*common, "--format", "csv", "jsonl", "audacity", "text", "--threshold", 0.5, "--time", "seconds")
    files = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert sorted(files) == ["mix.audacity.txt", "mix.csv", "mix.jsonl", "mix.txt"]
    expected = find_events(arrays, 0.5)
    assert files["mix.csv"] == result_formats.events_csv(expected) and len(expected) == 3
    assert files["mix.jsonl"] == result_formats.events_jsonl(expected)
    assert files["mix.audacity.txt"] == result_formats.events_audacity(expected)
    assert files["mix.txt"].split("\n\n")[1].startswith("0.3\nDog: ")

    def labels(*options):
        call(*common, "--format", "jsonl", *options)
        return [json.loads(line)["label"] for line in (tmp_path / "out" / "mix.jsonl").read_text().splitlines()]

    assert labels("--classes", "B*", "--classes", "Dog", "--threshold", "0.5", "Speech=0.9") == ["Dog", "Bell"]
    assert labels("--min_duration", 3, "--threshold", 0.5) == ["Speech", "Bell"]
    assert labels("--threshold", 0.5, "--threshold", "Speech=0.9", "--threshold", "Dog=0.9") == ["Speech", "Bell"]
    assert labels("--threshold", 0.9, "Dog=0.5", "--low_threshold", 0.1) == ["Dog", "Speech", "Bell"]


def test_smoothing_and_median_of_events_are_asked_for(tmp_path):
    blips = seconds([0, 0, 1, 0, 0, 1, 1, 1, 0, 0])
    np.savez(tmp_path / "blips.npz", **blips, time=blips["start"] / 10)

    def found(*options):
        words = ["--tagging_file", tmp_path / "blips.npz", "--output_dir", tmp_path, "--format", "jsonl", *options]
        call("parse_result", *words, "--threshold", 0.5)
        return times([json.loads(line) for line in (tmp_path / "blips.jsonl").read_text().splitlines()])

    assert found() == [(2, 3), (5, 8)]
    assert found("--median", 3) == [(5, 8)]
    assert found("--smooth", "True", "--smooth_size", 3) == [(6, 9)]  # means of 2/3, 1 and 2/3, a window late
    assert found("--min_gap", 2.5) == [(2, 8)]


@pytest.mark.parametrize(
    "options, message",
    [
        ("--top_k 0", "--top_k 0"),
        ("--smooth_size 0", "--smooth_size 0: "),
        ("--median 4", "--median 4: "),
        ("--median -1", "--median -1"),
        ("--min_gap -1 --format csv", "--min_gap -1.0: "),
        ("--min_duration nan --format csv", "--min_duration nan"),
        ("--overlap 0 --format csv", "--overlap 0.0"),
        ("--threshold 0.5", "--threshold: "),
        ("--min_gap 1 --format text", "--min_gap: "),
        ("--format csv --threshold 0.2 --low_threshold 0.4", "--low_threshold 0.4: "),
        ("--format csv --threshold speach=0.2", "speach: "),
        ("--classes Belt*", "Belt*: "),
        ("--format csv", "scene.npz: "),
        ("--time seconds", "scene.npz: "),
    ],
)
def test_script_refuses_wrong_options(tmp_path, result, options, message):
    if message != "scene.npz: ":
        np.savez(result, **ARRAYS, start=np.zeros(2), end=np.ones(2))
    words = ["--tagging_file", result, "--output_dir", tmp_path / "out", *options.split()]
    assert message in refusal("parse_result", *words)
    assert not (tmp_path / "out").exists()


def test_script_refuses(tmp_path):
    assert "stage 4" in refusal("parse_result", "--tagging_file", tmp_path)
    assert "stage 4" in refusal("parse_result", "--tagging_file", tmp_path / "none.npz")
