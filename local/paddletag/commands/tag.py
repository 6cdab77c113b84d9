"""What is in recordings, and when: events with their start, end, label and score; of a short sound its labels.

Sounds are files of any kind that libsndfile reads, video (through ffmpeg), folders, glob patterns, and - for a WAV
stream or raw PCM on standard input. Tables and files of other programs: --format. A page with the sound: --report.
Stage 4 of the recipes: --output_dir without --format writes the scores of all windows, NAME.npz, for `paddletag parse`.
"""

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddletag import runtime
from paddletag.commands.listen import (
    HOP,
    PCM_OPTIONS,
    WINDOW,
    add_engine_options,
    add_model_option,
    add_pcm_options,
    add_window_options,
    check_event_options,
    check_shared_options,
    listen,
    window_names,
)
from paddletag.commands.options import Parser, add_flag, add_list, choice_of, refuse
from paddletag.data import audio, find_sounds, manifest
from paddletag.data.find_sounds import STDIN
from paddletag.data.splits import hold_out
from paddletag.features.padding import PADS
from paddletag.models import calibration, model_folder
from paddletag.reports.answers import LABELS, Answers, Wanted
from paddletag.runtime import UserError
from paddletag.tagging import pipeline
from paddletag.tagging.labels import choose_labels, event_thresholds, split_names
from paddletag.tagging.result_formats import FORMATS
from paddletag.tagging.saved_results import output_path, results_to_make, save
from paddletag.tagging.tagger import is_much, open_predictor
from paddletag.tagging.windows import check_seconds, hop_frames
from paddletag.type_aliases import Arrays, File, Meta

LISTENING = {"threshold": 0.4, "low_threshold": 0.2}  # of --stream, where none are given
MOST_WORKERS = 1024
EVENT_OPTIONS = ("threshold", "low_threshold")


@dataclass(frozen=True)
class Inputs:
    """The sounds of a command line."""

    names: dict[File, str]  # {path: name of its results}
    source: audio.Source | None  # standard input, if it is one of them: its path is STDIN
    rate: int  # Hz, of the only sound; 0 where there are several


def main(historical: bool = False) -> None:
    """`paddletag tag`; historical: local/audio_tag.py, where the whole sound is one window if nothing else is said."""
    args = arguments(historical)
    meta = model_folder.describe_model(args.model)
    front_end = model_folder.saved_front_end(meta)
    if args.pad:
        front_end = front_end.replace(pad=args.pad)
    window, hop = args.sample_duration, args.hop_duration
    if args.stream:
        window = window if "sample_duration" in args.given and window else WINDOW
        listen(args, meta, args.stream, window, hop or min(HOP, window))
        return
    if window:
        hop_frames(front_end, hop or window, args.spelling["hop_duration" if hop else "sample_duration"])
        hop = hop or (0.0 if historical else window / 4)
    if hop > window > 0:
        left_out = f"{args.spelling['hop_duration']} {hop:g} is longer than a window of {window:g} s"
        runtime.say(f"{runtime.program()}: {left_out}: the sound between two windows is not heard", file=sys.stderr)
    check_labels(args, meta["labels"])
    npz = "npz" in args.format
    if npz:
        runtime.start_log()
    inputs = find_inputs(args, meta)
    answers = Answers(wanted(args, historical), inputs.names, inputs.rate)
    outputs: dict[File, tuple[Path, str]] = {}
    files = npz_files(args, inputs) if npz else {}
    answers.check_outputs(files.values())
    if npz:
        options = calibration.model_name(meta), front_end.pad, window, hop, args.embeddings
        outputs = results_to_make(files, *options, again=answers.makes_something)
        if not outputs:
            return
    paths = list(outputs if npz else inputs.names)
    predict = open_predictor(args.model, args.engine, args.device, args.embeddings, much=is_much(paths))
    sounds = [inputs.source if inputs.source and path == STDIN else path for path in paths]
    results = pipeline.tag_sounds(predict, meta, front_end, sounds, window, hop, args.batch_size, args.workers)
    answer_all(results, len(sounds), answers, outputs)


