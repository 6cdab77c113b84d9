"""The end of stage 3: the metrics of all folds -> RESULTS.md, with what is needed to get them again."""

import statistics
from collections import Counter
from pathlib import Path

import yaml
from paddletag import checkpoint, runtime
from paddletag.runtime import UserError, log

METRICS = {"single_label": [("accuracy", "Accuracy (%)", 100, 2)], "multi_label": [("mAP", "mAP", 1, 4)]}


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("--exp", required=True, help="folder that holds fold1, fold2 ..., or seed0/fold1 ...")
    parser.add_argument("--folds", nargs="+", required=True, help="the folds to report")
    parser.add_argument("--seeds", nargs="*", default=[], help="the seeds to report, if the folder holds several")
    args = parser.parse_args()
    runtime.start_log()
    exp = Path(args.exp)

    runs = []  # (seed or "", fold, metrics, meta)
    for seed in dict.fromkeys(args.seeds) or [""]:
        for fold in dict.fromkeys(args.folds):  # each once
            folder = exp / (f"seed{seed}" if seed else "") / f"fold{fold}"
            missing = f"evaluate fold {fold} first (stage 3)"
            metrics, meta = runtime.read_json(folder / "metrics.json", missing), checkpoint.read_meta(folder)
            if metrics["model"] != meta["sha256"]:
                raise UserError(
                    f"{folder / 'metrics.json'}: is of an earlier model: evaluate fold {fold} again (stage 3)"
                )
            runs.append((seed, fold, metrics, meta))
    first = runs[0][3]["run"]
    for seed, fold, metrics, meta in runs:
        changed = list(checkpoint.differences(alike(first, seed), alike(meta["run"], seed)))
        if metrics.get("tta") != runs[0][2].get("tta"):
            changed.append(f"--tta was {runs[0][2].get('tta')}, is {metrics.get('tta')}")
        if changed:
            raise UserError(
                f"{exp}: fold {fold} was trained in another way than fold {runs[0][1]}: {'; '.join(changed)}:"
                " their mean would say nothing; train one of them again (stage 2)"
            )
    path = exp / "RESULTS.md"
    text = report(exp.name, runs)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        log.info("%s is up to date: %s", path, headline(runs))
        return
    runtime.write_text(path, text)
    log.info("%s; wrote %s", headline(runs), path)


def alike(run, seed):
    """A run without what each fold, and each of several seeds, has of its own."""
    config = run["config"]
    if seed:
        config = {**config, "train": {**config["train"], "seed": None}}
    return {**run, "config": config, "fold": None, "sound": None}


def headline(runs):
    """The mean over the folds in words, saying how many folds it is of; of several seeds, the mean of their means."""
    (key, name, factor, digits), *_ = METRICS[runs[0][3]["task"]]
    seeds = {}
    for seed, _, metrics, _ in runs:
        seeds.setdefault(seed, []).append(factor * metrics[key])
    values = [statistics.mean(part) for part in seeds.values()]
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    folds = len(runs) // len(seeds)
    if len(seeds) > 1:
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        spread = f"{folds} folds" if folds > 1 else f"fold {runs[0][1]} alone"
        return f"{name} {mean:.{digits}f} ± {deviation:.{digits}f} over {len(seeds)} seeds of {spread} ({each})"
    if folds == 1:
        return f"{name} {values[0]:.{digits}f} on fold {runs[0][1]} alone"
    (part,) = seeds.values()
    return f"{name} {values[0]:.{digits}f} ± {statistics.stdev(part):.{digits}f} over {folds} folds"


def report(title, runs):
    """The text of RESULTS.md."""
    meta = runs[0][3]
    columns = METRICS[meta["task"]]
    lines = [f"# Results: {title}", "", f"**{headline(runs)}**", ""]
    commands = dict.fromkeys(run["command"] for *_, run in runs if run["command"])
    if commands:
        lines += ["```bash", *commands, "```", ""]
    several = len({seed for seed, *_ in runs}) > 1
    names = ["Seed"] * several + ["Fold held out", *(name for _, name, _, _ in columns), "Clips", "Training (s)"]
    lines += [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for seed, fold, metrics, run in runs:
        values = [f"{factor * metrics[key]:.{digits}f}" for key, _, factor, digits in columns]
        row = [seed] * several + [fold, *values, str(metrics["n"]), f"{run['trained']['seconds']:.0f}"]
        lines.append(f"| {' | '.join(row)} |")
    chosen = "The config fixes the epochs, and the last model is tested: no fold was looked at to choose one."
    if meta["run"]["config"]["train"]["select"] == "best":
        chosen = "The epoch was chosen on clips of the training folds (train.validation), not of the fold held out."
    if (copies := runs[0][2].get("tta", 1)) > 1:
        chosen += f" Scores are means over {copies} copies of each clip, rolled in time."
    lines += ["", chosen, ""]
    confused = Counter()
    for _, _, metrics, _ in runs:
        confused.update({(true, guess): n for true, guess, n in metrics.get("confused", [])})
    if confused:
        lines += ["Most confused pairs:", "", "| True label | Model's label | Clips |", "|---|---|---|"]
        lines += [f"| {true} | {guess} | {n} |" for (true, guess), n in confused.most_common(10)]
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
        yaml.safe_dump(meta["run"]["config"], sort_keys=False).rstrip(),
        "```",
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    runtime.run(main)
