"""The events of a tagging report are those of `find_events`, wherever its threshold stands (needs Chromium)."""

import json

import numpy as np
import pytest
import soundfile
from paddletag.reports.tagging_page import CLASSES, tagging_page
from paddletag.tagging.events import find_events, median_scores, smooth_scores
from prepared import call, report_data
from test_events import windows

SHOWN = "[...document.querySelectorAll('#events tbody tr')].map((line) => line.row)"
LABELS = ["dog", "rain", "bell", "sea", "wind"]


def made(folder, seed):
    """(arrays, options of `find_events`, sound) drawn by `seed`: windows that lie in the file, or are cut at its
    end; scores that are whole hundredths, as the slider's thresholds, and others; all kinds of limits.
    """
    generator = np.random.default_rng(seed)
    window, hop = [(2, 0.3), (1, 1), (1, 0.45), (3, 0.1), (0.5, 0.7)][seed % 5]
    length = 0.8 if seed == 7 else round(generator.uniform(3, 8), 3)  # once shorter than a window
    arrays = windows(length, window, hop, inside=seed % 2 == 0)
    shape = len(arrays["start"]), len(LABELS)
    scores = generator.random(shape) ** 2
    scores[:, :3] = scores[:, :3].round(2)
    scores = scores.astype(np.float32)
    if seed % 3 == 1:
        scores = smooth_scores(scores, 5) if seed % 2 else median_scores(scores, 3)
    arrays |= {"scores": scores, "labels": np.array(LABELS)}
    options = {"threshold": float(scores.max(0)[3])}  # a score that a float32 holds, and no hundredth
    if seed % 3:
        high = np.full(len(LABELS), 0.35)
        high[[1, 4]] = 0.7, float(scores[0, 4])
        low = np.where(generator.random(len(LABELS)) < 0.5, high, high * generator.choice([0, 0.4, 0.8]))
        overlap, min_gap = [(0.5, 0.31), (0.2, hop), (1, 0)][seed // 5]  # the last: events that touch
        options = {"threshold": high, "low": low, "overlap": overlap, "min_gap": min_gap}
        options["min_duration"] = float(generator.choice([0, 0.6]))
    soundfile.write(folder / "a.wav", np.zeros(round(8000 * length)), 8000)
    return arrays, options, folder / "a.wav"


def moved(options, threshold):
    """The options when the slider stands at a threshold: classes with another one than most keep it."""
    high = np.broadcast_to(options["threshold"], len(LABELS))
    low = np.broadcast_to(options.get("low", high), len(LABELS))
    common = 0.35 if "low" in options else options["threshold"]
    now = np.where(high == common, threshold, high)
    return {**options, "threshold": now, "low": np.minimum(np.where(low == high, now, low), now)}


def assert_same(shown, expected):
    shown = sorted(shown, key=lambda e: (e["onset"], e["offset"], e["label"]))
    expected = sorted(expected, key=lambda e: (e["onset"], e["offset"], e["label"]))
    for key in ("onset", "offset", "label", "peak"):
        assert [event[key] for event in shown] == [event[key] for event in expected]
    assert [event["mean"] for event in shown] == pytest.approx([event["mean"] for event in expected], abs=1e-12)


@pytest.mark.parametrize("seed", range(15))
def test_a_report_has_the_events_that_are_found(browser, tmp_path, seed):
    arrays, options, sound = made(tmp_path, seed)
    (tmp_path / "r.html").write_text(tagging_page(arrays, sound, tmp_path, **options), encoding="utf-8")
    page = browser(tmp_path / "r.html")
    assert_same(page.evaluate(SHOWN), find_events(arrays, **options))
    counts = set()
    for threshold in [0.01, 0.02, *np.arange(5, 98, 4) / 100, 0.99]:
        page.locator("#threshold").fill(f"{threshold:.2f}")
        expected = find_events(arrays, **moved(options, float(f"{threshold:.2f}")))
        assert_same(page.evaluate(SHOWN), expected)
        counts.add(len(expected))
    assert len(counts) > 3 or len(arrays["start"]) < 3
    assert page.faults == []
    page.close()


def test_the_report_of_stage_5_has_the_events_that_it_writes(browser, tmp_path):
    arrays, _, sound = made(tmp_path, 12)
    np.savez(tmp_path / "a.npz", **arrays, time=arrays["start"] / arrays["end"].max())
    words = ["--threshold", 0.4, "rain=0.6", "sea=0.04", "--low_threshold", 0.3, "sea=0.02", "--min_gap", 0.4]
    words += ["--min_duration", 0.5, "--overlap", 0.4, "--smooth", "True", "--smooth_size", 2]
    words += ["--classes", "*i*", "*e*", "dog"]
    common = ["--tagging_file", tmp_path / "a.npz", "--audio", sound, "--output_dir", tmp_path, "--report", *words]
    call("parse_result", *common, "--format", "jsonl")
    written = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    page = browser(tmp_path / "a.html")
    shown = [
        {key: round(value, 4) if isinstance(value, float) else value for key, value in event.items()}
        for event in page.evaluate(SHOWN)
    ]
    assert len(written) > 3
    assert_same(shown, written)
    assert all(part in page.locator("#rules").text_content() for part in ("2 classes", "lower", "0.4 s", "0.5 s"))
    (tmp_path / "a.html").unlink()
    call("parse_result", *common)  # the report alone needs the same options
    again = report_data(tmp_path / "a.html")
    assert again["threshold"] == 0.4 and sorted(filter(None, again["own"])) == [0.04, 0.6]


def test_a_class_that_reaches_its_own_threshold_has_a_lane(tmp_path):
    """Though many others score higher; and those that can be moved alone say what is left out."""
    count = CLASSES + 3
    scores = np.linspace(0.9, 0.1, count, dtype=np.float32)[None].repeat(2, 0)
    arrays = {**windows(2, 1, 1), "scores": scores, "labels": np.arange(count).astype(str)}
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 8000)
    high = np.full(count, 0.95)
    high[-1], high[-3] = 0.1, 0.99
    page = tagging_page(arrays, tmp_path / "a.wav", tmp_path, high, min_gap=1e300)  # longer than any sound
    (tmp_path / "r.html").write_text(page)
    data = report_data(tmp_path / "r.html")
    assert data["labels"] == [*map(str, range(CLASSES)), str(count - 1)] and data["own"][-1] == 0.1
    assert data["left_out_peak"] == scores[0, -2] and data["times"]["min_gap"] > 1e300