def answer_all(
    results: Generator[tuple[pipeline.Sound, Arrays | audio.AudioError], None, None],
    count: int,
    answers: Answers,
    outputs: dict[File, tuple[Path, str]],
) -> None:
    """Write and print what is wanted of the results of `count` sounds. A sound that fails does not end the others.

    outputs: {path of a sound: (path of its npz file, its fingerprint)}; empty where none are wanted. UserError at the
    end if sounds have failed.
    """
    errors = []
    hidden: dict[str, Any] = {} if count > 1 else {"disable": True}
    bar = runtime.progress(total=count, desc="sounds", unit="file", **hidden)
    with contextlib.closing(results), bar:
        for sound, arrays in results:
            path = STDIN if isinstance(sound, audio.Source) else sound
            try:
                if isinstance(arrays, UserError):
                    raise arrays
                if outputs:
                    save(path, arrays, *outputs[path])
                answers.add(path, arrays)
            except UserError as error:
                errors.append(error)
                if count > 1:
                    runtime.say(f"{runtime.program()}: error: {error}", file=sys.stderr)
            bar.update()
    if len(errors) < count:
        answers.finish()
    if errors:
        raise UserError(f"{len(errors)} of {count} sounds could not be tagged") if count > 1 else errors[0]


def arguments(historical: bool) -> argparse.Namespace:
    """The arguments, checked as far as they can be by themselves."""
    parser = Parser(description=__doc__, usage="%(prog)s SOUND ... [OPTIONS]")
    parser.add_argument("sounds", nargs="*", metavar="SOUND", help="files, folders, patterns, - for standard input")
    add_model_option(parser)
    add_flag(parser, "--report", "also write a page, NAME.html, to look at and to listen to")
    formats = [*FORMATS, "npz"]
    words = "events as csv, tsv, json, jsonl, audacity (label track), raven (selection table) or labelstudio (tasks);"
    words += " npz: the scores of all windows; one or several, with commas"
    add_list(parser, "--format", choice_of(formats), default=[], metavar="FORMAT", help=words, action="extend")
    words = 'these labels alone, with commas: names or globs, as "Dog,*speech*"; may be repeated'
    parser.add_argument("--labels", action="append", metavar="NAMES", help=words)
    words = "score that starts an event: a number, NAME=NUMBER, or a .yaml or .csv file of those; may be repeated"
    words += " (default: 0.3, or what the model was calibrated to)"
    parser.add_argument("--threshold", action="append", metavar="SCORE", help=words)
    add_window_options(
        parser, 0.0 if historical else 2.0, 0.0,
        "length of a window: 10 is what the AudioSet weights were trained on, shorter windows follow quick sounds,"
        " 0 is the whole sound",
        f"from window to window (default: {'a window' if historical else 'a quarter of a window'})",
    )  # fmt: skip
    output = parser.group("where to")
    words = "a file per sound in this folder: of each --format, or npz; else: printed, and files where you are"
    output.add_argument("--output_dir", default="", metavar="FOLDER", help=words)
    words = "one table of all sounds, of --format; default: printed"
    output.add_argument("--output", default="", metavar="FILE", help=words)
    add_flag(output, "--video", "also write a film, NAME.tags.mp4 (with ffmpeg)")
    add_more_options(parser)
    args = parser.parse_args()
    if args.output_dir and not (args.format or args.report or args.video):
        args.format = ["npz"]
    check_options(args)
    refuse_unused_options(args, historical)
    return args


