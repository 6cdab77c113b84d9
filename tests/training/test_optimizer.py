"""Learning rates against the published formulas, optimizers against PyTorch's, the moving average against numpy."""

import contextlib
import math
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddletag.models import registry
from paddletag.training import weight_average
from paddletag.training.learning_rate import layer_shares, learning_rate
from paddletag.training.optimizer import create_optimizer

PEAK, FINAL = 3e-4, 0.01


def course(steps, warmup, plateau=0, schedule="cosine"):
    return np.array([learning_rate(n, steps, warmup, plateau, PEAK, FINAL, schedule) for n in range(steps)])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_warm_up_is_linear_and_the_last_step_has_the_final_rate(schedule):
    rates = course(100, 20, schedule=schedule)
    np.testing.assert_allclose(rates[:20], PEAK * np.arange(1, 21) / 20)
    assert rates[20] == pytest.approx(PEAK) and rates[-1] == pytest.approx(PEAK * FINAL)
    assert (np.diff(rates[20:]) < 0).all() and rates.max() == pytest.approx(PEAK)
    middle = (20 + 99) / 2  # half way down, the mean of the ends
    assert learning_rate(middle, 100, 20, 0, PEAK, FINAL, schedule) == pytest.approx(PEAK * (1 + FINAL) / 2)


def test_the_way_down_is_half_a_cosine_or_a_line():
    t = np.arange(80) / 79
    np.testing.assert_allclose(course(100, 20)[20:], PEAK * (FINAL + (1 - FINAL) * np.cos(math.pi * t / 2) ** 2))
    np.testing.assert_allclose(course(100, 20, schedule="linear")[20:], PEAK * (1 + (FINAL - 1) * t))


def test_exponential_is_the_product_of_efficientats_two_ramps():
    warmup, plateau, steps = 20, 30, 100
    t = np.arange(1, steps + 1)
    up = np.exp(-5 * (1 - np.clip(t, 0.5, warmup) / warmup) ** 2)
    down = np.interp(t, [warmup + plateau + 1, steps], [1, FINAL])
    np.testing.assert_allclose(course(steps, warmup, plateau, "exponential"), PEAK * up * down)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "exponential"])
def test_a_plateau_keeps_the_peak_and_moves_the_way_down(schedule):
    rates = course(100, 20, 30, schedule)
    np.testing.assert_allclose(rates[19:51], PEAK)
    np.testing.assert_allclose(rates[50:], course(50, 0, schedule=schedule))
    np.testing.assert_allclose(rates[:20], course(100, 20, schedule=schedule)[:20])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "exponential"])
def test_no_warm_up_begins_at_the_peak(schedule):
    rates = course(10, 0, schedule=schedule)
    assert rates[0] == pytest.approx(PEAK) and rates[-1] == pytest.approx(PEAK * FINAL)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "exponential"])
@pytest.mark.parametrize(
    "steps, warmup, plateau", [(1, 0, 0), (1, 1, 0), (2, 1, 0), (5, 5, 0), (5, 9, 0), (5, 2, 9), (5, 2, 3)]
)
def test_runs_that_are_hardly_longer_than_the_warm_up(steps, warmup, plateau, schedule):
    rates = course(steps, warmup, plateau, schedule)
    assert np.isfinite(rates).all() and (rates > 0).all() and (rates <= PEAK + 1e-12).all()
    assert (np.diff(rates[:warmup]) > 0).all()


def settings(**changes):
    known = {
        "optimizer": "adamw",
        "momentum": 0.9,
        "lr": 0.05,
        "weight_decay": 0.1,
        "clip_norm": 0.0,
        "layer_decay": 1.0,
    }
    return SimpleNamespace(**{**known, **changes})


class Small(paddle.nn.Layer):
    """Two stages, one of them of two names, and a head: matrices, biases and a norm."""

    stages = [("first.", "token"), "norm."]

    def __init__(self):
        super().__init__()
        self.first, self.norm = paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4)
        self.token = self.create_parameter([2, 3])
        self.after = paddle.nn.Linear(4, 3)
        self.head = paddle.nn.Linear(3, 2)


def learned(model):
    return {name: p for name, p in model.named_parameters() if not name.endswith(("._mean", "._variance"))}


