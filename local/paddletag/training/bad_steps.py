"""Steps with a gradient that is not finite: they are recognised and undone, and so many in a row end a run."""

import math

import paddle
from paddle import nn
from yacs.config import CfgNode

from paddletag.training import batch_norm_statistics


class StatisticsBackup:
    """Undoes what a step that is not taken has changed: the running statistics of BatchNorms in training mode."""

    def __init__(self, model: nn.Layer) -> None:
        following = {
            name
            for name, layer in model.named_sublayers()
            if isinstance(layer, batch_norm_statistics.LAYERS) and layer.training
        }
        state = model.state_dict().items()
        self.tensors = batch_norm_statistics.running_statistics(
            {name: tensor for name, tensor in state if name.rpartition(".")[0] in following}
        )
        self.copy: paddle.Tensor | None = None  # of all of them, one after the other

    def save(self) -> None:
        """Copy the statistics, before a step."""
        if self.tensors:
            self.copy = paddle.concat([tensor.flatten() for tensor in self.tensors])

    def restore(self) -> None:
        """Give the model the statistics that the last `save` has copied."""
        if self.copy is not None:
            values = self.copy.split([tensor.size for tensor in self.tensors])
            for tensor, value in zip(self.tensors, values, strict=True):
                paddle.assign(value.reshape(tensor.shape), tensor)


def gradients_are_finite(model: nn.Layer) -> bool:
    """Whether all gradients are numbers. They are the same on all ranks, so that all decide alike."""
    sums = [p.grad.astype("float32").sum() for p in model.parameters() if not p.stop_gradient and p.grad is not None]
    return math.isfinite(float(paddle.add_n(sums)))


def most_in_a_row(settings: CfgNode, may_overflow: bool, steps: int) -> int:
    """How many skipped steps in a row end a run whose epochs have `steps`: `train.max_bad_steps` or an epoch's.

    may_overflow: the loss is scaled, and a whole epoch of such steps may be the search for a scale that fits.
    """
    return settings.max_bad_steps if may_overflow else min(settings.max_bad_steps, steps)
