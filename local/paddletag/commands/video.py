"""A sound or a film -> an MP4 video of it: spectrogram, lanes and bars of the highest labels under a moving cursor.

It is as long as the sound: what a film shows after that is left out.
"""

import argparse
import re
import time
from pathlib import Path

from paddletag import runtime
from paddletag.commands.listen import add_window_options, window_names
from paddletag.commands.options import Parser, refuse
from paddletag.data import audio, ffmpeg
from paddletag.models import model_folder
from paddletag.runtime import UserError, log
from paddletag.tagging import pipeline, result_files
from paddletag.tagging.tagger import ENGINES, open_predictor
from paddletag.tagging.windows import check_seconds, hop_frames
from paddletag.type_aliases import Arrays

SMALLEST, LARGEST = 360, 7680  # pixels: what can be read, what ffmpeg's encoder takes with ease


def main() -> None:
    """`paddletag video`."""
    parser = Parser(description=__doc__)
    parser.add_argument("sound", help="a file of sound, or a film, whose picture is then shown")
    parser.add_argument("--out", required=True, help="the file to write; its name ends in .mp4")
    parser.add_argument("--model", default="mn04_as", help="folder of a trained model, or the name of a backbone")
    add_window_options(parser, window=2.0, hop=0.3)
    parser.add_argument("--engine", default="paddle", choices=ENGINES, help="what computes scores")
    parser.add_argument("--tagging", help="npz file of stage 4 of this sound, instead of the four options above")
    parser.add_argument("--top_k", type=int, default=5, help="labels of the moment, 1 to 10")
    parser.add_argument("--size", default="1280x720", help="width and height in pixels")
    parser.add_argument("--fps", type=float, default=25, help="frames per second, 1 to 120")
    args = parser.parse_args()
    size = size_in_pixels(args.size)
    check_options(args)
    runtime.start_log()
    from paddletag.reports import video  # brings matplotlib

    begun = time.monotonic()
    arrays = result_files.read_result(args.tagging, seconds=True) if args.tagging else tag(args)
    if args.tagging:
        result_files.sound_file(arrays, args.tagging, args.sound)  # warns of another one
    seconds = video.render(args.sound, arrays, args.out, size, args.fps, args.top_k)
    taken = time.monotonic() - begun
    megabytes = Path(args.out).stat().st_size / 1e6
    log.info("Saved the video to %s (%.1f MB, %.1f s, made in %.1f s)", args.out, megabytes, seconds, taken)


def size_in_pixels(text: str) -> tuple[int, int]:
    """(width, height) of what --size says. UserError where it is no size that a video may have."""
    if not (match := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)):
        raise UserError(f"--size {runtime.show(text)}: must be WIDTHxHEIGHT, such as 1280x720")
    size = int(match[1]), int(match[2])
    if size[0] % 2 or size[1] % 2:
        raise UserError(f"--size {text}: both numbers must be even, for the encoder")
    if not SMALLEST <= min(size) <= max(size) <= LARGEST:
        raise UserError(f"--size {text}: both must be from {SMALLEST} to {LARGEST} pixels")
    return size


def check_options(args: argparse.Namespace) -> None:
    """UserError for what is out of range or missing, would change nothing, or would overwrite the sound."""
    if not 1 <= args.top_k <= 10:
        raise UserError(f"--top_k {args.top_k}: must be 1 to 10")
    if not 1 <= args.fps <= 120:
        raise UserError(f"--fps {args.fps:g}: must be 1 to 120")
    check_seconds(args.sample_duration, args.hop_duration, window_names(args))
    if args.tagging:
        names = ("model", "sample_duration", "hop_duration", "engine")
        refuse(args, names, "has no meaning beside --tagging, which is computed already")
    sound, output = Path(args.sound), Path(args.out)
    if output.suffix.lower() != ".mp4":
        raise UserError(f"--out {output}: must end in .mp4")
    if output.is_dir():
        raise UserError(f"--out {output}: is a folder: name a file")
    with audio.opened(sound):  # a fault is told at once
        pass
    if output.exists() and output.samefile(sound):
        raise UserError(f"--out {output}: is the sound itself: name another file")
    ffmpeg.ffmpeg_program(output)


def tag(args: argparse.Namespace) -> Arrays:
    """The scores of the sound over time: arrays as those of `pipeline.tag_sounds`."""
    meta = model_folder.describe_model(args.model)
    front_end = model_folder.saved_front_end(meta)
    hop_frames(front_end, args.hop_duration, args.spelling["hop_duration"])
    predict = open_predictor(args.model, args.engine)
    settings = args.sample_duration, args.hop_duration
    return pipeline.only_result(pipeline.tag_sounds(predict, meta, front_end, [args.sound], *settings))
