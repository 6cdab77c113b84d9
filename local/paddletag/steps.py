"""What surrounds a step: mixed precision, the check of its gradient, and undoing a step that is not taken."""

import contextlib
import math

import paddle
from paddle import nn

from paddletag import checkpoint

NORMS = (nn.BatchNorm2D, nn.SyncBatchNorm)


class Precision:
    """`train.amp` and `train.amp_dtype`: O0 computes in float32; O1 in mixed precision, where Paddle's lists allow it.

    The weights stay float32. In float16 the loss is scaled, and the scaler lowers its scale whenever a step overflows:
    some overflow is a normal part of such a run.
    """

    def __init__(self, settings):
        self.mixed, self.dtype, self.limit = settings.amp != "O0", settings.amp_dtype, settings.max_bad_steps
        self.scaler = paddle.amp.GradScaler(enable=self.mixed and self.dtype == "float16")

    def cast(self) -> contextlib.AbstractContextManager:
        """The context for passes forward, in training and in validation."""
        return paddle.amp.auto_cast(self.mixed, level="O1", dtype=self.dtype)

    @property
    def may_overflow(self) -> bool:
        return self.scaler.is_enable()

    def most_bad_steps(self, steps: int) -> int:
        """How many bad steps in a row end a run whose epochs have `steps`."""
        return self.limit if self.may_overflow else min(self.limit, steps)


class Guard:
    """Undoes what a step that is not taken has changed: the statistics of the BatchNorms that follow the batches."""

    def __init__(self, model: nn.Layer):
        norms = {name for name, layer in model.named_sublayers() if isinstance(layer, NORMS) and layer.training}
        state = model.state_dict().items()
        self.tensors = statistics({name: tensor for name, tensor in state if name.rpartition(".")[0] in norms})
        self.copy = None

    def remember(self) -> None:
        """Before a step: one copy of them all."""
        if self.tensors:
            self.copy = paddle.concat([tensor.flatten() for tensor in self.tensors])

    def undo(self) -> None:
        if self.tensors:
            parts = self.copy.split([tensor.size for tensor in self.tensors])
            for tensor, part in zip(self.tensors, parts, strict=True):
                paddle.assign(part.reshape(tensor.shape), tensor)


def finite(model: nn.Layer) -> bool:
    """Whether all gradients are numbers. They are the same on all ranks, so that all decide alike."""
    sums = [p.grad.astype("float32").sum() for p in model.parameters() if not p.stop_gradient and p.grad is not None]
    return math.isfinite(float(paddle.add_n(sums)))


def statistics(state: dict) -> list[paddle.Tensor]:
    """BatchNorm's running means and variances among the tensors of a state dict."""
    return [tensor for name, tensor in state.items() if name.endswith(checkpoint.STATISTICS)]
