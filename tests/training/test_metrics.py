"""Metrics: against small cases worked out by hand, counting, and scipy."""

import json
import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from paddletag.training import metrics

LABELS = ["cat", "dog", "owl"]
TRUTH = np.eye(3)[[0, 0, 0, 1, 1, 0]]  # no owl
GUESS = np.eye(3)[[0, 0, 1, 1, 2, 2]]


def test_single_label_by_hand():
    found = metrics.evaluate("single_label", GUESS, TRUTH, LABELS)
    assert found["accuracy"] == 3 / 6 and found["n"] == 6
    assert found["per_class"]["cat"] == {"precision": 1.0, "recall": 0.5, "n": 4}
    assert found["per_class"]["dog"] == {"precision": 0.5, "recall": 0.5, "n": 2}
    assert found["per_class"]["owl"] == {"precision": 0.0, "recall": 0.0, "n": 0}
    cat, dog = 2 * 1 * 0.5 / 1.5, 2 * 0.5 * 0.5 / 1.0
    assert found["macro_f1"] == pytest.approx((cat + dog) / 2)  # over the classes that occur
    json.dumps(found)


def test_confusion_and_what_is_most_confused():
    matrix = metrics.confusion(GUESS, TRUTH)
    np.testing.assert_array_equal(matrix, [[2, 1, 1], [0, 1, 1], [0, 0, 0]])
    pairs = [["cat", "dog", 1], ["cat", "owl", 1], ["dog", "owl", 1]]
    assert [list(pair) for pair in metrics.most_confused(matrix, LABELS)] == pairs
    assert metrics.most_confused(np.array([[5, 1], [3, 5]]), ["a", "b"]) == [("b", "a", 3), ("a", "b", 1)]
    assert metrics.most_confused(np.diag([3, 4]), ["a", "b"]) == []


def test_average_precision_by_hand_and_auc_by_counting_pairs():
    targets = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1]])
    scores = np.array([[0.9, 0.5, 0.1], [0.8, 0.4, 0.2], [0.7, 0.3, 0.3], [0.1, 0.2, 0.4]])
    found = metrics.evaluate("multi_label", scores, targets, LABELS)
    assert list(found["per_class"]) == ["cat"]  # dog is never there, owl always
    assert found["classes_left_out"] == 2 and found["n"] == 4 and found["per_class"]["cat"]["n"] == 2
    assert found["mAP"] == pytest.approx((1 / 1 + 2 / 3) / 2)  # the positives rank first and third
    assert found["auc"] == pytest.approx(3 / 4)  # of the four pairs, one is the wrong way round
    assert found["d_prime"] == pytest.approx(math.sqrt(2) * scipy.stats.norm.ppf(0.75))
    json.dumps(found)


def test_averages_are_over_classes():
    generator = np.random.default_rng(0)
    targets, scores = (generator.uniform(size=(30, 3)) < 0.3).astype(int), generator.uniform(size=(30, 3))
    found = metrics.evaluate("multi_label", scores, targets, LABELS)
    areas = []
    for c in range(3):
        positive, negative = scores[targets[:, c] == 1, c], scores[targets[:, c] == 0, c]
        areas.append((positive[:, None] > negative[None]).mean())
    assert found["auc"] == pytest.approx(np.mean(areas))
    assert found["mAP"] == pytest.approx(np.mean([row["ap"] for row in found["per_class"].values()]))


def test_no_class_that_can_be_measured():
    found = metrics.evaluate("multi_label", np.ones((2, 3)), np.zeros((2, 3)), LABELS)
    assert found["classes_left_out"] == 3 and found["per_class"] == {}
    assert all(found[key] is None for key in ("mAP", "mAP_ci", "auc", "d_prime"))
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("auc", [0.02, 0.5, 0.9, 0.999])
def test_d_prime(auc):
    assert metrics.d_prime(auc) == pytest.approx(math.sqrt(2) * scipy.stats.norm.ppf(auc))


def test_d_prime_that_is_not_finite_is_none():
    assert [metrics.d_prime(auc) for auc in (0.0, 1.0, None)] == [None] * 3
    targets = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    found = metrics.evaluate("multi_label", targets.astype(float), targets, LABELS[:2])
    assert found["mAP"] == found["auc"] == 1 and found["d_prime"] is None
    json.dumps(found, allow_nan=False)


@pytest.fixture(scope="module")
def tagged():
    """Scores and targets of 400 clips and 6 classes, the rarest in a few clips; rounded, so that scores are equal."""
    generator = np.random.default_rng(3)
    targets = (generator.uniform(size=(400, 6)) < [0.02, 0.05, 0.1, 0.2, 0.3, 0.5]).astype(np.float32)
    return np.round(generator.standard_normal((400, 6)) + 1.5 * targets, 1), targets


