"""How far scores can be taken as probabilities: the reliability curve and the expected calibration error."""

from typing import Any

import numpy as np

from paddletag.models import calibration
from paddletag.type_aliases import Meta

BINS = 15  # of equal width, as in Guo et al., arXiv 1706.04599


def reliability(task: str, scores: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """{"ece": the expected calibration error, "bins": the reliability curve} of scores against targets, both [N, C].

    single_label: how sure the model is of each clip's highest label, against whether it is right. multi_label: the
    scores of all pairs of a clip and a class, against whether the clip has it. A bin is {"from", "to", "confidence",
    "accuracy", "n"}: it holds the n scores above `from`, up to `to`; their mean, and the share that is right. Bins
    without scores are left out. The error is the mean of |confidence - accuracy| over all scores.
    """
    if task == "single_label":
        rows, best = np.arange(len(scores)), scores.argmax(1)
        confidence, right = scores[rows, best], targets[rows, best]
    else:
        confidence, right = scores.ravel(), targets.ravel()
    number = np.clip(np.ceil(confidence.astype(np.float64) * BINS).astype(int) - 1, 0, BINS - 1)
    counts, confidences, hits = (
        np.bincount(number, weights, BINS) for weights in (None, confidence.astype(np.float64), right)
    )
    bins = [
        {
            "from": k / BINS,
            "to": (k + 1) / BINS,
            "confidence": float(confidences[k] / counts[k]),
            "accuracy": float(hits[k] / counts[k]),
            "n": int(counts[k]),
        }
        for k in np.flatnonzero(counts)
    ]
    return {"ece": float(np.abs(confidences - hits).sum() / max(1, len(confidence))), "bins": bins}


def measure_calibration(scores: np.ndarray, targets: np.ndarray, meta: Meta) -> dict[str, Any]:
    """`reliability` of the model with this meta data, whose scores [N, C] are as without calibration.

    For a calibrated model it is of the scores at its temperature, and there are more: the temperature, the error
    without it (`ece_before`), and what `count_unknown` gives.
    """
    task = meta["task"]
    used = calibration.calibrated_scores(scores, meta)
    result = reliability(task, used, targets)
    thresholds = calibration.thresholds(meta)
    if thresholds is None:
        return result
    before = {
        "temperature": meta["calibration"]["temperature"],
        "ece_before": reliability(task, scores, targets)["ece"],
    }
    return {**result, **before, **count_unknown(used, targets, thresholds)}


def count_unknown(scores: np.ndarray, targets: np.ndarray, thresholds: np.ndarray) -> dict[str, Any]:
    """Of scores [N, C]: `unknown`, the number of clips of which no label reaches its threshold, and
    `accuracy_of_known`, the share of the others whose highest label is right (None where there are no others)."""
    known = (scores >= thresholds).any(1)
    right = targets[np.arange(len(scores)), scores.argmax(1)] > 0
    return {
        "unknown": int((~known).sum()),
        "accuracy_of_known": float(right[known].mean()) if known.any() else None,
    }
