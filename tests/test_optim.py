"""The learning rate's course, and AdamW against its formulas in numpy."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddletag import optim


def course(steps, warmup, peak=3e-4, final=0.01):
    return np.array([optim.learning_rate(step, steps, warmup, peak, final) for step in range(steps)])


def test_warm_up_is_linear_and_the_cosine_ends_at_the_final_rate():
    rates = course(100, 20)
    np.testing.assert_allclose(rates[:20], 3e-4 * np.arange(1, 21) / 20)
    assert rates[20] == pytest.approx(3e-4) and rates[-1] == pytest.approx(3e-6)
    assert (np.diff(rates[20:]) < 0).all() and rates.max() == pytest.approx(3e-4)
    middle = (20 + 99) / 2  # half way down, the mean of the ends
    assert optim.learning_rate(middle, 100, 20, 3e-4, 0.01) == pytest.approx((3e-4 + 3e-6) / 2)


def test_no_warm_up_begins_at_the_peak():
    rates = course(10, 0)
    assert rates[0] == pytest.approx(3e-4) and rates[-1] == pytest.approx(3e-6)


@pytest.mark.parametrize("steps, warmup", [(1, 0), (1, 1), (2, 1), (5, 5), (5, 9)])
def test_runs_that_are_hardly_longer_than_the_warm_up(steps, warmup):
    rates = course(steps, warmup)
    assert np.isfinite(rates).all() and (rates > 0).all() and (rates <= 3e-4 + 1e-12).all()


def settings(**changes):
    return SimpleNamespace(**{"lr": 0.05, "weight_decay": 0.1, "clip_norm": 0.0, **changes})


def adamw(value, gradients, decay, lr=0.05, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Loshchilov & Hutter, arXiv 1711.05101, algorithm 2."""
    value, first, second = value.astype(float), 0.0, 0.0
    for t, gradient in enumerate(gradients, 1):
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        step = (first / (1 - beta1**t)) / (np.sqrt(second / (1 - beta2**t)) + epsilon)
        value = value - lr * step - lr * decay * value
    return value


def test_adamw_decays_matrices_and_nothing_else():
    model = paddle.nn.Sequential(paddle.nn.Linear(3, 2), paddle.nn.BatchNorm1D(2))
    model[0].bias.set_value(np.array([0.5, -0.5], np.float32))
    optimizer = optim.adamw(model, settings())
    learned = {name: p for name, p in model.named_parameters() if not p.stop_gradient}  # not BatchNorm's statistics
    before = {name: p.numpy() for name, p in learned.items()}
    generator = np.random.default_rng(0)
    gradients = {name: [generator.standard_normal(p.shape) for _ in range(3)] for name, p in before.items()}
    for step in range(3):
        for name, parameter in learned.items():
            parameter.grad = paddle.to_tensor(gradients[name][step].astype(np.float32))
        optimizer.step()
        optimizer.clear_grad()
    assert {p.ndim for p in before.values()} == {1, 2}
    for name, parameter in learned.items():
        expected = adamw(before[name], gradients[name], decay=0.1 if parameter.ndim > 1 else 0)
        np.testing.assert_allclose(parameter.numpy(), expected, atol=1e-5, err_msg=name)


def test_clip_norm_scales_all_gradients_together():
    model = paddle.nn.Linear(2, 2)
    plain, clipped = np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([0.0, 12.0])  # their norm together is 13
    seen = []
    for norm, scale in ((6.5, 0.5), (100.0, 1.0)):
        optimizer = optim.adamw(model, settings(clip_norm=norm, weight_decay=0.0))
        model.weight.grad, model.bias.grad = (paddle.to_tensor(g.astype(np.float32)) for g in (plain, clipped))
        optimizer.step()
        state = optimizer.state_dict()
        for parameter, gradient in ((model.weight, plain), (model.bias, clipped)):
            (moment,) = [state[key].numpy() for key in state if key.startswith(f"{parameter.name}_moment1")]
            np.testing.assert_allclose(moment, 0.1 * scale * gradient, rtol=1e-5)
            seen.append(moment.max())
        optimizer.clear_grad()
    assert len(seen) == 4
