"""MFCCs and zero crossings (Piczak 2015): the front end of the classic baselines, and statistics of a window."""

import dataclasses
from functools import cached_property

import numpy as np

from paddletag.features.frontend import FrontEnd

DYNAMIC_RANGE = 80  # dB below a window's loudest band that its quietest are raised to, as librosa does
NEGATIVE = -(2.0**-16)  # half a step of 16 bits: what a decoder leaves in silence crosses no zero


@dataclasses.dataclass(frozen=True)
class MfccFrontEnd(FrontEnd):
    """A log-mel whose last column is the zero-crossing rate: [frames, n_mels], n_mels - 1 of them bands.

    The rate is the share of the steps between samples that change sign, over one hop of samples around the frame's
    centre.
    """

    @cached_property
    def mel_bank(self) -> np.ndarray:
        """float32 [n_fft / 2 + 1, n_mels]: the bands, and zeros for the last column."""
        bands = FrontEnd(**{**self.to_dict(), "n_mels": self.n_mels - 1}).mel_bank
        return np.pad(bands, ((0, 0), (0, 1)))

    def log_mel(self, wave: np.ndarray) -> np.ndarray:
        """float32 [N] -> float32 [frames(N), n_mels], as `FrontEnd.log_mel`, with the zero-crossing rate."""
        log_mel = super().log_mel(wave)
        padded = np.pad(np.asarray(wave, np.float32), self.hop_length // 2, mode="reflect")
        negative = np.lib.stride_tricks.sliding_window_view(padded < NEGATIVE, self.hop_length)[:: self.hop_length]
        log_mel[:, -1] = (negative[: len(log_mel), 1:] != negative[: len(log_mel), :-1]).mean(axis=1)
        return log_mel


MFCC = MfccFrontEnd(
    name="mfcc", sample_rate=44100, n_fft=2048, win_length=2048, hop_length=512, n_mels=129, f_min=0.0, f_max=22050.0,
    mel_scale="slaney", periodic_window=True, pre_emphasis=0.0, log="db", floor=1e-10,
)  # fmt: skip
"""Piczak 2015 (doi 10.1145/2733373.2806390): librosa's defaults at ESC-50's own rate."""


def statistics(log_mel: np.ndarray) -> np.ndarray:
    """Windows of MfccFrontEnd's [B, T, M] -> float64 [B, 26]: the features of Piczak 2015.

    The means over the frames of MFCCs 1 to 12 and of the zero-crossing rate, then their standard deviations.
    """
    import scipy.fft  # takes its time: networks do without

    decibels = log_mel[..., :-1].astype(np.float64)
    decibels = np.maximum(decibels, decibels.max(axis=(1, 2), keepdims=True) - DYNAMIC_RANGE)
    mfcc = scipy.fft.dct(decibels, norm="ortho")[..., 1:13]
    frames = np.concatenate([mfcc, log_mel[..., -1:]], axis=-1)
    return np.concatenate([frames.mean(axis=1), frames.std(axis=1)], axis=-1)
