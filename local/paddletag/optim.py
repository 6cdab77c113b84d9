"""The optimizer, the learning rate as a function of the step, and the moving average of the weights."""

import contextlib
import math

import paddle


def learning_rate(step, steps, warmup, hold, peak, final, schedule="cosine"):
    """The learning rate of step 0, 1 .. steps - 1: up over `warmup` steps to `peak`, `hold` steps there, then down to
    `peak * final` at the last step.

    schedule: cosine (linear warm-up, then half a cosine), linear (a line down), or exponential (a line down, after the
    warm-up exp(-5 (1 - t)^2) of Laine & Aila, arXiv 1610.02242, that PaSST and EfficientAT train with).
    """
    if step < warmup:
        t = (step + 1) / warmup
        return peak * math.exp(-5 * (1 - t) ** 2) if schedule == "exponential" else peak * (step + 1) / warmup
    start = warmup + hold
    progress = min(1.0, max(0, step - start) / max(1, steps - 1 - start))
    left = (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
    return peak * (final + (1 - final) * left)


def rate_of_step(number: int, steps: int, settings) -> float:
    """The learning rate of a run's step `number`, of epochs of `steps`, as `settings` (config's `train`) say."""
    warmup, hold = (round(steps * epochs) for epochs in (settings.warmup_epochs, settings.hold_epochs))
    total = steps * settings.epochs
    return learning_rate(number, total, warmup, hold, settings.lr, settings.final_lr, settings.schedule)


def create(model, settings):
    """The optimizer that `settings` (config's `train`) ask for, over those of the model's parameters that learn now.

    adamw: Loshchilov & Hutter, arXiv 1711.05101; adam and sgd: weight decay as an L2 term of the gradient. No decay on
    norms and biases. Each parameter has its share of the learning rate (`shares`). One that has no gradient at a step,
    or whose `stop_gradient` is set later on, is left as it is by that step, decay included.
    """
    parameters = [p for p in model.parameters() if not p.stop_gradient]  # BatchNorm's statistics are among them
    decayed = {p.name for p in parameters if p.ndim > 1}
    share = shares(model, settings.layer_decay)
    for name, parameter in model.named_parameters():
        in_gradient = settings.optimizer != "adamw" and parameter.name in decayed and settings.weight_decay
        parameter.regularizer = paddle.regularizer.L2Decay(settings.weight_decay) if in_gradient else None
        parameter.optimize_attr = {"learning_rate": share[name]}
    common = {
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


def shares(model, layer_decay):
    """{name of a parameter: its share of the learning rate}: `layer_decay` in the last of `model.stages`, its square in
    the one before, and so on down to the input; 1 in what comes after the stages, the head among it."""
    share = {name: 1.0 for name, _ in model.named_parameters()}
    for depth, stage in enumerate(reversed(getattr(model, "stages", ())), 1):
        for name in share:
            if name.startswith(stage):
                share[name] = layer_decay**depth
    return share


class Average:
    """Exponential moving average, in float32, of a model's weights and BatchNorm statistics.

    After n updates the next one keeps min(decay, (1 + n) / (10 + n)) of what there is: an average over few steps still
    follows quickly. `state` ({name: tensor}) and `updates` are what a checkpoint keeps.
    """

    def __init__(self, model, decay):
        self.model, self.decay, self.updates = model, decay, 0
        self.state = {name: tensor.detach().astype("float32").clone() for name, tensor in _floating(model)}

    def update(self):
        """Call it after each step of the optimizer."""
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        new = paddle.to_tensor(1 - keep, "float32")  # made once: lerp_ would make it for every tensor
        with paddle.no_grad():
            for name, tensor in _floating(self.model):
                self.state[name].lerp_(tensor.astype("float32"), new)
        self.updates += 1

    def load(self, arrays, updates):
        """Go on from the `state` (as arrays) and the `updates` that a checkpoint has kept."""
        for name, tensor in self.state.items():
            tensor.set_value(arrays[name])
        self.updates = updates

    def into(self, model):
        """Make the average the model's weights."""
        _put(self.state, model)

    @contextlib.contextmanager
    def swap(self):
        """A context in which the model has the average's weights; after it, it has its own again."""
        own = {name: tensor.detach().clone() for name, tensor in _floating(self.model)}
        self.into(self.model)
        try:
            yield
        finally:
            _put(own, self.model)


def _floating(model):
    return [(name, tensor) for name, tensor in model.state_dict().items() if tensor.is_floating_point()]


def _put(state, model):
    with paddle.no_grad():
        for name, tensor in _floating(model):
            paddle.assign(state[name].astype(tensor.dtype), tensor)
