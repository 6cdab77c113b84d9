"""What `paddletag tag` prints of a sound: its events, the labels of a short one, or the labels of each window."""

import json
from collections.abc import Sequence

import numpy as np

from paddletag.runtime import escaped
from paddletag.tagging.events import EventRow
from paddletag.tagging.labels import UNKNOWN, top_k
from paddletag.type_aliases import Arrays, File

SHORTEST = 5  # lines of events, however low a terminal is


def event_lines(events: Sequence[EventRow], lines: int | None = None) -> list[str]:
    """Start, end, label and peak of the events, one a line, in columns.

    lines: how many a terminal has; if the events are more, the strongest are shown, in the order of time, and one line
    more says how many there are. None: all are shown.
    """
    shown = list(events)
    most = len(shown) if lines is None else max(SHORTEST, lines - 3)
    if len(shown) > most:
        strongest = sorted(range(len(events)), key=lambda k: -events[k]["peak"])[:most]
        shown = [events[k] for k in sorted(strongest)]
    labels = [escaped(event["label"]) for event in shown]
    width = max(map(len, labels), default=0)
    text = [
        f"{event['onset']:8.2f} s {event['offset']:8.2f} s  {label:<{width}}  {event['peak']:.3f}"
        for event, label in zip(shown, labels, strict=True)
    ]
    if more := len(events) - len(shown):
        word = "event" if more == 1 else "events"
        text.append(f"and {more} weaker {word}: --format csv prints all of them, --report makes a page of them")
    return text


def label_lines(arrays: Arrays, k: int, threshold: np.ndarray | None, known: np.ndarray | None) -> list[str]:
    """The `k` highest labels of a sound that is one window, with their scores, one a line, in columns.

    threshold [C]: what the user asks for; lower labels are left out. known [C]: what the model was calibrated to, if it
    was. UNKNOWN if no label reaches `threshold`, or without one `known`.
    """
    scores, labels = arrays["scores"][0], arrays["labels"]
    limits = known if threshold is None else threshold
    if limits is not None and not (scores >= limits.astype(np.float32)).any():
        return [UNKNOWN]
    if threshold is not None:
        reached = scores >= threshold.astype(np.float32)
        scores, labels = scores[reached], labels[reached]
    best = [(escaped(label), score) for label, score in top_k(scores, labels, k)]
    width = max(len(label) for label, _ in best)
    return [f"{label:<{width}}  {score:.3f}" for label, score in best]


def window_lines(arrays: Arrays, k: int, with_times: bool) -> list[str]:
    """The `k` highest labels of each window: `label score` lines, with_times below a line of its start and end."""
    lines = []
    for start, end, best in _windows(arrays, k):
        lines += [f"{start:.2f} s to {end:.2f} s:"] if with_times else []
        lines += [f"{label} {score:.4f}" for label, score in best]
    return lines


def window_json(path: File, arrays: Arrays, k: int) -> list[str]:
    """The same as JSON Lines, one per window."""
    return [
        json.dumps({"file": str(path), "start": start, "end": end, "tags": dict(best)})
        for start, end, best in _windows(arrays, k)
    ]


def _windows(arrays: Arrays, k: int) -> list[tuple[float, float, list[tuple[str, float]]]]:
    """[(start, end, [(label, score)] of the k highest)] of the windows, rounded."""
    return [
        (
            round(float(start), 3),
            round(float(end), 3),
            [(x, round(s, 4)) for x, s in top_k(scores, arrays["labels"], k)],
        )
        for start, end, scores in zip(arrays["start"], arrays["end"], arrays["scores"], strict=True)
    ]
