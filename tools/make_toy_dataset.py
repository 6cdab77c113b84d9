#!/usr/bin/env python3
"""Write a small synthetic data set, with nothing to download: sounds, music or speech in the layouts of real ones.

csv           ESC-50: twelve sounds, meta/esc50.csv, five folds; --multi-label: mixtures of nine, meta/mixtures.csv
folders       a folder per class; formats, rates and channels mixed; two clips of each recording
gtzan         ten genres, genres/<genre>/<genre>.000NN.wav, and splits/{train,valid,test}.txt
music_speech  music_wav/*.wav and speech_wav/*.wav
tess          seven emotions, <SPEAKER>_<word>_<emotion>.wav
audioset      segments CSVs with mids, class_labels_indices.csv, audio/: one clip is missing and one cut short
"""

if __name__ == "__main__":  # before all else
    import sys

    sys.path.insert(0, f"{sys.path[0]}/../local")  # works from a clone, uninstalled
    from paddletag import interrupt

    interrupt.begin()

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import output_folder
import toy_layouts
from paddletag import runtime
from paddletag.commands.options import Parser
from paddletag.files import write_json
from scipy.io import wavfile

VERSION = 1  # raise it when a sound changes, so that an older data set is not taken for the same


def write(folder: Path, clips: Sequence[toy_layouts.Clip], texts: dict[str, str], settings: dict[str, Any]) -> None:
    """Write sound, then tables and lists (`texts`: {path: text}), then toy.json into `folder`."""
    for clip in progress(clips):
        path = folder / clip.path
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = clip.sound()
        if isinstance(samples, bytes):
            path.write_bytes(samples)
        elif path.suffix == ".wav":
            wavfile.write(path, clip.rate, samples)
        else:
            import soundfile

            soundfile.write(path, samples, clip.rate)
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    write_json(folder / "toy.json", settings)


def progress(clips: Iterable[toy_layouts.Clip]) -> Iterable[toy_layouts.Clip]:
    """The clips, with a bar on a terminal if tqdm is installed."""
    try:
        return runtime.progress(clips, desc="toy clips", unit="clip")
    except ImportError:  # for the default layout numpy and scipy are enough
        return clips


def main() -> None:
    """Make the data set that the command line asks for."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--layout", default="csv", choices=toy_layouts.LAYOUTS, help="as above; default: csv")
    parser.add_argument("--multi-label", action="store_true", help="with layout csv: mixtures of one to three sounds")
    parser.add_argument("--clips-per-class", type=int, help="default: 40; mixtures: 80; gtzan: 8; speech: 20")
    parser.add_argument("--seconds", type=float, help="length of a clip, 1 to 60; default: 2; tess: 1.5; music: 30")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other clips of the same classes")
    args = parser.parse_args()
    if args.multi_label and args.layout != "csv":
        raise runtime.UserError(f"--multi-label: is for layout csv, not {args.layout}")
    layout = toy_layouts.MULTI_LABEL if args.multi_label else toy_layouts.LAYOUTS[args.layout]
    clips_per_class = layout.clips_per_class if args.clips_per_class is None else args.clips_per_class
    seconds = layout.seconds if args.seconds is None else args.seconds
    if not layout.fewest <= clips_per_class <= layout.most:
        raise runtime.UserError(f"--clips-per-class {clips_per_class}: must be from {layout.fewest} to {layout.most}")
    if not 1 <= seconds <= 60:
        raise runtime.UserError(f"--seconds {seconds:g}: must be from 1 to 60")
    if args.seed < 0:
        raise runtime.UserError(f"--seed {args.seed}: must not be negative")
    settings = {
        "version": VERSION, "classes": list(layout.classes), "clips_per_class": clips_per_class,
        "seconds": seconds, "seed": args.seed,
    }  # fmt: skip
    if layout is not toy_layouts.LAYOUTS["csv"]:
        settings["layout"] = "multi_label" if args.multi_label else args.layout
    clips, texts = layout.files(clips_per_class, seconds, args.seed)
    paths = [*(clip.path for clip in clips), *texts]
    what = f"{len(clips)} clips of {seconds:g} s, {len(layout.classes)} classes"
    if output_folder.check_made(args.out, "toy data set", "toy.json", settings, paths):
        runtime.say(f"{args.out} already holds this data set ({what}): nothing to do")
        return
    with output_folder.atomic_folder(args.out) as folder:
        write(folder, clips, texts, settings)
    runtime.say(f"wrote {what} to {args.out}")


if __name__ == "__main__":
    runtime.run(main)
