"""Waveforms to log-mel spectrograms: the front ends that backbones were trained with, and the engine for CPUs.

`frontend_layer.py` holds the same front ends as a paddle layer, for GPUs and export.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.fft

from paddletag import audio, config
from paddletag.runtime import UserError

PADS = ("zero", "repeat")
BLOCK = 64  # frames per FFT call: the block's buffers stay in a core's cache, and memory does not grow with the clip


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

    def __post_init__(self):
        if not (min(self.sample_rate, self.n_fft - 1, self.floor) > 0 < self.scale < math.inf):
            raise UserError(f"front end {self.name}: rate, n_fft, floor and scale must be positive")
        if not (0 < self.hop_length <= self.n_fft and 0 < self.n_mels <= self.n_fft // 2):
            raise UserError(f"front end {self.name}: hop_length must lie in 1..n_fft, n_mels in 1..n_fft / 2")
        if not 0 < self.win_length <= self.n_fft:
            raise UserError(f"front end {self.name}: win_length {self.win_length} must lie in 1..n_fft = {self.n_fft}")
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            nyquist = self.sample_rate / 2
            raise UserError(f"front end {self.name}: f_min {self.f_min}, f_max {self.f_max} not in 0..{nyquist} Hz")
        if self.mel_scale not in ("kaldi", "slaney") or self.log not in ("natural", "floored", "db"):
            raise UserError(f"front end {self.name}: mel_scale is kaldi or slaney, log is natural, floored or db")
        if self.framing not in ("centred", "kaldi"):
            raise UserError(f"front end {self.name}: framing is centred or kaldi, not {self.framing!r}")
        if self.pad not in PADS:
            raise UserError(f"front end {self.name}: pad is {' or '.join(PADS)}, not {self.pad!r}")

    def replace(self, **settings):
        """A copy with other settings. UserError for a setting that does not exist, or a value of another type."""
        known = [field.name for field in dataclasses.fields(self) if field.name != "name"]
        for key, value in settings.items():
            name = f"features.front_end.{key}"
            if key not in known:
                raise UserError(f"{name}: no such setting; there are: {', '.join(known)}")
            settings[key] = config.typed(value, getattr(self, key), name)
        return dataclasses.replace(self, **settings)

    def to_dict(self):
        return dataclasses.asdict(self)

    def folder(self, min_seconds):
        """The name of the folder for features made with these settings and clips padded to `min_seconds`."""
        settings = self.to_dict()
        if self.pad == "zero":
            del settings["pad"]  # as features of before there was a choice
        settings = json.dumps([settings, float(min_seconds)], sort_keys=True)
        return f"{self.name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"

    def samples(self, seconds):
        """The number of samples in `seconds` at this front end's rate."""
        return round(seconds * self.sample_rate)

    def frames(self, samples):
        """The number of frames that `samples` samples give."""
        if self.framing == "kaldi":
            return 1 + (samples - self.win_length) // self.hop_length
        return 1 + (samples - (self.pre_emphasis > 0)) // self.hop_length

    @property
    def min_samples(self):
        """The shortest waveform that has a frame, or can be reflected at its edges."""
        return self.win_length if self.framing == "kaldi" else self.n_fft // 2 + 2

    @cached_property
    def window(self):
        """The analysis window: float64 [n_fft], centred between zeros; with Kaldi's framing [win_length]."""
        # (scipy.signal.get_window does the same; importing it takes as long as 100 clips)
        window = np.hanning(self.win_length + 1)[:-1] if self.periodic_window else np.hanning(self.win_length)
        if self.framing == "kaldi":
            return window
        before = (self.n_fft - self.win_length) // 2
        return np.pad(window, (before, self.n_fft - self.win_length - before))

    @cached_property
    def mel_bank(self):
        """The mel filter bank: float32 [n_fft / 2 + 1, n_mels]."""
        return (_slaney_bank(self) if self.mel_scale == "slaney" else _kaldi_bank(self)).astype(np.float32)

    def height(self, hertz):
        """Where a frequency lies in a picture of the log-mel: from 0, its lower edge, to 1."""
        peaks = self.mel_bank.argmax(0) * self.sample_rate / self.n_fft
        return float(np.interp(hertz, peaks, np.arange(self.n_mels)) + 0.5) / self.n_mels

    def log_mel(self, wave):
        """float32 [N] at `sample_rate` -> float32 [frames(N), n_mels]. N of at least `min_samples`."""
        if len(wave) < self.min_samples:
            raise UserError(f"a waveform of {len(wave)} samples is too short for an STFT of {self.n_fft}")
        wave = np.asarray(wave, np.float32)
        if self.framing == "centred":
            if self.pre_emphasis:
                wave = wave[1:] - np.float32(self.pre_emphasis) * wave[:-1]
            wave = np.pad(wave, self.n_fft // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(wave, len(self.window))[:: self.hop_length]
        mel = np.empty((len(frames), self.n_mels), np.float32)
        low, high = self._bins
        bank = self.mel_bank[low:high]
        for begin in range(0, len(frames), BLOCK):
            # In float64 (the window's type): a float32 FFT errs by 2e-4 of the log beside a loud partial.
            block = frames[begin : begin + BLOCK]
            if self.framing == "kaldi":
                block = self._emphasise(block)
            spectrum = scipy.fft.rfft(block * self.window, self.n_fft, axis=1)[:, low:high]
            power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
            np.matmul(power, bank, out=mel[begin : begin + BLOCK])
        return self.compress(mel)

    def _emphasise(self, frames):
        """Kaldi's treatment of frames [T, win_length] before the window: float64 [T, win_length]."""
        frames = frames - frames.mean(axis=1, dtype=np.float64, keepdims=True)
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        return frames - self.pre_emphasis * before

    @cached_property
    def _bins(self):
        """The range of FFT bins that the bank uses."""
        used = np.flatnonzero(self.mel_bank.any(axis=1))
        return int(used[0]), int(used[-1]) + 1

    def compress(self, mel):
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

    def expand(self, log_mel):
        """The inverse of `compress`: normalised log-mel -> mel power, a new float32 array."""
        log_mel = np.asarray(log_mel, np.float32) * np.float32(self.scale) + np.float32(self.mean)
        if self.log == "db":
            return 10 ** (log_mel / 10)
        power = np.exp(log_mel)
        return power if self.log == "floored" else np.maximum(power - np.float32(self.floor), 0)


def clip_log_mel(record, front_end, min_seconds):
    """A record's sound, padded to `min_seconds`, as log-mel: float32 [frames, n_mels]. AudioError as `audio.load`.

    Training features, evaluation and tagging all come from here.
    """
    return padded_log_mel(clip_wave(record, front_end), front_end, min_seconds)


def clip_wave(record, front_end):
    """A record's sound at the front end's rate: float32 [N]. AudioError as `audio.load`."""
    return audio.load(record["audio"], front_end.sample_rate, record.get("start", 0.0), record.get("end"))


def padded_log_mel(wave, front_end, min_seconds):
    """A waveform [N], padded to `min_seconds` as the front end says, as log-mel: float32 [frames, n_mels]."""
    samples = max(front_end.samples(min_seconds), front_end.min_samples)
    return front_end.log_mel(audio.pad(wave, samples, front_end.pad))


def from_dict(settings):
    """A FrontEnd from what `to_dict` gave."""
    return FrontEnd(**settings)


def window_starts(frames, length):
    """Where the windows of `length` frames begin that cover a clip of `frames` frames: evenly spaced, int [W].

    They follow one another where the clip is a multiple of the window, and overlap else. Up to a twentieth of a
    window beyond a whole number of them is not worth another one, and is left out.
    """
    count = max(1, int(np.ceil(frames / length - 0.05)))
    return np.round(np.linspace(0, max(frames - length, 0), count)).astype(int)


def _kaldi_bank(front_end):
    """Kaldi's bank (mel-computations.cc): triangles in mel, edges equally spaced, and zero in the Nyquist bin."""

    def to_mel(hz):
        return 1127 * np.log(1 + np.asarray(hz, np.float64) / 700)

    bins = np.arange(front_end.n_fft // 2) * front_end.sample_rate / front_end.n_fft
    mel = to_mel(bins)
    edges = np.linspace(to_mel(front_end.f_min), to_mel(front_end.f_max), front_end.n_mels + 2)
    step = edges[1] - edges[0]
    rise = (mel[:, None] - edges[None, :-2]) / step
    fall = (edges[None, 2:] - mel[:, None]) / step
    return np.pad(np.maximum(0, np.minimum(rise, fall)), ((0, 1), (0, 0)))


def _slaney_bank(front_end):
    """The bank of librosa and paddleaudio: linear below 1 kHz, logarithmic above, each triangle of equal area.

    Slaney, Auditory Toolbox (1998). Written out because importing paddleaudio imports paddle, which takes longer
    than the features of a hundred clips; a test holds it to `paddleaudio.functional.compute_fbank_matrix`.
    """

    def to_mel(hz):
        hz = np.asarray(hz, np.float64)
        return np.where(hz < 1000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1e-9) / 1000) / np.log(6.4))

    def to_hz(mel):
        return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))

    edges = to_hz(np.linspace(to_mel(front_end.f_min), to_mel(front_end.f_max), front_end.n_mels + 2))
    bins = np.arange(front_end.n_fft // 2 + 1) * front_end.sample_rate / front_end.n_fft
    rise = (bins[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[None, 2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (edges[2:] - edges[:-2])


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
