"""Waveforms to log-mel spectrograms: the front ends that backbones were trained with, and the engine for CPUs.

`frontend_layer.py` holds the same front ends as a paddle layer, for GPUs and export.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from paddletag.features.mel_banks import bank_parts, kaldi_bank, slaney_bank
from paddletag.features.padding import PADS
from paddletag.runtime import UserError
from paddletag.typed_values import typed

BLOCK = 128  # frames per FFT call: the block's buffers stay in a core's cache, and memory does not grow with the clip
BAND = 8  # mels per product: so few, that BLAS computes it on one thread


@dataclass(frozen=True)
class FrontEnd:
    """The settings that turn a waveform into a log-mel spectrogram [frames, mels].

    Three families share the order of steps. Framing is either `centred` (an STFT whose frames are centred on multiples
    of the hop, with the waveform reflected at its edges) or `kaldi` (feature-window.cc: whole frames only, and each is
    freed of its own mean and emphasised by itself, its first sample against itself).
    Kaldi's bank on a centred STFT, as MN (EfficientAT): pre-emphasis of the waveform, ln(power + floor), scaled;
    Slaney-style, as PANNs (librosa): no pre-emphasis, dB of power above a floor, not scaled;
    Kaldi's own, as AST (torchaudio's kaldi.fbank with a Hann window): ln of power above a floor, scaled.
    """

    name: str
    sample_rate: int  # Hz
    n_fft: int  # samples
    win_length: int  # samples
    hop_length: int  # samples
    n_mels: int
    f_min: float  # Hz
    f_max: float  # Hz
    mel_scale: str  # kaldi | slaney (Slaney's bank is also normalised to equal area)
    periodic_window: bool  # Hann, periodic or symmetric
    pre_emphasis: float  # 0: none
    log: str  # natural: ln(power + floor) | floored: ln(max(power, floor)) | db: 10 log10(max(power, floor))
    floor: float
    mean: float = 0.0  # the output is (log-mel - mean) / scale
    scale: float = 1.0
    framing: str = "centred"  # centred | kaldi
    pad: str = "zero"  # what fills a clip that is shorter than the model's: zero | repeat (the clip itself)

    def __post_init__(self) -> None:
        _check_settings(self)

    def replace(self, **settings: Any) -> "FrontEnd":
        """A copy with other settings. UserError for a setting that does not exist, or a value of another type."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "name"]
        for key, value in settings.items():
            full_name = f"features.front_end.{key}"
            if key not in names:
                raise UserError(f"{full_name}: no such setting; there are: {', '.join(names)}")
            settings[key] = typed(value, getattr(self, key), full_name)
        return dataclasses.replace(self, **settings)

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, as JSON can hold them."""
        return dataclasses.asdict(self)

    def folder(self, min_seconds: float) -> str:
        """The name of the folder for features made with these settings and clips padded to `min_seconds`."""
        settings = self.to_dict()
        if self.pad == "zero":
            del settings["pad"]  # as features of before there was a choice
        text = json.dumps([settings, float(min_seconds)], sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def samples(self, seconds: float) -> int:
        """The number of samples in `seconds` at this front end's rate."""
        return round(seconds * self.sample_rate)

    def frames(self, samples: int) -> int:
        """The number of frames that `samples` samples give."""
        if self.framing == "kaldi":
            return 1 + (samples - self.win_length) // self.hop_length
        return 1 + (samples - (self.pre_emphasis > 0)) // self.hop_length

    @property
    def min_samples(self) -> int:
        """The shortest waveform that has a frame, or can be reflected at its edges."""
        return self.win_length if self.framing == "kaldi" else self.n_fft // 2 + 2

    @cached_property
    def window(self) -> np.ndarray:
        """The analysis window: float64 [n_fft], centred between zeros; with Kaldi's framing [win_length]."""
        # (scipy.signal.get_window does the same; importing it takes as long as 100 clips)
        window = np.hanning(self.win_length + 1)[:-1] if self.periodic_window else np.hanning(self.win_length)
        if self.framing == "kaldi":
            return window
        before = (self.n_fft - self.win_length) // 2
        return np.pad(window, (before, self.n_fft - self.win_length - before))

    @cached_property
    def mel_bank(self) -> np.ndarray:
        """The mel filter bank: float32 [n_fft / 2 + 1, n_mels]."""
        bank = slaney_bank if self.mel_scale == "slaney" else kaldi_bank
        return bank(self.n_fft, self.sample_rate, self.n_mels, self.f_min, self.f_max).astype(np.float32)

    def log_mel(self, wave: np.ndarray) -> np.ndarray:
        """float32 [N] at `sample_rate` -> float32 [frames(N), n_mels]. UserError for N below `min_samples`."""
        if len(wave) < self.min_samples:
            raise UserError(f"a waveform of {len(wave)} samples is too short for an STFT of {self.n_fft}")
        wave = np.asarray(wave, np.float32)
        if self.framing == "centred":
            if self.pre_emphasis:
                wave = wave[1:] - np.float32(self.pre_emphasis) * wave[:-1]
            wave = np.pad(wave, self.n_fft // 2, mode="reflect")
        first, stop = self._span
        frames = np.lib.stride_tricks.sliding_window_view(wave, len(self.window))[:: self.hop_length, first:stop]
        mel = np.empty((len(frames), self.n_mels), np.float32)
        # In float64: a float32 FFT errs by 2e-4 of the log beside a loud partial. Zeros after the window's samples.
        padded, window = np.zeros((min(BLOCK, len(frames)), self.n_fft)), self.window[first:stop]
        for begin in range(0, len(frames), BLOCK):
            block = frames[begin : begin + BLOCK]
            if self.framing == "kaldi":
                block = _emphasise(block, self.pre_emphasis)
            np.multiply(block, window, out=padded[: len(block), : stop - first])
            spectrum = np.fft.rfft(padded[: len(block)]).view(np.float64)  # real and imaginary parts in turn
            np.square(spectrum, out=spectrum)
            power = (spectrum[:, ::2] + spectrum[:, 1::2]).astype(np.float32)
            for bins, mels, bank in self._bands:
                np.matmul(power[:, bins], bank, out=mel[begin : begin + BLOCK, mels])
        return self.compress(mel)

    @cached_property
    def _span(self) -> tuple[int, int]:
        """The samples of a frame that count: the first, and the one after the last. Others meet zeros of the window."""
        if self.framing == "kaldi":  # all do in a frame's mean
            return 0, self.win_length
        used = np.flatnonzero(self.window)
        return int(used[0]), int(used[-1]) + 1

    @cached_property
    def _bands(self) -> list[tuple[slice, slice, np.ndarray]]:
        """The mel bank in parts: see `bank_parts`."""
        return bank_parts(self.mel_bank, BAND)

    def compress(self, mel: np.ndarray) -> np.ndarray:
        """Mel power -> normalised log-mel, in place: float32, any shape."""
        if self.log == "natural":
            mel += np.float32(self.floor)
            np.log(mel, out=mel)
        else:
            np.maximum(mel, np.float32(self.floor), out=mel)
            (np.log10 if self.log == "db" else np.log)(mel, out=mel)
            mel *= 10 if self.log == "db" else 1
        if (self.mean, self.scale) != (0.0, 1.0):
            mel -= np.float32(self.mean)
            mel /= np.float32(self.scale)
        return mel

    def expand(self, log_mel: np.ndarray) -> np.ndarray:
        """The inverse of `compress`: normalised log-mel -> mel power, a new float32 array."""
        log_mel = np.asarray(log_mel, np.float32) * np.float32(self.scale) + np.float32(self.mean)
        if self.log == "db":
            return 10 ** (log_mel / 10)
        power = np.exp(log_mel)
        return power if self.log == "floored" else np.maximum(power - np.float32(self.floor), 0)


def _emphasise(frames: np.ndarray, pre_emphasis: float) -> np.ndarray:
    """Kaldi's treatment of frames [T, win_length] before the window: float64 [T, win_length]."""
    frames = frames - frames.mean(axis=1, dtype=np.float64, keepdims=True)
    previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    return frames - pre_emphasis * previous


def _check_settings(settings: FrontEnd) -> None:
    """UserError for settings that no log-mel can be made with. It names the front end and the setting."""
    name = f"front end {settings.name}"
    if not (min(settings.sample_rate, settings.n_fft - 1, settings.floor) > 0 < settings.scale < math.inf):
        raise UserError(f"{name}: rate, n_fft, floor and scale must be positive")
    if not (0 < settings.hop_length <= settings.n_fft and 0 < settings.n_mels <= settings.n_fft // 2):
        raise UserError(f"{name}: hop_length must lie in 1..n_fft, n_mels in 1..n_fft / 2")
    if not 0 < settings.win_length <= settings.n_fft:
        raise UserError(f"{name}: win_length {settings.win_length} must lie in 1..n_fft = {settings.n_fft}")
    if not 0 <= settings.f_min < settings.f_max <= settings.sample_rate / 2:
        nyquist = settings.sample_rate / 2
        raise UserError(f"{name}: f_min {settings.f_min}, f_max {settings.f_max} not in 0..{nyquist} Hz")
    if settings.mel_scale not in ("kaldi", "slaney") or settings.log not in ("natural", "floored", "db"):
        raise UserError(f"{name}: mel_scale is kaldi or slaney, log is natural, floored or db")
    if settings.framing not in ("centred", "kaldi"):
        raise UserError(f"{name}: framing is centred or kaldi, not {settings.framing!r}")
    if settings.pad not in PADS:
        raise UserError(f"{name}: pad is {' or '.join(PADS)}, not {settings.pad!r}")


def from_dict(settings: dict[str, Any]) -> FrontEnd:
    """A FrontEnd from what `to_dict` gave. TypeError for a setting that it does not have, or that is missing."""
    return FrontEnd(**settings)


MN = FrontEnd(
    name="mn", sample_rate=32000, n_fft=1024, win_length=800, hop_length=320, n_mels=128, f_min=0.0, f_max=15000.0,
    mel_scale="kaldi", periodic_window=False, pre_emphasis=0.97, log="natural", floor=1e-5, mean=-4.5, scale=5.0,
    pad="repeat",
)  # fmt: skip
"""EfficientAT (Schmid et al., arXiv 2211.04772), the settings of its released weights."""

PANNS = FrontEnd(
    name="panns", sample_rate=32000, n_fft=1024, win_length=1024, hop_length=320, n_mels=64, f_min=50.0, f_max=14000.0,
    mel_scale="slaney", periodic_window=True, pre_emphasis=0.0, log="db", floor=1e-10, pad="repeat",
)  # fmt: skip
"""PANNs (Kong et al., arXiv 1912.10211); its models normalise with their own first BatchNorm."""

AST = FrontEnd(
    name="ast", sample_rate=16000, n_fft=512, win_length=400, hop_length=160, n_mels=128, f_min=20.0, f_max=8000.0,
    mel_scale="kaldi", periodic_window=False, pre_emphasis=0.97, log="floored", floor=2.0**-23,
    mean=-4.2677393, scale=2 * 4.5689974, framing="kaldi", pad="repeat",
)  # fmt: skip
"""AST (Gong et al., arXiv 2104.01778), normalised by AudioSet's statistics.

The original subtracts the clip's mean first, which each frame's own mean makes void. It pads the log-mel to 1024 frames
before the normalisation: here the model does that (`models/ast.py`), and features hold the frames of the sound.
"""
