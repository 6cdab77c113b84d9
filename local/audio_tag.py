"""Stage 4: a model and sounds -> <name>.npz with the scores of the labels, of whole files or over time.

Sounds are files of any kind that libsndfile reads, video (through ffmpeg), folders, glob patterns, and - for a WAV
stream or raw PCM on standard input. Without --output_dir the highest labels are printed instead; with --stream they
are printed as they come and go. One file named by --wav and tagged by a backbone (not a trained folder) becomes
audioset_tagging_sr_<its own rate>.npz, as PaddleAudio's script calls it; all others have their own names.
"""

if __name__ == "__main__":  # before all else
    from paddletag import interrupt

    interrupt.begin()

import contextlib
import functools
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
from paddletag import (
    audio,
    checkpoint,
    distributed,
    frontend,
    inputs,
    live,
    manifest,
    onnx_engine,
    parsing,
    runtime,
    tagging,
)  # fmt: skip
from paddletag.files import file_name
from paddletag.runtime import UserError, log

STDIN = "standard input"
LIVE_WINDOW, LIVE_HOP = 2.0, 0.2  # seconds


def main():
    args = arguments()
    meta = checkpoint.describe(args.model)
    front_end = checkpoint.front_end(meta)
    if args.pad:
        front_end = front_end.replace(pad=args.pad)
    if args.hop_duration:
        tagging.hop_frames(front_end, args.hop_duration)
    if args.stream:
        return stream(args, meta, front_end)
    if args.output_dir:
        runtime.start_log()
    named = [*([args.wav] if args.wav else []), *args.sounds] or [held_out_clip(args.data, meta)]
    names = inputs.find([item for item in named if item != "-"])
    source = None
    if "-" in named:
        if "stdin" in names.values():
            raise UserError(f"{STDIN}: its result is called stdin, and another sound is too: tag the two apart")
        read = functools.partial(os.read, 0)
        source = audio.piped(read, STDIN, args.pcm_rate, args.pcm_format, args.pcm_channels)
        names[STDIN] = "stdin"
    if len(names) == 1:
        with contextlib.nullcontext(source) if source else audio.opened(*names) as sound:  # a fault is told at once
            rate = sound.rate
        if os.path.isfile(args.wav) and not Path(args.model).is_dir():
            names = dict.fromkeys(names, f"audioset_tagging_sr_{rate}")
    outputs = results_to_make(names, args, meta["sha256"], front_end.pad) if args.output_dir else dict.fromkeys(names)
    if not outputs:
        return

    predict = load(args, meta)
    sounds = [source if path == STDIN else path for path in outputs]
    several = len(sounds) > 1
    window, hop = args.sample_duration, args.hop_duration
    results = tagging.tag(predict, meta, front_end, sounds, window, hop, args.batch_size)
    failed = []
    bar = runtime.progress(total=len(sounds), desc="sounds", unit="file", **({} if several else {"disable": True}))
    with contextlib.closing(results), bar:
        for sound, arrays in results:
            path = STDIN if isinstance(sound, audio.Source) else sound
            if isinstance(arrays, UserError):
                failed.append(arrays)
                if several:
                    runtime.say(f"audio_tag.py: error: {arrays}", file=sys.stderr)
            elif args.output_dir:
                save(path, arrays, *outputs[path])
            else:
                show(path, arrays, args, several)
            bar.update()
    if failed:
        raise UserError(f"{len(failed)} of {len(sounds)} sounds could not be tagged") if several else failed[0]


def arguments():
    """The arguments, checked as far as they can be by themselves."""
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("sounds", nargs="*", metavar="SOUND", help="files, folders, patterns, - for standard input")
    parser.add_argument("--model", default="mn04_as", help="folder of a trained model, or the name of a backbone")
    parser.add_argument("--wav", default="", help="one more sound; with none: a clip of --data new to the model")
    parser.add_argument("--data", default="", help="the prepared folder, for when no sound is named")
    parser.add_argument("--sample_duration", type=float, default=0, help="seconds of a window; 0: the whole file")
    parser.add_argument("--hop_duration", type=float, default=0, help="seconds from window to window; 0: one window")
    pad = "what fills a sound that is shorter than a window; default: what the model was trained with"
    parser.add_argument("--pad", choices=frontend.PADS, help=pad)
    parser.add_argument("--output_dir", default="", help="folder for the results; empty: print the highest labels")
    parser.add_argument("--top_k", type=int, default=5, help="labels to print, where there is no --output_dir")
    parser.add_argument("--json", action="store_true", help="print JSON Lines: one per window, or per --stream event")
    parser.add_argument("--embeddings", action="store_true", help="write the backbone's embedding of each window too")
    parser.add_argument("--device", default="cpu", help="cpu, gpu, gpu:0, gpu:1, ...")
    engines = "what computes: the scores agree; ONNX Runtime is for CPUs"
    parser.add_argument("--engine", default="paddle", choices=["paddle", "onnxruntime"], help=engines)
    parser.add_argument("--batch_size", type=int, default=8, help="windows that the model takes at a time")
    parser.add_argument("--pcm_rate", type=int, help="standard input is raw PCM of this rate; --stream: the model's")
    parser.add_argument("--pcm_format", default="s16le", choices=audio.PCM, help="of raw PCM")
    parser.add_argument("--pcm_channels", type=int, default=1, help="of raw PCM, interleaved")
    parser.add_argument(
        "--stream", nargs="?", const="-", choices=["-", "mic"],
        help="print labels as they come and go, from standard input or the microphone;"
        f" windows of {LIVE_WINDOW:g} s every {LIVE_HOP:g} s unless told otherwise",
    )  # fmt: skip
    parser.add_argument("--threshold", type=float, default=0.4, help="--stream: score at which a label comes")
    parser.add_argument("--low_threshold", type=float, default=0.2, help="--stream: score below which it goes")
    args = parser.parse_args()
    check(args)
    refuse_unused(args)
    return args


