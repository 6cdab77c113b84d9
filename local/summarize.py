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
    parser.add_argument("--exp", required=True, help="folder that holds fold1, fold2 ...")
    parser.add_argument("--folds", nargs="+", required=True, help="the folds to report")
    args = parser.parse_args()
    runtime.start_log()
    exp = Path(args.exp)

    runs = []
    for fold in dict.fromkeys(args.folds):  # each once
        folder = exp / f"fold{fold}"
        missing = f"evaluate fold {fold} first (stage 3)"
        runs.append((fold, runtime.read_json(folder / "metrics.json", missing), checkpoint.read_meta(folder)))
    for fold, metrics, meta in runs:
        file = exp / f"fold{fold}" / "metrics.json"
        if metrics["model"] != meta["sha256"]:
            raise UserError(f"{file}: is of an earlier model: evaluate fold {fold} again (stage 3)")
        own = {"fold": fold, "sound": None}  # what each fold has of its own
        changed = list(checkpoint.differences({**runs[0][2]["run"], **own}, {**meta["run"], **own}))
        if changed:
            raise UserError(
                f"{exp}: fold {fold} was trained in another way than fold {runs[0][0]}: {'; '.join(changed)}:"
                " their mean would say nothing; train one of them again (stage 2)"
            )
    path = exp / "RESULTS.md"
    text = report(exp.name, runs)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        log.info("%s is up to date: %s", path, headline(runs))
        return
    runtime.write_text(path, text)
    log.info("%s; wrote %s", headline(runs), path)


def headline(runs):
    """The mean over the folds in words, saying how many folds it is of."""
    (key, name, factor, digits), *_ = METRICS[runs[0][2]["task"]]
    values = [factor * metrics[key] for _, metrics, _ in runs]
    if len(values) == 1:
        return f"{name} {values[0]:.{digits}f} on fold {runs[0][0]} alone"
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{name} {mean:.{digits}f} ± {deviation:.{digits}f} over {len(values)} folds"


def report(title, runs):
    """The text of RESULTS.md."""
    meta = runs[0][2]
    columns = METRICS[meta["task"]]
    lines = [f"# Results: {title}", "", f"**{headline(runs)}**", ""]
    commands = dict.fromkeys(run["command"] for _, _, run in runs if run["command"])
    if commands:
        lines += ["```bash", *commands, "```", ""]
    names = " | ".join(name for _, name, _, _ in columns)
    lines += [f"| Fold held out | {names} | Clips | Training (s) |", "|---" * (len(columns) + 3) + "|"]
    for fold, metrics, run in runs:
        values = " | ".join(f"{factor * metrics[key]:.{digits}f}" for key, _, factor, digits in columns)
        lines.append(f"| {fold} | {values} | {metrics['n']} | {run['trained']['seconds']:.0f} |")
    lines += ["", "The config fixes the epochs, and the last model is tested: no fold was looked at to choose one.", ""]
    confused = Counter()
    for _, metrics, _ in runs:
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
