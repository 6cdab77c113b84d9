"""Synthetic speech for toy data sets: a pulse train and noise, shaped by moving formants. No word can be understood."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FORMANTS = {  # Hz; men's averages of Peterson and Barney (1952)
    "a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (270, 2290, 3010), "o": (570, 840, 2410),
    "u": (300, 870, 2240), "r": (490, 1350, 1690),
}  # fmt: skip
WORDS = (
    "back bar bean boat bone calm chair cheek dog door far food gas goose hall jar king learn moon wheat".split()
)  # twenty of the two hundred of TESS
FRAME = 512  # samples that one shape of the mouth lasts


class Voice(NamedTuple):
    """A person's voice."""

    pitch: float  # Hz
    tract: float  # its formants over those of the table
    breath: float  # amplitude of the noise beside the pulses


Syllable = tuple[float, float, str, bool]  # start and length in seconds, vowel, whether a hiss begins it


class Emotion(NamedTuple):
    """How a word is said, against the voice's own way: 0 semitones, tempo 1, 0 dB."""

    pitch: float  # semitones
    contour: tuple[float, float, float]  # semitones at the begin, the middle and the end
    tempo: float
    level: float  # dB
    tilt: float  # dB per octave above 500 Hz: a pressed voice is brighter
    breath: float  # times the voice's
    tremor: float  # semitones, at 7 to 9 Hz


EMOTIONS = {
    "angry": Emotion(3, (4, 3, -3), 1.15, 6, 3, 1.0, 0.2),
    "disgust": Emotion(-3, (1, 0, -4), 0.75, 0, -1, 1.5, 0.4),
    "fear": Emotion(7, (0, 1, 1), 1.3, 0, 0, 2.5, 1.2),
    "happy": Emotion(4, (-1, 6, 1), 1.05, 3, 1, 1.0, 0.1),
    "neutral": Emotion(0, (0.5, 0, -1), 1.0, 0, 0, 1.0, 0.0),
    "ps": Emotion(5, (-3, 1, 9), 0.95, 2, 1, 1.0, 0.1),  # TESS's name for pleasant surprise
    "sad": Emotion(-2, (0, -1, -3), 0.65, -6, -4, 3.0, 0.2),
}
SPEAKERS = {"OAF": Voice(180, 1.12, 0.12), "YAF": Voice(215, 1.18, 0.08)}  # an older and a younger woman


def shaped(source: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """source [n] with the gains [frames, FRAME // 2 + 1] of each FRAME // 2 samples: [n], by overlapping frames."""
    hop, frames = FRAME // 2, len(gains)
    window = np.sin(np.pi * (np.arange(FRAME) + 0.5) / FRAME)
    padded = np.zeros((frames + 1) * hop)
    padded[hop : hop + len(source)] = source
    pieces = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::hop] * window
    pieces = np.fft.irfft(np.fft.rfft(pieces) * gains, FRAME) * window
    out = np.zeros((frames + 1) * hop)
    out[:-hop] += pieces[:, :hop].ravel()
    out[hop:] += pieces[:, hop:].ravel()
    return out[hop : hop + len(source)]


