"""Whether two runs differ by more than chance: tests on the same clips, and a correction for several tests."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln

from paddletag.training.metrics import NORMAL

LEVEL = 0.05  # a p below it is called a difference


def exact_test(differences: np.ndarray) -> float:
    """The two-sided p of paired differences, int [N]: how often random signs give a sum at least as far from 0.

    It is exact: all signs are counted. With differences of -1, 0 and 1 (one run is right, the other wrong) it is
    McNemar's exact test. Other integers come from several seeds: in how many more of them a clip is right.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    chances: np.ndarray = np.ones(1)  # of each sum of the sizes that get a plus
    for size, n in zip(sizes, counts, strict=True):
        spread = np.zeros(size * n + 1)
        number = np.arange(n + 1)
        spread[::size] = np.exp(gammaln(n + 1) - gammaln(number + 1) - gammaln(n - number + 1) - n * math.log(2))
        chances = np.convolve(chances, spread)
    sums = 2 * np.arange(len(chances)) - (len(chances) - 1)
    return min(1.0, float(chances[np.abs(sums) >= abs(int(differences.sum()))].sum()))


def bootstrap_test(difference: float, drawings: np.ndarray) -> float:
    """The two-sided p of a difference, by its standard error: the deviation of the same difference in drawings [B]."""
    error = float(drawings.std(ddof=1)) if len(drawings) > 1 else 0.0
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * (1 - NORMAL.cdf(abs(difference) / error))


def holm(values: Sequence[float]) -> list[float]:
    """The p values of several tests, corrected by Holm's method (1979), in the same order."""
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate([p * (len(values) - n) for n, p in enumerate(np.asarray(values, float)[order])])
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(1.0, raised)
    return corrected.tolist()
