"""Twelve synthetic sounds for toy data sets, and mixtures of several.

Several classes share their long-term spectrum and differ in time alone (sirens that wail, rise or fall; regular ticks
and irregular knocks; steady and chopped noise), so that a model has to look at the spectrogram.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

RATE = 44100  # Hz


# Parts of sounds. `t` is the time axis in seconds, [n].


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between `low` and `high`, each octave equally likely."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def noise(rng: np.random.Generator, n: int, slope: float, low: float = 20.0, high: float = RATE / 2) -> np.ndarray:
    """Gaussian noise [n] whose power falls as 1 / f^slope between `low` and `high` Hz, with soft edges; RMS 1."""
    f = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 1.0)
    gain = f ** (-slope / 2) / np.sqrt((1 + (low / f) ** 4) * (1 + (f / high) ** 4))
    x = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * gain, n)
    return x / np.sqrt(np.mean(x**2))


def tone(rng: np.random.Generator, frequency: np.ndarray, harmonics: int = 4) -> np.ndarray:
    """A tone [n] that follows `frequency` (Hz, [n]), with overtones of random strength."""
    phase = 2 * np.pi * np.cumsum(frequency) / RATE + rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(1.0, 2.5)
    overtones = (rng.uniform(0.4, 1.0) * k**-slope * np.sin(k * phase) for k in range(1, harmonics + 1))
    return sum(overtones, start=np.zeros(len(phase)))


Numbers = Sequence[float] | np.ndarray


def strike(t: np.ndarray, frequencies: Numbers, amplitudes: Numbers, decays: Numbers) -> np.ndarray:
    """A struck object: the sum of damped sines, decays in seconds."""
    partials = zip(frequencies, amplitudes, decays, strict=True)
    return sum((a * np.exp(-t / d) * np.sin(2 * np.pi * f * t) for f, a, d in partials), start=np.zeros(len(t)))


def bump(t: np.ndarray, length: float) -> np.ndarray:
    """An envelope that rises and falls once in `length` seconds, zero outside."""
    return np.where((t >= 0) & (t < length), np.sin(np.pi * np.clip(t / length, 0, 1)) ** 0.7, 0.0)


def scatter(t: np.ndarray, starts: Numbers, event: Callable[[int], np.ndarray]) -> np.ndarray:
    """Add up events: `event(k)` is the waveform of the k-th, placed at starts[k] seconds and cut to the clip."""
    out = np.zeros(len(t))
    for k, start in enumerate(starts):
        i = int(start * RATE)
        x = event(k)
        x = x[max(0, -i) : max(0, len(out) - i)]
        i = max(0, i)
        out[i : i + len(x)] += x
    return out


def axis(seconds: float) -> np.ndarray:
    """The time axis of a sound: seconds [seconds * RATE]."""
    return np.arange(int(seconds * RATE)) / RATE


def sweep(rng: np.random.Generator, t: np.ndarray, shape: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A tone whose pitch follows `shape` (phase in [0, 1) to height in [0, 1]) again and again."""
    cycle = (t / rng.uniform(0.3, 0.55) + rng.uniform()) % 1.0
    return tone(rng, log_uniform(rng, 450, 900) * rng.uniform(1.9, 3.0) ** shape(cycle))


def blows(rng: np.random.Generator, t: np.ndarray, starts: Numbers, pitch: float, decay: float) -> np.ndarray:
    """Blows on one hard object at `starts` (seconds), each a little different in strength; pitch in Hz, decay in s."""
    frequencies = pitch * np.array([1.0, 1.58, 2.24, 2.92]) * rng.uniform(0.95, 1.05, 4)
    blow = strike(axis(0.25), frequencies, rng.uniform(0.2, 1, 4), decay * rng.uniform(0.5, 1.0, 4))
    click = noise(rng, 220, 0.0) * np.exp(-np.arange(220) / 40) * rng.uniform(0.1, 0.6)
    blow[:220] += click
    strengths = rng.uniform(0.6, 1.0, len(starts))
    return scatter(t, starts, lambda k: strengths[k] * blow)


