"""Scores against targets: the figures of a task, by scikit-learn where it has them.

All are plain numbers, as metrics.json needs them: None for what cannot be measured, or is not finite.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from sklearn import metrics as sk

MAIN_METRIC = {"single_label": "accuracy", "multi_label": "mAP"}  # what the best epoch is chosen by
NORMAL = NormalDist()
WIDTH = NORMAL.inv_cdf(0.975)  # standard errors on either side, for intervals of 95 %
WORK = 1e9  # clips x classes x resamples that the interval of mAP may cost: some 3 s on one core


def evaluate(
    task: str, scores: np.ndarray, targets: np.ndarray, labels: Sequence[str], intervals: bool = True
) -> dict[str, Any]:
    """The metrics of scores [N, C] against targets [N, C]; `intervals=False` leaves out what takes seconds."""
    return (single_label if task == "single_label" else multi_label)(scores, targets, labels, intervals)


def single_label(
    scores: np.ndarray, targets: np.ndarray, labels: Sequence[str], intervals: bool = True
) -> dict[str, Any]:
    """Accuracy with its 95 % interval, macro F1, and precision, recall and support per class."""
    truth, guess = targets.argmax(1), scores.argmax(1)
    numbers = np.arange(len(labels))
    precision, recall, _, support = sk.precision_recall_fscore_support(truth, guess, labels=numbers, zero_division=0)
    accuracy = float(sk.accuracy_score(truth, guess))
    return {
        "accuracy": accuracy,
        **({"accuracy_ci": wilson(accuracy, len(truth))} if intervals else {}),
        "n": len(truth),
        "macro_f1": float(sk.f1_score(truth, guess, labels=np.unique(truth), average="macro", zero_division=0)),
        "per_class": {
            name: {"precision": float(precision[i]), "recall": float(recall[i]), "n": int(support[i])}
            for i, name in enumerate(labels)
        },
    }


def multi_label(
    scores: np.ndarray, targets: np.ndarray, labels: Sequence[str], intervals: bool = True
) -> dict[str, Any]:
    """mAP with its 95 % interval, AUC and d-prime, as in PANNs (arXiv 1912.10211): macro averages over classes.

    Classes that occur in no clip, or in all, have no AUC; they are left out and counted.
    """
    used = measurable(targets)
    ap = {i: float(sk.average_precision_score(targets[:, i], scores[:, i])) for i in used}
    auc = {i: float(sk.roc_auc_score(targets[:, i], scores[:, i])) for i in used}
    mean_ap = float(np.mean(list(ap.values()))) if used else None
    mean_auc = float(np.mean(list(auc.values()))) if used else None
    means: dict[str, Any] = {"mAP": mean_ap, "auc": mean_auc, "d_prime": d_prime(mean_auc)}
    if intervals:
        resamples = affordable_resamples(len(targets) * len(used))
        error = bootstrap_error(scores[:, used], targets[:, used], resamples)
        means["mAP_ci"] = (
            None if mean_ap is None else [max(0.0, mean_ap - WIDTH * error), min(1.0, mean_ap + WIDTH * error)]
        )
        means["mAP_ci_resamples"] = resamples
    return {
        **means,
        "n": len(targets),
        "classes_left_out": len(labels) - len(used),
        "per_class": {labels[i]: {"ap": ap[i], "auc": auc[i], "n": int(targets[:, i].sum())} for i in used},
    }


def validation_metrics(task: str, scores: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """{"valid_loss", "valid_accuracy" or "valid_mAP"} of scores [N, C]; no score where no label has clips both with
    and without it."""
    if task == "single_label":
        loss = -np.log(np.maximum((scores * targets).sum(1), 1e-12)).mean()
    else:
        p = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
        loss = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    name = MAIN_METRIC[task]
    score = evaluate(task, scores, targets, labels, intervals=False)[name]
    return {"valid_loss": float(loss), **({} if score is None else {f"valid_{name}": score})}


def measurable(targets: np.ndarray) -> list[int]:
    """The classes of targets [N, C] that have clips both with and without them: the others have no AUC."""
    return [c for c in range(targets.shape[1]) if 0 < targets[:, c].sum() < len(targets)]


def affordable_resamples(size: int) -> int:
    """How many drawings an interval of mAP is made from, where each costs `size`: clips x classes."""
    return int(np.clip(WORK / max(1, size), 50, 1000))


def d_prime(auc: float | None) -> float | None:
    """sqrt(2) times the inverse normal CDF of the area under the ROC curve; None at 0 and 1, and for None."""
    return math.sqrt(2) * NORMAL.inv_cdf(auc) if auc is not None and 0 < auc < 1 else None


def wilson(share: float, n: int) -> list[float]:
    """The 95 % interval [low, high] of a share among n independent clips (Wilson 1927).

    Resampling the clips gives the same one within its own error, except near 0 and 1, where it has no width.
    """
    square = WIDTH**2 / n
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def bootstrap_error(scores: np.ndarray, targets: np.ndarray, resamples: int, seed: int = 0) -> float:
    """The standard error of the mAP of scores [N, C]: its deviation over `resamples` drawings of N of the N clips.

    A drawing repeats clips, and a positive that is there twice ranks beside itself: that raises the average precision
    of rare classes, so that the percentiles of the drawings lie too high, while their spread is right.
    """
    means = mean_precisions(scores, targets, draw_clips(len(targets), resamples, seed))
    means = means[~np.isnan(means)]
    return float(means.std(ddof=1)) if len(means) > 1 else 0.0


def draw_clips(n: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each of n clips is there in each of `resamples` drawings of n: integers [n, resamples]."""
    generator = np.random.default_rng(seed)
    weights = np.stack([np.bincount(generator.integers(n, size=n), minlength=n) for _ in range(resamples)], axis=1)
    return weights.astype(np.min_scalar_type(weights.max()))  # bytes: gathering them is most of the work


