"""Synthetic music for toy data sets: ten styles that differ in tempo, drum pattern, bass, harmony and instruments.

They bear the names of GTZAN's genres and caricature them; no recording is used.
"""

from typing import NamedTuple

import numpy as np

RATE = 22050  # Hz
Pitch = int | np.integer  # semitones from 440 Hz


class Timbre(NamedTuple):
    """How the notes of an instrument sound."""

    slope: float  # harmonic k has the amplitude k ** -slope
    attack: float  # seconds
    decay: float  # seconds
    drive: float = 0.0  # how far the sum of its notes is overdriven; 0: not
    vibrato: float = 0.0  # semitones, at 5.5 Hz


ORGAN, STRINGS = Timbre(1.2, 0.02, 2.0), Timbre(1.1, 0.15, 3.0, vibrato=0.25)
GUITAR, CLEAN, FUZZ = Timbre(1.4, 0.004, 0.35), Timbre(1.8, 0.003, 0.12), Timbre(1.0, 0.004, 0.6, drive=6.0)
CRUNCH, PIANO, REED = Timbre(1.2, 0.004, 0.5, drive=2.0), Timbre(1.7, 0.003, 0.5), Timbre(0.9, 0.03, 0.8, vibrato=0.3)
BASS, SUB, PAD = Timbre(1.9, 0.006, 0.3), Timbre(3.5, 0.008, 0.7), Timbre(1.6, 0.25, 3.0)
MAJOR, MINOR, SEVENTH, MINOR_NINTH, FIFTH = (0, 4, 7), (0, 3, 7), (0, 4, 10), (3, 7, 10, 14), (0, 7, 12)


class Style(NamedTuple):
    """One bar has 16 steps. Drums and chords: x strikes. Bass: the semitones above the root, in hexadecimal."""

    tempo: tuple[float, float]  # beats a minute, from and to
    swing: float  # share of a beat that its first half takes
    kick: str
    snare: str
    hat: str
    ring: float  # seconds that the hat rings
    bass: str
    bass_timbre: Timbre
    chords: str
    chord: tuple[int, ...]  # semitones
    chord_timbre: Timbre
    roots: tuple[int, ...]  # semitones, a bar each
    lead: float  # how likely a step has a note of the melody
    lead_timbre: Timbre


STYLES = {
    "blues": Style((66, 92), 0.66, "x.......x.......", "....x.......x...", "x.x.x.x.x.x.x.x.", 0.05,
                   "0...4...7...9...", BASS, "x.....x.....x...", SEVENTH, ORGAN, (0, 0, 5, 0, 7, 5), 0.3, GUITAR),
    "classical": Style((58, 84), 0.5, "................", "................", "................", 0.05,
                       "0...............", STRINGS, "x.......x.......", MAJOR, STRINGS,
                       (0, 5, 7, 9, 2, 7), 0.4, STRINGS),
    "country": Style((96, 118), 0.5, "x.......x.......", "....x..x....x..x", "................", 0.04,
                     "0.......7.......", BASS, "....x.x.....x.x.", MAJOR, GUITAR, (0, 0, 5, 7), 0.45, CLEAN),
    "disco": Style((114, 126), 0.5, "x...x...x...x...", "....x.......x...", "..x...x...x...x.", 0.18,
                   "0.c.0.c.0.c.0.c.", BASS, "x...............", MINOR, STRINGS, (0, 0, 5, 7), 0.1, STRINGS),
    "hiphop": Style((78, 96), 0.56, "x..x......xx....", "....x.......x...", "xxx.xxx.xxx.xxxx", 0.03,
                    "0.........3.....", SUB, "................", MINOR, PAD, (0, 0, 0, 0), 0.06, CLEAN),
    "jazz": Style((140, 200), 0.64, "................", "......x.......x.", "x...x.x.x...x.x.", 0.35,
                  "0...4...7...a...", BASS, "......x...x.....", MINOR_NINTH, PIANO, (2, 7, 0, 9), 0.4, REED),
    "metal": Style((145, 190), 0.5, "xxxxxxxxxxxxxxxx", "....x.......x...", "x...x...x...x...", 0.25,
                   "0000000000000000", BASS, "x.xxx.xxx.xxx.xx", FIFTH, FUZZ, (0, 0, 1, 6), 0.05, FUZZ),
    "pop": Style((98, 126), 0.5, "x.....x.x.......", "....x.......x...", "x.x.x.x.x.x.x.x.", 0.04,
                 "0.0.0.0.0.0.0.0.", BASS, "x.......x.......", MAJOR, PAD, (0, 7, 9, 5), 0.35, PIANO),
    "reggae": Style((66, 86), 0.54, "........x.......", "........x.......", "x.x.x.x.x.x.x.x.", 0.03,
                    "..0.0...4.7.....", SUB, "..x...x...x...x.", MINOR, CLEAN, (0, 0, 10, 5), 0.05, ORGAN),
    "rock": Style((110, 142), 0.5, "x.......x.x.....", "....x.......x...", "x.x.x.x.x.x.x.x.", 0.08,
                  "0.0.0.0.0.0.0.0.", BASS, "x...x.x.x...x.x.", FIFTH, CRUNCH, (0, 10, 5, 0), 0.12, CRUNCH),
}  # fmt: skip


