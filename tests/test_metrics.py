"""Metrics: against small cases worked out by hand, counting, and scipy."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from paddletag import metrics

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
    assert all(math.isnan(found[key]) for key in ("mAP", "auc", "d_prime"))


@pytest.mark.parametrize("auc", [0.02, 0.5, 0.9, 0.999])
def test_d_prime(auc):
    assert metrics.d_prime(auc) == pytest.approx(math.sqrt(2) * scipy.stats.norm.ppf(auc))


def test_d_prime_at_the_ends():
    assert [metrics.d_prime(auc) for auc in (0.0, 1.0)] == [-math.inf, math.inf]
    assert math.isnan(metrics.d_prime(math.nan))
