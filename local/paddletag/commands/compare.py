"""Trained and evaluated runs side by side: how good each is, whether it differs from a reference by more than chance,
and in which settings they differ.

The table is printed. With --output_dir it is also written as compare.md, compare.csv and compare.html. The interval is
of 95 %, and p is that of a test on the same clips.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from paddletag import runtime
from paddletag.commands.options import Parser
from paddletag.files import write_text
from paddletag.reports import evaluated_runs
from paddletag.runtime import UserError, say, show

FIRST, BEST = "first", "best"


def main() -> None:
    """`paddletag compare`."""
    parser = Parser(description=__doc__)
    runs = "folders of runs: exp/mn04, with fold1 ... or seed0/fold1 ... in it, or of one model: exp/mn04/fold1"
    parser.add_argument("run", nargs="+", help=runs)
    against = "the run that the others are compared with: one of those named, first or best"
    parser.add_argument("--reference", default=FIRST, help=against)
    parser.add_argument("--tta", type=int, default=1, help="the evaluations to compare: those of so many rolled copies")
    parser.add_argument("--output_dir", help="folder for compare.md, compare.csv and compare.html")
    args = parser.parse_args()
    if args.tta < 1:
        raise UserError(f"--tta {args.tta}: must be at least 1")
    if args.output_dir and Path(args.output_dir).exists() and not Path(args.output_dir).is_dir():
        raise UserError(f"--output_dir {args.output_dir}: is a file: name a folder")

    found = read_runs(args.run, args.tta)
    from paddletag.reports import comparison, comparison_formats  # scikit-learn takes its time

    names = evaluated_runs.short_names([run.folder for run in found])
    result = comparison.compare(found, names, reference_number(args.reference, found, names))
    say(*comparison_formats.text_lines(result))
    if args.output_dir:
        folder, command = Path(args.output_dir), runtime.command()
        write_text(folder / "compare.csv", comparison_formats.csv_text(result))
        write_text(folder / "compare.md", comparison_formats.markdown_text(result, command))
        write_text(folder / "compare.html", comparison_formats.page(result, command))
        say(f"wrote compare.md, compare.csv and compare.html to {folder}", file=sys.stderr)


def read_runs(folders: Sequence[str], tta: int) -> list[evaluated_runs.Run]:
    """The runs in the folders, each once. A folder that is no run is left out, and named on standard error.

    UserError where none is left, or where a folder that was named does not exist.
    """
    if missing := [folder for folder in folders if not os.path.exists(folder)]:
        raise UserError(f"{missing[0]}: no such folder")
    paths = {os.path.realpath(folder): Path(folder) for folder in reversed(folders)}
    found = []
    for path in runtime.progress(list(reversed(paths.values())), desc="reading"):
        try:
            run, faults = evaluated_runs.read_run(path, tta)
        except UserError as error:
            say(f"left out: {error}", file=sys.stderr)
            continue
        for fault in faults:
            say(f"left out: {fault}", file=sys.stderr)
        found.append(run)
    if not found:
        raise UserError("no run to compare: name folders of trained and evaluated models, such as exp/mn04 exp/svm")
    return found


def reference_number(text: str, runs: Sequence[evaluated_runs.Run], names: Sequence[str]) -> int | None:
    """Which run --reference means; None for the best. UserError for one that is not compared."""
    if text in names:
        return names.index(text)
    for n, run in enumerate(runs):
        if os.path.exists(text) and os.path.samefile(text, run.folder):
            return n
    if text not in (FIRST, BEST):
        raise UserError(f"--reference {show(text)}: not among the runs: {', '.join(map(show, names))}, {FIRST}, {BEST}")
    return None if text == BEST else 0