def note(pitch: Pitch, seconds: float, timbre: Timbre) -> np.ndarray:
    """A note of `pitch` that is let go after `seconds`: float [n]."""
    t = np.arange(int((seconds + 0.05) * RATE)) / RATE
    f = 440 * 2 ** (pitch / 12)
    phase = 2 * np.pi * f * (t + timbre.vibrato * np.log(2) / 12 * np.cos(11 * np.pi * t) / (11 * np.pi))
    harmonics = range(1, min(12, int(0.45 * RATE / f)) + 1)
    x = np.zeros(len(t))
    for k in harmonics:
        x += k**-timbre.slope * np.sin(k * phase) * np.exp(-t * (k - 1) / (4 * timbre.decay))
    return x * np.minimum(t / timbre.attack, 1) * np.exp(-t / timbre.decay) * np.clip((t[-1] - t) / 0.05, 0, 1)


def drums(rng: np.random.Generator, ring: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kick, snare and hat: float [n] each."""
    t = np.arange(int(0.5 * RATE)) / RATE
    bend = rng.uniform(0.02, 0.05)
    kick = np.sin(2 * np.pi * (rng.uniform(42, 58) * t - 90 * bend * np.exp(-t / bend))) * np.exp(-t / 0.12)
    noise = rng.standard_normal(len(t))
    skin = np.sin(2 * np.pi * rng.uniform(160, 230) * t) * np.exp(-t / 0.06)
    snare = noise * np.exp(-t / rng.uniform(0.05, 0.1)) + skin
    hat = np.diff(rng.standard_normal(len(t) + 2), n=2) * np.exp(-t / (ring * rng.uniform(0.8, 1.2)))
    return kick, 0.5 * snare, 0.12 * hat


def music(rng: np.random.Generator, genre: str, seconds: float) -> np.ndarray:
    """A piece in the style `genre`: float [seconds * RATE]."""
    style = STYLES[genre]
    beat = 60 / rng.uniform(*style.tempo)
    n = int(seconds * RATE)
    within = np.array([0, style.swing / 2, style.swing, (1 + style.swing) / 2])
    bars = int(seconds / (4 * beat)) + 2
    times = (np.arange(4 * bars)[:, None] + within).ravel() * beat - rng.uniform(0, 4 * beat)
    key, turn = rng.integers(-5, 6), rng.integers(len(style.roots))
    scale = np.array(sorted({0, 2, 5, 7, 9 if 4 in style.chord else 10, *(s % 12 for s in style.chord)}))
    notes: dict[tuple[Pitch, Timbre], np.ndarray] = {}

    def play(bus: np.ndarray, time: float, pitch: Pitch, length: float, timbre: Timbre) -> None:
        if (pitch, timbre) not in notes:
            notes[pitch, timbre] = note(pitch, length, timbre)
        add(bus, time, notes[pitch, timbre])

    def add(bus: np.ndarray, time: float, x: np.ndarray) -> None:
        a = int(time * RATE)
        x = x[max(0, -a) : max(0, n - a)]
        bus[max(0, a) : max(0, a) + len(x)] += x

    kit = drums(rng, style.ring)
    rhythm, bass, chords, lead = np.zeros((4, n))
    degree: int | np.integer = rng.integers(len(scale))  # of the melody, in notes of the scale
    for step, time in enumerate(times):
        k, root = step % 16, key + style.roots[(step // 16 + turn) % len(style.roots)]
        for pattern, drum in zip((style.kick, style.snare, style.hat), kit, strict=True):
            if pattern[k] == "x":
                add(rhythm, time, drum * rng.uniform(0.8, 1.0))
        if style.bass[k] != ".":
            length = min(beat, style.bass_timbre.decay)
            play(bass, time, root - 36 + int(style.bass[k], 16), length, style.bass_timbre)
        if style.chords[k] == "x":
            length = min(4 * beat, 1.5 * style.chord_timbre.decay)
            for semitones in style.chord:
                play(chords, time, root - 12 + semitones, length, style.chord_timbre)
        if rng.uniform() < style.lead:
            degree = int(np.clip(degree + rng.integers(-2, 3), 0, 2 * len(scale) - 1))
            pitch = key + 12 * (degree // len(scale)) + scale[degree % len(scale)]
            play(lead, time, pitch, min(beat, style.lead_timbre.decay), style.lead_timbre)
    for bus, timbre in ((chords, style.chord_timbre), (lead, style.lead_timbre)):
        if timbre.drive:
            bus[:] = np.tanh(timbre.drive * bus / (bus.std() + 1e-9))
    levels = rng.uniform(0.7, 1.3, 4) * (0.12, 0.08, 0.06, 0.05)
    mix = np.zeros(n)
    for level, bus in zip(levels, (rhythm, bass, chords, lead), strict=True):
        mix += level * bus / (bus.std() + 1e-9)
    return mix + 10 ** (rng.uniform(-75, -55) / 20) * rng.standard_normal(n)
