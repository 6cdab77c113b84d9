"""Stage 4: a model and sounds -> <name>.npz with the scores of the labels, of whole files or over time.

Sounds are files of any kind that libsndfile reads, video (through ffmpeg), folders, glob patterns, and - for a WAV
stream or raw PCM on standard input. Without --output_dir the highest labels are printed instead; with --stream they
are printed as they come and go. One file named by --wav and tagged by a backbone (not a trained folder) becomes
audioset_tagging_sr_<its own rate>.npz, as PaddleAudio's script calls it; all others have their own names.
"""

import argparse
import contextlib
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from paddletag import runtime
from paddletag.commands.listen import (
    HOP,
    PCM_OPTIONS,
    STDIN,
    WINDOW,
    add_event_options,
    add_model_options,
    add_pcm_options,
    check_shared_options,
    listen,
)
from paddletag.commands.options import Parser, add_flag, refuse
from paddletag.data import audio, find_sounds, manifest
from paddletag.data.splits import hold_out
from paddletag.features.padding import PADS
from paddletag.files import atomic, file_name
from paddletag.models import calibration, model_folder
from paddletag.runtime import UserError, log
from paddletag.tagging import pipeline, result_files
from paddletag.tagging.labels import top_k
from paddletag.tagging.tagger import open_predictor
from paddletag.tagging.windows import check_seconds, hop_frames
from paddletag.type_aliases import Arrays, File, Meta


def main() -> None:
    """`paddletag tag`."""
    args = arguments()
    meta = model_folder.describe_model(args.model)
    front_end = model_folder.saved_front_end(meta)
    if args.pad:
        front_end = front_end.replace(pad=args.pad)
    if args.sample_duration and not args.stream:
        name = "--hop_duration" if args.hop_duration else "--sample_duration"
        hop_frames(front_end, args.hop_duration or args.sample_duration, name)
    if args.stream:
        window = args.sample_duration or WINDOW
        listen(args, meta, args.stream, window, args.hop_duration or min(HOP, window))
        return
    if args.output_dir:
        runtime.start_log()
    inputs = [*([args.wav] if args.wav else []), *args.sounds] or [held_out_clip(args.data, meta)]
    names: dict[File, str] = {path: name for path, name in find_sounds.find([x for x in inputs if x != "-"]).items()}
    source = None
    if "-" in inputs:
        if "stdin" in names.values():
            raise UserError(f"{STDIN}: its result is called stdin, and another sound is too: tag the two apart")
        read = functools.partial(os.read, 0)
        source = audio.piped(read, STDIN, args.pcm_rate, args.pcm_format, args.pcm_channels)
        names[STDIN] = "stdin"
    if len(names) == 1:
        with contextlib.nullcontext(source) if source else audio.opened(*names) as only:  # a fault is told at once
            rate = only.rate
        if os.path.isfile(args.wav) and not model_folder.is_folder(args.model):
            names = dict.fromkeys(names, f"audioset_tagging_sr_{rate}")
    outputs = results_to_make(names, args, calibration.model_name(meta), front_end.pad) if args.output_dir else {}
    paths = list(outputs if args.output_dir else names)
    if not paths:
        return

    predict = open_predictor(args.model, args.engine, args.device, args.embeddings)
    sounds: list[File | audio.Source] = [source if source and path == STDIN else path for path in paths]
    several = len(sounds) > 1
    window, hop = args.sample_duration, args.hop_duration
    results = pipeline.tag_sounds(predict, meta, front_end, sounds, window, hop, args.batch_size)
    errors = []
    hidden: dict[str, Any] = {} if several else {"disable": True}
    bar = runtime.progress(total=len(sounds), desc="sounds", unit="file", **hidden)
    with contextlib.closing(results), bar:
        for sound, arrays in results:
            path = STDIN if isinstance(sound, audio.Source) else sound
            if isinstance(arrays, UserError):
                errors.append(arrays)
                if several:
                    runtime.say(f"{runtime.program()}: error: {arrays}", file=sys.stderr)
            elif args.output_dir:
                save(path, arrays, *outputs[path])
            else:
                show(path, arrays, args, several)
            bar.update()
    if errors:
        raise UserError(f"{len(errors)} of {len(sounds)} sounds could not be tagged") if several else errors[0]


