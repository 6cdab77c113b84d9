"""MN: MobileNetV3 for audio, as in EfficientAT (Schmid, Koutini, Widmer, arXiv 2211.04772)."""

import paddle
from paddle import nn
from paddle.nn import functional as F

from paddletag.features import frontend
from paddletag.models import pretrained_weights
from paddletag.models.backbone import Backbone
from paddletag.models.depthwise import DepthwiseConv2D
from paddletag.type_aliases import Arrays

# in, kernel, expanded, out, squeeze-excitation, activation, stride: MobileNetV3-Large at width 1
BLOCKS = [
    (16, 3, 16, 16, False, nn.ReLU, 1),
    (16, 3, 64, 24, False, nn.ReLU, 2),
    (24, 3, 72, 24, False, nn.ReLU, 1),
    (24, 5, 72, 40, True, nn.ReLU, 2),
    (40, 5, 120, 40, True, nn.ReLU, 1),
    (40, 5, 120, 40, True, nn.ReLU, 1),
    (40, 3, 240, 80, False, nn.Hardswish, 2),
    (80, 3, 200, 80, False, nn.Hardswish, 1),
    (80, 3, 184, 80, False, nn.Hardswish, 1),
    (80, 3, 184, 80, False, nn.Hardswish, 1),
    (80, 3, 480, 112, True, nn.Hardswish, 1),
    (112, 3, 672, 112, True, nn.Hardswish, 1),
    (112, 5, 672, 160, True, nn.Hardswish, 2),
    (160, 5, 960, 160, True, nn.Hardswish, 1),
    (160, 5, 960, 160, True, nn.Hardswish, 1),
]


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round a number of channels to a multiple of `divisor`, never below 90 % of it (MobileNetV2's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def conv_bn(conv: nn.Conv2D, activation: type[nn.Layer] | None = None) -> nn.Sequential:
    """Convolution, BatchNorm and activation. Sublayers 0 and 1 carry the weights, as in the original's names."""
    layers = [conv, nn.BatchNorm2D(conv.weight.shape[0], momentum=0.99, epsilon=1e-3)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


def pointwise(c_in: int, c_out: int) -> nn.Conv2D:
    """A convolution of kernel 1 without bias: [B, c_in, F, T] -> [B, c_out, F, T]."""
    return nn.Conv2D(c_in, c_out, 1, bias_attr=False)


def global_mean(x: paddle.Tensor) -> paddle.Tensor:
    """[B, C, F, T] -> [B, C]. Paddle's gradient of a mean is slow on CPUs where it is taken over two axes at once."""
    return x.flatten(2).mean(2)


class SqueezeExcitation(nn.Layer):
    """Channel attention from the mean over frequency and time: [B, C, F, T] -> the same."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, F, T], each channel scaled by 0 to 1."""
        scale = F.sigmoid(self.fc2(F.relu(self.fc1(global_mean(x)))))
        return x * scale.unsqueeze([2, 3])


class ConcurrentSE(nn.Layer):
    """The original can run attention over several axes side by side; its released weights use the channels alone."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.LayerList([SqueezeExcitation(channels, squeezed)])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, F, T], each channel scaled by 0 to 1."""
        return self.conc_se_layers[0](x)


class InvertedResidual(nn.Layer):
    """Expand (1x1), filter (depthwise), attend, project (1x1); added to its input where the shapes agree."""

    def __init__(
        self, c_in: int, kernel: int, expanded: int, c_out: int, attend: bool, activation: type[nn.Layer], stride: int
    ) -> None:
        super().__init__()
        layers: list[nn.Layer] = []
        if expanded != c_in:
            layers.append(conv_bn(pointwise(c_in, expanded), activation))
        layers.append(conv_bn(DepthwiseConv2D(expanded, kernel, stride), activation))
        if attend:
            layers.append(ConcurrentSE(expanded, make_divisible(expanded // 4)))
        layers.append(conv_bn(pointwise(expanded, c_out)))
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, c_in, F, T] -> [B, c_out, F / stride, T / stride], rounded up."""
        return x + self.block(x) if self.residual else self.block(x)


class MN(Backbone):
    """Log-mel [B, 1, 128, T] -> logits [B, num_classes]; `embed` gives the [B, 6 * channels] before the classifier."""

    layout = "FT"
    head = ("classifier.5.weight", "classifier.5.bias")

    def __init__(
        self, num_classes: int, front_end: frontend.FrontEnd = frontend.MN, width: float = 1.0, dropout: float = 0.2
    ) -> None:
        super().__init__(front_end)

        def channels(c: int) -> int:
            return make_divisible(c * width)

        last = channels(160)
        self.features = nn.Sequential(
            conv_bn(nn.Conv2D(1, channels(16), 3, 2, 1, bias_attr=False), nn.Hardswish),
            *(
                InvertedResidual(channels(i), kernel, channels(expanded), channels(o), attend, activation, stride)
                for i, kernel, expanded, o, attend, activation, stride in BLOCKS
            ),
            conv_bn(pointwise(last, 6 * last), nn.Hardswish),
        )
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2D(1),
            nn.Flatten(),
            nn.Linear(6 * last, channels(1280)),
            nn.Hardswish(),
            nn.Dropout(dropout),
            nn.Linear(channels(1280), num_classes),
        )
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D):
                nn.initializer.KaimingNormal(fan_in=layer.weight.shape[0] * layer.weight[0, 0].size)(layer.weight)
            elif isinstance(layer, nn.Linear):
                nn.initializer.Normal(0, 0.01)(layer.weight)

    @property
    def stages(self) -> list[str | tuple[str, ...]]:
        """One for each block, the convolutions before and after them included."""
        return [f"features.{n}." for n in range(len(self.features))]

    def embed(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, 1, 128, T] -> [B, 6 * channels]."""
        return global_mean(self.features(x))

    def classify(self, embedding: paddle.Tensor) -> paddle.Tensor:
        """[B, 6 * channels] -> logits [B, num_classes]."""
        return self.classifier(embedding.unsqueeze([2, 3]))  # whose first layer pools


def convert(arrays: Arrays) -> Arrays:
    """{name: array} of EfficientAT's .pt as this model's: the names are the same, torch's layout is not."""
    return pretrained_weights.from_torch(arrays) if any(name.endswith("running_mean") for name in arrays) else arrays
