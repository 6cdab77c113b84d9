"""Label what is heard, live: from the microphone, or a WAV stream or raw PCM on standard input.

Labels are printed as they come and go; Ctrl-C ends.
"""

import argparse
import functools
import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator

import numpy as np

from paddletag import runtime
from paddletag.commands.options import Group, Parser, add_flag, refuse
from paddletag.data import audio, pcm
from paddletag.data.find_sounds import STDIN
from paddletag.data.microphone import microphone
from paddletag.models import calibration, model_folder
from paddletag.runtime import UserError
from paddletag.tagging import live
from paddletag.tagging.pipeline import Predict
from paddletag.tagging.tagger import ENGINES, open_predictor
from paddletag.tagging.windows import check_seconds
from paddletag.type_aliases import Arrays, Meta

WINDOW, HOP = 2.0, 0.2  # seconds
PCM_OPTIONS = ("pcm_rate", "pcm_format", "pcm_channels")


def main() -> None:
    """`paddletag listen`."""
    parser = Parser(description=__doc__)
    parser.add_argument("source", nargs="?", default="mic", choices=["mic", "-"], help="- is standard input")
    add_model_option(parser)
    add_engine_options(parser)
    add_window_options(parser, WINDOW, HOP)
    add_pcm_options(parser)
    add_event_options(parser)
    add_flag(parser, "--json", "print an event a line, as JSON")
    args = parser.parse_args()
    check_seconds(args.sample_duration, args.hop_duration, window_names(args))
    check_shared_options(args)
    check_event_options(args)
    if args.source == "mic":
        refuse(args, PCM_OPTIONS, "is of standard input: a microphone is heard at the model's rate")
    listen(args, model_folder.describe_model(args.model), args.source, args.sample_duration, args.hop_duration)


def add_model_option(parser: Parser) -> None:
    """Add to a parser: which model."""
    words = "folder of a trained model, or of its run; or a backbone's name"
    parser.add_argument("--model", default="mn04_as", help=words)


def add_engine_options(parser: Parser | Group) -> None:
    """Add to a parser: what computes."""
    parser.add_argument("--device", default="cpu", help="cpu, gpu, gpu:0, gpu:1, ...")
    engines = "what computes: the scores agree. auto: ONNX Runtime on the CPU, where the model's graph is at hand"
    parser.add_argument("--engine", default="auto", choices=ENGINES, help=engines)


def add_window_options(
    parser: Parser,
    window: float,
    hop: float,
    window_help: str = "length of a window",
    hop_help: str = "from window to window",
) -> None:
    """Add to a parser: sample_duration and hop_duration, each with two spellings, and these defaults in seconds."""
    names = {"type": float, "metavar": "SECONDS"}
    parser.add_argument(
        "--window", "--sample_duration", dest="sample_duration", default=window, help=window_help, **names
    )
    parser.add_argument("--hop", "--hop_duration", dest="hop_duration", default=hop, help=hop_help, **names)


def window_names(args: argparse.Namespace) -> tuple[str, str]:
    """The options of `add_window_options` as they stand on the command line, for messages."""
    return args.spelling["sample_duration"], args.spelling["hop_duration"]


def add_pcm_options(parser: Parser | Group) -> None:
    """Add to a parser: what standard input is (PCM_OPTIONS)."""
    rate = "standard input is raw PCM of this rate, in Hz; when listening, default: the model's"
    parser.add_argument("--pcm_rate", type=int, help=rate)
    parser.add_argument("--pcm_format", default="s16le", choices=pcm.PCM, help="of raw PCM")
    parser.add_argument("--pcm_channels", type=int, default=1, help="of raw PCM, interleaved")


def add_event_options(parser: Parser) -> None:
    """Add to a parser: when a label comes and goes."""
    words = "listening: score at which a label comes; of a calibrated model, default: its own thresholds"
    parser.add_argument("--threshold", type=float, default=0.4, help=words)
    words = "listening: score below which it goes; of a calibrated model, default: half of its own"
    parser.add_argument("--low_threshold", type=float, default=0.2, help=words)


