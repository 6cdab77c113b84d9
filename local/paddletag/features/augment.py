"""Augmentation of clips: functions of a sample and a numpy random generator, which is the only randomness."""

import numpy as np
from yacs.config import CfgNode

from paddletag.features.frontend import FrontEnd

SNR_RANGE = 20  # dB between the loudest and the softest background


def wavmix(wave: np.ndarray, background: np.ndarray, snr: float, generator: np.random.Generator) -> np.ndarray:
    """Lay another sound under a waveform [N], for `snr` to `snr` + 20 dB between their mean powers: float32 [N].

    A random excerpt of a longer background is taken; a shorter one is repeated. Beside a silent clip no background has
    a level, and a silent background is none: then the clip is returned as it is. Its labels stay its own, as those of
    what is heard in front: to mix the labels as well is what `mixup` does.
    """
    extra = len(background) - len(wave)
    start = int(generator.integers(extra + 1)) if extra > 0 else 0
    background = np.resize(background[start : start + len(wave)], len(wave)).astype(np.float64)
    ratio = 10 ** (generator.uniform(snr, snr + SNR_RANGE) / 10)
    power, background_power = np.square(wave, dtype=np.float64).mean(), np.square(background).mean()
    if not (power and background_power):
        return wave
    return (wave + np.sqrt(power / background_power / ratio) * background).astype(np.float32)


def crop(log_mel: np.ndarray, frames: int, generator: np.random.Generator) -> np.ndarray:
    """A random excerpt of `frames` frames of [T, M]; clips that are not longer are returned whole."""
    extra = len(log_mel) - frames
    start = int(generator.integers(extra + 1)) if extra > 0 else 0
    return log_mel[start : start + frames]


def roll(log_mel: np.ndarray, largest: int, generator: np.random.Generator) -> np.ndarray:
    """Shift [T, M] circularly in time by up to `largest` frames either way."""
    return np.roll(log_mel, int(generator.integers(-largest, largest + 1)), axis=0)


def gain(log_mel: np.ndarray, front_end: FrontEnd, largest: float, generator: np.random.Generator) -> np.ndarray:
    """Change the level of [T, M] by up to `largest` dB either way: in the power domain, as if the sound were louder."""
    power = front_end.expand(log_mel) * np.float32(10 ** (generator.uniform(-largest, largest) / 10))
    return front_end.compress(power)


def spec_augment(log_mel: np.ndarray, freq_mask: int, time_mask: int, generator: np.random.Generator) -> np.ndarray:
    """One mask over frequency and one over time, up to so many mels and frames wide, filled with the clip's mean.

    SpecAugment (Park et al., arXiv 1904.08779).
    """
    log_mel = log_mel.copy()
    fill = log_mel.mean()
    for axis, widest in ((1, freq_mask), (0, time_mask)):
        size = log_mel.shape[axis]
        width = int(generator.integers(min(widest, size) + 1))
        start = int(generator.integers(size - width + 1))
        if axis:
            log_mel[:, start : start + width] = fill
        else:
            log_mel[start : start + width] = fill
    return log_mel


def mixup(
    batch: np.ndarray, targets: np.ndarray, alpha: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mix each clip of [B, T, M] with another of the batch, and their targets [B, C] alike.

    mixup (Zhang et al., arXiv 1710.09412), with lambda ~ Beta(alpha, alpha) per clip, and not below 1/2, so that the
    clip itself prevails. The targets of several labels are mixed in the same way: both losses are linear in the
    targets, so that the loss of the mixture is that of either clip's labels, weighted by its share.
    """
    share = generator.beta(alpha, alpha, len(batch)).astype(np.float32)
    share = np.maximum(share, 1 - share)
    other = generator.permutation(len(batch))
    x, y = share[:, None, None], share[:, None]
    return x * batch + (1 - x) * batch[other], y * targets + (1 - y) * targets[other]


def augment(log_mel: np.ndarray, settings: CfgNode, front_end: FrontEnd, generator: np.random.Generator) -> np.ndarray:
    """The augmentations that the config section `augment` asks for, of one clip [T, M]: float32 [T, M]."""
    if settings.roll:
        log_mel = roll(log_mel, round(settings.roll * front_end.sample_rate / front_end.hop_length), generator)
    if settings.gain:
        log_mel = gain(log_mel, front_end, settings.gain, generator)
    if settings.freq_mask or settings.time_mask:
        log_mel = spec_augment(log_mel, settings.freq_mask, settings.time_mask, generator)
    return log_mel
