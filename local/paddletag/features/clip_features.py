"""A clip's sound as its log-mel, and the windows that cover it: training, evaluation and tagging share them."""

import numpy as np

from paddletag.data import audio
from paddletag.features.frontend import FrontEnd
from paddletag.features.padding import pad
from paddletag.type_aliases import Record


def clip_log_mel(record: Record, front_end: FrontEnd, min_seconds: float) -> np.ndarray:
    """A record's sound, padded to `min_seconds`, as log-mel: float32 [frames, n_mels]. AudioError as `audio.load`.

    Training features, evaluation and tagging all come from here.
    """
    return padded_log_mel(clip_wave(record, front_end), front_end, min_seconds)


def clip_wave(record: Record, front_end: FrontEnd) -> np.ndarray:
    """A record's sound at the front end's rate: float32 [N]. AudioError as `audio.load`."""
    return audio.load(record["audio"], front_end.sample_rate, record.get("start", 0.0), record.get("end"))


def padded_log_mel(wave: np.ndarray, front_end: FrontEnd, min_seconds: float) -> np.ndarray:
    """A waveform [N], padded to `min_seconds` as the front end says, as log-mel: float32 [frames, n_mels]."""
    samples = max(front_end.samples(min_seconds), front_end.min_samples)
    return front_end.log_mel(pad(wave, samples, front_end.pad))


def window_starts(frames: int, length: int) -> np.ndarray:
    """Where the windows of `length` frames begin that cover a clip of `frames` frames: evenly spaced, int [W].

    They follow one another where the clip is a multiple of the window, and overlap else. Up to a twentieth of a
    window beyond a whole number of them is not worth another one, and is left out.
    """
    count = max(1, int(np.ceil(frames / length - 0.05)))
    return np.round(np.linspace(0, max(frames - length, 0), count)).astype(int)
