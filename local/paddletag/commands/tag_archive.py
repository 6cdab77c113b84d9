"""Tag a whole archive: the labels of every window of up to millions of files, as a Parquet data set.

The work is cut into parts. What is finished is kept, so that the same command goes on after an interruption; --shard
and --ray share the parts out. `paddletag find` looks for labels in the results.
"""

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Generator, Iterator
from types import FrameType

from paddletag import runtime
from paddletag.archives import parts, ray_tasks, stores
from paddletag.archives.plan import REFUSED, Job, Plan, joined, make_or_check
from paddletag.commands.listen import (
    add_engine_options,
    add_model_option,
    add_window_options,
    check_device,
    window_names,
)
from paddletag.commands.options import Parser, add_flag, refuse
from paddletag.models import model_folder
from paddletag.runtime import UserError
from paddletag.tagging.tagger import open_predictor
from paddletag.tagging.windows import check_seconds, hop_frames
from paddletag.type_aliases import Meta

WINDOW = 10.0  # seconds: what the AudioSet weights were trained on
PART_FILES, MOST_FILES = 1000, 10**6
TERMINATED = 128 + signal.SIGTERM


def main() -> None:
    """`paddletag tag-archive`."""
    args = arguments()
    number, of = args.shard
    meta = model_folder.describe_model(args.model)
    check_model(args, meta)
    job = job_of(args)
    runtime.start_log()
    with terminable(), joined(args.out, number, of):
        plan = make_or_check(job, meta)
        own = range(number - 1, plan.parts, of)
        missing = [part for part in own if not plan.is_done(part)]
        if len(missing) < len(own):
            runtime.log.info("%d of %d parts are finished already", len(own) - len(missing), len(own))
        tag_all(args, job, plan, missing)
    runtime.log.info("%s: %d parts of %d are of this job, and finished", args.out, len(own), plan.parts)


def arguments() -> argparse.Namespace:
    """The arguments, checked as far as they can be by themselves."""
    parser = Parser(description=__doc__)
    words = "a folder, a text file with a path a line, a Parquet table with the column path or file (and start, end in"
    parser.add_argument("source", metavar="SOURCE", help=f"{words} seconds), or an address as s3://bucket/prefix")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder of the results")
    add_model_option(parser)
    add_window_options(parser, WINDOW, 0.0, "length of a window; 0 is the whole file", "default: a window")
    kept = parser.group("what is kept of a window")
    kept.add_argument("--top_k", type=int, default=5, metavar="K", help="the K highest labels with their scores")
    words = "all: the scores of all labels, as 16-bit numbers, in place of the highest"
    kept.add_argument("--scores", choices=["top", "all"], default="top", help=words)
    add_flag(kept, "--embeddings", "the backbone's embedding too, as 16-bit numbers")
    work = parser.group("how the work is done")
    add_engine_options(work)
    work.add_argument("--batch_size", type=int, default=8, help="windows that the model takes at a time")
    work.add_argument("--part_files", type=int, default=PART_FILES, metavar="N", help="rows of the source in a part")
    words = "do only each N-th part, from the I-th on: one of N jobs of Slurm or Kubernetes, I from 1 to N"
    work.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help=words + " (default: all parts)")
    words = "do the parts on a Ray cluster: HOST:PORT, auto for the one that this machine is in, local for this machine"
    work.add_argument("--ray", nargs="?", const=ray_tasks.RUNNING, metavar="ADDRESS", help=words)
    args = parser.parse_args()
    check_seconds(args.sample_duration, args.hop_duration, window_names(args), zero=True)
    check_device(args)
    for name, most in (("top_k", 10**6), ("batch_size", 10**6), ("part_files", MOST_FILES)):
        if not 1 <= (value := getattr(args, name)) <= most:
            raise UserError(f"{args.spelling[name]} {value}: must be from 1 to {most}")
    if args.scores == "all":
        refuse(args, ["top_k"], "chooses labels, but --scores all keeps them all")
    if args.hop_duration and not args.sample_duration:
        raise UserError("{hop_duration} needs a window: give {sample_duration} too".format(**args.spelling))
    if args.ray:
        refuse(args, ["shard"], "shares the parts out, and so does --ray: give one of them")
    if stores.is_address(args.out):
        raise UserError(f"--out {stores.without_secrets(args.out)}: must be a folder: results are written to a disk")
    return args


def shard(text: str) -> tuple[int, int]:
    """I/N as two numbers."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} must be I/N, as 1/8: I from 1 to N")
    return int(found[1]), int(found[2])


def check_model(args: argparse.Namespace, meta: Meta) -> None:
    """UserError for what does not fit to the model."""
    if args.sample_duration:
        name = args.spelling["hop_duration" if args.hop_duration else "sample_duration"]
        hop_frames(model_folder.saved_front_end(meta), args.hop_duration or args.sample_duration, name)
    if args.embeddings and "classic" in meta:
        raise UserError("--embeddings: a classic model has none of its own: name the network that it was made with")


def job_of(args: argparse.Namespace) -> Job:
    """The job, with paths that mean the same in any folder and process."""
    model = os.path.abspath(args.model) if model_folder.is_folder(args.model) else args.model
    source = args.source if stores.is_address(args.source) else os.path.abspath(args.source)
    return Job(
        source, os.path.abspath(args.out), model, args.sample_duration, args.hop_duration or args.sample_duration,
        None if args.scores == "all" else args.top_k, args.embeddings, args.part_files, args.engine, args.device,
        args.batch_size,
    )  # fmt: skip


def tag_all(args: argparse.Namespace, job: Job, plan: Plan, missing: list[int]) -> None:
    """Tag the parts that are missing, here or on a Ray cluster, and say what each came to."""
    files = refused = 0
    done = ray_tasks.tag_parts(args.ray, job, missing) if args.ray else tag_here(job, missing)
    with contextlib.closing(done), runtime.progress(total=len(missing), desc="parts", unit="part") as bar:
        for part, counts in done:
            files, refused = files + counts.files, refused + counts.refused
            words = f", {counts.refused} refused" if counts.refused else ""
            hours = counts.seconds / 3600
            runtime.log.info("part %d of %d: %d files, %.2f hours%s", part + 1, plan.parts, counts.files, hours, words)
            bar.update()
    if refused:
        place = plan.path(REFUSED, 0).parent
        runtime.log.warning("%d of %d files could not be tagged: the reasons are in %s", refused, files, place)


def tag_here(job: Job, missing: list[int]) -> Generator[tuple[int, parts.Done], None, None]:
    """Tag parts one after the other: yields (part, what it came to)."""
    if missing:
        predict = open_predictor(job.model, job.engine, job.device, job.embeddings, much=True)
    for part in missing:
        yield part, parts.tag_part(job, part, predict)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, which clusters send before they kill, ends the block as an error does: it tidies up and says so."""
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a process that this one has made
            os._exit(TERMINATED)
        runtime.say(f"{runtime.program()}: terminated: the same command goes on", file=sys.stderr)
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
