"""The learning rate: as a function of the step, and each parameter's share of it."""

import math

from paddle import nn
from yacs.config import CfgNode


def learning_rate(
    step: int, steps: int, warmup: int, plateau: int, peak: float, final: float, schedule: str = "cosine"
) -> float:
    """The learning rate of step 0, 1 .. steps - 1: up over `warmup` steps to `peak`, `plateau` steps there, then down
    to `peak * final` at the last step.

    schedule: cosine (linear warm-up, then half a cosine), linear (a line down), or exponential (a line down, after the
    warm-up exp(-5 (1 - t)^2) of Laine & Aila, arXiv 1610.02242, that PaSST and EfficientAT train with).
    """
    if step < warmup:
        t = (step + 1) / warmup
        return peak * math.exp(-5 * (1 - t) ** 2) if schedule == "exponential" else peak * (step + 1) / warmup
    start = warmup + plateau
    progress = min(1.0, max(0, step - start) / max(1, steps - 1 - start))
    left = (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
    return peak * (final + (1 - final) * left)


def rate_of_step(number: int, steps: int, settings: CfgNode) -> float:
    """The learning rate of a run's step `number`, of epochs of `steps`, as `settings` (config's `train`) say."""
    warmup, plateau = (round(steps * epochs) for epochs in (settings.warmup_epochs, settings.hold_epochs))
    total = steps * settings.epochs
    return learning_rate(number, total, warmup, plateau, settings.lr, settings.final_lr, settings.schedule)


def layer_shares(model: nn.Layer, layer_decay: float) -> dict[str, float]:
    """{name of a parameter: its share of the learning rate}: `layer_decay` in the last of `model.stages`, its square in
    the one before, and so on down to the input; 1 in what comes after the stages, the head among it."""
    share = {name: 1.0 for name, _ in model.named_parameters()}
    for depth, stage in enumerate(reversed(getattr(model, "stages", ())), 1):
        for name in share:
            if name.startswith(stage):
                share[name] = layer_decay**depth
    return share