def add_more_options(parser: Parser) -> None:
    """Add to a parser what few need."""
    events = parser.group("which events and labels")
    words = "score down to which an event lasts (default: --threshold); with --stream 0.2"
    events.add_argument("--low_threshold", action="append", metavar="SCORE", help=words)
    words = (
        f"only the K strongest labels of each sound; of a short sound and of each window of --json {LABELS} by default"
    )
    events.add_argument("--top_k", type=int, metavar="K", help=words)
    add_flag(events, "--json", "print the highest labels of each window, or the events of --stream, as JSON Lines")
    computing = parser.group("how scores are computed")
    add_engine_options(computing)
    computing.add_argument("--batch_size", type=int, default=8, help="windows that the model takes at a time")
    words = "threads that decode, compute log-mels and score (default: as many as cores)"
    computing.add_argument("--workers", type=int, default=0, metavar="N", help=words)
    pad = "what fills a sound that is shorter than a window; default: what the model was trained with"
    computing.add_argument("--pad", choices=PADS, help=pad)
    add_flag(computing, "--embeddings", "write the backbone's embedding of each window to the npz file too")
    inputs = parser.group("other sounds")
    words = "one more sound; its npz file is called audioset_tagging_sr_RATE.npz if a backbone tags it alone"
    inputs.add_argument("--wav", default="", metavar="SOUND", help=words)
    words = "prepared folder: with no sound named, a clip of it that is new to the model is tagged"
    inputs.add_argument("--data", default="", metavar="FOLDER", help=words)
    add_pcm_options(inputs)
    inputs.add_argument(
        "--stream", nargs="?", const="-", choices=["-", "mic"],
        help="print labels as they come and go, from standard input or the microphone, as `paddletag listen` does;"
        f" windows of {WINDOW:g} s every {HOP:g} s unless told otherwise",
    )  # fmt: skip


