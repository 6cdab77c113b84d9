"""The front ends of `frontend.py` as a paddle layer: for GPUs, and for models exported with their front end."""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F


class LogMel(nn.Layer):
    """Waveforms [B, N] at `front_end.sample_rate` -> log-mel [B, frames, n_mels].

    The DFT is a strided convolution and the mel bank a matrix product, so that the layer needs no complex numbers
    and exports to ONNX. Its constants are buffers that state dicts leave out.
    """

    def __init__(self, front_end):
        super().__init__()
        self.front_end = front_end
        n_fft, bins = front_end.n_fft, front_end.n_fft // 2 + 1
        angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(n_fft)) / n_fft
        kernel = np.concatenate([np.cos(angle), np.sin(angle)]) * front_end.window
        self.register_buffer("dft", paddle.to_tensor(kernel[:, None].astype(np.float32)), persistable=False)
        self.register_buffer("mel_bank", paddle.to_tensor(front_end.mel_bank), persistable=False)

    def forward(self, wave):
        settings = self.front_end
        if settings.pre_emphasis:
            wave = wave[:, 1:] - settings.pre_emphasis * wave[:, :-1]
        wave = F.pad(wave.unsqueeze(1), [settings.n_fft // 2] * 2, mode="reflect", data_format="NCL")
        spectrum = F.conv1d(wave, self.dft, stride=settings.hop_length)  # [B, 2 * bins, frames]
        real, imaginary = spectrum.split(2, axis=1)
        mel = paddle.matmul((real**2 + imaginary**2).transpose([0, 2, 1]), self.mel_bank)
        if settings.log == "natural":
            log_mel = paddle.log(mel + settings.floor)
        else:
            log_mel = 10 * paddle.log10(paddle.clip(mel, min=settings.floor))
        return (log_mel - settings.mean) / settings.scale
