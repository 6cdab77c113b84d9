"""The optimizer, and the learning rate as a function of the step."""

import math

import paddle


def learning_rate(step, steps, warmup, peak, final):
    """Linear warm-up over `warmup` steps to `peak`, then half a cosine down to `peak * final` at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


def adamw(model, settings):
    """AdamW over the model's parameters (Loshchilov & Hutter, arXiv 1711.05101); no decay on norms and biases."""
    parameters = [p for p in model.parameters() if not p.stop_gradient]
    decayed = {p.name for p in parameters if p.ndim > 1}
    return paddle.optimizer.AdamW(
        learning_rate=settings.lr,
        parameters=parameters,
        weight_decay=settings.weight_decay,
        apply_decay_param_fun=decayed.__contains__,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(settings.clip_norm) if settings.clip_norm else None,
    )
