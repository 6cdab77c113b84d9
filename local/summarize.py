"""The end of stage 3: the metrics of all folds -> RESULTS.md, with what is needed to get them again.

confusion.png beside it is the confusion matrix of all of them together, if clips have one label. With --tta 5 they are
RESULTS.tta5.md and confusion.tta5.png.
"""

if __name__ == "__main__":  # before all else
    from paddletag import interrupt

    interrupt.begin()

import html
import re
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
import yaml
from paddletag import checkpoint, manifest, results, runtime
from paddletag.runtime import UserError, log

METRICS = {"single_label": ("accuracy", "Accuracy (%)", 100, 2), "multi_label": ("mAP", "mAP", 1, 4)}


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("--exp", required=True, help="folder that holds fold1, fold2 ..., or seed0/fold1 ..., or test")
    folds = "the folds to report, or test"
    parser.add_argument("--folds", nargs="+", required=True, type=manifest.parse_fold, help=folds)
    parser.add_argument("--seeds", nargs="*", default=[], help="the seeds to report, if the folder holds several")
    parser.add_argument("--tta", type=int, default=1, help="the evaluation to report: that of so many rolled copies")
    args = parser.parse_args()
    runtime.start_log()
    exp, how = Path(args.exp), f" (--tta {args.tta})" if args.tta > 1 else ""
    if args.tta < 1:
        raise UserError(f"--tta {args.tta}: must be at least 1")

    runs, folders = [], []  # of (seed or "", fold, metrics, meta)
    for seed in dict.fromkeys(args.seeds) or [""]:
        for fold in dict.fromkeys(args.folds):  # each once
            where = manifest.words(fold)
            folder = exp / (f"seed{seed}" if seed else "") / where.replace(" ", "")
            runs.append((seed, fold, *results.read_metrics(folder, args.tta, where)))
            folders.append(folder)
    first = runs[0][3]["run"]
    for seed, fold, _, meta in runs:
        if changed := list(checkpoint.differences(alike(first, seed), alike(meta["run"], seed))):
            raise UserError(
                f"{exp}: {manifest.words(fold)} was trained in another way than {manifest.words(runs[0][1])}:"
                f" {'; '.join(changed)}:"
                " their mean would say nothing; train one of them again (stage 2)"
            )
    path, picture = (exp / results.named(name, args.tta) for name in ("RESULTS.md", "confusion.png"))
    title, single = exp.name + how, runs[0][3]["task"] == "single_label"
    if (picture.exists() or not single) and is_report(path, title, runs):
        log.info("%s is up to date: %s", path, headline(runs))
        return
    if single:
        from paddletag import plots

        matrix = sum(confusion(folder / results.named("scores.npz", args.tta)) for folder in folders)
        plots.save(plots.confusion(matrix, runs[0][3]["labels"], headline(runs) + how), picture)
    runtime.write_text(path, report(title, runs, commands(runs, runtime.command())))
    log.info("%s; wrote %s", headline(runs), path)


def alike(run, seed):
    """A run without what each fold, and each of several seeds, has of its own."""
    config = run["config"]
    if seed:
        config = {**config, "train": {**config["train"], "seed": None}}
    return {**run, "config": config, "fold": None, "sound": None}


def confusion(scores_file):
    """The confusion matrix of an evaluated model."""
    from paddletag import metrics

    with np.load(scores_file, allow_pickle=False) as file:
        return metrics.confusion(file["scores"], file["targets"])


def commands(runs, last):
    """The command lines that lead to the numbers again: those of all trainings, of all evaluations, then `last`.

    last: the one that reports these folds and no others. A line that did several of these stands once.
    """
    lines = [meta.get("command", "") for *_, meta in runs] + [metrics.get("command", "") for *_, metrics, _ in runs]
    return [line for line in dict.fromkeys("\n".join(lines).split("\n")) if line not in ("", last)] + [last]


