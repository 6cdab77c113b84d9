"""Time the log-mel of one waveform: python front_end.py NAME LIBRARY WAVE.npy OUT.npy

NAME: mn, panns or ast. LIBRARY: paddletag, librosa, torch or paddle. The last line is the median of RUNS as JSON,
without the import. What a library has of a front end it computes; the rest is written with its functions.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "local"))

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from paddletag.features import frontend
from paddletag.features.frontend import FrontEnd

FRONT_ENDS = {"mn": frontend.MN, "panns": frontend.PANNS, "ast": frontend.AST}
LIBRARIES = {  # and what of each front end they compute
    "paddletag": ["mn", "panns", "ast"],
    "librosa": ["mn", "panns"],  # it has no framing of Kaldi's
    "torch": ["mn", "panns", "ast"],
    "paddle": ["mn", "panns", "ast"],
}
RUNS = 5
Function = Callable[[np.ndarray], np.ndarray]  # float32 [N] -> [T, M]


def of_paddletag(settings: FrontEnd) -> Function:
    """The engine for CPUs."""
    return settings.log_mel


def emphasised(wave: np.ndarray, settings: FrontEnd) -> np.ndarray:
    """MN's first step, cheap in any library."""
    return wave[1:] - np.float32(settings.pre_emphasis) * wave[:-1] if settings.pre_emphasis else wave


def of_librosa(settings: FrontEnd) -> Function:
    """librosa.feature.melspectrogram; for MN librosa.stft with Kaldi's bank, which it has not."""
    import librosa
    import scipy.signal

    s = settings
    options = {"n_fft": s.n_fft, "hop_length": s.hop_length, "win_length": s.win_length, "pad_mode": "reflect"}
    if s.log == "db":
        filters = {"n_mels": s.n_mels, "fmin": s.f_min, "fmax": s.f_max}

        def log_mel(wave: np.ndarray) -> np.ndarray:
            mel = librosa.feature.melspectrogram(y=wave, sr=s.sample_rate, **options, **filters)
            return librosa.power_to_db(mel, amin=s.floor, top_db=None).T

        return log_mel
    window, bank = scipy.signal.get_window("hann", s.win_length, fftbins=False), s.mel_bank.T

    def kaldi_log_mel(wave: np.ndarray) -> np.ndarray:
        power = np.abs(librosa.stft(emphasised(wave, s), window=window, **options)) ** 2
        return ((np.log(bank @ power + np.float32(s.floor)) - s.mean) / s.scale).T

    return kaldi_log_mel


def of_torch(settings: FrontEnd) -> Function:
    """torch.stft; for AST frames and torch.fft."""
    import torch

    s = settings
    torch.set_grad_enabled(False)
    window = torch.hann_window(s.win_length, periodic=s.periodic_window)
    bank = torch.from_numpy(np.ascontiguousarray(s.mel_bank.T))  # [M, bins]

    def log_mel(wave: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(wave)
        if s.framing == "kaldi":
            frames = x.unfold(0, s.win_length, s.hop_length)
            frames = frames - frames.mean(1, keepdim=True)
            frames = frames - s.pre_emphasis * torch.cat([frames[:, :1], frames[:, :-1]], 1)
            spectrum = torch.fft.rfft(frames * window, s.n_fft).T
        else:
            x = x[1:] - s.pre_emphasis * x[:-1] if s.pre_emphasis else x
            spectrum = torch.stft(x, s.n_fft, s.hop_length, s.win_length, window, return_complex=True)
        mel = bank @ (spectrum.real**2 + spectrum.imag**2)
        mel = mel + s.floor if s.log == "natural" else mel.clamp(min=s.floor)
        mel = 10 * mel.log10() if s.log == "db" else mel.log()
        return ((mel - s.mean) / s.scale).T.numpy()

    return log_mel


def of_paddle(settings: FrontEnd) -> Function:
    """PANNs: paddle.audio's LogMelSpectrogram; MN: paddle.signal.stft; AST: paddleaudio's kaldi.fbank."""
    import paddle

    s = settings
    paddle.set_grad_enabled(False)
    if s.log == "db":
        layer = paddle.audio.features.LogMelSpectrogram(
            s.sample_rate, s.n_fft, s.hop_length, s.win_length, n_mels=s.n_mels, f_min=s.f_min, f_max=s.f_max,
            amin=s.floor, top_db=None,
        )  # fmt: skip
        return lambda wave: layer(paddle.to_tensor(wave)[None])[0].T.numpy()
    if s.framing == "kaldi":
        from paddleaudio.compliance import kaldi

        def fbank(wave: np.ndarray) -> np.ndarray:
            mel = kaldi.fbank(
                paddle.to_tensor(wave)[None], sr=s.sample_rate, n_mels=s.n_mels, low_freq=s.f_min, high_freq=s.f_max,
                window_type="hann", htk_compat=True,
            )  # fmt: skip
            return ((mel - s.mean) / s.scale).numpy()

        return fbank
    window = paddle.to_tensor(np.hanning(s.win_length).astype(np.float32))
    bank = paddle.to_tensor(np.ascontiguousarray(s.mel_bank.T))

    def log_mel(wave: np.ndarray) -> np.ndarray:
        x = paddle.to_tensor(wave)
        x = x[1:] - s.pre_emphasis * x[:-1]
        spectrum = paddle.signal.stft(x[None], s.n_fft, s.hop_length, s.win_length, window)[0]
        mel = bank @ (spectrum.real() ** 2 + spectrum.imag() ** 2)
        return (((mel + s.floor).log() - s.mean) / s.scale).T.numpy()

    return log_mel


def main(name: str, library: str, wave: Path, out: Path) -> None:
    """Time it, and write what it gives."""
    log_mel, sound = globals()[f"of_{library}"](FRONT_ENDS[name]), np.load(wave)
    np.save(out, log_mel(sound))  # the first call warms up
    walls, cpus = [], []
    for _ in range(RUNS):
        wall, cpu = time.perf_counter(), time.process_time()
        log_mel(sound)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    print(json.dumps({"wall": statistics.median(walls), "cpu": statistics.median(cpus)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
