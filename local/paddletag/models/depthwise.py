"""Depthwise convolution that trains fast on CPUs too."""

from functools import lru_cache
from typing import Any

import paddle
from paddle import nn
from paddle.autograd import PyLayer
from paddle.autograd.py_layer import PyLayerBackward
from paddle.nn import functional as F

from paddletag import interrupt

LARGEST_MATRIX = 128 * 128  # inputs x outputs of a channel: beyond, the zeros cost more than Paddle's convolution

interrupt.undisturbed(PyLayerBackward.backward)  # Paddle's function around that of a layer


class DepthwiseConv2D(nn.Conv2D):
    """Each channel filtered by its own kernel, size x size (odd), padded by half of it; no bias. [B, C, H, W].

    Names, weights and, to rounding, results are those of nn.Conv2D. In training on a CPU they are computed by other
    means, since Paddle's own kernels are slow there: see docs/performance.md.
    """

    def __init__(self, channels: int, size: int, stride: int = 1) -> None:
        super().__init__(channels, channels, size, stride, size // 2, groups=channels, bias_attr=False)
        self.stride = stride

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, C, H / stride, W / stride], rounded up."""
        if paddle.in_dynamic_mode() and paddle.is_grad_enabled() and x.place.is_cpu_place():
            return on_cpu(x, self.weight, self.stride)
        return super().forward(x)


def on_cpu(x: paddle.Tensor, weight: paddle.Tensor, stride: int) -> paddle.Tensor:
    """The convolution, by what is fastest forward and backward."""
    height, width = x.shape[2:]
    if height * width * -(-height // stride) * -(-width // stride) <= LARGEST_MATRIX:
        return by_matrix(x, weight, stride)
    if stride == 1 and not x.stop_gradient and not weight.stop_gradient:
        return by_convolution(x, weight)
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2, groups=len(weight))


def by_matrix(x: paddle.Tensor, weight: paddle.Tensor, stride: int) -> paddle.Tensor:
    """The convolution of small maps as a product with one matrix per channel, inputs x outputs."""
    (batch, channels, height, width), size = x.shape, weight.shape[2]
    matrices = (weight.flatten(1) @ taps(size, stride, height, width)).reshape([channels, height * width, -1])
    y = x.flatten(2).transpose([1, 0, 2]) @ matrices
    return y.transpose([1, 0, 2]).reshape([batch, channels, -(-height // stride), -(-width // stride)])


@lru_cache(maxsize=32)
def taps(size: int, stride: int, height: int, width: int) -> paddle.Tensor:
    """[size^2, inputs x outputs]: 1 where this one of the kernel's weights takes that input to that output."""
    inputs = paddle.eye(height * width).reshape([-1, 1, height, width])
    kernels = paddle.eye(size * size).reshape([-1, 1, size, size])
    return F.conv2d(inputs, kernels, stride=stride, padding=size // 2).flatten(2).transpose([1, 0, 2]).flatten(1)


def by_convolution(x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """At stride 1, with an input's gradient that is computed by a convolution as well."""
    y = convolve(x.detach(), weight)  # from it comes the weight's gradient
    return InputGradient.apply(y, x, weight.detach())


class InputGradient(PyLayer):
    """`y` as it is, with the gradient for `x`: that of `y` convolved with the kernels turned by 180 degrees."""

    @staticmethod
    @interrupt.undisturbed
    def forward(ctx: Any, y: paddle.Tensor, x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
        """`y`. weight [C, 1, size, size]: the kernels."""
        ctx.save_for_backward(weight)
        return y

    @staticmethod
    def backward(  # type: ignore[override]  # Paddle's type knows no gradient that is not needed
        ctx: Any, gradient: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor, None]:
        """The gradients for `y`, for `x`, and none for the kernels."""
        (weight,) = ctx.saved_tensor()
        return gradient, convolve(gradient, weight.flip([2, 3])), None


def convolve(x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """Depthwise convolution at stride 1. Paddle's is fast for paddings of 0 and 1 alone, and its `pad` is slow."""
    (batch, channels, height, _), pad = x.shape, weight.shape[2] // 2
    if pad > 1:
        left = paddle.zeros([batch, channels, height, pad])
        x = paddle.concat([left, x, left], 3)
        top = paddle.zeros([batch, channels, pad, x.shape[3]])
        x, pad = paddle.concat([top, x, top], 2), 0
    return F.conv2d(x, weight, padding=pad, groups=channels)
