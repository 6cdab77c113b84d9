"""BatchNorm's layers, and its running statistics: the means and variances that follow the batches of training."""

from collections.abc import Mapping

import paddle
from paddle import nn

from paddletag.models.backbone import STATISTICS
from paddletag.training import distributed

LAYERS = (nn.BatchNorm2D, nn.SyncBatchNorm)


def running_statistics(state: Mapping[str, paddle.Tensor]) -> list[paddle.Tensor]:
    """BatchNorm's running means and variances among the tensors of a state dict."""
    return [tensor for name, tensor in state.items() if is_statistic(name)]


def is_statistic(name: str) -> bool:
    """Whether this is the name of a running mean or variance, which Paddle lists among the parameters."""
    return name.endswith(STATISTICS)


def average_over_ranks_(state: Mapping[str, paddle.Tensor]) -> None:
    """Replace the running statistics in a state dict by their means over the ranks, each of which gathers its own."""
    distributed.average_(running_statistics(state))
