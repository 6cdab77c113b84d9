"""The front ends of `frontend.py` as a paddle layer: for GPUs, and for models exported with their front end."""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from paddletag.features.frontend import FrontEnd


class LogMel(nn.Layer):
    """Waveforms [B, N] at `front_end.sample_rate` -> log-mel [B, frames, n_mels].

    The DFT is a strided convolution and the mel bank a matrix product, so that the layer needs no complex numbers
    and exports to ONNX. Its constants are buffers that state dicts leave out.

    What Kaldi's framing does to a frame before the DFT is linear too, and part of the same kernel. (Done to the frames
    in float32 it would cost five times the precision, beside a loud partial.)
    """

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self.front_end = front_end
        length, bins = len(front_end.window), front_end.n_fft // 2 + 1
        angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(length)) / front_end.n_fft
        kernel = np.concatenate([np.cos(angle), np.sin(angle)]) * front_end.window
        if front_end.framing == "kaldi":
            emphasis = np.eye(length) - front_end.pre_emphasis * np.eye(length, k=-1)
            emphasis[0, 0] -= front_end.pre_emphasis
            kernel = kernel @ emphasis
            kernel -= kernel.mean(axis=1, keepdims=True)  # a constant in the frame gives nothing
        self.register_buffer("dft", paddle.to_tensor(kernel[:, None].astype(np.float32)), persistable=False)
        self.register_buffer("mel_bank", paddle.to_tensor(front_end.mel_bank), persistable=False)

    def forward(self, wave: paddle.Tensor) -> paddle.Tensor:
        """Waveforms float32 [B, N] -> log-mel float32 [B, frames(N), n_mels]."""
        settings = self.front_end
        if settings.framing == "centred":
            if settings.pre_emphasis:
                wave = wave[:, 1:] - settings.pre_emphasis * wave[:, :-1]
            pad = [settings.n_fft // 2] * 2
            wave = F.pad(wave.unsqueeze(1), pad, mode="reflect", data_format="NCL").squeeze(1)
        spectrum = F.conv1d(wave.unsqueeze(1), self.dft, stride=settings.hop_length)  # [B, 2 * bins, frames]
        real, imaginary = spectrum.split(2, axis=1)
        mel = paddle.matmul((real**2 + imaginary**2).transpose([0, 2, 1]), self.mel_bank)
        if settings.log == "natural":
            log_mel = paddle.log(mel + settings.floor)
        else:
            mel = paddle.clip(mel, min=settings.floor)
            log_mel = 10 * paddle.log10(mel) if settings.log == "db" else paddle.log(mel)
        return (log_mel - settings.mean) / settings.scale