def utter(
    rng: np.random.Generator,
    voice: Voice,
    rate: int,
    pitch: np.ndarray,
    level: float | np.ndarray,
    syllables: Sequence[Syllable],
    tilt: float = 0.0,
) -> np.ndarray:
    """Speak: float [n] at `rate` Hz.

    pitch [n]: in Hz. level: an amplitude, or [n]. tilt: dB per octave above 500 Hz, against the usual voice.
    """
    n = len(pitch)
    phase = np.cumsum(pitch) / rate
    pulses = np.diff(np.floor(phase), prepend=0.0) * np.sqrt(rate / pitch)
    source = pulses + voice.breath * rng.standard_normal(n)
    centres = np.arange(-(-n // (FRAME // 2)) + 1) * (FRAME // 2) / rate
    middles = [start + length / 2 for start, length, _, _ in syllables]
    targets = voice.tract * np.array([FORMANTS[vowel] for _, _, vowel, _ in syllables])
    tracks = np.stack([np.interp(centres, middles, targets[:, k]) for k in range(3)])
    f = np.fft.rfftfreq(FRAME, 1 / rate)
    resonances = (
        strength / np.sqrt(1 + ((f - track[:, None]) / width) ** 2)
        for track, strength, width in zip(tracks, (1.0, 0.5, 0.3), (45, 55, 80), strict=True)
    )
    gains = sum(resonances, start=np.zeros((len(centres), len(f))))
    octaves = np.log2(np.maximum(f, 500) / 500)
    voiced = shaped(source, gains * 10 ** ((tilt - 4) * octaves / 20))
    time = np.arange(n) / rate
    open_mouth, hiss = np.zeros(n), np.zeros(n)
    for start, length, _, hissed in syllables:
        a, b = (int(np.clip(s * rate, 0, n)) for s in (start, start + length))
        open_mouth[a:b] += np.sin(np.pi * np.clip((time[a:b] - start) / length, 0, 1)) ** 0.6
        if hissed:
            a, b = max(0, a - int(0.07 * rate)), max(0, a)
            hiss[a:b] = np.hanning(b - a)
    noise = np.diff(rng.standard_normal(n + 2), n=2)  # twice differentiated: high, as an s
    return level * (voiced / voiced.std() * open_mouth + 0.15 * hiss * noise)


def speech(rng: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    """One person who talks in phrases with pauses: float [seconds * rate]."""
    woman = rng.uniform() < 0.5
    voice = Voice(rng.uniform(170, 240) if woman else rng.uniform(85, 140), rng.uniform(1.1, 1.2) if woman else
                  rng.uniform(0.95, 1.05), rng.uniform(0.05, 0.15))  # fmt: skip
    pace, now, syllables, knots = rng.uniform(0.16, 0.24), rng.uniform(0, 0.3), [], []
    while now < seconds:
        first = now
        for _ in range(rng.integers(5, 13)):
            length = pace * rng.uniform(0.6, 1.5)
            syllables.append((now, length, rng.choice(list(FORMANTS)), rng.uniform() < 0.4))
            knots.append((now + length / 2, rng.normal(0, 1.5) + 2 - 5 * (now - first) / 2.5))
            now += length * rng.uniform(1.0, 1.15)
        now += rng.uniform(0.2, 0.7)
    time = np.arange(int(seconds * rate)) / rate
    middles, semitones = zip(*knots, strict=True)
    pitch = voice.pitch * 2 ** (np.interp(time, middles, semitones) / 12)
    return utter(rng, voice, rate, pitch, 1.0, syllables)


def word(rng: np.random.Generator, speaker: str, name: str, emotion: str, seconds: float, rate: int) -> np.ndarray:
    """The word `name` (its sounds follow from its letters), said once within `seconds`: float [seconds * rate]."""
    manner = EMOTIONS[emotion]
    voice = SPEAKERS[speaker]
    word_rng = np.random.default_rng(zlib.crc32(name.encode()))
    vowels = word_rng.choice(list(FORMANTS), 3)
    hissed = word_rng.uniform(size=3) < 0.5
    tempo = manner.tempo * rng.uniform(0.93, 1.07)
    length = min(0.6 / tempo, 0.9 * seconds)
    start = rng.uniform(0.1, 0.9) * (seconds - length)
    syllables = [(start + k * length / 3, 0.95 * length / 3, vowels[k], hissed[k]) for k in range(3)]
    time = np.arange(int(seconds * rate)) / rate
    contour = np.interp(time, start + length * np.array([0.1, 0.5, 0.95]), manner.contour)
    tremor = manner.tremor * np.sin(2 * np.pi * rng.uniform(7, 9) * time)
    pitch = voice.pitch * 2 ** ((manner.pitch + rng.normal(0, 0.7) + contour + tremor) / 12)
    level = 0.1 * 10 ** ((manner.level + rng.uniform(-2, 2)) / 20)
    voice = voice._replace(breath=voice.breath * manner.breath)
    return utter(rng, voice, rate, pitch, level, syllables, manner.tilt) + 3e-4 * rng.standard_normal(len(time))
