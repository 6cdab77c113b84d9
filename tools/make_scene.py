#!/usr/bin/env python3
"""A scene of which it is known what sounds when: clips of one fold, one after the other, over a quiet background.

Takes a data set in ESC-50's layout. Of each class the clip with the most sound is used. Writes the scene (mono,
16 bits) and beside it a table of its sounds, NAME_labels.csv: filename, onset and offset in seconds, label.
"""

if __name__ == "__main__":  # before all else
    import sys

    sys.path.insert(0, f"{sys.path[0]}/../local")  # works from a clone, uninstalled
    from paddletag import interrupt

    interrupt.begin()

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from make_mixtures import read_clips
from paddletag import runtime
from paddletag.commands.options import Parser
from paddletag.data import audio
from paddletag.files import atomic
from paddletag.runtime import UserError, show
from paddletag.type_aliases import Record

LEAD = 2.0  # seconds of background alone, before the first sound
LONGEST = 3.5  # seconds of a sound
EVERY = 4.0  # seconds from sound to sound
FADE = 0.05  # seconds
SOUND_DB, BACKGROUND_DB, PEAK = -20.0, -44.0, 0.9  # levels (RMS) and the highest peak; 0 dB and 1 are full scale
QUIET = 1e-3  # of the power of the loudest moment: what is quieter before and after a sound is cut off
LABELS = "dog crying_baby clock_tick sneezing sea_waves chainsaw"
Row = tuple[float, float, str]  # onset, offset (s), label


def longest_sound(records: Sequence[Record], label: str, rate: int) -> np.ndarray:
    """The most sound that a clip of `label` has, without the silence around it: [N] at `rate` Hz, at most LONGEST.

    UserError if there is no such clip.
    """
    waves = [audio.load(record["audio"], rate) for record in records if record["labels"] == [label]]
    if not waves:
        known = sorted({name for record in records for name in record["labels"]})
        raise UserError(f"{show(label)}: this fold has no clip of it, but of {', '.join(map(show, known))}")
    return max((trimmed(wave, rate)[: round(LONGEST * rate)] for wave in waves), key=len)


def trimmed(wave: np.ndarray, rate: int) -> np.ndarray:
    """A waveform [N] without what is quiet before and after its sound."""
    step = rate // 20
    power = [float(np.mean(wave[i : i + step].astype(float) ** 2)) for i in range(0, len(wave), step)]
    loud = np.flatnonzero(np.array(power) >= QUIET * max(power))
    return wave[loud[0] * step : (loud[-1] + 1) * step]


def faded(wave: np.ndarray, decibels: float, rate: int) -> np.ndarray:
    """A waveform [N] at that level (RMS), which comes and goes within FADE seconds."""
    ramp = np.minimum(1, np.arange(1, len(wave) + 1) / (FADE * rate))
    return (
        wave * ramp * ramp[::-1] * 10 ** (decibels / 20) / max(float(np.sqrt(np.mean(wave.astype(float) ** 2))), 1e-9)
    )


def compose(records: Sequence[Record], labels: Sequence[str], background: str) -> tuple[np.ndarray, int, list[Row]]:
    """(the scene [N], its rate in Hz, what sounds when) of the clips of one fold."""
    rate = audio.probe(records[0]["audio"]).rate
    length = round((LEAD + EVERY * len(labels)) * rate)
    scene, rows = np.zeros(length), [(0.0, length / rate, background)]
    part = faded(longest_sound(records, background, rate), BACKGROUND_DB, rate)
    sounds = [(begin, part) for begin in range(0, length, len(part) - round(FADE * rate))]
    for number, label in enumerate(labels):
        sound, begin = faded(longest_sound(records, label, rate), SOUND_DB, rate), LEAD + EVERY * number
        sounds.append((round(begin * rate), sound))
        rows.append((begin, begin + len(sound) / rate, label))
    for first, sound in sounds:
        scene[first : first + len(sound)] += sound[: length - first]
    return scene * min(1.0, PEAK / np.abs(scene).max()), rate, rows


def main() -> None:
    """Make the scene that the command line asks for."""
    parser = Parser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="folder with meta/esc50.csv and audio/")
    parser.add_argument("--out", type=Path, required=True, help="sound file to make: .wav or .flac")
    parser.add_argument("--fold", type=int, default=1, help="the fold whose clips are used")
    parser.add_argument("--labels", nargs="+", default=LABELS.split(), help=f"the sounds in their order: {LABELS}")
    parser.add_argument("--background", default="rain", help="what sounds quietly all the time")
    args = parser.parse_args()
    table = args.out.with_name(f"{args.out.stem}_labels.csv")
    if args.out.suffix not in (".wav", ".flac"):
        raise UserError(f"--out {args.out}: must end with .wav or .flac")
    records = [record for record in read_clips(args.raw) if record["fold"] == args.fold]
    if not records:
        raise UserError(f"--fold {args.fold}: {args.raw} has no clip of that fold")
    scene, rate, rows = compose(records, args.labels, args.background)
    sound, text = io.BytesIO(), io.StringIO()
    soundfile.write(sound, scene, rate, "PCM_16", format=args.out.suffix[1:].upper())
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("filename", "onset", "offset", "label"))
    writer.writerows((args.out.name, f"{onset:.2f}", f"{offset:.2f}", label) for onset, offset, label in rows)
    made = {table: text.getvalue().encode(), args.out: sound.getvalue()}
    for path, content in made.items():
        if path.exists() and path.read_bytes() != content:
            raise UserError(f"{path}: exists and holds something else: remove it or name another --out")
    for path, content in made.items():
        if not path.exists():  # a scene that is there keeps its date: what was made of it stays up to date
            with atomic(path) as temporary:
                temporary.write_bytes(content)
    runtime.say(f"a scene of {len(scene) / rate:g} s is in {args.out}, and what sounds when in {table}")


if __name__ == "__main__":
    runtime.run(main)
