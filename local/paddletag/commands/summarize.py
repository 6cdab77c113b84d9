"""The end of stage 3: the metrics of all folds -> RESULTS.md, with what is needed to get them again.

confusion.png beside it is the confusion matrix of all of them together, if clips have one label. With --tta 5 they are
RESULTS.tta5.md and confusion.tta5.png.
"""

import re
import statistics
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from paddletag import runtime
from paddletag.commands.options import Parser, add_list
from paddletag.data.splits import describe_split, parse_fold
from paddletag.files import write_text
from paddletag.models import model_folder
from paddletag.reports import evaluation_files, markdown
from paddletag.reports.evaluation_files import METRICS, interval
from paddletag.runtime import UserError, log
from paddletag.training import run_record
from paddletag.type_aliases import Meta


class Result(NamedTuple):
    """A trained model and its evaluation."""

    seed: str  # "" where there are no several
    fold: int | str  # or the split
    metrics: dict[str, Any]  # metrics.json
    meta: Meta


def main() -> None:
    """`paddletag summarize`."""
    parser = Parser(description=__doc__)
    parser.add_argument("--exp", required=True, help="folder that holds fold1, fold2 ..., or seed0/fold1 ..., or test")
    folds = "the folds to report, or test"
    add_list(parser, "--folds", parse_fold, nargs="+", required=True, help=folds)
    add_list(parser, "--seeds", str, nargs="*", default=[], help="the seeds to report, if the folder holds several")
    parser.add_argument("--tta", type=int, default=1, help="the evaluation to report: that of so many rolled copies")
    args = parser.parse_args()
    runtime.start_log()
    exp, suffix = Path(args.exp), f" (--tta {args.tta})" if args.tta > 1 else ""
    if args.tta < 1:
        raise UserError(f"--tta {args.tta}: must be at least 1")

    results, folders = [], []
    for seed in dict.fromkeys(args.seeds) or [""]:
        for fold in dict.fromkeys(args.folds):  # each once
            split = describe_split(fold)
            folder = exp / (f"seed{seed}" if seed else "") / split.replace(" ", "")
            results.append(Result(seed, fold, *evaluation_files.read_metrics(folder, args.tta, split)))
            folders.append(folder)
    refuse_different_trainings(exp, results)
    runs = which_runs(exp, folders)
    path, picture = (exp / evaluation_files.result_name(name, args.tta) for name in ("RESULTS.md", "confusion.png"))
    title, single = exp.name + suffix, results[0].meta["task"] == "single_label"
    if (picture.exists() or not single) and is_report(path, title, results, runs):
        log.info("%s is up to date: %s", path, headline(results))
        return
    if single:
        from paddletag.reports import figures

        scores_file = evaluation_files.result_name("scores.npz", args.tta)
        matrix = np.sum([confusion(folder / scores_file) for folder in folders], axis=0)
        figures.save(figures.confusion(matrix, results[0].meta["labels"], headline(results) + suffix), picture)
    write_text(path, report(title, results, runs, command_lines(results, runtime.command())))
    log.info("%s; wrote %s", headline(results), path)


def which_runs(exp: Path, folders: list[Path]) -> list[str]:
    """The lines of a Markdown list: the runs that are reported, and those in the folder of the report that are not."""
    names = [str(folder.relative_to(exp)) for folder in folders]
    others = [name for name in model_folder.models_of_run(exp) if name not in names]
    lines = [f"- Runs: {', '.join(names)}"]
    return [*lines, f"- Not in this report, in the same folder: {', '.join(others)}"] if others else lines


def refuse_different_trainings(exp: Path, results: list[Result]) -> None:
    """UserError for models whose mean would say nothing: they were trained in different ways."""
    first = results[0]
    for seed, fold, _, meta in results:
        if changed := list(run_record.differences(comparable(first.meta["run"], seed), comparable(meta["run"], seed))):
            raise UserError(
                f"{exp}: {describe_split(fold)} was trained in another way than {describe_split(first.fold)}:"
                f" {'; '.join(changed)}:"
                " their mean would say nothing; train one of them again (stage 2)"
            )


def comparable(run: dict[str, Any], seed: str) -> dict[str, Any]:
    """The record of a run without what each fold, and each of several seeds, has of its own."""
    config = run["config"]
    if seed:
        config = {**config, "train": {**config["train"], "seed": None}}
    return {**run, "config": config, "fold": None, "sound": None}


def confusion(scores_file: Path) -> np.ndarray:
    """The confusion matrix of an evaluated model: int [C, C]."""
    from paddletag.training import metrics

    with np.load(scores_file, allow_pickle=False) as file:
        return metrics.confusion(file["scores"], file["targets"])


def command_lines(results: list[Result], last: str) -> list[str]:
    """The command lines that lead to the numbers again: those of all trainings, of all evaluations, then `last`.

    last: the one that reports these folds and no others. A line that did several of these stands once.
    """
    trainings = [result.meta.get("command", "") for result in results]
    evaluations = [result.metrics.get("command", "") for result in results]
    lines = "\n".join(trainings + evaluations).split("\n")
    return [line for line in dict.fromkeys(lines) if line not in ("", last)] + [last]