def mean_precisions(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mAP of scores [N, C] for each column of weights [N, B]: [B]; NaN where no class has a clip of it."""
    total, count = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for c in range(targets.shape[1]):
        values = average_precisions(scores[:, c], targets[:, c], weights)
        measured = ~np.isnan(values)
        total[measured] += values[measured]
        count += measured
    with np.errstate(invalid="ignore"):
        return total / count


def average_precisions(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The average precision of one class, scores [N] and targets [N], for each column of weights [N, B]: [B].

    NaN where no positive has any weight. The clips are sorted once; precision is needed at positives alone.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.flatnonzero(targets[order])
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # the last clip of each score
    groups = np.searchsorted(ends, hits)  # which of the scores a positive has
    first = np.flatnonzero(np.diff(groups, prepend=-1))  # positives of one score count together
    ends = ends[groups[first]]
    between = np.add.reduceat(weights[order[: ends[-1] + 1]], np.append(0, ends[:-1] + 1), axis=0, dtype=np.int64)
    clips = np.cumsum(between, axis=0)  # at each score or above: [scores, B]
    positives = np.add.reduceat(weights[order[hits]], first, axis=0, dtype=np.int64)  # at each score
    recalled = np.cumsum(positives, axis=0)
    with np.errstate(invalid="ignore"):
        return (positives * (recalled / np.maximum(clips, 1))).sum(0) / recalled[-1]


def confusion(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The confusion matrix [C, C]: rows are the true classes, columns the model's."""
    return sk.confusion_matrix(targets.argmax(1), scores.argmax(1), labels=np.arange(targets.shape[1]))


def most_confused(matrix: np.ndarray, labels: Sequence[str]) -> list[tuple[str, str, int]]:
    """The off-diagonal entries that are not zero, largest first: [(true label, model's label, clips)]."""
    pairs = [(int(n), i, j) for (i, j), n in np.ndenumerate(matrix) if i != j and n]
    return [(labels[i], labels[j], n) for n, i, j in sorted(pairs, key=lambda p: (-p[0], p[1], p[2]))]
