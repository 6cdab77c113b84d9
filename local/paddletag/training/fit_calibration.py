"""A temperature and thresholds for the scores of a trained model, from clips that it was not trained on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from paddletag.models.calibration import COLDEST, FLOOR, HOTTEST, temper

MISTAKES = 5  # of a model: with fewer, nothing tells how sure it should be
LEAST = 10  # clips: of a class, for a threshold of its own; and of all classes, to calibrate at all


class Thresholds(NamedTuple):
    """What `choose_thresholds` chooses."""

    values: np.ndarray  # float32 [C]
    own: np.ndarray  # bool [C]: whether a class has a threshold of its own
    overall: float  # that of the other classes


def fit_temperature(scores: np.ndarray, targets: np.ndarray, task: str) -> float:
    """The temperature at which scores [N, C] have the lowest log loss against targets [N, C].

    1.0 where the clips do not tell: where the loss falls up to the limits, as when no clip is mistaken.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return log_loss(temper(scores, task, np.exp(log_temperature)), targets, task)

    limits = np.log(COLDEST), np.log(HOTTEST)
    found = minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-5})
    at_limit = min(abs(found.x - limit) for limit in limits) < 1e-2
    return 1.0 if at_limit else float(np.exp(found.x))


def log_loss(scores: np.ndarray, targets: np.ndarray, task: str) -> float:
    """The mean negative logarithm of what scores [N, C] give to targets [N, C]: over clips, for multi_label pairs."""
    logarithms = np.log(np.maximum(scores, FLOOR))
    if task == "single_label":
        return float(-(targets * logarithms).sum(1).mean())
    others = np.log(np.maximum(1 - scores, FLOOR))
    return float(-(targets * logarithms + (1 - targets) * others).mean())


def useful_temperature(
    scores: np.ndarray, targets: np.ndarray, task: str, parts: Sequence[int] | np.ndarray
) -> tuple[float, np.ndarray]:
    """(the temperature of `fit_temperature`, the scores [N, C] of `cross_fitted`), if these have a lower log loss than
    the scores as they are. (1.0, the scores as they are) if not: it would not help clips that did not choose it. So too
    with fewer than MISTAKES mistakes.
    """
    if len(np.unique(parts)) > 1 and count_mistakes(scores, targets, task) >= MISTAKES:
        tempered = cross_fitted(scores, targets, task, parts)
        if log_loss(tempered, targets, task) < log_loss(scores, targets, task):
            return fit_temperature(scores, targets, task), tempered
    return 1.0, scores


def count_mistakes(scores: np.ndarray, targets: np.ndarray, task: str) -> int:
    """The clips whose highest score is of a wrong label; for multi_label, the pairs on the wrong side of 0.5."""
    if task == "single_label":
        return int((scores.argmax(1) != targets.argmax(1)).sum())
    return int(((scores >= 0.5) != (targets > 0.5)).sum())


def cross_fitted(scores: np.ndarray, targets: np.ndarray, task: str, parts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Scores [N, C] of which each part has the temperature of the clips of all other parts: float64 [N, C].

    parts [N]: the number of the part of each clip, two at least. No clip is measured at a temperature that it chose.
    """
    parts, result = np.asarray(parts), np.empty(scores.shape)
    for part in np.unique(parts):
        inside = parts == part
        temperature = fit_temperature(scores[~inside], targets[~inside], task)
        result[inside] = temper(scores[inside], task, temperature)
    return result


def choose_thresholds(scores: np.ndarray, targets: np.ndarray, precision: float | None = None) -> Thresholds | None:
    """A threshold for each class from scores and targets [N, C]: see `choose_threshold`.

    A class with fewer than LEAST clips, or that does not reach the precision, has the threshold of all pairs of a clip
    and a class together. None where that one does not reach the precision either.
    """
    overall = choose_threshold(scores.ravel(), targets.ravel(), precision)
    if overall is None:
        return None
    values: np.ndarray = np.full(scores.shape[1], overall, np.float32)
    own: np.ndarray = np.zeros(scores.shape[1], bool)
    for k in np.flatnonzero(targets.sum(0) >= LEAST):
        value = choose_threshold(scores[:, k], targets[:, k], precision)
        if value is not None:
            values[k], own[k] = value, True
    return Thresholds(values, own, overall)


def choose_threshold(scores: np.ndarray, targets: np.ndarray, precision: float | None = None) -> float | None:
    """The threshold of scores [N], for targets [N] of 0 and 1, with the best F1: the highest if there are several.

    precision: the lowest threshold that has at least this precision instead; None where none has. A threshold lies
    midway between the lowest score that it accepts and the next one, in float32, in which scores are compared.
    """
    order = np.argsort(-scores, kind="stable")
    values, hits = scores[order].astype(np.float32), np.cumsum(targets[order] > 0)
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)  # the last clip of each score
    accepted, right = ends + 1, hits[ends]
    if precision is None:
        best = int(np.argmax(2 * right / (accepted + hits[-1])))
    else:
        precise = np.flatnonzero(right / accepted >= precision)
        if not len(precise):
            return None
        best = int(precise[-1])
    lowest = values[ends[best]]
    below = values[ends[best + 1]] if best + 1 < len(ends) else np.float32(0)
    middle = (lowest + below) / np.float32(2)
    return float(middle if below < middle else lowest)
