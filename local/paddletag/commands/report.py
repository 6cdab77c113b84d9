"""A tagging result with its sound, or an evaluated model, -> one HTML file to look at and to listen to, offline."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from paddletag import runtime
from paddletag.commands.options import Parser, refuse
from paddletag.data import manifest
from paddletag.files import file_name, write_text
from paddletag.models import model_folder
from paddletag.reports import evaluation_files
from paddletag.reports.evaluation_page import CLIPS, evaluation_page
from paddletag.reports.tagging_page import EMBEDDED, tagging_page
from paddletag.runtime import UserError, log
from paddletag.tagging import result_files
from paddletag.tagging.labels import THRESHOLD, choose_labels


def main() -> None:
    """`paddletag report`."""
    parser = Parser(description=__doc__)
    parser.add_argument("source", help="npz file of stage 4, or folder of a model that was evaluated (stage 3)")
    parser.add_argument("--out", help="the file to write; default: NAME.html beside NAME.npz, report.html in a model")
    tagged = parser.group("a tagging result")
    tagged.add_argument("--audio", help="the file that was tagged; default: where it was then")
    words = f"of the scores, to begin with; default: those of a calibrated model, else {THRESHOLD}"
    tagged.add_argument("--threshold", type=float, help=words)
    tagged.add_argument("--classes", nargs="+", help="these labels alone: names or globs")
    words = f"embed the sound (0.6 MB a minute), or refer to it; default: embed up to {EMBEDDED / 60:g} minutes"
    tagged.add_argument("--sound", choices=["embed", "link"], help=words)
    model = parser.group("an evaluated model")
    model.add_argument("--data", help="the prepared folder, for the clips' sound")
    model.add_argument("--tta", type=int, default=1, help="which evaluation: that with this --tta")
    model.add_argument("--clips", type=int, default=CLIPS, help="clips whose sound is embedded")
    args = parser.parse_args()
    runtime.start_log()
    source = Path(model_folder.find_model(args.source))
    is_model = source.is_dir()
    output = Path(args.out) if args.out else source.with_name(file_name(source.stem, ".html"))
    if is_model and not args.out:
        output = source / evaluation_files.result_name("report.html", args.tta)
    check_options(args, source, output, (tagged if is_model else model).names)
    if is_model:
        records, _ = manifest.read(args.data)
        evaluation = evaluation_files.read_evaluation(source, args.tta)
        data_set = manifest.data_set_name(args.data)
        text = evaluation_page(evaluation, [source], records, output.parent, data_set, args.clips)
    else:
        arrays = result_files.read_result(source, seconds=True)
        columns = choose_labels(arrays["labels"], args.classes)
        arrays |= {"labels": arrays["labels"][columns], "scores": arrays["scores"][:, columns]}
        link = {"link": True, "embed": False}.get(args.sound)
        sound = result_files.sound_file(arrays, source, args.audio)
        default = arrays["thresholds"][columns] if "thresholds" in arrays else THRESHOLD
        threshold = default if args.threshold is None else args.threshold
        text = tagging_page(arrays, sound, output.parent, threshold, link=link)
    write_text(output, text)
    log.info("Saved the report to %s (%.1f MB)", output, output.stat().st_size / 1e6)


def check_options(args: argparse.Namespace, source: Path, output: Path, others: Iterable[str]) -> None:
    """UserError for what is missing, out of range, or would change nothing.

    source: the model's folder, or the result. output: the file to write. others: the options of the other kind of
    source.
    """
    if source.is_dir() and not (source / model_folder.META).is_file():
        raise UserError(f"{args.source}: is not the folder of a model: for tagging results name one npz file")
    kind = "the folder of a model" if source.is_dir() else "a tagging result"
    refuse(args, others, f"{args.source} is {kind}, for which it has no meaning")
    if source.is_dir() and not args.data:
        raise UserError(f"--data is missing: name the prepared folder of {args.source}")
    if args.threshold is not None and not 0 < args.threshold <= 1:
        raise UserError(f"--threshold {args.threshold:g}: must lie between 0 and 1")
    if args.tta < 1:
        raise UserError(f"--tta {args.tta}: must be at least 1")
    if args.clips < 0:
        raise UserError(f"--clips {args.clips}: must not be negative")
    if output.is_dir():
        raise UserError(f"--out {output}: is a folder: name a file")