def is_report(path, title, runs):
    """Whether the file `path` is the report of these runs, whichever command wrote it."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    listed = re.search(r"^```bash\n(.*?)\n```$", before, re.S | re.M)
    lines = listed[1].split("\n") if listed else []
    return bool(lines) and before == report(title, runs, lines) and lines == commands(runs, lines[-1])


def headline(runs):
    """The mean over the folds in words, saying how many folds it is of; of several seeds, the mean of their means."""
    task = runs[0][3]["task"]
    key, name, factor, digits = METRICS[task]
    seeds = {}
    for seed, fold, metrics, _ in runs:
        if metrics[key] is None:
            return f"No {name} of {manifest.words(fold)}: no label has clips both with and without it"
        seeds.setdefault(seed, []).append(factor * metrics[key])
    values = [statistics.mean(part) for part in seeds.values()]
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    folds, first = len(runs) // len(seeds), runs[0][1]
    alone = f"the {first} split" if isinstance(first, str) else f"fold {first} alone"
    if len(seeds) > 1:
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        spread = f"{folds} folds" if folds > 1 else alone
        return f"{name} {mean:.{digits}f} ± {deviation:.{digits}f} over {len(seeds)} seeds of {spread} ({each})"
    if folds == 1:
        return f"{name} {values[0]:.{digits}f} on {alone}{between(runs[0][2], task, ' (95 % interval: {})')}"
    (part,) = seeds.values()
    return f"{name} {values[0]:.{digits}f} ± {statistics.stdev(part):.{digits}f} over {folds} folds"


def cell(text):
    """A name as text in Markdown, in a table too, whatever it holds."""
    text = html.escape(runtime.one_line(text), quote=False)
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text)


def between(metrics, task, text="{}"):
    """The 95 % interval of a fold's metric, in `text`; empty where it was not measured."""
    key, _, factor, digits = METRICS[task]
    values = [f"{factor * value:.{digits}f}" for value in metrics.get(f"{key}_ci") or []]
    return text.format(" to ".join(values)) if values else ""


def report(title, runs, commands):
    """The text of RESULTS.md."""
    meta = runs[0][3]
    key, name, factor, digits = METRICS[meta["task"]]
    lines = [f"# Results: {cell(title)}", "", f"**{headline(runs)}**", "", "```bash", *commands, "```", ""]
    several = len({seed for seed, *_ in runs}) > 1
    splits, config = isinstance(runs[0][1], str), meta["run"]["config"]
    held_out = "Split" if splits else "Fold held out"
    names = ["Seed"] * several + [held_out, name, "95 % interval", "Clips", "Training (s)"]
    lines += [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for seed, fold, metrics, run in runs:
        value = "-" if metrics[key] is None else f"{factor * metrics[key]:.{digits}f}"
        interval, seconds = between(metrics, meta["task"]) or "-", f"{run['trained']['seconds']:.0f}"
        row = [seed] * several + [str(fold), value, interval, str(metrics["n"]), seconds]
        lines.append(f"| {' | '.join(row)} |")
    tested = f"the {runs[0][1]} split" if splits else "the fold held out"
    if "classic" in meta:
        chosen = f"The classifier was fitted without the clips of {tested}."
    elif config["train"]["select"] == "best":
        clips = "clips of the training folds (train.validation)"
        if splits:
            clips = "training clips (train.validation)" if config["train"]["validation"] else "the valid split"
        chosen = f"The epoch was chosen on {clips}, not on {tested}."
    else:
        looked = "the test split was not" if splits else "no fold was"
        chosen = f"The config fixes the epochs, and the last model is tested: {looked} looked at to choose one."
    if (copies := runs[0][2].get("tta", 1)) > 1:
        chosen += f" Scores are means over {copies} copies of each clip, rolled in time."
    lines += ["", chosen, ""]
    if text := runs[0][2].get("crossing"):
        lines += [f"{cell(text)}.", ""]
    confused = Counter()
    for _, _, metrics, _ in runs:
        confused.update({(true, guess): n for true, guess, n in metrics.get("confused", [])})
    if confused:
        lines += ["Most confused pairs:", "", "| True label | Model's label | Clips |", "|---|---|---|"]
        lines += [f"| {cell(true)} | {cell(guess)} | {n} |" for (true, guess), n in confused.most_common(10)]
        lines.append("")
    versions = ", ".join(f"{package} {version}" for package, version in meta["versions"].items())
    lines += [
        f"- Backbone: {meta['backbone']}, {len(meta['labels'])} labels, clips of {meta['clip_seconds']:g} s,"
        f" {meta['run']['processes']} process(es)",
        f"- Machine: {meta['machine']}",
        f"- Versions: {versions}",
        "",
        "<details><summary>Config</summary>",
        "",
        "```yaml",
        yaml.safe_dump(config, sort_keys=False).rstrip(),
        "```",
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    runtime.run(main)