def check(args):
    """Refuse what is out of range, and what does not fit together."""
    for name in ("sample_duration", "hop_duration"):
        if not 0 <= getattr(args, name) < float("inf"):
            raise UserError(f"--{name} {getattr(args, name)}: must be a positive number of seconds")
    for name in ("top_k", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    if args.pcm_rate is not None and not audio.SLOWEST <= args.pcm_rate <= audio.FASTEST:
        raise UserError(f"--pcm_rate {args.pcm_rate}: must be from {audio.SLOWEST} to {audio.FASTEST} Hz")
    if not 1 <= args.pcm_channels <= audio.CHANNELS:
        raise UserError(f"--pcm_channels {args.pcm_channels}: must be from 1 to {audio.CHANNELS}")
    if not re.fullmatch(r"cpu|gpu(:\d+)?", args.device):
        raise UserError(f"--device {args.device}: must be cpu, gpu or gpu:0, gpu:1, ...")
    if args.engine == "onnxruntime" and args.device != "cpu":
        raise UserError(f"--engine onnxruntime: computes on the CPU: leave out --device {args.device}")
    if not 0 < args.low_threshold <= args.threshold < 1:
        raise UserError("--threshold, --low_threshold: must lie between 0 and 1, the low one no higher than the other")
    if args.stream and (args.wav or args.sounds or args.output_dir):
        raise UserError("--stream listens and prints: it takes neither files nor --output_dir")


def refuse_unused(args):
    """Refuse options that would change nothing beside the others. (Each run.sh gives --data, beside --wav too.)"""
    pcm = ("pcm_rate", "pcm_format", "pcm_channels")
    if args.stream:
        unused = ("data", "top_k", "embeddings", "pad", "batch_size")
        runtime.refuse(args, unused, "has no meaning beside --stream, which prints labels as they come and go")
        if args.stream == "mic":
            runtime.refuse(args, pcm, "has no meaning beside --stream mic: a microphone is heard at the model's rate")
        return
    events = "is for --stream; events of files, and their thresholds, are local/parse_result.py's"
    runtime.refuse(args, ("threshold", "low_threshold"), events)
    if "hop_duration" in args.given and not args.sample_duration:
        raise UserError("--hop_duration needs a window: give --sample_duration too")
    if args.sounds:
        runtime.refuse(args, ["data"], "is for when no sound is named")
    if "-" not in (args.wav, *args.sounds):
        runtime.refuse(args, pcm, "is of sound from standard input: name - as the sound")
    elif not args.pcm_rate:
        runtime.refuse(args, pcm, "is of raw PCM, whose rate must be given too: --pcm_rate")
    if args.output_dir:
        runtime.refuse(args, ("top_k", "json"), "is for what is printed: without --output_dir")
    else:
        runtime.refuse(args, ["embeddings"], "is written, not printed: give --output_dir too")


def held_out_clip(data, meta):
    """The first clip of the fold that a trained model has not met."""
    if not data or "run" not in meta:
        raise UserError("--wav is missing: name a sound file")
    records, _ = manifest.read(data)
    return manifest.split(records, meta["run"]["fold"])[1][0]["audio"]


def results_to_make(names, args, model, pad):
    """{path: (its result's path, its fingerprint)} of the sounds whose result is missing, or of another way to tag.

    UserError if the result of another sound lies in the place of one.
    """
    found = {}
    for path, name in names.items():
        place, source = Path(args.output_dir, name), fingerprint(path, args, pad)
        output = place.with_name(file_name(place.name, ".npz"))
        if up_to_date(path, output, model, source):
            log.info("%s is up to date", output)
        else:
            found[path] = output, source
    return found


def fingerprint(path, args, pad):
    """What a result depends on besides the model; nothing for a pipe, which is never the same again."""
    if path == STDIN or not Path(path).is_file():
        return ""
    hop = args.hop_duration or args.sample_duration
    record = {"audio": whole(path), "start": args.sample_duration, "end": hop}
    return manifest.fingerprint(record) + f" {pad} within{' embeddings' * args.embeddings}"


def whole(path):
    """A sound as its result names it: by the whole path, and a pipe as on the command line."""
    return "-" if path == STDIN else str(Path(path).resolve())


def up_to_date(path, output, model, source):
    """Whether `output` is already what is to be made of the sound `path`. UserError if it is of another sound."""
    try:
        with np.load(output, allow_pickle=False) as before:
            arrays = {name: before[name] for name in ("audio", "model", "source") if name in before}
            made = "scores" in before and source and (str(arrays["model"]), str(arrays["source"])) == (model, source)
    except KeyError:  # of another program
        made = False
    except Exception:  # none yet, or damaged
        return False
    if (sound := parsing.origin(arrays)) != whole(path):
        what = f"is the result of {sound}" if sound else "does not say which sound it is of"
        advice = "remove it, or give another --output_dir"
        raise UserError(f"{output}: {what}, and that of {path} would take its place: {advice}")
    return made


def load(args, meta):
    """The model as the function that scores log-mels, on its device."""
    if args.engine == "onnxruntime":
        return onnx_engine.predictor(args.model, args.embeddings)
    kind, _, number = args.device.partition(":")
    distributed.init(kind)
    if number:
        import paddle

        if int(number) >= (found := paddle.device.cuda.device_count()):
            raise UserError(f"--device {args.device}: Paddle sees {found} GPUs, numbered from 0")
        paddle.set_device(args.device)
    model, _ = checkpoint.load_model(args.model)
    return tagging.predictor(model, meta["task"], args.embeddings)


def save(path, arrays, output, source):
    with runtime.atomic(output) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays, audio=np.array(whole(path)), source=np.array(source))
    best = parsing.top_k(arrays["scores"].mean(0), arrays["labels"], 3)
    log.info("%s: %s", path, ", ".join(f"{label} {score:.3f}" for label, score in best))
    log.info("Saved tagging results to %s", output)