def check_options(args: argparse.Namespace) -> None:
    """Refuse what is out of range, and what does not fit together."""
    check_seconds(args.sample_duration, args.hop_duration, window_names(args), zero=True)
    for name in ("top_k", "batch_size"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if not 0 <= args.workers <= MOST_WORKERS:
        raise UserError(f"--workers {args.workers}: must be from 1 to {MOST_WORKERS}, or 0 for as many as cores")
    check_shared_options(args)
    if args.stream:
        if args.wav or args.sounds or args.output_dir:
            raise UserError("--stream listens and prints: it takes neither files nor --output_dir")
        for name, default in LISTENING.items():
            words = getattr(args, name)
            setattr(args, name, one_number(f"--{name}", words[-1]) if words else default)
        check_event_options(args)
    if args.low_threshold and not args.threshold:
        raise UserError("--low_threshold: needs --threshold")
    tables = [name for name in args.format if name != "npz"]
    if not args.output_dir:
        if "npz" in args.format:
            raise UserError("--format npz: is a file for each sound: give --output_dir too")
        if len(tables) > 1:
            raise UserError(f"--format {','.join(tables)}: is more than one table: give --output_dir for files of each")
    if args.video and (args.top_k or 1) > 10:
        raise UserError(f"--top_k {args.top_k}: a film shows at most 10 labels")


def one_number(name: str, text: str) -> float:
    """The number in the text of an option."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{name} {runtime.show(text)}: must be a number, with --stream") from None


def refuse_unused_options(args: argparse.Namespace, historical: bool) -> None:
    """Refuse options that would change nothing beside the others. (Each run.sh gives --data, beside --wav too.)"""
    if args.stream:
        unused = (
            "data",
            "top_k",
            "embeddings",
            "pad",
            "batch_size",
            "workers",
            "report",
            "video",
            "format",
            "labels",
            "output",
        )
        refuse(args, unused, "has no meaning beside --stream, which prints labels as they come and go")
        if args.stream == "mic":
            refuse(args, PCM_OPTIONS, "has no meaning beside --stream mic: a microphone is heard at the model's rate")
        return
    pages = args.report or args.video
    tables = [name for name in args.format if name != "npz"]
    if args.format:
        refuse(args, ["json"], "is for what is printed: without --format and --output_dir")
    if not tables:
        refuse(args, ["output"], "is one table of events: give --format csv, tsv or json too")
    if args.output and args.output_dir:
        raise UserError("--output: is one table of all sounds, --output_dir a file for each: give one of them")
    if args.format and not tables and not pages:
        refuse(args, ["top_k", "labels"], "chooses labels, but npz files hold all: see --format, and paddletag parse")
    if (historical or args.json or args.format) and not tables and not pages and args.given & set(EVENT_OPTIONS):
        what = "npz files and windows have none: see --format csv, and paddletag parse"
        raise UserError(f"--threshold, --low_threshold: are of events; {what}")
    if "hop_duration" in args.given and not args.sample_duration:
        other = {"--hop": "--window"}.get(args.spelling["hop_duration"], "--sample_duration")
        raise UserError(f"{args.spelling['hop_duration']} needs a window: give {other} too")
    if args.sounds:
        refuse(args, ["data"], "is for when no sound is named")
    if "-" not in (args.wav, *args.sounds):
        refuse(args, PCM_OPTIONS, "is of sound from standard input: name - as the sound")
    elif pages or "labelstudio" in tables:
        raise UserError("--report, --video, --format labelstudio: need a file: standard input cannot be read again")
    elif not args.pcm_rate:
        refuse(args, PCM_OPTIONS, "is of raw PCM, whose rate must be given too: --pcm_rate")
    if "npz" not in args.format:
        refuse(
            args, ["embeddings"], "is written to npz files: give --output_dir too, without --format or with npz in it"
        )


def check_labels(args: argparse.Namespace, labels: Sequence[str]) -> None:
    """Make names and globs of --labels. UserError for labels that the model has not, and for wrong thresholds."""
    if args.labels:
        args.labels = [name for text in args.labels for name in split_names(text, labels)]
        if not args.labels:
            raise UserError("--labels: names no label")
        choose_labels(labels, args.labels)
    event_thresholds(labels, args.threshold, args.low_threshold)


def wanted(args: argparse.Namespace, historical: bool) -> Wanted:
    """What is to be made of each sound, besides npz files."""
    prints = "json" if args.json else "windows" if historical else "events"
    return Wanted(
        "" if args.format else prints,
        [name for name in args.format if name != "npz"],
        args.output_dir,
        args.output,
        args.report,
        args.video,
        args.labels,
        args.top_k,
        args.threshold or (),
        args.low_threshold or (),
        with_times=bool(args.sample_duration),
    )


def find_inputs(args: argparse.Namespace, meta: Meta) -> Inputs:
    """The sounds that are named, or a clip of --data. UserError for what is not there; a single sound is opened."""
    inputs = [*([args.wav] if args.wav else []), *args.sounds] or [held_out_clip(args.data, meta)]
    names: dict[File, str] = {path: name for path, name in find_sounds.find([x for x in inputs if x != "-"]).items()}
    source = None
    if "-" in inputs:
        if "stdin" in names.values():
            raise UserError(f"{STDIN}: its result is called stdin, and another sound is too: tag the two apart")
        read = functools.partial(os.read, 0)
        source = audio.piped(read, STDIN, args.pcm_rate, args.pcm_format, args.pcm_channels)
        names[STDIN] = "stdin"
    if "audacity" in args.format and not args.output_dir and len(names) > 1:
        raise UserError("--format audacity: a label track is of one sound: give --output_dir for a track of each")
    if len(names) > 1:
        return Inputs(names, source, source.rate if source else 0)
    with contextlib.nullcontext(source) if source else audio.opened(*names) as only:  # a fault is told at once
        return Inputs(names, source, only.rate)


def held_out_clip(data: str, meta: Meta) -> str:
    """The path of the first clip of the fold that a trained model has not met. UserError for any other model."""
    if not data or "run" not in meta:
        raise UserError("no sound is named: name a file or a folder (with --wav or without)")
    records, _ = manifest.read(data)
    return hold_out(records, meta["run"]["fold"])[1][0]["audio"]


def npz_files(args: argparse.Namespace, inputs: Inputs) -> dict[File, Path]:
    """{path of a sound: path of its npz file}. (PaddleAudio's name for the one file of --wav, tagged by a backbone.)"""
    names = inputs.names
    if len(names) == 1 and os.path.isfile(args.wav) and not model_folder.is_folder(args.model):
        names = dict.fromkeys(names, f"audioset_tagging_sr_{inputs.rate}")
    return {path: output_path(args.output_dir, name, ".npz") for path, name in names.items()}