def rush(rng: np.random.Generator, n: int) -> np.ndarray:
    """The noise [n] that rain and helicopter share."""
    return noise(rng, n, rng.uniform(0.0, 1.2), log_uniform(rng, 60, 300), log_uniform(rng, 2500, 9000))


# The sounds: (generator, time axis [n] in seconds) -> waveform [n] of any level.


def alarm_beep(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """A steady pitch, on and off."""
    period = rng.uniform(0.14, 0.45)
    on = period * rng.uniform(0.4, 0.65)
    since = (t + rng.uniform(0, period)) % period  # seconds since it was switched on
    gate = np.clip(np.minimum(since, on - since) / 0.005, 0, 1)
    return tone(rng, np.full(len(t), log_uniform(rng, 700, 2600))) * gate


def bell(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Inharmonic partials that ring on after every strike."""
    partials = log_uniform(rng, 350, 1300) * np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.66, 3.0, 4.1])
    decays = rng.uniform(0.3, 0.9) / np.sqrt(np.arange(1, 9))
    ring = strike(axis(2.5), partials, rng.uniform(0.3, 1.0, 8), decays)
    starts = np.arange(rng.uniform(0, 0.4), t[-1], rng.uniform(0.6, 1.3))
    return scatter(t, starts, lambda k: ring)


def bird(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Short high chirps in quick succession, with pauses."""
    pitch = log_uniform(rng, 2300, 4500)
    length = rng.uniform(0.05, 0.13)
    glide = rng.uniform(0.25, 0.6) * rng.choice([-1, 1])
    starts, now = [], rng.uniform(0, 0.3)
    while now < t[-1]:
        for _ in range(rng.integers(3, 6)):
            starts.append(now)
            now += length * rng.uniform(1.2, 1.7)
        now += rng.uniform(0.15, 0.45)
    u = axis(length)

    def chirp(k: int) -> np.ndarray:
        return bump(u, length) * tone(rng, pitch * rng.uniform(0.9, 1.1) * 2 ** (glide * (u / length - 0.5) * 2), 2)

    return scatter(t, starts, chirp)


def clock(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Ticks at equal distances."""
    period = rng.uniform(0.18, 0.36)
    starts = np.arange(rng.uniform(0, period), t[-1], period)
    return blows(rng, t, starts, log_uniform(rng, 700, 3000), log_uniform(rng, 0.005, 0.03))


def dog(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Rough voiced bursts whose pitch rises and falls."""
    pitch, length = log_uniform(rng, 280, 620), rng.uniform(0.1, 0.2)
    u = axis(length)
    starts = np.cumsum(rng.uniform(1.4 * length, 0.6, int(t[-1] / length) + 2)) - rng.uniform(0.2, 0.5)

    def bark(k: int) -> np.ndarray:
        contour = pitch * rng.uniform(0.9, 1.1) * (0.75 + 0.5 * bump(u, length))
        voice = tone(rng, contour, 10)
        breath = noise(rng, len(u), 1.0, 500, 3000)
        return bump(u, length) * (voice + rng.uniform(0.1, 0.3) * breath)

    return scatter(t, starts[starts < t[-1]], bark)


def engine(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """A hum of many harmonics whose speed wanders, with rumble."""
    speed = log_uniform(rng, 45, 110) * (1 + 0.06 * np.sin(2 * np.pi * rng.uniform(0.3, 1.0) * t + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(speed) / RATE
    corner = log_uniform(rng, 8, 25)
    strengths = rng.uniform(0.3, 1.0, 40) / (1 + (np.arange(1, 41) / corner) ** 2)
    shifts = rng.uniform(0, 2 * np.pi, 40)
    hum = sum((strengths[k - 1] * np.sin(k * phase + shifts[k - 1]) for k in range(1, 41)), start=np.zeros(len(t)))
    return hum / hum.std() + rng.uniform(0.1, 0.4) * noise(rng, len(t), 1.0, 60, 3000)


def helicopter(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Noise chopped by the rotor."""
    phase = t * rng.uniform(7, 13) + rng.uniform()
    return rush(rng, len(t)) * (0.08 + np.exp(-((phase % 1.0) * rng.uniform(3, 6))))


def knock(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Three to five blows in a row, pauses between, never in step."""
    starts, now = [], rng.uniform(0, 0.3)
    while now < t[-1]:
        gap = rng.uniform(0.07, 0.13)
        for _ in range(rng.integers(3, 6)):
            starts.append(now)
            now += gap * rng.uniform(0.8, 1.2)
        now += rng.uniform(0.35, 0.7)
    return blows(rng, t, starts, log_uniform(rng, 200, 900), log_uniform(rng, 0.015, 0.06))


def rain(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Steady noise with single drops in it."""
    starts = rng.uniform(0, t[-1], int(t[-1] * rng.uniform(20, 120)))
    drop = strike(axis(0.03), [log_uniform(rng, 1500, 5000)], [1.0], [0.004])
    strengths = rng.exponential(rng.uniform(0.3, 1.0), len(starts))
    return rush(rng, len(t)) + scatter(t, starts, lambda k: strengths[k] * drop)


def siren(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """A pitch that wails up and down."""
    return sweep(rng, t, lambda cycle: 1 - np.abs(2 * cycle - 1))


def siren_falling(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """A pitch that falls again and again."""
    return sweep(rng, t, lambda cycle: 1 - cycle)


def siren_rising(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """A pitch that rises again and again."""
    return sweep(rng, t, lambda cycle: cycle)


SOUNDS = {
    sound.__name__: sound
    for sound in (
        alarm_beep, bell, bird, clock, dog, engine, helicopter, knock, rain, siren, siren_falling, siren_rising,
    )
}  # fmt: skip


def clip(name: str, index: int, seconds: float, seed: int) -> np.ndarray:
    """Clip `index` of class `name`: int16 [seconds * RATE], a function of the arguments and nothing else.

    The sound sets in within the first 15 %, over background noise of random colour 10 to 30 dB below it;
    the peak lies between -20 and -1 dBFS.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), index])
    t = axis(seconds)
    x = SOUNDS[name](rng, t)
    onset = rng.uniform(0, 0.15) * t[-1]
    x = x * np.clip((t - onset) / 0.01, 0, 1)
    x = x / np.sqrt(np.mean(x**2)) + noise(rng, len(t), rng.uniform(0, 2)) * 10 ** (-rng.uniform(10, 30) / 20)
    return pcm(x, 10 ** (rng.uniform(-20, -1) / 20))


def pcm(x: np.ndarray, peak: float) -> np.ndarray:
    """x as int16 with its peak at `peak` (1 is full scale)."""
    return np.round(x * (32767 * peak / np.abs(x).max())).astype(np.int16)


def mixture(sources: Sequence[tuple[str, int]], seconds: float, seed: int) -> np.ndarray:
    """The sum of the clips (name, index) of `sources`, one up to 5 dB louder than the other: int16 [seconds * RATE].

    A function of the arguments and nothing else; the peak lies between -20 and -1 dBFS.
    """
    names = zlib.crc32(" ".join(f"{name}{index}" for name, index in sources).encode())
    rng = np.random.default_rng([seed, names])
    total = np.zeros(int(seconds * RATE))
    for name, index in sources:
        x = clip(name, index, seconds, seed).astype(float)
        total = total + x / np.sqrt(np.mean(x**2)) * 10 ** (rng.uniform(-2.5, 2.5) / 20)
    return pcm(total, 10 ** (rng.uniform(-20, -1) / 20))
