#!/usr/bin/env python3
"""Mix clips of a data set in ESC-50's layout in pairs: a multi-label data set of real sounds.

The two are of different classes and of the same fold, and a clip stays in its fold. Writes audio/*.flac (mono, 16 bits)
and meta/mixtures.csv, with the labels and the source files separated by `;`, and the factor of each source.
"""

if __name__ == "__main__":  # before all else
    import sys

    sys.path.insert(0, f"{sys.path[0]}/../local")  # works from a clone, uninstalled
    from paddletag import interrupt

    interrupt.begin()

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import output_folder
import soundfile
from paddletag import config as configs
from paddletag import runtime
from paddletag.commands.options import Parser
from paddletag.data import audio, layouts, manifest
from paddletag.files import write_json
from paddletag.runtime import UserError
from paddletag.type_aliases import Record

VERSION = 1  # raise it when mixtures come out otherwise
RANGE = 5.0  # dB: how much louder one of the two may be
PEAK = 0.9  # of every mixture; 1 is full scale
TABLE = "meta/mixtures.csv"
Pair = tuple[Record, Record, float]  # two clips, and the level of the second over that of the first in dB


def read_clips(raw: Path) -> list[Record]:
    """The records of meta/esc50.csv in the folder `raw`: {"id", "audio", "labels": [name], "fold"}."""
    config = configs.defaults()
    config.data.update({
        "metadata": "meta/esc50.csv", "audio": "audio/{filename}", "label": "category", "fold": "fold",
    })  # fmt: skip
    return layouts.read(config, raw)[0]


def draw_pairs(records: Sequence[Record], count: int, seed: int) -> list[Pair]:
    """Draw `count` pairs of records of one fold and two classes.

    The folds take turns; each uses all its clips as a pair's first before it uses one again. UserError for a fold of
    one class.
    """
    rng = np.random.default_rng(seed)
    folds: dict[int, list[Record]] = {}
    for record in records:
        folds.setdefault(record["fold"], []).append(record)
    queues: dict[int, list[int]] = {fold: [] for fold in sorted(folds)}
    for fold, members in folds.items():
        if len({record["labels"][0] for record in members}) < 2:
            raise UserError(f"fold {fold}: all its clips are of class {members[0]['labels'][0]!r}: nothing to mix")
    pairs = []
    for number in range(count):
        fold = list(queues)[number % len(queues)]
        queue = queues[fold]
        if not queue:
            queue.extend(rng.permutation(len(folds[fold])).tolist())
        first = folds[fold][queue.pop()]
        others = [record for record in folds[fold] if record["labels"] != first["labels"]]
        pairs.append((first, others[rng.integers(len(others))], rng.uniform(-RANGE, RANGE)))
    return pairs


def mix(sounds: Sequence[np.ndarray], gain: float) -> tuple[np.ndarray, list[float]]:
    """The sum of two waveforms, the second `gain` dB over the first in RMS: (waveform [N], the factor of each)."""
    length = max(map(len, sounds))
    sounds = [np.pad(x.astype(float), (0, length - len(x))) for x in sounds]
    factors = [level / max(float(np.sqrt(np.mean(x**2))), 1e-9)
               for x, level in zip(sounds, (1.0, 10 ** (gain / 20)), strict=True)]  # fmt: skip
    peak = np.abs(weighted_sum(factors, sounds)).max()
    factors = [factor * PEAK / max(peak, 1e-9) for factor in factors]
    return weighted_sum(factors, sounds), factors


def weighted_sum(factors: Sequence[float], sounds: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of waveforms [N], each times its factor: [N]."""
    return sum((factor * x for factor, x in zip(factors, sounds, strict=True)), start=np.zeros(len(sounds[0])))


def write(folder: Path, pairs: Sequence[Pair]) -> None:
    """Write the mixtures one after the other, then their table."""
    (folder / "audio").mkdir()
    (folder / "meta").mkdir()
    with open(folder / TABLE, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("filename", "fold", "labels", "sources", "factors"))
        for number, (first, second, gain) in enumerate(runtime.progress(pairs, desc="mixtures", unit="clip")):
            rate = audio.probe(first["audio"]).rate
            sounds = [audio.load(record["audio"], rate) for record in (first, second)]
            x, factors = mix(sounds, gain)
            soundfile.write(folder / "audio" / file_name(number, first), x, rate, "PCM_16")
            table.writerow((
                file_name(number, first), first["fold"], *(";".join(texts) for texts in (
                    (record["labels"][0] for record in (first, second)),
                    (Path(record["audio"]).name for record in (first, second)),
                    (f"{factor:.9g}" for factor in factors),
                )),
            ))  # fmt: skip


def file_name(number: int, record: Record) -> str:
    """The name of a mixture's file; record: its first source, whose fold it has."""
    return f"{record['fold']}-{number:05d}.flac"


def main() -> None:
    """Make the mixtures that the command line asks for."""
    parser = Parser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="folder with meta/esc50.csv and audio/")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--clips", type=int, default=2000, help="mixtures to make, over all folds")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other mixtures")
    args = parser.parse_args()
    if not 1 <= args.clips <= 99999:
        raise UserError(f"--clips {args.clips}: must be from 1 to 99999")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: must not be negative")
    records = read_clips(args.raw)
    pairs = draw_pairs(records, args.clips, args.seed)
    settings = {"version": VERSION, "source": manifest.digest(records), "clips": args.clips, "seed": args.seed}
    paths = [TABLE, *(f"audio/{file_name(number, first)}" for number, (first, _, _) in enumerate(pairs))]
    if output_folder.check_made(args.out, "data set of mixtures", "mixtures.json", settings, paths):
        runtime.say(f"{args.out} already holds these {args.clips} mixtures: nothing to do")
        return
    with output_folder.atomic_folder(args.out) as folder:
        write(folder, pairs)
        write_json(folder / "mixtures.json", settings)
    runtime.say(f"wrote {args.clips} mixtures of {len(records)} clips to {args.out}")


if __name__ == "__main__":
    runtime.run(main)
