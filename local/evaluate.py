"""Stage 3: trained models and the fold that they were not trained on -> metrics.json and what to look at.

scores.npz holds every clip's scores, confusion.png the confusion matrix (of one label per clip); report.html shows all
of it in a browser, with the sound of the mistakes. With --tta 5 they are metrics.tta5.json and so on.
"""

if __name__ == "__main__":  # before all else
    from paddletag import interrupt

    interrupt.begin()

from pathlib import Path

import numpy as np
from paddletag import checkpoint, distributed, manifest, online, results, runtime
from paddletag import config as configs
from paddletag.runtime import EVAL, UserError, log


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("--model", required=True, nargs="+", help="trained folder; several: their mean score")
    parser.add_argument("--data", required=True, help="the prepared folder, with features")
    parser.add_argument("--fold", type=manifest.parse_fold, help="or test; default: what the model was not trained on")
    parser.add_argument("--tta", type=int, default=1, help="average the scores of so many copies, rolled in time")
    parser.add_argument("--output_dir", help="folder for the results; default: that of the model, if it is one")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    args = parser.parse_args()
    rank = distributed.rank()
    runtime.start_log(quiet=rank > 0)
    folders = [Path(folder) for folder in args.model]
    if args.tta < 1:
        raise UserError(f"--tta {args.tta}: must be at least 1")
    if len(folders) > 1 and not args.output_dir:
        raise UserError("--output_dir is missing: the result of several models belongs to none of their folders")
    output = Path(args.output_dir or folders[0])

    metas = [checkpoint.read_meta(folder) for folder in folders]
    clips, labels = manifest.read(args.data)
    fold = metas[0]["run"]["fold"] if args.fold is None else args.fold
    _, records = manifest.split(clips, fold)
    for folder, meta in zip(folders, metas, strict=True):
        check(folder, meta, fold, args.data, clips, labels)
    members = [open_features(args.data, meta, records) for meta in metas]
    data = "-".join([manifest.digest(records), *dict.fromkeys(features.digest(records) for features in members)])
    told = {"fold": fold, "model": "+".join(meta["sha256"] for meta in metas), "data": data, "tta": args.tta}
    names = ["metrics.json", "scores.npz", "report.html"]
    names += ["confusion.png"] if metas[0]["task"] == "single_label" else []
    files = [output / results.named(name, args.tta) for name in names]
    metrics_file = files[0]
    before = runtime.read_json(metrics_file, "") if metrics_file.exists() else {}
    if all(file.exists() for file in files) and {key: before.get(key) for key in told} == told:
        log.info("%s is up to date: %s", metrics_file, headline(before))
        return
    if [path.resolve() for path in folders] != [output.resolve()]:
        refuse_what_is_of_others(output, told)

    distributed.init(args.device)
    scores = mean_scores(folders, members, records, args.tta)
    if rank:
        return
    found = {**told, "command": runtime.command()}
    if text := manifest.crossing(clips):
        found["crossing"] = text
    write(files, found, scores, folders, metas[0]["task"], records, labels)


def mean_scores(folders, members, records, tta):
    """The models' mean scores of the records: float32 [N, C]. members: each model's features."""
    from paddletag import engine

    scores = 0
    for folder, features in zip(folders, members, strict=True):
        model, meta = checkpoint.load_model(folder)
        config = configs.from_dict(meta["run"]["config"])
        found = engine.evaluate(
            model, records, features, meta["task"], meta["clip_seconds"], config.evaluate.batch_size, tta,
            config.train.workers,
        )  # fmt: skip
        scores = scores + found / len(folders)
    return scores


def write(files, found, scores, folders, task, records, labels):
    """Measure the scores, and write `files` about them; `found` is what metrics.json holds besides."""
    from paddletag import dataset, metrics, report

    metrics_file, scores_file, report_file, *pictures = files
    targets, where = dataset.multi_hot(records, labels), manifest.words(found["fold"])
    found = {**found, **metrics.evaluate(task, scores, targets, labels)}
    arrays = {"ids": np.array([record["id"] for record in records]), "scores": scores, "targets": targets}
    arrays["labels"] = np.array(labels)
    with runtime.atomic(scores_file) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    for picture in pictures:
        from paddletag import plots

        matrix = metrics.confusion(scores, targets)
        found["confused"] = metrics.most_confused(matrix, labels)
        title = f"{where.capitalize()}: {headline(found)}"
        plots.save(plots.confusion(matrix, labels, title), picture)
    page = report.evaluation_page({"metrics": found, **arrays}, folders, records, metrics_file.parent)
    runtime.write_text(report_file, page)
    runtime.write_json(metrics_file, found)  # the last: it says that all are there
    log.log(EVAL, "%s: %s%s; wrote %s and %s", where, headline(found), interval(found), metrics_file, report_file.name)


def check(folder, meta, fold, data, clips, labels):
    """UserError for a model that was not made for these clips, or has met those of the fold."""
    if fold != meta["run"]["fold"]:
        why = "was trained on it" if isinstance(fold, int) else "does not hold it out"
        raise UserError(f"--fold {fold}: {folder} {why}: test it on {manifest.words(meta['run']['fold'])} alone")
    if labels != meta["labels"]:
        raise UserError(f"{data}: its labels are not those that {folder} was trained with")
    if manifest.digest(clips) != meta["run"]["data"]:
        raise UserError(
            f"{data}: is not what {folder} was trained with: {manifest.changes(folder / checkpoint.CLIPS, clips)}:"
            " a model is tested on the data set that it was trained with: train again (stage 2), with another --exp"
        )


def refuse_what_is_of_others(output, told):
    """UserError where an evaluation would lie beside that of other models or another fold, or in its place."""
    if (output / checkpoint.META).exists():
        raise UserError(f"--output_dir {output}: is the folder of another model: choose another one")
    for file in sorted(output.glob("metrics*.json")):
        before = runtime.read_json(file, "")
        if any(before.get(key) != told[key] for key in ("model", "fold")):
            raise UserError(f"{file}: is of other models or another fold: choose another --output_dir")


def open_features(data, meta, records):
    online_features = meta["run"]["config"]["features"]["online"]
    return online.open_features(data, checkpoint.front_end(meta), meta["clip_seconds"], records, online_features)


def headline(found):
    clips = f"{found['n']} clips" + (f", {found['tta']} rolled copies of each" if found["tta"] > 1 else "")
    if "accuracy" in found:
        return f"accuracy {100 * found['accuracy']:.2f} % of {clips}"
    if found["mAP"] is None:
        return f"no mAP on {clips}: no label has clips both with and without it"
    return f"mAP {found['mAP']:.4f} on {clips}"


def interval(found):
    """The 95 % interval in words, behind the headline; nothing where it could not be measured."""
    for key, factor, digits in (("accuracy_ci", 100, 2), ("mAP_ci", 1, 4)):
        if found.get(key):
            return f" (95 % interval: {' to '.join(f'{factor * value:.{digits}f}' for value in found[key])})"
    return ""


if __name__ == "__main__":
    runtime.run(main)
