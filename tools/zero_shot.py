"""What a backbone makes of ESC-10 without any training: is the class among its first labels of AudioSet's 527?

Takes a folder that stage 0 of examples/esc50 has prepared from ESC-10, and prints a table (docs/zero_shot.md is one).
With --cut, only the loudest part of each clip is used: docs/padding.md compares ways to fill what is then missing.
"""

if __name__ == "__main__":  # before all else
    from paddletag import interrupt

    interrupt.begin()

from collections import defaultdict

import numpy as np
from paddletag import runtime
from paddletag.commands.options import Parser
from paddletag.data import audio, manifest
from paddletag.features.padding import PADS
from paddletag.models import model_folder
from paddletag.runtime import UserError
from paddletag.tagging import pipeline

MATCHES = {  # the labels of AudioSet that say what a class of ESC-10 is; not those that only often go with it
    "chainsaw": ["Chainsaw"],
    "clock_tick": ["Clock", "Tick-tock", "Tick"],
    "crackling_fire": ["Fire", "Crackle"],
    "crying_baby": ["Baby cry, infant cry", "Crying, sobbing"],
    "dog": ["Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)"],
    "helicopter": ["Helicopter"],
    "rain": ["Rain", "Raindrop", "Rain on surface"],
    "rooster": ["Chicken, rooster", "Crowing, cock-a-doodle-doo"],
    "sea_waves": ["Ocean", "Waves, surf"],
    "sneezing": ["Sneeze"],
}


def main() -> None:
    """Print the table for the options of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder prepared from ESC-10 (stage 0 of examples/esc50)")
    parser.add_argument("--model", default="mn04_as", help="a backbone with AudioSet's labels")
    parser.add_argument("--cut", type=float, default=0.0, help="seconds of each clip's loudest part; 0: the whole clip")
    parser.add_argument("--pad", choices=PADS, help="what fills shorter sounds; default: the backbone's own")
    parser.add_argument("--min_seconds", type=float, help="the length to fill to; default: the backbone's own")
    args = parser.parse_args()
    if args.cut < 0 or (args.min_seconds or 0) < 0:
        raise UserError("--cut, --min_seconds: must be 0 or more seconds")
    runtime.start_log()
    records, labels = manifest.read(args.data)
    unknown = [name for name in labels if name not in MATCHES]
    if unknown:
        raise UserError(f"{args.data}: not ESC-10: it has the label {unknown[0]!r}")

    front_end = model_folder.saved_front_end(model_folder.describe_model(args.model))
    model, meta = model_folder.load_model(args.model, front_end.replace(pad=args.pad) if args.pad else None)
    if not {label for names in MATCHES.values() for label in names} <= set(meta["labels"]):
        raise UserError(f"{args.model}: has other labels than AudioSet's: name a backbone")
    if args.min_seconds is not None:
        meta["min_seconds"] = args.min_seconds
    right = defaultdict(list)  # class -> per clip, whether the first label matches, and one of the first five
    for record in runtime.progress(records, desc=args.model, unit="clip"):
        (name,) = record["labels"]
        sound = loudest(record["audio"], args.cut) if args.cut else record["audio"]
        scores = pipeline.tag_clip(model, meta, sound)["scores"][0]
        matches = [meta["labels"][i] in MATCHES[name] for i in np.argsort(-scores, kind="stable")[:5]]
        right[name].append((matches[0], any(matches)))

    heads = "Class", "Labels that count as right", "Clips", "First label (%)", "First five (%)"
    runtime.say(f"| {' | '.join(heads)} |", "|---" * len(heads) + "|")
    for name in [*labels, "all"]:
        rows = np.array(right[name] if name in right else [row for rows in right.values() for row in rows])
        top1, top5 = 100 * rows.mean(axis=0)
        runtime.say(f"| {name} | {'; '.join(MATCHES.get(name, []))} | {len(rows)} | {top1:.2f} | {top5:.2f} |")


def loudest(path: str, seconds: float) -> audio.Source:
    """The part of a sound, of so many seconds, that has the most power: an `audio.Source`."""
    rate = audio.probe(path).rate
    wave, length = audio.load(path, rate), round(seconds * rate)
    if len(wave) > length:
        power = np.concatenate([[0], np.cumsum(wave.astype(np.float64) ** 2)])
        start = int((power[length:] - power[:-length]).argmax())
        wave = wave[start : start + length]
    return audio.Source(path, rate, len(wave) / rate, iter([wave[:, None]]))


if __name__ == "__main__":
    runtime.run(main)
