"""Stage 5: tagging results (npz) -> every window's top labels as text, events as tables and for other programs,
the strongest labels over time as a picture (png), and a report to look at and to listen to.

A whole clip of which a calibrated model (`paddletag calibrate`) is sure of no label is `unknown`, as text and event.
Text is smoothed unless --smooth says False; the others are not unless it says True, since smoothing makes them late.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from paddletag import runtime
from paddletag.commands.options import Parser, add_flag, refuse
from paddletag.data import audio
from paddletag.files import file_name, write_text
from paddletag.reports import figures
from paddletag.runtime import UserError, log
from paddletag.tagging import result_files, result_formats
from paddletag.tagging.events import EventRow, find_events, median_scores, smooth_scores
from paddletag.tagging.labels import THRESHOLD, choose_labels, event_thresholds, top_k, unknown_result
from paddletag.tagging.result_formats import FORMATS, SoundEvents, model_name
from paddletag.type_aliases import Arrays

LONGEST_MEDIAN = 9999  # windows


def main() -> None:
    """`paddletag parse`."""
    parser = Parser(description=__doc__)
    parser.add_argument("--tagging_file", required=True, help="npz file of stage 4, or a folder of them")
    parser.add_argument("--label_file", default="", help="text file with a label per line, instead of those in the npz")
    parser.add_argument("--output_dir", default="output_dir", help="folder for what is written")
    parser.add_argument("--format", nargs="+", default=["text"], choices=["text", *FORMATS, "png"], help="one or more")
    parser.add_argument("--classes", nargs="+", help="these labels alone: names or globs")
    parser.add_argument("--median", type=int, default=1, help="odd number of windows of a median filter; 1: none")
    add_flag(parser, "--smooth", "mean over the last windows; default: for text alone", default=None)
    parser.add_argument("--smooth_size", type=int, default=5, help="number of windows of that mean")
    words = "also an HTML file with the sound and its events, in which the threshold of most classes can be moved"
    add_flag(parser, "--report", words)
    parser.add_argument(
        "--audio", help="the file that was tagged, for a report, raven and labelstudio; default: where it was then"
    )
    parser.add_argument("--top_k", type=int, default=10, help="labels per window in the text; labels in the picture")
    text = parser.group("text")
    text.add_argument("--time", default="fraction", choices=["fraction", "seconds"], help="unit of a window's start")
    event = parser.group("events (all formats but text and png, and the report)")
    words = "a number, NAME=NUMBER, or a .yaml or .csv file of names and numbers; one or several"
    event.add_argument("--threshold", nargs="+", help=f"score that starts an event, else the model's, or 0.3: {words}")
    event.add_argument("--low_threshold", nargs="+", help="score down to which an event lasts: alike")
    event.add_argument("--min_duration", type=float, default=0.0, help="seconds; shorter events are left out")
    event.add_argument("--min_gap", type=float, default=0.0, help="seconds; closer events of a class become one")
    event.add_argument("--overlap", type=float, default=0.5, help="part of a window that makes a sound heard")
    args = parser.parse_args()
    runtime.start_log()
    check_options(args, event.names)
    source = Path(args.tagging_file)
    files = sorted(source.rglob("*.npz")) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source}: holds no tagging results: run stage 4 first")
    if args.audio and len(files) > 1:
        raise UserError(f"--audio {args.audio}: is one file, but {source} holds {len(files)} results")
    for file in files:
        seconds = args.time == "seconds" or args.report or set(args.format) != {"text"}
        arrays = result_files.read_result(file, args.label_file, seconds)
        place = file.parent.relative_to(source) if source.is_dir() else ""
        folder = Path(args.output_dir) / place
        best, results = parse(arrays, args, file, folder)
        for ending, content in results.items():
            output = folder / file_name(file.stem, ending)
            if isinstance(content, str):
                write_text(output, content)
            else:
                figures.save(content, output)
            what = {".html": "the report", ".png": "the picture"}.get(ending, "tagging labels")
            log.info("Saved %s to %s", what, output)
        for label, score in best:
            runtime.say(f"  {score:6.3f}  {label}")


def check_options(args: argparse.Namespace, event_options: Iterable[str]) -> None:
    """UserError for numbers out of range, and options that would change nothing. event_options: those of events."""
    if args.median > LONGEST_MEDIAN:
        raise UserError(f"--median {args.median}: must be at most {LONGEST_MEDIAN}")
    for name in ("top_k", "smooth_size", "median"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    if args.median % 2 == 0:
        raise UserError(f"--median {args.median}: must be odd")
    for name in ("min_duration", "min_gap"):
        if not 0 <= getattr(args, name) < float("inf"):
            raise UserError(f"--{name} {getattr(args, name)}: must be a number of seconds")
    if not 0 < args.overlap <= 1:
        raise UserError(f"--overlap {args.overlap}: must be above 0 and at most 1")
    if args.audio and not args.report and not {"raven", "labelstudio"} & set(args.format):
        raise UserError(f"--audio {args.audio}: is for --report, --format raven and --format labelstudio")
    if not args.report and not set(args.format) & set(FORMATS):
        refuse(args, event_options, f"is for events: add --format {', '.join(FORMATS)}, or --report")
    if "text" not in args.format:
        refuse(args, ["time"], "is for text: add --format text")
    if not (args.smooth or args.smooth is None and "text" in args.format):
        refuse(args, ["smooth_size"], "nothing is smoothed: add --smooth True")


def parse(
    arrays: Arrays, args: argparse.Namespace, file: Path, folder: Path
) -> tuple[list[tuple[str, float]], dict[str, Any]]:
    """([(label, score)] of what is highest on average, {ending: text or figure} of a result in every format asked for).

    arrays: those of the result `file`; `folder` is where what is made will lie. UserError for labels that are not
    there, and for thresholds that do not fit together.
    """
    default = arrays.get("thresholds", THRESHOLD)
    high, low = event_thresholds(arrays["labels"], args.threshold, args.low_threshold, default)
    unknown = unknown_result(arrays, high) if "thresholds" in arrays else None
    columns = choose_labels(arrays["labels"], args.classes)
    scores = median_scores(arrays["scores"][:, columns], args.median)
    arrays = {**arrays, "labels": arrays["labels"][columns], "scores": scores}
    smoothed = {**arrays, "scores": smooth_scores(scores, args.smooth_size)}
    told = unknown or arrays
    best = top_k(told["scores"].mean(0), told["labels"], args.top_k)
    results: dict[str, Any] = {}
    if "text" in args.format:
        time = "start" if args.time == "seconds" else "time"
        text = unknown or (arrays if args.smooth is False else smoothed)
        results[".txt"] = result_formats.scores_text(text, args.top_k, time)
    arrays = smoothed if args.smooth else arrays
    limits = high[columns], low[columns]
    options = {name: getattr(args, name) for name in ("min_duration", "min_gap", "overlap")}
    if args.report:
        from paddletag.reports.tagging_page import tagging_page  # it takes longer to import than the rest

        sound = result_files.sound_file(arrays, file, args.audio)
        results[".html"] = tagging_page(arrays, sound, folder, *limits, **options)
    if "png" in args.format:
        times = arrays["start"], arrays["end"]
        results[".png"] = figures.timeline(arrays["scores"], arrays["labels"], *times, args.top_k, file.stem, limits[0])
    if wanted := [name for name in FORMATS if name in args.format]:
        found = find_events(unknown, 0) if unknown else find_events(arrays, *limits, **options)
        events = sound_events(arrays, file, args.audio, wanted, found)
        results |= {FORMATS[name].ending: FORMATS[name].write([events], False) for name in wanted}
    return best, results


def sound_events(
    arrays: Arrays, file: Path, given: str | None, formats: Iterable[str], events: Sequence[EventRow]
) -> SoundEvents:
    """The events of the result `file` with what the formats say of its sound, which Raven's and Label Studio's need.

    given: where the sound is now. UserError if they need it and it is not there.
    """
    path = result_files.origin(arrays) or file.stem
    if {"raven", "labelstudio"} & set(formats):
        path = str(result_files.sound_file(arrays, file, given).resolve())
    rate = 0
    if "raven" in formats:
        with audio.opened(path) as source:
            rate = source.rate
    seconds = float(arrays["end"].max())
    return SoundEvents(Path(path).name, path, seconds, rate, model_name(arrays), events)
