"""The page of a tagging result: the sound, its spectrogram, and the scores and events of each class over time."""

from pathlib import Path
from typing import Any

import numpy as np

from paddletag.reports.embedded_media import base64_text, relative_url, spectrogram_png, summarize_sound
from paddletag.reports.html_page import build_page
from paddletag.reports.look import class_order
from paddletag.reports.spectrogram_image import frequency_marks
from paddletag.tagging import result_files
from paddletag.tagging.events import event_timing
from paddletag.tagging.labels import THRESHOLD
from paddletag.tagging.result_formats import model_name
from paddletag.type_aliases import Arrays, File

CLASSES = 40  # shown: those with the highest peaks; more if more reach the threshold
EMBEDDED = 20 * 60.0  # seconds of sound that a page holds; longer sound is referred to


def tagging_page(
    arrays: Arrays,
    sound: File,
    folder: File,
    threshold: float | np.ndarray = THRESHOLD,
    low: float | np.ndarray | None = None,
    link: bool | None = None,
    **options: float,
) -> str:
    """The HTML of a tagging result (as `read_result` gives it, with seconds) and the file `sound` that it is of.

    Its events are those that `find_events` finds with `threshold`, `low` (numbers, or arrays [C]) and `options`
    (min_duration, min_gap, overlap). The page can move the threshold that most classes have, if several have the same;
    classes with another one keep theirs, and a lower threshold that equals the class's threshold moves with it.

    link: refer to the sound by its path from `folder`, where the report will lie, instead of embedding it as Ogg Vorbis
    (some 0.6 MB a minute); None: refer to what is longer than EMBEDDED. AudioError for a sound that cannot be read;
    UserError for one that is not as long as the result.
    """
    tagged_seconds = float(arrays["end"].max())
    link = tagged_seconds > EMBEDDED if link is None else link
    summary = summarize_sound(sound, tagged_seconds, embed=not link)
    result_files.check_length(arrays, sound, summary.seconds)
    times = event_timing(arrays["start"], arrays["end"], **options)
    data = {
        "file": Path(sound).name,
        "seconds": summary.seconds,
        "model": model_name(arrays),
        **_classes(arrays, threshold, low),
        "times": {name: value.tolist() for name, value in times.items()},  # microseconds
        "peaks": summary.peaks.round(3).tolist(),
        "spectrogram": base64_text(spectrogram_png(summary.log_mel)),
        "frequencies": frequency_marks(),
        **({"audio": relative_url(sound, folder)} if link else {"sound": base64_text(summary.ogg)}),
    }
    return build_page("tagging", f"{data['file']}: tags", data)


def _classes(arrays: Arrays, threshold: float | np.ndarray, low: float | np.ndarray | None) -> dict[str, Any]:
    """What the page has of the classes, in the order of their peaks: labels, scores and thresholds."""
    scores = np.asarray(arrays["scores"], "<f4")
    peaks = scores.max(0)
    high = np.broadcast_to(np.asarray(threshold, float), peaks.shape)
    low = high if low is None else np.broadcast_to(np.asarray(low, float), peaks.shape)
    values, counts = np.unique(high, return_counts=True)
    common = values[counts.argmax()]  # what most classes have
    order = class_order(scores)
    keep = (np.arange(len(order)) < CLASSES) | (peaks >= high.astype(np.float32))[order]
    kept, left_out = order[keep], order[~keep]
    return {
        "labels": [str(label) for label in arrays["labels"][kept]],
        "columns": kept.tolist(),
        "classes": len(peaks),
        "left_out_peak": float(peaks[left_out[high[left_out] == common]].max(initial=0)),
        "scores": base64_text(np.ascontiguousarray(scores[:, kept].T).tobytes()),  # float32 [classes, windows]
        "threshold": float(common),
        "movable": bool(counts.max() > 1 or len(peaks) == 1),
        "own": [None if high[k] == common else float(high[k]) for k in kept],  # thresholds
        "low": [None if low[k] == high[k] else float(low[k]) for k in kept],
    }
