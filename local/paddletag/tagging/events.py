"""What sounds when: events with onset and offset from the scores of windows, which may be smoothed before."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from paddletag.tagging.labels import THRESHOLD, choose_labels
from paddletag.type_aliases import Arrays

EventRow = dict[str, Any]  # onset, offset (s), label, peak, mean


def smooth_scores(scores: np.ndarray, size: int) -> np.ndarray:
    """The mean of the last `size` windows (of as many as there are, at the start): [N, C] -> [N, C].

    It looks back only, so what it shows comes (size - 1) / 2 windows late. The rows are added in their order and type,
    so that the result has the bits of PaddleAudio's.
    """
    size = min(size, len(scores))
    if size <= 1:
        return scores
    counts = np.arange(1, size, dtype=scores.dtype)[:, None]
    first = np.cumsum(scores[: size - 1], axis=0, dtype=scores.dtype) / counts
    rest = scores[: len(scores) - size + 1].copy()
    for back in range(1, size):
        rest += scores[back : len(scores) - size + 1 + back]
    rest /= size
    return np.concatenate([first, rest])


def median_scores(scores: np.ndarray, size: int) -> np.ndarray:
    """The median over `size` windows (odd) around each one, class by class, mirrored at the ends: [N, C] -> [N, C]."""
    from scipy.ndimage import median_filter

    if size == 1:
        return scores
    result = np.empty_like(scores)
    for k in range(scores.shape[1]):
        result[:, k] = median_filter(scores[:, k], size)
    return result


def find_events(
    arrays: Arrays,
    threshold: float | np.ndarray = THRESHOLD,
    low: float | np.ndarray | None = None,
    min_duration: float = 0.0,
    min_gap: float = 0.0,
    classes: Iterable[str] | None = None,
    overlap: float = 0.5,
) -> list[EventRow]:
    """What sounds when: [{onset, offset (s), label, peak, mean (of the scores of its windows)}], by onset.

    arrays: scores [N, C], labels [C], and start and end [N] of the windows in seconds, as tagging gives them.

    An event of a class starts with a window that scores at least `threshold` and lasts while windows score at least
    `low` (None: the threshold); either is a number or an array [C]. Events of a class less than `min_gap` seconds
    apart become one, then those shorter than `min_duration` seconds go. `classes`: names or globs, None for all.

    Windows are longer than the hop, so from the start of the first window to the end of the last an event would seem
    up to twice a window too long. What fills at least half a window is heard from when its onset meets a window's
    centre until its offset does: a window therefore speaks for half a hop on either side of its centre, and an event
    is exact to half a hop. `overlap` is that half, for models that a sound must fill less or more of a window for to
    reach the threshold: onset and offset move by (0.5 - overlap) windows, later and earlier. An event in the first
    window begins with it, and one in the last ends with the file: nothing tells where else it would.

    The page of a tagging report computes the same again when its threshold moves (`eventsOf` in tagging.js).
    """
    columns, scores = choose_labels(arrays["labels"], classes), np.asarray(arrays["scores"], np.float32)
    if not len(scores):
        return []
    high = np.broadcast_to(np.asarray(threshold, np.float32), scores.shape[1])
    low = high if low is None else np.broadcast_to(np.asarray(low, np.float32), scores.shape[1])
    timing = event_timing(arrays["start"], arrays["end"], min_duration, min_gap, overlap)
    events = []
    for k in columns[(scores[:, columns] >= high[columns]).any(0)]:
        column = np.ascontiguousarray(scores[:, k])
        steps = np.diff(active_windows(column, high[k], low[k]).astype(np.int8), prepend=0, append=0)
        runs = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1) - 1
        for first, last, onset, offset in _event_spans(*runs, timing):
            values = column[first : last + 1]
            event = {"onset": float(onset / 1e6), "offset": float(offset / 1e6), "label": str(arrays["labels"][k])}
            events.append({**event, "peak": float(values.max()), "mean": float(values.mean(dtype=float))})
    return sorted(events, key=lambda event: (event["onset"], event["offset"]))


def active_windows(
    scores: np.ndarray,
    threshold: float | np.ndarray,
    low: float | np.ndarray,
    before: bool | np.ndarray = False,
) -> np.ndarray:
    """Whether a class is active in each window: scores [N, ...] -> bool [N, ...].

    It is from a window that scores at least `threshold` until one that scores less than `low`. before [...]: whether it
    was active in the window before the first. All are compared in float32, in which scores are kept: 0.7 reaches 0.7.
    """
    scores, threshold, low = (np.asarray(values, np.float32) for values in (scores, threshold, low))
    change: np.ndarray = (scores >= threshold).astype(np.int8) - (scores < low)
    change = np.concatenate([np.broadcast_to(np.where(before, 1, -1), change[:1].shape), change])
    rows = np.arange(len(change)).reshape(-1, *[1] * (change.ndim - 1))
    latest = np.maximum.accumulate(np.where(change != 0, rows, 0))
    return np.take_along_axis(change, latest, 0)[1:] > 0


def event_timing(
    start: np.ndarray, end: np.ndarray, min_duration: float = 0.0, min_gap: float = 0.0, overlap: float = 0.5
) -> Arrays:
    """What tells an event's times from its windows, in whole microseconds, in which 0.3 s is not less than 0.3 s.

    onsets, offsets [N]: what each window speaks for (`window_spans`). narrow: by how much events begin later and end
    earlier (`overlap`, see `find_events`), if `hop` is left of them. min_duration, min_gap: as of `find_events`.
    """
    onsets, offsets = window_spans(start, end)
    start, end = np.asarray(start), np.asarray(end)
    values = {
        "onsets": onsets,
        "offsets": offsets,
        "narrow": (0.5 - overlap) * (end - start).max(),
        "hop": np.diff(start).max(initial=0.0),  # the last one may be shorter
        "min_duration": min_duration,
        "min_gap": min_gap,
    }
    return {name: np.rint(1e6 * np.asarray(value)) for name, value in values.items()}


def window_spans(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of the sound that each window speaks for: (from [N], to [N]) in seconds.

    The parts touch halfway between windows' centres. The first one's begins with the file, the last one's ends with it.
    """
    centre = start + (end - start).max() / 2  # windows may go beyond the file's end, where `end` is cut
    edges = np.concatenate([start[:1], (centre[1:] + centre[:-1]) / 2, [end.max()]]).clip(max=end.max())
    # Such windows may be centred beyond the end; one that is the first to hear something has heard its own part.
    return np.minimum(edges[:-1], (start + end) / 2), edges[1:]


def _event_spans(first: np.ndarray, last: np.ndarray, timing: Arrays) -> list[tuple]:
    """[(first, last, onset, offset)] of a class's events, from the runs of windows first [R] to last [R] in which it is
    active; `timing` is as `event_timing` gives it.
    """
    onsets, offsets = timing["onsets"], timing["offsets"]
    onset, offset = onsets[first], offsets[last]
    by = np.minimum(timing["narrow"], np.maximum(offset - onset - timing["hop"], 0) // 2)
    onset = np.where(first == 0, onset, np.maximum(onset + by, onsets[0]))
    offset = np.where(last == len(offsets) - 1, offset, np.minimum(offset - by, offsets[-1]))
    gap = onset[1:] - offset[:-1]
    new = np.concatenate([[True], (gap > 0) & (gap >= timing["min_gap"])])
    ends = np.append(new[1:], True)
    spans = zip(first[new], last[ends], onset[new], offset[ends], strict=True)
    return [span for span in spans if span[3] - span[2] >= timing["min_duration"]]
