"""The moving average of a model's weights, which becomes the model where `train.ema` is set."""

import contextlib
from collections.abc import Iterator

import paddle
from paddle import nn

from paddletag.type_aliases import Arrays


class WeightAverage:
    """Exponential moving average, in float32, of a model's weights and BatchNorm statistics.

    After n updates the next one keeps min(decay, (1 + n) / (10 + n)) of what there is: an average over few steps still
    follows quickly. `state` ({name: tensor}) and `updates` are what a checkpoint keeps.
    """

    def __init__(self, model: nn.Layer, decay: float) -> None:
        self.model, self.decay, self.updates = model, decay, 0
        self.state = {name: tensor.detach().astype("float32").clone() for name, tensor in _floating(model)}

    def update(self) -> None:
        """Call it after each step of the optimizer."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        new = paddle.to_tensor(1 - keep, "float32")  # made once: lerp_ would make it for every tensor
        with paddle.no_grad():
            for name, tensor in _floating(self.model):
                self.state[name].lerp_(tensor.astype("float32"), new)
        self.updates += 1

    def load(self, arrays: Arrays, updates: int) -> None:
        """Go on from the `state` (as arrays) and the `updates` that a checkpoint has kept."""
        for name, tensor in self.state.items():
            tensor.set_value(arrays[name])
        self.updates = updates

    def copy_to(self, model: nn.Layer) -> None:
        """Make the average the model's weights."""
        _assign(self.state, model)

    @contextlib.contextmanager
    def swap(self) -> Iterator[None]:
        """A context in which the model has the average's weights; after it, it has its own again."""
        own = {name: tensor.detach().clone() for name, tensor in _floating(self.model)}
        self.copy_to(self.model)
        try:
            yield
        finally:
            _assign(own, self.model)


def _floating(model: nn.Layer) -> list[tuple[str, paddle.Tensor]]:
    """(name, tensor) of what the model's state has in floating point."""
    return [(name, tensor) for name, tensor in model.state_dict().items() if tensor.is_floating_point()]


def _assign(state: dict[str, paddle.Tensor], model: nn.Layer) -> None:
    """Copy `state` into the model, in the model's own precision."""
    with paddle.no_grad():
        for name, tensor in _floating(model):
            paddle.assign(state[name].astype(tensor.dtype), tensor)
