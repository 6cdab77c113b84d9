"""Tests of pairs of runs: against scipy, against all signs counted one by one, and against scikit-learn."""

import itertools

import numpy as np
import pytest
from paddletag.training import metrics, paired_tests
from scipy import stats
from sklearn.metrics import average_precision_score


@pytest.mark.parametrize("better, worse", [(0, 0), (1, 0), (5, 5), (3, 19), (19, 3), (12, 20), (400, 300), (1500, 2)])
def test_one_seed_each_is_mcnemars_exact_test(better, worse):
    differences = np.repeat([1, -1, 0], [better, worse, 50])
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert paired_tests.exact_test(differences) == pytest.approx(expected, rel=1e-9)


def test_several_seeds_count_every_choice_of_signs():
    generator = np.random.default_rng(0)
    for _ in range(20):
        differences = generator.integers(-3, 4, size=10)
        signs = np.array(list(itertools.product((-1, 1), repeat=10)))
        sums = np.abs((signs * differences).sum(1))
        expected = np.mean(sums >= abs(differences.sum()))
        assert paired_tests.exact_test(differences) == pytest.approx(expected)


def test_holm_as_in_his_definition():
    values = [0.01, 0.04, 0.03, 0.005]
    assert paired_tests.holm(values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert (
        paired_tests.holm([0.5, 0.9]) == [1.0, 1.0] and paired_tests.holm([0.2]) == [0.2] and not paired_tests.holm([])
    )


def test_drawings_are_those_that_repeat_clips():
    """The mAP of drawn clips, counted by weights, is scikit-learn's of the clips written out."""
    generator = np.random.default_rng(1)
    targets = (generator.random((40, 4)) < 0.3).astype(np.float32)
    scores = generator.random((40, 4)).round(1)  # with ties
    weights = metrics.draw_clips(40, 30)
    direct = []
    for column in weights.T:
        rows = np.repeat(np.arange(40), column)
        direct.append(np.mean([average_precision_score(targets[rows, c], scores[rows, c]) for c in range(4)]))
    np.testing.assert_allclose(metrics.mean_precisions(scores, targets, weights), direct, atol=1e-12)


def test_p_of_a_bootstrap():
    drawings = np.random.default_rng(2).normal(0.02, 0.01, 4000)
    expected = 2 * stats.norm.sf(0.02 / drawings.std(ddof=1))
    assert paired_tests.bootstrap_test(-0.02, drawings) == pytest.approx(expected)
    assert paired_tests.bootstrap_test(0.0, np.zeros(5)) == 1 and paired_tests.bootstrap_test(0.1, np.zeros(5)) == 0
