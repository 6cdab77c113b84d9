"""What fills a sound that is shorter than a model needs."""

import numpy as np

PADS = ("zero", "repeat")  # zeros, or the sound again


def pad(wave: np.ndarray, length: int, how: str = "zero") -> np.ndarray:
    """[N], N > 0 -> at least `length` samples: filled with zeros ("zero"), or by the sound again ("repeat")."""
    if len(wave) >= length:
        return wave
    return np.resize(wave, length) if how == "repeat" else np.pad(wave, (0, length - len(wave)))
