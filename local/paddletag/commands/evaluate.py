"""Stage 3: trained models and the fold that they were not trained on -> metrics.json and what to look at.

scores.npz holds every clip's scores, confusion.png the confusion matrix (of one label per clip); report.html shows all
of it in a browser, with the sound of the mistakes. With --tta 5 they are metrics.tta5.json and so on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddletag import config as configs
from paddletag import runtime
from paddletag.commands.options import Parser
from paddletag.data import clip_list, manifest
from paddletag.data.splits import crossing_groups, describe_split, hold_out, parse_fold
from paddletag.features.feature_source import FeatureSource, open_features
from paddletag.files import atomic, read_json, write_json, write_text
from paddletag.models import calibration, model_folder
from paddletag.reports import evaluation_files
from paddletag.reports.model_card import write_card
from paddletag.runtime import EVAL, UserError, log
from paddletag.training import distributed
from paddletag.type_aliases import Meta, Record


def main() -> None:
    """`paddletag evaluate`."""
    args = arguments()
    rank = distributed.rank()
    runtime.start_log(quiet=rank > 0)
    folders = [Path(model_folder.find_model(folder)) for folder in args.model]
    if len(folders) > 1 and not args.output_dir:
        raise UserError("--output_dir is missing: the result of several models belongs to none of their folders")
    output = Path(args.output_dir or folders[0])

    read_meta = model_folder.describe_folder if len(folders) == 1 else model_folder.read_meta
    metas = [read_meta(folder) for folder in folders]  # the mean of several models has no calibration
    for folder, meta in zip(folders, metas, strict=True):
        if missing := [key for key in ("fold", "data") if key not in meta["run"]]:
            path = folder / model_folder.META
            raise UserError(f"{path}: its record of the run has no {' and no '.join(missing)}: copy it again")
    clips, labels = manifest.read(args.data)
    fold = metas[0]["run"]["fold"] if args.fold is None else args.fold
    _, records = hold_out(clips, fold)
    for folder, meta in zip(folders, metas, strict=True):
        check_model(folder, meta, fold, args.data, clips, labels)
    members = [model_features(args.data, meta, records) for meta in metas]
    data = "-".join([manifest.digest(records), *dict.fromkeys(features.digest(records) for features in members)])
    identity = {"fold": fold, "model": "+".join(meta["sha256"] for meta in metas), "data": data, "tta": args.tta}
    identity["calibrated"] = calibration.digest(metas[0]) or None
    names = ["metrics.json", "scores.npz", "report.html"]
    names += ["confusion.png"] if metas[0]["task"] == "single_label" else []
    files = [output / evaluation_files.result_name(name, args.tta) for name in names]
    metrics_file = files[0]
    before = read_json(metrics_file, "") if metrics_file.exists() else {}
    if all(file.exists() for file in files) and {key: before.get(key) for key in identity} == identity:
        log.info("%s is up to date: %s", metrics_file, headline(before))
        return
    is_own = [path.resolve() for path in folders] == [output.resolve()]
    if not is_own:
        refuse_folder_of_others(output, identity)

    models = f"{len(folders)} models" if len(folders) > 1 else f"{folders[0]}"
    log.info("scoring %d clips of %s with %s", len(records), describe_split(fold), models)
    distributed.init(args.device)
    scores = mean_scores(folders, metas, members, records, args.tta)
    if rank:
        return
    details = {**identity, "command": runtime.command(), "data_set": data_set_name(metas[0], args.data)}
    details["date"] = runtime.today()
    if text := crossing_groups(clips):
        details["crossing"] = text
    write(files, details, scores, folders, metas[0], records)
    if is_own:
        write_card(output)


def data_set_name(meta: Meta, data: str) -> str:
    """What texts call the data set: as its config does, else as its folder. data: the prepared folder."""
    return meta["run"].get("config", {}).get("data", {}).get("name") or manifest.data_set_name(data)


def arguments() -> argparse.Namespace:
    """The arguments, checked as far as they can be by themselves."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--model", required=True, nargs="+", help="trained folder, or a run's that holds one; several: their mean score"
    )
    parser.add_argument("--data", required=True, help="the prepared folder, with features")
    parser.add_argument("--fold", type=parse_fold, help="or test; default: what the model was not trained on")
    parser.add_argument("--tta", type=int, default=1, help="average the scores of so many copies, rolled in time")
    parser.add_argument("--output_dir", help="folder for the results; default: that of the model, if it is one")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    args = parser.parse_args()
    if args.tta < 1:
        raise UserError(f"--tta {args.tta}: must be at least 1")
    return args


def mean_scores(
    folders: list[Path], metas: list[Meta], members: list[FeatureSource], records: Sequence[Record], tta: int = 1
) -> np.ndarray:
    """The models' mean scores of the records, without calibration: float32 [N, C].

    metas: each model's meta data. members: each one's features.
    """
    from paddletag.training import evaluation

    total: Any = 0
    for folder, meta, features in zip(folders, metas, members, strict=True):
        model, _ = model_folder.load_model(folder, meta=meta)
        config = configs.from_dict(meta["run"]["config"])
        scores = evaluation.evaluate(
            model, records, features, meta["task"], meta["clip_seconds"], config.evaluate.batch_size, tta,
            config.train.workers,
        )  # fmt: skip
        total = total + scores / len(folders)
    return total


