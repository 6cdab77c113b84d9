"""What all backbones have in common, and what can be asked of any or done to it: its size and cost, and freezing."""

import paddle
from paddle import nn

from paddletag.features.frontend import FrontEnd
from paddletag.runtime import UserError

STATISTICS = ("._mean", "._variance")  # how the names of BatchNorm's running statistics end


class Backbone(nn.Layer):
    """Log-mels of a front end -> logits [B, num_classes], by way of an embedding [B, D].

    front_end: what the model's log-mels come from. Those of `frames` frames and `mels` bands are [B, 1, frames, mels]
    where `layout` is TF, and [B, 1, mels, frames] where it is FT.
    """

    layout: str  # TF or FT
    head: tuple[str, str]  # the names of the weight and bias that depend on the number of classes

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self.front_end = front_end

    @property
    def stages(self) -> list[str | tuple[str, ...]]:
        """From the input on, how the names of each stage's parameters begin: a text, or several."""
        raise NotImplementedError

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Log-mels -> logits [B, num_classes]."""
        return self.classify(self.embed(x))

    def embed(self, x: paddle.Tensor) -> paddle.Tensor:
        """Log-mels -> embeddings [B, D]."""
        raise NotImplementedError

    def classify(self, embedding: paddle.Tensor) -> paddle.Tensor:
        """Embeddings [B, D] -> logits [B, num_classes]."""
        raise NotImplementedError


def set_bn_momentum(model: nn.Layer, momentum: float) -> None:
    """Let BatchNorm keep the share `momentum` of its running statistics at each step.

    Published backbones keep 0.99 of theirs: right for a hundred thousand steps, but after a few hundred steps from
    random weights such statistics still show the beginning.
    """
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer._momentum = momentum  # Paddle has no public way, and PaddleSpeech's layers take no momentum


def freeze(model: nn.Layer, depth: int) -> None:
    """Keep the first `depth` of a backbone's stages as they are: no gradients, and BatchNorm that neither follows the
    batch nor learns from it. UserError for a depth that the model does not have.
    """
    if not 0 <= depth <= len(model.stages):
        raise UserError(f"a depth of {depth} to freeze: {type(model).__name__} has 0 to {len(model.stages)} stages")
    for stage in model.stages[:depth]:
        for name, parameter in model.named_parameters():
            if name.startswith(stage):
                parameter.stop_gradient = True
        for name, layer in model.named_sublayers():
            if f"{name}.".startswith(stage) and isinstance(layer, nn.BatchNorm2D):
                layer.register_forward_pre_hook(_evaluate)  # type: ignore[arg-type]  # a hook may return nothing


def _evaluate(layer: nn.Layer, inputs: tuple[paddle.Tensor, ...]) -> None:
    """Before each pass of a layer: evaluation mode, whichever mode the model is in."""
    layer.eval()


def parameters(model: nn.Layer) -> int:
    """How many numbers the model learns; BatchNorm's running statistics, which paddle lists beside them, are not."""
    return sum(p.size for name, p in model.named_parameters() if not name.endswith(STATISTICS))


def macs(model: Backbone, seconds: float = 10.0) -> int:
    """Multiplications with addition for a clip of `seconds`, without the front end: counted while the model computes.

    Those of convolutions and linear layers, and what a layer's own method `macs` says of its input; norms, activations
    and biases are left out.
    """
    total = 0

    def count(layer: nn.Layer, inputs: tuple[paddle.Tensor, ...], output: paddle.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2D):  # weight [out, in / groups, height, width]
            total += output.size * layer.weight.size // layer.weight.shape[0]
        elif isinstance(layer, nn.Linear):
            total += output.size * layer.weight.shape[0]
        else:
            total += layer.macs(inputs[0].shape)

    counted = [
        layer.register_forward_post_hook(count)  # type: ignore[arg-type]  # as above
        for layer in model.sublayers()
        if isinstance(layer, (nn.Conv2D, nn.Linear)) or hasattr(layer, "macs")
    ]
    front_end, training = model.front_end, model.training
    frames = front_end.frames(front_end.samples(seconds))
    shape = [frames, front_end.n_mels] if model.layout == "TF" else [front_end.n_mels, frames]
    model.eval()
    try:
        with paddle.no_grad():
            model(paddle.zeros([1, 1, *shape]))
    finally:
        for hook in counted:
            hook.remove()
        model.train() if training else model.eval()
    return total