def is_report(path: Path, title: str, results: list[Result], runs: list[str]) -> bool:
    """Whether the file `path` is the report of these results, whichever command wrote it."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    block = re.search(r"^```bash\n(.*?)\n```$", before, re.S | re.M)
    lines = block[1].split("\n") if block else []
    return bool(lines) and before == report(title, results, runs, lines) and lines == command_lines(results, lines[-1])


def headline(results: list[Result]) -> str:
    """The mean over the folds in words, saying how many folds it is of; of several seeds, the mean of their means."""
    task = results[0].meta["task"]
    key, name, factor, digits = METRICS[task]
    values: dict[str, list[float]] = {}  # of each seed
    for seed, fold, metrics, _ in results:
        if metrics[key] is None:
            return f"No {name} of {describe_split(fold)}: no label has clips both with and without it"
        values.setdefault(seed, []).append(factor * metrics[key])
    means = [statistics.mean(numbers) for numbers in values.values()]
    folds, first = len(results) // len(values), results[0].fold
    alone = f"the {first} split" if isinstance(first, str) else f"fold {first} alone"
    if len(values) > 1:
        mean, deviation = statistics.mean(means), statistics.stdev(means)
        several = f"{folds} folds" if folds > 1 else alone
        listed = ", ".join(f"{value:.{digits}f}" for value in means)
        return f"{name} {mean:.{digits}f} ± {deviation:.{digits}f} over {len(values)} seeds of {several} ({listed})"
    if folds == 1:
        return f"{name} {means[0]:.{digits}f} on {alone}{interval(results[0].metrics, task, ' (95 % interval: {})')}"
    (numbers,) = values.values()
    return f"{name} {means[0]:.{digits}f} ± {statistics.stdev(numbers):.{digits}f} over {folds} folds"


def report(title: str, results: list[Result], runs: list[str], commands: list[str]) -> str:
    """The text of RESULTS.md. runs: of `which_runs`. commands: of `command_lines`."""
    meta = results[0].meta
    lines = [
        f"# Results: {markdown.escape(title)}",
        "",
        f"**{headline(results)}**",
        "",
        "```bash",
        *commands,
        "```",
        "",
    ]
    lines += [*table(results), "", how_chosen(results), ""]
    if text := results[0].metrics.get("crossing"):
        lines += [f"{markdown.escape(text)}.", ""]
    lines += confused_pairs(results)
    versions = ", ".join(f"{package} {version}" for package, version in meta["versions"].items())
    lines += [
        *runs,
        f"- Backbone: {meta['backbone']}, {len(meta['labels'])} labels, clips of {meta['clip_seconds']:g} s,"
        f" {meta['run']['processes']} process(es)",
        f"- Machine: {meta['machine']}",
        f"- Versions: {versions}",
        "",
        "<details><summary>Config</summary>",
        "",
        "```yaml",
        yaml.safe_dump(meta["run"]["config"], sort_keys=False).rstrip(),
        "```",
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


def table(results: list[Result]) -> list[str]:
    """The lines of a Markdown table with a row for each result."""
    task = results[0].meta["task"]
    key, name, factor, digits = METRICS[task]
    several = len({result.seed for result in results}) > 1
    held_out = "Split" if isinstance(results[0].fold, str) else "Fold held out"
    names = ["Seed"] * several + [held_out, name, "95 % interval", "Clips", "Training (s)"]
    rows = [names]
    for seed, fold, metrics, meta in results:
        value = "-" if metrics[key] is None else f"{factor * metrics[key]:.{digits}f}"
        seconds = f"{meta['trained']['seconds']:.0f}"
        row = [seed] * several + [str(fold), value, interval(metrics, task) or "-", str(metrics["n"]), seconds]
        rows.append(row)
    return markdown.table(rows)


def how_chosen(results: list[Result]) -> str:
    """One line on how the models were chosen, and on the copies of clips that they were tested on."""
    meta, config = results[0].meta, results[0].meta["run"]["config"]
    splits = isinstance(results[0].fold, str)
    tested = f"the {results[0].fold} split" if splits else "the fold held out"
    if "classic" in meta:
        text = f"The classifier was fitted without the clips of {tested}."
    elif config["train"]["select"] == "best":
        clips = "clips of the training folds (train.validation)"
        if splits:
            clips = "training clips (train.validation)" if config["train"]["validation"] else "the valid split"
        text = f"The epoch was chosen on {clips}, not on {tested}."
    else:
        unseen = "the test split was not" if splits else "no fold was"
        text = f"The config fixes the epochs, and the last model is tested: {unseen} looked at to choose one."
    if (copies := results[0].metrics.get("tta", 1)) > 1:
        text += f" Scores are means over {copies} copies of each clip, rolled in time."
    return text


def confused_pairs(results: list[Result]) -> list[str]:
    """The lines of a Markdown table of the pairs that all models together confuse most; none where they do not."""
    counts: Counter[tuple[str, str]] = Counter()
    for result in results:
        counts.update({(true, guess): n for true, guess, n in result.metrics.get("confused", [])})
    if not counts:
        return []
    rows = [
        f"| {markdown.escape(true)} | {markdown.escape(guess)} | {n} |" for (true, guess), n in counts.most_common(10)
    ]
    return ["Most confused pairs:", "", "| True label | Model's label | Clips |", "|---|---|---|", *rows, ""]