def gradients(model, steps, seed=0):
    """[{name: array}]: of sizes that differ, as in life."""
    generator = np.random.default_rng(seed)

    def draw(shape):
        return (generator.standard_normal(shape) * 10 ** generator.uniform(-2, 1)).astype(np.float32)

    return [{name: draw(p.shape) for name, p in learned(model).items()} for _ in range(steps)]


def give(model, arrays):
    for name, array in arrays.items():
        learned(model)[name].grad = paddle.to_tensor(array)


def values(model):
    return {name: p.numpy() for name, p in learned(model).items()}


SHARES = {"first.": 0.25, "token": 0.25, "norm.": 0.5, "after.": 1.0, "head.": 1.0}  # for a decay of 0.5 a stage


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("clip_norm", [0.0, 3.0])
@pytest.mark.parametrize("kind, momentum", [("adamw", 0.9), ("adam", 0.9), ("sgd", 0.9), ("sgd", 0.0)])
def test_ten_steps_are_those_of_pytorch(kind, momentum, clip_norm, layer_decay):
    torch = pytest.importorskip("torch")
    model = Small()
    optimizer = create_optimizer(
        model, settings(optimizer=kind, momentum=momentum, clip_norm=clip_norm, layer_decay=layer_decay)
    )
    theirs = {name: torch.tensor(array, requires_grad=True) for name, array in values(model).items()}
    groups = [
        {
            "params": [tensor],
            "weight_decay": 0.1 if tensor.ndim > 1 else 0.0,
            "share": 1.0 if layer_decay == 1 else next(SHARES[key] for key in SHARES if name.startswith(key)),
        }
        for name, tensor in theirs.items()
    ]
    build = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind]
    other = build(groups, lr=0.05, **({"momentum": momentum} if kind == "sgd" else {}))
    for step, arrays in enumerate(gradients(model, 10)):
        rate = 0.05 / (1 + step)
        optimizer.set_lr(rate)
        for group in other.param_groups:
            group["lr"] = rate * group["share"]
        give(model, arrays)
        for name, array in arrays.items():
            theirs[name].grad = torch.tensor(array)
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        optimizer.step()
        other.step()
        optimizer.clear_grad()
    assert {array.ndim for array in values(model).values()} == {1, 2}
    for name, array in values(model).items():
        np.testing.assert_allclose(array, theirs[name].detach().numpy(), atol=2e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_a_zero_gradient_shows_the_decay_of_matrices_alone(kind):
    """The first step by hand. Adam divides the decay, which is its whole gradient, by its own size."""
    model = Small()
    optimizer = create_optimizer(model, settings(optimizer=kind))
    before = values(model)
    give(model, {name: np.zeros_like(array) for name, array in before.items()})
    optimizer.step()
    for name, array in values(model).items():
        old = before[name]
        change = 0.05 * np.sign(old) if kind == "adam" else 0.05 * 0.1 * old
        np.testing.assert_allclose(array, old - change * (old.ndim > 1), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_what_has_no_gradient_or_is_stopped_does_not_move(kind):
    model = Small()
    optimizer = create_optimizer(model, settings(optimizer=kind))
    first, second, third = gradients(model, 3)
    give(model, first)  # moments, which would move the parameters on
    optimizer.step()
    optimizer.clear_grad()
    model.first.weight.clear_gradient(False)
    model.after.weight.stop_gradient = True
    before = values(model)
    give(model, {name: array for name, array in second.items() if name != "first.weight"})
    optimizer.step()
    optimizer.clear_grad()
    still = {name for name, array in values(model).items() if np.array_equal(array, before[name])}
    assert still == {"first.weight", "after.weight"}
    model.after.weight.stop_gradient = False
    give(model, third)
    optimizer.step()
    assert not {name for name, array in values(model).items() if np.array_equal(array, before[name])}


def test_the_optimizer_leaves_statistics_alone_and_a_second_one_forgets_the_first():
    model = Small()
    create_optimizer(model, settings(optimizer="sgd", layer_decay=0.5))
    optimizer = create_optimizer(model, settings(optimizer="adamw", weight_decay=0.0))
    statistics = [
        tensor.numpy() for name, tensor in model.state_dict().items() if name.endswith(("_mean", "_variance"))
    ]
    before = values(model)
    give(model, {name: np.ones_like(array) for name, array in before.items()})
    optimizer.step()
    for name, array in values(model).items():
        np.testing.assert_allclose(array, before[name] - 0.05, atol=1e-5, err_msg=name)
    after = [tensor.numpy() for name, tensor in model.state_dict().items() if name.endswith(("_mean", "_variance"))]
    assert len(after) == 2 and all(np.array_equal(*pair) for pair in zip(statistics, after, strict=True))


@pytest.mark.parametrize("name", ["mn04_as", "ast_base"])
def test_shares_of_the_backbones_fall_from_the_head_to_the_input(name):
    model = registry.create_model(name, 5) if name != "ast_base" else _shallow_ast()
    share = layer_shares(model, 0.5)
    assert {share[key] for key in model.head} == {1.0}
    stages = len(model.stages)
    assert min(share.values()) == 0.5**stages and set(share.values()) == {0.5**n for n in range(stages + 1)}
    if name == "mn04_as":
        assert share["features.0.0.weight"] == 0.5**17 and share["features.16.0.weight"] == 0.5
        assert share["features.1.block.0.0.weight"] == 0.5**16 and share["classifier.2.weight"] == 1
    else:
        assert share["v.cls_token"] == share["v.patch_embed.proj.weight"] == 0.5**3
        assert share["v.blocks.0.norm1.weight"] == 0.5**2 and share["v.norm.weight"] == 1


def _shallow_ast():
    from paddletag.models import ast

    return ast.AST(5, depth=2)


def test_the_average_is_numpys():
    model = Small()
    average = weight_average.WeightAverage(model, 0.5)
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in model.state_dict().items()}
    assert sorted(average.state) == sorted(state) and any(name.endswith("_variance") for name in state)
    generator = np.random.default_rng(0)
    for n, keep in enumerate([1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5]):
        for name, tensor in model.state_dict().items():
            tensor.set_value(generator.standard_normal(tensor.shape).astype(np.float32))
            state[name] = keep * state[name] + (1 - keep) * tensor.numpy()
        average.update()
        assert average.updates == n + 1
    for name, tensor in average.state.items():
        np.testing.assert_allclose(tensor.numpy(), state[name], atol=1e-6, err_msg=name)
        assert tensor.stop_gradient


def arrays(state):
    return {name: tensor.numpy() for name, tensor in state.items()}


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


def moved():
    """(a model, its average, which differ in every entry)."""
    model = Small()
    average = weight_average.WeightAverage(model, 0.9)
    for tensor in model.state_dict().values():
        tensor.set_value(tensor.numpy() + 1)
    average.update()
    assert not any(np.array_equal(average.state[name], tensor) for name, tensor in model.state_dict().items())
    return model, average


def test_swap_lends_the_model_the_average():
    model, average = moved()
    own, mean = arrays(model.state_dict()), arrays(average.state)
    for failure in (False, True):
        with contextlib.suppress(KeyError), average.swap():
            assert same(mean, arrays(model.state_dict()))
            if failure:
                raise KeyError
        assert same(own, arrays(model.state_dict())) and same(mean, arrays(average.state))
    before = arrays(average.state)
    average.copy_to(model)
    model.first.weight.set_value(np.zeros([3, 4], np.float32))  # the two share nothing
    assert same(before, arrays(average.state)) and np.array_equal(model.norm._mean.numpy(), mean["norm._mean"])


def test_a_model_goes_on_learning_after_swap():
    model, average = moved()
    optimizer = create_optimizer(model, settings(optimizer="sgd", momentum=0.0, weight_decay=0.0, lr=1.0))
    with average.swap():
        pass
    before = model.head.weight.numpy()
    model.head(paddle.ones([1, 3])).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(model.head.weight.numpy(), before - 1, rtol=1e-6)


def test_a_loaded_average_goes_on_in_the_same_bits():
    model, average = moved()
    model_, other = moved()
    state = average.state
    other.load(arrays(average.state), average.updates)
    for changed in (model, model_):
        for tensor in changed.state_dict().values():
            tensor.set_value(np.full(tensor.shape, 3, np.float32))
    average.update()
    other.update()
    assert same(arrays(average.state), arrays(other.state)) and average.state is state


def test_the_average_of_half_precision_weights_is_in_float32():
    model = Small()
    model.to(dtype="bfloat16")
    average = weight_average.WeightAverage(model, 0.999)
    assert {tensor.dtype for tensor in average.state.values()} == {paddle.float32}
    average.update()
    with average.swap():
        assert model.first.weight.dtype == paddle.bfloat16
