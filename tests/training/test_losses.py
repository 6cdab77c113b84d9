"""Losses, class weights and activations: against scikit-learn, scipy, PyTorch and the formulas."""

import numpy as np
import paddle
import pytest
import scipy.special
import sklearn.metrics
import sklearn.utils.class_weight
from paddletag.tagging import scoring
from paddletag.training import losses

GENERATOR = np.random.default_rng(0)
LOGITS = (3 * GENERATOR.standard_normal((7, 4))).astype(np.float32)
NUMBERS = np.array([0, 3, 1, 1, 2, 0, 3])
ONE_HOT = np.eye(4, dtype=np.float32)[NUMBERS]
MULTI_HOT = (GENERATOR.uniform(size=(7, 4)) < 0.4).astype(np.float32)
MIXED = 0.7 * ONE_HOT + 0.3 * ONE_HOT[::-1]


def loss(task, targets, **options):
    return float(losses.loss(task, paddle.to_tensor(LOGITS), paddle.to_tensor(targets.astype(np.float32)), **options))


def test_single_label_is_the_log_loss():
    expected = sklearn.metrics.log_loss(NUMBERS, scipy.special.softmax(LOGITS.astype(float), axis=1))
    assert loss("single_label", ONE_HOT) == pytest.approx(expected, rel=1e-5)


def test_multi_label_is_the_mean_log_loss_of_the_labels():
    scores = scipy.special.expit(LOGITS.astype(float))
    expected = np.mean([sklearn.metrics.log_loss(MULTI_HOT[:, c], scores[:, c], labels=[0, 1]) for c in range(4)])
    assert loss("multi_label", MULTI_HOT) == pytest.approx(expected, rel=1e-5)


def cross_entropy(targets):
    return -(targets * scipy.special.log_softmax(LOGITS.astype(float), axis=1)).sum(1).mean()


def test_targets_may_be_fractions():
    assert loss("single_label", MIXED) == pytest.approx(cross_entropy(MIXED), rel=1e-5)
    both = scipy.special.log_expit(LOGITS.astype(float)), scipy.special.log_expit(-LOGITS.astype(float))
    expected = -(MIXED * both[0] + (1 - MIXED) * both[1]).mean()
    assert loss("multi_label", MIXED) == pytest.approx(expected, rel=1e-5)


def test_binary_losses_of_a_single_label_are_added_up():
    both = scipy.special.log_expit(LOGITS.astype(float)), scipy.special.log_expit(-LOGITS.astype(float))
    for targets in (ONE_HOT, MIXED):
        expected = -(targets * both[0] + (1 - targets) * both[1]).sum(1).mean()
        assert loss("single_label", targets, kind="binary") == pytest.approx(expected, rel=1e-5)
        assert loss("multi_label", targets, kind="binary") == loss("multi_label", targets)
    weights = np.array([1, 2, 0.5, 3], np.float32)
    expected = -(weights * ONE_HOT * both[0] + (1 - ONE_HOT) * both[1]).sum(1).mean()
    found = loss("single_label", ONE_HOT, kind="binary", class_weights=paddle.to_tensor(weights))
    assert found == pytest.approx(expected, rel=1e-5)


def test_label_smoothing():
    smooth = np.where(ONE_HOT == 1, 0.9 + 0.1 / 4, 0.1 / 4)  # Szegedy et al., arXiv 1512.00567
    assert loss("single_label", ONE_HOT, label_smoothing=0.1) == pytest.approx(cross_entropy(smooth), rel=1e-5)
    smooth = np.where(MULTI_HOT == 1, 0.95, 0.05)
    assert loss("multi_label", MULTI_HOT, label_smoothing=0.1) == pytest.approx(loss("multi_label", smooth), rel=1e-6)


@pytest.mark.parametrize("task, slope", [("single_label", 1.0), ("multi_label", 0.5)])
def test_large_logits_give_finite_losses_with_a_slope(task, slope):
    logits = paddle.to_tensor([[500.0, -500.0]], stop_gradient=False)
    loss = losses.loss(task, logits, paddle.to_tensor([[0.0, 1.0]]))
    loss.backward()
    assert 50 < float(loss) < 2000
    np.testing.assert_allclose(logits.grad.numpy(), [[slope, -slope]], rtol=1e-6)


def test_activation():
    def scores(task):
        return scoring.activation(task, paddle.to_tensor(LOGITS)).numpy()

    np.testing.assert_allclose(scores("single_label"), scipy.special.softmax(LOGITS, axis=1), rtol=1e-5)
    np.testing.assert_allclose(scores("multi_label"), scipy.special.expit(LOGITS), rtol=1e-5)


WEIGHTS = np.array([0.5, 2.0, 1.0, 0.25], np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [ONE_HOT, MIXED])
def test_weighted_cross_entropy_is_pytorchs_for_shares_of_classes(targets, smoothing):
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS), torch.tensor(targets), torch.tensor(WEIGHTS), label_smoothing=smoothing
    )
    found = loss("single_label", targets, label_smoothing=smoothing, class_weights=paddle.to_tensor(WEIGHTS))
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert found != pytest.approx(loss("single_label", targets, label_smoothing=smoothing), rel=1e-2)


@pytest.mark.parametrize("targets", [MULTI_HOT, MIXED])
def test_weighted_binary_cross_entropy_is_pytorchs_with_weights_of_presence(targets):
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS), torch.tensor(targets), pos_weight=torch.tensor(WEIGHTS)
    )
    found = loss("multi_label", targets, class_weights=paddle.to_tensor(WEIGHTS))
    assert found == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("task, targets", [("single_label", MIXED), ("multi_label", MULTI_HOT)])
def test_the_weighted_loss_of_halves_is_that_of_the_whole_and_equal_weights_change_nothing(task, targets):
    weights = paddle.to_tensor(WEIGHTS)

    def part(rows, **options):
        logits, wanted = (paddle.to_tensor(array[rows]) for array in (LOGITS, targets))
        return float(losses.loss(task, logits, wanted, **options))

    halves = [part(slice(0, 3), class_weights=weights), part(slice(3, 6), class_weights=weights)]
    assert np.mean(halves) == pytest.approx(part(slice(0, 6), class_weights=weights), rel=1e-5)
    assert part(slice(0, 7), class_weights=paddle.ones([4])) == pytest.approx(loss(task, targets), rel=1e-5)


def test_class_weights_are_scikit_learns():
    numbers = np.array([0] * 50 + [2] * 5 + [3] * 20)
    found = losses.class_weights(np.eye(4)[numbers].sum(0))
    expected = sklearn.utils.class_weight.compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=numbers)
    np.testing.assert_allclose(found[[0, 2, 3]], expected, rtol=1e-6)
    assert found[1] == 1 and found.dtype == np.float32  # never there
    assert found[numbers].mean() == pytest.approx(1)
    np.testing.assert_array_equal(losses.class_weights(np.full(4, 3)), np.ones(4))


def test_class_weights_of_several_labels():
    targets = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]])
    np.testing.assert_allclose(losses.class_weights(targets.sum(0)), [6 / (3 * 3), 6 / (3 * 2), 6 / (3 * 1)])
    np.testing.assert_array_equal(losses.class_weights(np.zeros(3)), np.ones(3))