def write(
    files: list[Path],
    details: dict[str, Any],
    scores: np.ndarray,
    folders: list[Path],
    meta: Meta,
    records: Sequence[Record],
) -> None:
    """Measure the scores, and write `files` of them: metrics, scores, page, pictures.

    details: what metrics.json holds besides. folders: of the models; meta: of the first. Scores are written as the
    model gives them to users. What they are measured by, but for `calibration`, does not depend on its temperature.
    """
    from paddletag.features.batches import multi_hot
    from paddletag.reports.evaluation_page import evaluation_page
    from paddletag.training import metrics as measures
    from paddletag.training.reliability import measure_calibration

    metrics_file, scores_file, report_file, *pictures = files
    labels, title = meta["labels"], describe_split(details["fold"])
    targets = multi_hot(records, labels)
    metrics = {**details, **measures.evaluate(meta["task"], scores, targets, labels)}
    metrics["calibration"] = measure_calibration(scores, targets, meta)
    scores = calibration.calibrated_scores(scores, meta)
    clip_ids = [record["id"] for record in records]
    arrays: dict[str, Any] = {"ids": np.array(clip_ids), "scores": scores, "targets": targets}
    arrays["labels"] = np.array(labels)
    with atomic(scores_file) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    for picture in pictures:
        from paddletag.reports import figures

        matrix = measures.confusion(scores, targets)
        metrics["confused"] = measures.most_confused(matrix, labels)
        figure = figures.confusion(matrix, labels, f"{title.capitalize()}: {headline(metrics)}")
        figures.save(figure, picture)
    evaluation = {"metrics": metrics, **arrays}
    page = evaluation_page(evaluation, folders, records, metrics_file.parent, details["data_set"])
    write_text(report_file, page)
    write_json(metrics_file, metrics)  # the last: it says that all are there
    result = f"{title}: {headline(metrics)}{interval(metrics)}; {calibration_line(metrics['calibration'])}"
    log.log(EVAL, "%s; wrote %s and %s", result, metrics_file, report_file.name)


def check_model(
    folder: Path, meta: Meta, fold: int | str, data: str, clips: Sequence[Record], labels: list[str]
) -> None:
    """UserError for a model that was not made for these clips, or has met those of the fold."""
    if fold != meta["run"]["fold"]:
        why = "was trained on it" if isinstance(fold, int) else "does not hold it out"
        raise UserError(f"--fold {fold}: {folder} {why}: test it on {describe_split(meta['run']['fold'])} alone")
    if labels != meta["labels"]:
        raise UserError(f"{data}: its labels are not those that {folder} was trained with")
    if manifest.digest(clips) != meta["run"]["data"]:
        raise UserError(
            f"{data}: is not what {folder} was trained with: {clip_list.changes(folder / model_folder.CLIPS, clips)}:"
            " a model is tested on the data set that it was trained with: train again (stage 2), with another --exp"
        )


def refuse_folder_of_others(output: Path, identity: dict[str, Any]) -> None:
    """UserError where an evaluation would lie beside that of other models or another fold, or in its place.

    identity: what tells the evaluation from others, as metrics.json has it.
    """
    if (output / model_folder.META).exists():
        raise UserError(f"--output_dir {output}: is the folder of another model: choose another one")
    for file in sorted(output.glob("metrics*.json")):
        before = read_json(file, "")
        if any(before.get(key) != identity[key] for key in ("model", "fold")):
            raise UserError(f"{file}: is of other models or another fold: choose another --output_dir")


def model_features(data: str, meta: Meta, records: Sequence[Record]) -> FeatureSource:
    """The features of `records` that the model with this meta data takes."""
    online = meta["run"]["config"]["features"]["online"]
    return open_features(data, model_folder.saved_front_end(meta), meta["clip_seconds"], records, online)


def headline(metrics: dict[str, Any]) -> str:
    """The main result in words: the metric, and of how many clips."""
    clips = f"{metrics['n']} clips" + (f", {metrics['tta']} rolled copies of each" if metrics["tta"] > 1 else "")
    if "accuracy" in metrics:
        return f"accuracy {100 * metrics['accuracy']:.2f} % of {clips}"
    if metrics["mAP"] is None:
        return f"no mAP on {clips}: no label has clips both with and without it"
    return f"mAP {metrics['mAP']:.4f} on {clips}"


def calibration_line(found: dict[str, Any]) -> str:
    """The calibration error in words; of a calibrated model, also without its temperature, and the unknown clips."""
    text = f"expected calibration error {found['ece']:.4f}"
    if "ece_before" not in found:
        return text
    known = (
        "" if found["accuracy_of_known"] is None else f", {100 * found['accuracy_of_known']:.2f} % of the others right"
    )
    return f"{text} ({found['ece_before']:.4f} without calibration); {found['unknown']} unknown{known}"


def interval(metrics: dict[str, Any]) -> str:
    """The 95 % interval in words, behind the headline; nothing where it could not be measured."""
    for key, factor, digits in (("accuracy_ci", 100, 2), ("mAP_ci", 1, 4)):
        if metrics.get(key):
            return f" (95 % interval: {' to '.join(f'{factor * value:.{digits}f}' for value in metrics[key])})"
    return ""