def arguments() -> argparse.Namespace:
    """The arguments, checked as far as they can be by themselves."""
    parser = Parser(description=__doc__)
    parser.add_argument("sounds", nargs="*", metavar="SOUND", help="files, folders, patterns, - for standard input")
    add_model_options(parser)
    parser.add_argument("--wav", default="", help="one more sound; with none: a clip of --data new to the model")
    parser.add_argument("--data", default="", help="the prepared folder, for when no sound is named")
    parser.add_argument("--sample_duration", type=float, default=0, help="seconds of a window; 0: the whole file")
    parser.add_argument("--hop_duration", type=float, default=0, help="seconds from window to window; 0: one window")
    pad = "what fills a sound that is shorter than a window; default: what the model was trained with"
    parser.add_argument("--pad", choices=PADS, help=pad)
    parser.add_argument("--output_dir", default="", help="folder for the results; empty: print the highest labels")
    parser.add_argument("--top_k", type=int, default=5, help="labels to print, where there is no --output_dir")
    add_flag(parser, "--json", "print JSON Lines: one per window, or per --stream event")
    add_flag(parser, "--embeddings", "write the backbone's embedding of each window too")
    parser.add_argument("--batch_size", type=int, default=8, help="windows that the model takes at a time")
    add_pcm_options(parser)
    parser.add_argument(
        "--stream", nargs="?", const="-", choices=["-", "mic"],
        help="print labels as they come and go, from standard input or the microphone, as `paddletag listen` does;"
        f" windows of {WINDOW:g} s every {HOP:g} s unless told otherwise",
    )  # fmt: skip
    add_event_options(parser)
    args = parser.parse_args()
    check_options(args)
    refuse_unused_options(args)
    return args