def test_macro_averages_equal_scikit_learns(tagged):
    scores, targets = tagged
    found = metrics.evaluate("multi_label", scores, targets, list("abcdef"))
    assert found["mAP"] == pytest.approx(sklearn.metrics.average_precision_score(targets, scores, average="macro"))
    area = sklearn.metrics.roc_auc_score(targets, scores, average="macro")
    assert found["auc"] == pytest.approx(area)
    assert found["d_prime"] == pytest.approx(math.sqrt(2) * scipy.stats.norm.ppf(area))
    for c, row in enumerate(found["per_class"].values()):
        assert row["ap"] == pytest.approx(sklearn.metrics.average_precision_score(targets[:, c], scores[:, c]))
        assert row["n"] == targets[:, c].sum()


def test_weighted_average_precision_equals_scikit_learns(tagged):
    """Weights as drawing clips gives them, zeros among them, with many equal scores."""
    scores, targets = tagged
    weights = np.random.default_rng(0).multinomial(400, np.full(400, 1 / 400), size=20).T.astype(np.uint8)
    for c in range(6):
        found = metrics.average_precisions(scores[:, c], targets[:, c], weights)
        for b in range(20):
            expected = sklearn.metrics.average_precision_score(targets[:, c], scores[:, c], sample_weight=weights[:, b])
            assert found[b] == pytest.approx(expected, rel=1e-12)
    none = np.where(targets[:, :1] > 0, 0, weights)
    assert np.isnan(metrics.average_precisions(scores[:, 0], targets[:, 0], none)).all()


def test_bootstrap_error_equals_that_of_drawn_clips(tagged):
    """Drawn as the definition says, with scikit-learn: the two have their own 200 drawings, so 5 % for each."""
    scores, targets = tagged
    generator, values = np.random.default_rng(7), []
    for _ in range(200):
        rows = generator.integers(400, size=400)
        there = targets[rows].any(0)
        values.append(sklearn.metrics.average_precision_score(targets[rows][:, there], scores[rows][:, there]))
    error = metrics.bootstrap_error(scores, targets, 200)
    assert error == pytest.approx(np.std(values), rel=0.2)
    assert error == metrics.bootstrap_error(scores, targets, 200) != metrics.bootstrap_error(scores, targets, 200, 1)


def test_interval_of_map_holds_what_repeated_experiments_give():
    """Of 100 data sets, the intervals of 84 or more hold the mean of all, with rare classes too (95 are expected)."""
    generator, shares = np.random.default_rng(5), np.geomspace(0.005, 0.2, 20)
    intervals, values = [], []
    for _ in range(100):
        targets = generator.uniform(size=(400, 20)) < shares
        scores = generator.standard_normal((400, 20)) + 2 * targets
        used = targets.any(0)
        scores, targets = scores[:, used], targets[:, used]
        values.append(sklearn.metrics.average_precision_score(targets, scores))
        error = metrics.bootstrap_error(scores, targets, 60)
        intervals.append((values[-1] - 1.96 * error, values[-1] + 1.96 * error))
    assert sum(low <= np.mean(values) <= high for low, high in intervals) >= 84


def test_intervals_in_the_result(tagged):
    scores, targets = tagged
    found = metrics.evaluate("multi_label", scores, targets, list("abcdef"))
    low, high = found["mAP_ci"]
    assert found["mAP_ci_resamples"] == 1000
    error = metrics.bootstrap_error(scores, targets, 1000)
    assert (low, high) == pytest.approx((found["mAP"] - 1.96 * error, found["mAP"] + 1.96 * error), abs=1e-4)
    assert {"mAP_ci", "accuracy_ci"}.isdisjoint(metrics.evaluate("multi_label", scores, targets, list("abcdef"), False))
    assert "accuracy_ci" not in metrics.evaluate("single_label", GUESS, TRUTH, LABELS, intervals=False)


def test_interval_of_accuracy():
    """Against scipy, and against drawing the clips again."""
    truth = np.eye(2)[np.zeros(200, int)]
    right = np.arange(200) < 150
    low, high = metrics.evaluate("single_label", np.stack([right, ~right], 1) * 1.0, truth, ["a", "b"])["accuracy_ci"]
    expected = scipy.stats.binomtest(150, 200).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high))
    drawn = right[np.random.default_rng(0).integers(200, size=(2000, 200))].mean(1)
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.015)
    low, high = metrics.wilson(1.0, 80)
    assert high == 1 and low == pytest.approx(80 / (80 + 1.959964**2))  # never certain, whatever was counted