def check_shared_options(args: argparse.Namespace) -> None:
    """UserError for what is out of range or does not fit together, of the options that the functions above add."""
    if args.pcm_rate is not None and not audio.SLOWEST <= args.pcm_rate <= audio.FASTEST:
        raise UserError(f"--pcm_rate {args.pcm_rate}: must be from {audio.SLOWEST} to {audio.FASTEST} Hz")
    if not 1 <= args.pcm_channels <= audio.CHANNELS:
        raise UserError(f"--pcm_channels {args.pcm_channels}: must be from 1 to {audio.CHANNELS}")
    check_device(args)


def check_device(args: argparse.Namespace) -> None:
    """UserError for a device that is none, or does not fit to the engine, of what `add_engine_options` adds."""
    if not re.fullmatch(r"cpu|gpu(:\d+)?", args.device):
        raise UserError(f"--device {args.device}: must be cpu, gpu or gpu:0, gpu:1, ...")
    if args.engine == "onnxruntime" and args.device != "cpu":
        raise UserError(f"--engine onnxruntime: computes on the CPU: leave out --device {args.device}")


def check_event_options(args: argparse.Namespace) -> None:
    """UserError for thresholds out of range, of what `add_event_options` adds."""
    if not 0 < args.low_threshold <= args.threshold < 1:
        raise UserError("--threshold, --low_threshold: must lie between 0 and 1, the low one no higher than the other")


def listen(args: argparse.Namespace, meta: Meta, source: str, window: float, hop: float) -> None:
    """Tag what is heard from `source` (mic, or - for standard input) until it ends, or Ctrl-C.

    args: of the options that the functions above add, and `json`. meta: of args.model. window, hop: seconds. UserError
    for a hop that is longer than the window or shorter than a frame, and for a microphone that does not work.
    """
    front_end = model_folder.saved_front_end(meta)
    rate = front_end.sample_rate
    raw = args.pcm_rate or (rate if {"pcm_format", "pcm_channels"} & args.given else None)  # None: or a WAV stream
    settings = front_end, meta["labels"], window, hop, *event_thresholds(args, meta)
    live.check_windows(front_end, window, hop, window_names(args))  # wrong settings are told before the model is loaded
    if source == "mic":
        heard = microphone(rate)
        waves: Iterator[np.ndarray] = itertools.chain([next(heard)], heard)  # so is one that does not work
    predict = calibrated(open_predictor(args.model, args.engine, args.device, threads=runtime.cores()), meta)
    listener = live.Live(predict, *settings)
    predict(np.zeros((1, listener.windows.length, front_end.n_mels), np.float32))  # the first time takes longer
    runtime.say(f"{runtime.program()}: listening at {raw or rate} Hz; Ctrl-C ends", file=sys.stderr)
    try:
        if source == "-":
            read = functools.partial(os.read, 0)
            piped = audio.piped(read, STDIN, raw, args.pcm_format, args.pcm_channels, rate, live=True)
            waves = piped.at(rate)
        for wave in waves:
            print_events(listener.feed(wave), args.json)
    except KeyboardInterrupt:
        pass
    print_events(listener.flush(), args.json)


def event_thresholds(args: argparse.Namespace, meta: Meta) -> tuple[float | np.ndarray, float | np.ndarray]:
    """(the score at which a label comes, the score below which it goes): numbers, or arrays [C] of a calibrated model,
    as far as the options do not say."""
    own = calibration.thresholds(meta)
    if own is None or "threshold" in args.given:
        return args.threshold, args.low_threshold
    return own, np.minimum(own, args.low_threshold) if "low_threshold" in args.given else own / 2


def calibrated(predict: Predict, meta: Meta) -> Predict:
    """`predict` with scores as `calibration.calibrated_scores` gives them."""

    def calibrated_predict(log_mel: np.ndarray) -> Arrays:
        found = predict(log_mel)
        return {**found, "scores": calibration.calibrated_scores(found["scores"], meta)}

    return calibrated_predict


def print_events(events: Iterable[live.Event], as_json: bool) -> None:
    """Print an event a line: + where a label comes, - where it goes."""
    for event in events:
        if as_json:
            line = json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in vars(event).items()})
        elif event.kind == "onset":
            line = f"{event.time:8.2f}  + {event.label} {event.score:.3f}"
        else:
            line = f"{event.time:8.2f}  - {event.label} {event.score:.3f}, {event.time - event.onset:.2f} s"
        runtime.say(line)