def check_options(args: argparse.Namespace) -> None:
    """Refuse what is out of range, and what does not fit together."""
    check_seconds(args.sample_duration, args.hop_duration, zero=True)
    for name in ("top_k", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    check_shared_options(args)
    if args.stream and (args.wav or args.sounds or args.output_dir):
        raise UserError("--stream listens and prints: it takes neither files nor --output_dir")


def refuse_unused_options(args: argparse.Namespace) -> None:
    """Refuse options that would change nothing beside the others. (Each run.sh gives --data, beside --wav too.)"""
    if args.stream:
        unused = ("data", "top_k", "embeddings", "pad", "batch_size")
        refuse(args, unused, "has no meaning beside --stream, which prints labels as they come and go")
        if args.stream == "mic":
            refuse(args, PCM_OPTIONS, "has no meaning beside --stream mic: a microphone is heard at the model's rate")
        return
    events = "is for --stream; events of files, and their thresholds, are those of stage 5: paddletag parse"
    refuse(args, ("threshold", "low_threshold"), events)
    if "hop_duration" in args.given and not args.sample_duration:
        raise UserError("--hop_duration needs a window: give --sample_duration too")
    if args.sounds:
        refuse(args, ["data"], "is for when no sound is named")
    if "-" not in (args.wav, *args.sounds):
        refuse(args, PCM_OPTIONS, "is of sound from standard input: name - as the sound")
    elif not args.pcm_rate:
        refuse(args, PCM_OPTIONS, "is of raw PCM, whose rate must be given too: --pcm_rate")
    if args.output_dir:
        refuse(args, ("top_k", "json"), "is for what is printed: without --output_dir")
    else:
        refuse(args, ["embeddings"], "is written, not printed: give --output_dir too")


def held_out_clip(data: str, meta: Meta) -> str:
    """The path of the first clip of the fold that a trained model has not met. UserError for any other model."""
    if not data or "run" not in meta:
        raise UserError("--wav is missing: name a sound file")
    records, _ = manifest.read(data)
    return hold_out(records, meta["run"]["fold"])[1][0]["audio"]


def results_to_make(
    names: dict[File, str], args: argparse.Namespace, model: str, pad: str
) -> dict[File, tuple[Path, str]]:
    """{path: (its result's path, its fingerprint)} of the sounds whose result is missing, or of another way to tag.

    names: {path of a sound: name of its result}. model: its checksum. pad: what fills sounds that are too short.
    UserError if the result of another sound lies in the place of one.
    """
    outputs = {}
    for path, name in names.items():
        place, source = Path(args.output_dir, name), fingerprint(path, args, pad)
        output = place.with_name(file_name(place.name, ".npz"))
        before = read_origin(output)
        if before is not None:
            refuse_result_of_another_sound(output, before, path)
        if source and before and (str(before.get("model")), str(before.get("source"))) == (model, source):
            log.info("%s is up to date", output)
        else:
            outputs[path] = output, source
    return outputs


def fingerprint(path: File, args: argparse.Namespace, pad: str) -> str:
    """What a result depends on besides the model; nothing for a pipe, which is never the same again."""
    if path == STDIN or not Path(path).is_file():
        return ""
    hop = args.hop_duration or args.sample_duration
    record = {"audio": full_name(path), "start": args.sample_duration, "end": hop}
    return manifest.fingerprint(record) + f" {pad} within{' embeddings' * args.embeddings}"


def full_name(path: File) -> str:
    """A sound as its result names it: by the whole path, and a pipe as on the command line."""
    return "-" if path == STDIN else str(Path(path).resolve())


def read_origin(output: Path) -> Arrays | None:
    """What a result is of: its arrays audio and source, and with scores model, as far as it has them.

    None where there is no result yet, or a damaged one.
    """
    try:
        with np.load(output, allow_pickle=False) as file:
            kept = ("audio", "source", "model") if "scores" in file else ("audio", "source")
            return {name: file[name] for name in kept if name in file}
    except Exception:
        return None


def refuse_result_of_another_sound(output: Path, origin: Arrays, path: File) -> None:
    """UserError if the result `output`, whose origin `read_origin` gave, is not of the sound `path`."""
    if (sound := result_files.origin(origin)) != full_name(path):
        what = f"is the result of {sound}" if sound else "does not say which sound it is of"
        advice = "remove it, or give another --output_dir"
        raise UserError(f"{output}: {what}, and that of {path} would take its place: {advice}")


def save(path: File, arrays: Arrays, output: Path, source: str) -> None:
    """Write the result of a sound to `output`, with what it is of: its path and `source`, its fingerprint."""
    content: dict[str, Any] = {**arrays, "audio": np.array(full_name(path)), "source": np.array(source)}
    with atomic(output) as temporary, open(temporary, "wb") as file:
        np.savez(file, **content)
    best = top_k(arrays["scores"].mean(0), arrays["labels"], 3)
    log.info("%s: %s", path, ", ".join(f"{label} {score:.3f}" for label, score in best))
    log.info("Saved tagging results to %s", output)


def show(path: File, arrays: Arrays, args: argparse.Namespace, several: bool) -> None:
    """Print the highest labels of each window: `label score` lines, below the file's name and the time as needed."""
    lines = [] if args.json or not several else [f"{path}:"]
    for start, end, scores in zip(arrays["start"], arrays["end"], arrays["scores"], strict=True):
        best = [(label, round(score, 4)) for label, score in top_k(scores, arrays["labels"], args.top_k)]
        start, end = round(float(start), 3), round(float(end), 3)
        if args.json:
            lines.append(json.dumps({"file": str(path), "start": start, "end": end, "tags": dict(best)}))
            continue
        lines += [f"{start:.2f} s to {end:.2f} s:"] if args.sample_duration else []
        lines += [f"{label} {score:.4f}" for label, score in best]
    runtime.say(*lines)
