"""Mel filter banks: Kaldi's and Slaney's, for power spectra of `n_fft` samples at `sample_rate` Hz."""

import numpy as np


def kaldi_bank(n_fft: int, sample_rate: int, n_mels: int, f_min: float, f_max: float) -> np.ndarray:
    """Kaldi's bank: float64 [n_fft / 2 + 1, n_mels].

    As in mel-computations.cc: triangles in mel, edges equally spaced, and zero in the Nyquist bin.
    """

    def to_mel(hz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(hz, np.float64) / 700)

    bins = np.arange(n_fft // 2) * sample_rate / n_fft
    mel = to_mel(bins)
    edges = np.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2)
    step = edges[1] - edges[0]
    rise = (mel[:, None] - edges[None, :-2]) / step
    fall = (edges[None, 2:] - mel[:, None]) / step
    return np.pad(np.maximum(0, np.minimum(rise, fall)), ((0, 1), (0, 0)))


def slaney_bank(n_fft: int, sample_rate: int, n_mels: int, f_min: float, f_max: float) -> np.ndarray:
    """The bank of librosa and paddleaudio: float64 [n_fft / 2 + 1, n_mels].

    The mel scale is linear below 1 kHz and logarithmic above, and each triangle has an equal area: Slaney, Auditory
    Toolbox (1998). Written out because importing paddleaudio imports paddle, which takes longer than the features of a
    hundred clips; a test holds it to `paddleaudio.functional.compute_fbank_matrix`.
    """

    def to_mel(hz: np.ndarray | float) -> np.ndarray:
        hz = np.asarray(hz, np.float64)
        return np.where(hz < 1000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1e-9) / 1000) / np.log(6.4))

    def to_hz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))

    edges = to_hz(np.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2))
    bins = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    rise = (bins[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[None, 2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (edges[2:] - edges[:-2])


def bank_parts(bank: np.ndarray, width: int) -> list[tuple[slice, slice, np.ndarray]]:
    """A mel bank [bins, mels] in parts of `width` mels: (the FFT bins that these use, the mels, the bank of both).

    A mel uses few bins, so that the products of all parts are far less work than one of the whole. Small products also
    stay on one thread, where BLAS would start all of its own.
    """
    parts = []
    for begin in range(0, bank.shape[1], width):
        mels = slice(begin, min(begin + width, bank.shape[1]))
        used = np.flatnonzero(bank[:, mels].any(axis=1))
        bins = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        parts.append((bins, mels, np.ascontiguousarray(bank[bins, mels])))
    return parts
