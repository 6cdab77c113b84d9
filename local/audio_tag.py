"""Stage 4: a model and a sound file -> <name>.npz: scores of the labels, of the whole file or over time."""

import contextlib
from pathlib import Path

import numpy as np
from paddletag import audio, checkpoint, distributed, manifest, parsing, runtime
from paddletag.runtime import UserError, log


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("--model", default="mn04_as", help="folder of a trained model, or the name of a backbone")
    parser.add_argument("--wav", default="", help="sound file; empty: a clip of --data that the model has not met")
    parser.add_argument("--data", default="", help="the prepared folder, when there is no --wav")
    parser.add_argument("--sample_duration", type=float, default=0, help="seconds of a window; 0: the whole file")
    parser.add_argument("--hop_duration", type=float, default=0, help="seconds from window to window; 0: one window")
    parser.add_argument("--output_dir", default="output_dir", help="folder for the result")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    args = parser.parse_args()
    runtime.start_log()
    for name in ("sample_duration", "hop_duration"):
        if not 0 <= getattr(args, name) < float("inf"):
            raise UserError(f"--{name} {getattr(args, name)}: must be a positive number of seconds")
    if args.hop_duration and not args.sample_duration:
        raise UserError("--hop_duration needs a window: give --sample_duration too")

    meta = checkpoint.describe(args.model)
    wav = Path(args.wav) if args.wav else held_out_clip(args.data, meta)
    audio.probe(wav)
    output = Path(args.output_dir) / f"{wav.stem}.npz"
    hop = args.hop_duration or args.sample_duration
    source = manifest.fingerprint({"audio": str(wav.resolve()), "start": args.sample_duration, "end": hop})
    with contextlib.suppress(UserError):  # there is none yet, or it is damaged
        before = parsing.read(output)
        if (str(before.get("model")), str(before.get("source"))) == (meta["sha256"], source):
            log.info("%s is up to date", output)
            return

    from paddletag import tagging

    distributed.init(args.device)
    model, meta = checkpoint.load_model(args.model)
    if args.sample_duration:
        arrays = tagging.tag_windows(model, meta, wav, args.sample_duration, hop)
    else:
        arrays = tagging.tag_clip(model, meta, wav)
    with runtime.atomic(output) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays, source=np.array(source))
    best = parsing.top_k(arrays["scores"].mean(0), arrays["labels"], 3)
    log.info("%s: %s", wav, ", ".join(f"{label} {score:.3f}" for label, score in best))
    log.info("Saved tagging results to %s", output)


def held_out_clip(data, meta):
    """The first clip of the fold that a trained model has not met."""
    if not data or "run" not in meta:
        raise UserError("--wav is missing: name a sound file")
    records, _ = manifest.read(data)
    return Path(manifest.split(records, meta["run"]["fold"])[1][0]["audio"])


if __name__ == "__main__":
    runtime.run(main)
