#!/usr/bin/env python3
"""Measure how fast this project is, beside others, and write the tables of docs/performance.md.

Each measured program is a process of its own. Those that are compared run in turn, so that what else the machine does
hits all alike. The first use makes the sounds, from real clips. --quick prints only, unless --docs is given.
"""

if __name__ == "__main__":  # before all else
    import sys

    sys.path.insert(0, f"{sys.path[0]}/../local")  # works from a clone, uninstalled
    from paddletag import interrupt

    interrupt.begin()

from importlib import metadata
from pathlib import Path

import tables
from cases import INSTALL, NAMES, Benchmark, Cases
from measure import Neighbours, Program, Sample, in_turn, run
from paddletag import runtime
from paddletag.commands.options import Parser, add_flag
from paddletag.runtime import UserError
from sounds import make

ROOT = Path(__file__).resolve().parents[1]
QUIET = 0.02  # of the cores: less than this, and nothing else ran
PACKAGES = "paddlepaddle onnxruntime numpy scipy torch librosa panns_inference"


def main() -> None:
    """Measure what the command line asks for."""
    parser = Parser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--repeat", type=int, default=3, help="runs of each program")
    add_flag(parser, "--quick", "short sounds")
    add_flag(parser, "--ours", "this project alone")
    parser.add_argument("--clips", type=Path, default=ROOT / "examples/esc10/clips", help="folder of real sounds")
    parser.add_argument("--cache", type=Path, default=ROOT / "benchmarks/.cache", help="where the sounds are kept")
    words = "page whose tables are written (default: docs/performance.md; with --quick none)"
    parser.add_argument("--docs", type=Path, help=words)
    args = parser.parse_args()
    if args.repeat < 1:
        raise UserError(f"--repeat {args.repeat}: must be at least 1")
    names = [name for name in NAMES if name in args.only]
    page = args.docs or (None if args.quick else ROOT / "docs/performance.md")
    if page:
        tables.check_page(page, names)
    cases = Cases(make(args.cache, args.clips, args.quick), args.cache, peers=not args.ours)
    for package in cases.missing:
        runtime.say(f"{package} is not installed: {INSTALL}")
    run(cases.start().programs[0])  # what it imports comes into the system's file cache
    for name in names:
        benchmark: Benchmark = getattr(cases, name)()
        neighbours = Neighbours()
        samples = in_turn(benchmark.programs, args.repeat)
        lines = show(benchmark, samples, command(name, args.repeat, args.quick), neighbours.share())
        runtime.say(*lines, "")
        if page:
            tables.put(page, name, lines)
    if page:
        runtime.say(f"the tables are in {page}")


def show(benchmark: Benchmark, samples: dict[str, list[Sample]], line: str, others: float) -> list[str]:
    """The table of a benchmark, and what is to be known of it."""
    programs: list[Program] = [*benchmark.programs, *benchmark.absent]
    rows = tables.table(benchmark.title, programs, samples, benchmark.seconds)
    neighbours = "nothing else running" if others < QUIET else f"other programs took {others:.0%} of the cores"
    gpu = "no GPU is used"
    facts = f"`{line}`; {runtime.today()}; {runtime.machine()}, {gpu}; {neighbours}; {versions()}."
    return [*rows, "", " ".join([*benchmark.notes, *benchmark.after(), facts])]


def command(name: str, repeat: int, quick: bool) -> str:
    """What to type to have this table again."""
    return f".venv/bin/python benchmarks/run.py --only {name} --repeat {repeat}{' --quick' * quick}"


def versions() -> str:
    """The packages that matter, with their versions."""
    found = []
    for package in PACKAGES.split():
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


if __name__ == "__main__":
    runtime.run(main)
