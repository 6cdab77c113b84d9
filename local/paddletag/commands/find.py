"""Find labels in the results of `paddletag tag-archive`: file, start, end, label and score of each window.

Hits come in the order of the archive and of time. Results that keep the highest labels of a window know no others.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from paddletag import runtime
from paddletag.archives import hits
from paddletag.commands.options import Parser
from paddletag.runtime import UserError
from paddletag.tagging.labels import THRESHOLD, choose_labels, split_names


def main() -> None:
    """`paddletag find`."""
    args = arguments()
    results = hits.Results(args.tags)
    names = None if args.label is None else [n for text in args.label for n in split_names(text, results.labels)]
    if names == []:
        raise UserError("--label: names no label")
    found: Iterable[pa.RecordBatch] = results.find(choose_labels(results.labels, names).tolist(), args.min_score)
    if args.best:
        found = hits.best(found, args.best).to_batches()
    if args.output:
        runtime.start_log()
        count = hits.write(found, args.output)
        runtime.log.info("%d hits in %s", count, args.output)
        return
    for line in lines(found):
        print(line)


def arguments() -> argparse.Namespace:
    """The arguments, checked as far as they can be by themselves."""
    parser = Parser(description=__doc__)
    parser.add_argument("tags", metavar="TAGS", help="folder that tag-archive has written (--out)")
    words = 'these labels, with commas: names or globs, as "Dog,*speech*"; may be repeated (default: all)'
    parser.add_argument("--label", action="append", metavar="NAMES", help=words)
    words = "lowest score of a hit"
    parser.add_argument("--min_score", type=float, default=THRESHOLD, metavar="SCORE", help=words)
    words = "only the N hits with the highest scores, highest first"
    parser.add_argument("--best", type=int, metavar="N", help=words)
    words = "write the hits to this .csv or .parquet file (default: printed, with tabs)"
    parser.add_argument("--output", default="", metavar="FILE", help=words)
    args = parser.parse_args()
    if not 0 <= args.min_score <= 1:
        raise UserError(f"{args.spelling['min_score']} {args.min_score}: must lie between 0 and 1")
    if args.best is not None and not 1 <= args.best <= 10**6:
        raise UserError(f"--best {args.best}: must be from 1 to {10**6}")
    if args.output and Path(args.output).suffix.lower() not in hits.endings():
        raise UserError(f"--output {args.output}: must end with {' or '.join(hits.endings())}")
    return args


def lines(batches: Iterable[pa.RecordBatch]) -> Iterator[str]:
    """A line for each hit: file, start and end in seconds, label, score."""
    for batch in batches:
        for row in batch.to_pylist():
            file, label = runtime.escaped(row["file"]), runtime.escaped(row["label"])
            yield f"{file}\t{row['start']:.2f}\t{row['end']:.2f}\t{label}\t{row['score']:.3f}"