def show(path, arrays, args, several):
    """Print the highest labels of each window: `label score` lines, below the file's name and the time as needed."""
    lines = [] if args.json or not several else [f"{path}:"]
    for start, end, scores in zip(arrays["start"], arrays["end"], arrays["scores"], strict=True):
        best = [(label, round(score, 4)) for label, score in parsing.top_k(scores, arrays["labels"], args.top_k)]
        start, end = round(float(start), 3), round(float(end), 3)
        if args.json:
            lines.append(json.dumps({"file": str(path), "start": start, "end": end, "tags": dict(best)}))
            continue
        lines += [f"{start:.2f} s to {end:.2f} s:"] if args.sample_duration else []
        lines += [f"{label} {score:.4f}" for label, score in best]
    runtime.say(*lines)


def stream(args, meta, front_end):
    """Tag what is heard until it ends, or Ctrl-C."""
    window = args.sample_duration or LIVE_WINDOW
    hop = args.hop_duration or min(LIVE_HOP, window)
    rate = front_end.sample_rate
    raw = args.pcm_rate or (rate if {"pcm_format", "pcm_channels"} & args.given else None)  # None: or a WAV stream
    settings = front_end, meta["labels"], window, hop, args.threshold, args.low_threshold
    live.Live(None, *settings)  # wrong settings are told before the model is loaded
    if args.stream == "mic":
        waves = live.microphone(rate)
        first = next(waves)  # so is a microphone that does not work
    predict = load(args, meta)
    listener = live.Live(predict, *settings)
    predict(np.zeros((1, listener.windows.length, front_end.n_mels), np.float32))  # the first time takes longer
    runtime.say(f"audio_tag.py: listening at {raw or rate} Hz; Ctrl-C ends", file=sys.stderr)
    try:
        if args.stream == "-":
            read = functools.partial(os.read, 0)
            source = audio.piped(read, STDIN, raw, args.pcm_format, args.pcm_channels, rate, live=True)
            waves = source.at(rate)
        else:
            tell(listener.feed(first), args.json)
        for wave in waves:
            tell(listener.feed(wave), args.json)
    except KeyboardInterrupt:
        pass
    tell(listener.flush(), args.json)


def tell(events, as_json):
    for event in events:
        if as_json:
            line = json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in vars(event).items()})
        elif event.kind == "onset":
            line = f"{event.time:8.2f}  + {event.label} {event.score:.3f}"
        else:
            line = f"{event.time:8.2f}  - {event.label} {event.score:.3f}, {event.time - event.onset:.2f} s"
        runtime.say(line)


if __name__ == "__main__":
    runtime.run(main)
