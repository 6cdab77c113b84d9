"""The optimizer that a config asks for."""

from typing import Any

import paddle
from paddle import nn
from yacs.config import CfgNode

from paddletag.training.learning_rate import layer_shares


def create_optimizer(model: nn.Layer, settings: CfgNode) -> paddle.optimizer.Optimizer:
    """The optimizer that `settings` (config's `train`) ask for, over those of the model's parameters that learn now.

    adamw: Loshchilov & Hutter, arXiv 1711.05101; adam and sgd: weight decay as an L2 term of the gradient. No decay on
    norms and biases. Each parameter has its share of the learning rate (`layer_shares`). One that has no gradient at a
    step, or whose `stop_gradient` is set later on, is left as it is by that step, decay included.
    """
    parameters = [p for p in model.parameters() if not p.stop_gradient]  # BatchNorm's statistics are among them
    decayed = {p.name for p in parameters if p.ndim > 1}
    share = layer_shares(model, settings.layer_decay)
    parameter: Any  # paddle's own types do not have the attributes that its optimizers read
    for name, parameter in model.named_parameters():
        in_gradient = settings.optimizer != "adamw" and parameter.name in decayed and settings.weight_decay
        parameter.regularizer = paddle.regularizer.L2Decay(settings.weight_decay) if in_gradient else None
        parameter.optimize_attr = {"learning_rate": share[name]}
    common: dict[str, Any] = {
        "learning_rate": settings.lr,
        "parameters": parameters,
        "grad_clip": paddle.nn.ClipGradByGlobalNorm(settings.clip_norm) if settings.clip_norm else None,
    }
    if settings.optimizer == "adamw":
        return paddle.optimizer.AdamW(
            weight_decay=settings.weight_decay, apply_decay_param_fun=decayed.__contains__, **common
        )
    if settings.optimizer == "adam":
        return paddle.optimizer.Adam(**common)
    return paddle.optimizer.Momentum(momentum=settings.momentum, **common)
