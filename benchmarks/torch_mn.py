"""mn04 and its log-mel in PyTorch, to compare speed with: the same network with the same weights."""

from pathlib import Path

import numpy as np
import torch
from paddletag.features.frontend import MN as FRONT_END
from paddletag.models import pretrained_weights
from safetensors.numpy import load_file
from torch import nn

# in, kernel, expanded, out, squeeze-excitation, activation, stride: MobileNetV3-Large (arXiv 1905.02244, table 1)
LAYERS = [
    (16, 3, 16, 16, False, nn.ReLU, 1),
    (16, 3, 64, 24, False, nn.ReLU, 2),
    (24, 3, 72, 24, False, nn.ReLU, 1),
    (24, 5, 72, 40, True, nn.ReLU, 2),
    *[(40, 5, 120, 40, True, nn.ReLU, 1)] * 2,
    (40, 3, 240, 80, False, nn.Hardswish, 2),
    (80, 3, 200, 80, False, nn.Hardswish, 1),
    *[(80, 3, 184, 80, False, nn.Hardswish, 1)] * 2,
    (80, 3, 480, 112, True, nn.Hardswish, 1),
    (112, 3, 672, 112, True, nn.Hardswish, 1),
    (112, 5, 672, 160, True, nn.Hardswish, 2),
    *[(160, 5, 960, 160, True, nn.Hardswish, 1)] * 2,
]


def divisible(channels: float) -> int:
    """A multiple of 8, not below 90 % of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def convolution(
    c_in: int, c_out: int, size: int, stride: int = 1, groups: int = 1, act: type | None = None
) -> nn.Module:
    """Convolution, BatchNorm, activation."""
    layers = [nn.Conv2d(c_in, c_out, size, stride, size // 2, groups=groups, bias=False)]
    layers.append(nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.01))
    return nn.Sequential(*layers, *([act(inplace=True)] if act else []))


class Attention(nn.Module):
    """Squeeze-excitation of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = divisible(channels // 4)
        attention = nn.ModuleDict({"fc1": nn.Linear(channels, squeezed), "fc2": nn.Linear(squeezed, channels)})
        self.conc_se_layers = nn.ModuleList([attention])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (layer,) = self.conc_se_layers
        scale = layer["fc2"](layer["fc1"](x.mean((2, 3))).relu()).sigmoid()
        return x * scale[:, :, None, None]


class Block(nn.Module):
    """Expansion, depthwise convolution, attention, projection."""

    def __init__(self, c_in: int, size: int, wide: int, c_out: int, attend: bool, act: type, stride: int) -> None:
        super().__init__()
        layers = [convolution(c_in, wide, 1, act=act)] if wide != c_in else []
        layers.append(convolution(wide, wide, size, stride, wide, act))
        layers += [Attention(wide)] if attend else []
        self.block = nn.Sequential(*layers, convolution(wide, c_out, 1))
        self.add = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x) if self.add else self.block(x)


class TorchMN(nn.Module):
    """Log-mel [B, 1, 128, T] -> logits [B, classes]."""

    def __init__(self, classes: int = 527, width: float = 0.4) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return divisible(channels * width)

        blocks = [Block(scaled(i), k, scaled(e), scaled(o), se, act, s) for i, k, e, o, se, act, s in LAYERS]
        last, hidden = scaled(160), scaled(1280)
        stem = convolution(1, scaled(16), 3, 2, act=nn.Hardswish)
        self.features = nn.Sequential(stem, *blocks, convolution(last, 6 * last, 1, act=nn.Hardswish))
        layers = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6 * last, hidden), nn.Hardswish(inplace=True)]
        self.classifier = nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(hidden, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x))


def pretrained(path: Path | None = None) -> TorchMN:
    """The network with the weights mn04_as, or those of another safetensors file of this project, for inference."""
    arrays = load_file(path or pretrained_weights.installed("mn04_as"))
    model = TorchMN()
    names = {"running_mean": "_mean", "running_var": "_variance"}
    state = {}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = value
            continue
        layer, _, kind = name.rpartition(".")
        array = arrays.pop(f"{layer}.{names.get(kind, kind)}")
        state[name] = torch.from_numpy(np.ascontiguousarray(array.T if array.ndim == 2 else array))
    assert not arrays, f"weights without a layer: {', '.join(arrays)}"
    model.load_state_dict(state)
    return model.eval()


class LogMel:
    """Waveforms [B, N] at 32 kHz -> MN's log-mels [B, 1, 128, T], by torch.stft."""

    def __init__(self) -> None:
        self.window = torch.hann_window(FRONT_END.win_length, periodic=False)
        self.bank = torch.from_numpy(np.ascontiguousarray(FRONT_END.mel_bank.T))  # [128, 513]

    def __call__(self, waves: torch.Tensor) -> torch.Tensor:
        settings = FRONT_END
        waves = waves[:, 1:] - settings.pre_emphasis * waves[:, :-1]
        spectrum = torch.stft(
            waves, settings.n_fft, settings.hop_length, settings.win_length, self.window, return_complex=True
        )
        mel = self.bank @ (spectrum.real**2 + spectrum.imag**2)
        return (((mel + settings.floor).log() - settings.mean) / settings.scale)[:, None]
