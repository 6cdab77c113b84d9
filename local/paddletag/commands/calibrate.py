"""Make the scores of a trained model ones to act on: a temperature, and a threshold for each class.

They are chosen on clips that the model was not trained on and is not tested on: those that train.validation set aside,
if --data is the data set that the model was trained with; or else all clips of another one. They are written into the
model's folder, as calibration.json, and used by `paddletag tag` and all that follows from then on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddletag import config as configs
from paddletag import runtime
from paddletag.commands.evaluate import mean_scores, model_features
from paddletag.commands.options import Parser
from paddletag.commands.train import divide
from paddletag.data import clip_list, manifest
from paddletag.data.clips import ids_of
from paddletag.data.splits import describe_split, records_of, stratified_folds, units_of
from paddletag.features.feature_source import FeatureSource
from paddletag.files import write_json
from paddletag.models import calibration, model_folder
from paddletag.reports.model_card import write_card
from paddletag.runtime import UserError
from paddletag.training import distributed
from paddletag.training.fit_calibration import LEAST
from paddletag.type_aliases import Meta, Record

PARTS = 5  # of the clips, each of which is measured at the temperature of the others
FEW = 100  # clips, below which a warning is given


class Source(NamedTuple):
    """The clips to calibrate on."""

    name: str  # in words
    records: Sequence[Record]
    features: FeatureSource


def main() -> None:
    """`paddletag calibrate`."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a trained model")
    data = "the prepared folder, with features: that which the model was trained with, or another one"
    parser.add_argument("--data", required=True, help=data)
    precision = "choose thresholds that have this precision, such as 0.9; default: those with the best F1"
    parser.add_argument("--precision", type=float, help=precision)
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    args = parser.parse_args()
    if args.precision is not None and not 0 < args.precision <= 1:
        raise UserError(f"--precision {args.precision:g}: must be above 0 and at most 1")
    folder = Path(model_folder.find_model(args.model))
    meta = model_folder.read_meta(folder)
    if missing := [key for key in ("fold", "data", "config") if key not in meta["run"]]:
        path = folder / model_folder.META
        raise UserError(f"{path}: its record of the run has no {' and no '.join(missing)}: copy it again")
    source = clips_to_calibrate_on(folder, meta, args.data)
    if len(source.records) < LEAST:
        raise UserError(f"{source.name}: {len(source.records)} clips: at least {LEAST} are needed to calibrate on")
    distributed.init(args.device)
    scores = mean_scores([folder], [meta], [source.features], source.records)
    result, lines = fit(args, meta, scores, source)
    write_json(folder / calibration.CALIBRATION, result)
    write_card(folder)
    runtime.say(*lines, f"wrote {folder / calibration.CALIBRATION}")


def clips_to_calibrate_on(folder: Path, meta: Meta, data: str) -> Source:
    """The clips of the prepared folder `data` that the model in `folder` was neither trained on nor is tested on.

    UserError where there are none, and for another data set that holds clips of either kind, or other labels.
    """
    clips, labels = manifest.read(data)
    run = meta["run"]
    if manifest.digest(clips) == run["data"]:
        name, records = set_aside(folder, meta, clips)
        return Source(name, records, model_features(data, meta, records))
    if unknown := [label for label in labels if label not in meta["labels"]]:
        raise UserError(f"{data}: {folder} does not know its label {runtime.show(unknown[0])}: give it clips of others")
    features = model_features(data, meta, clips)
    kept = clip_list.read_clip_list(folder / model_folder.CLIPS)
    if kept is None:
        what = "no list of the clips that the model was made from: nothing tells whether other clips are new to it"
        raise UserError(f"{folder / model_folder.CLIPS}: {what}: train it again (stage 2)")
    met = clip_list.same_clips(kept, clips, dict(zip(ids_of(clips), features.sounds(clips), strict=True)))
    tested = [name for name, split in met if split == run["fold"]]
    if met:
        what = f"held out for testing ({describe_split(run['fold'])})" if tested else "used in training it"
        count, first = len(tested or met), runtime.show((tested or [met[0][0]])[0])
        which = f"{count} of its clips {'were' if count > 1 else 'was'} {what}, such as {first}"
        advice = "calibrate on other clips"
        raise UserError(f"{data}: not new to {folder}: {which}: {advice}")
    return Source(data, clips, features)


def set_aside(folder: Path, meta: Meta, clips: Sequence[Record]) -> tuple[str, Sequence[Record]]:
    """(their name, the clips of the model's own data set that its training left out to validate on).

    UserError where it left out none.
    """
    fold, config = meta["run"]["fold"], configs.from_dict(meta["run"]["config"])
    share = config.train.validation
    if "classic" in meta:  # it is fitted to all training clips
        records, share = records_of(clips, "valid") if fold == "test" else [], 0
    else:
        _, records = divide(clips, fold, config)
    if not records:
        raise UserError(
            f"{folder}: was trained without clips to validate on, and those of {describe_split(fold)} are for testing:"
            f" {'' if 'classic' in meta else 'train it again with train.validation 0.1 (and another --exp), or '}"
            "name another prepared data set with --data"
        )
    return (f"train.validation {share:g}" if share else "the split valid"), records


def fit(args: argparse.Namespace, meta: Meta, scores: np.ndarray, source: Source) -> tuple[Meta, list[str]]:
    """(what calibration.json holds, the lines of a short table) from scores [N, C] of the clips.

    UserError where no threshold reaches the precision.
    """
    from paddletag.features.batches import multi_hot
    from paddletag.training import fit_calibration, reliability

    task, labels = meta["task"], meta["labels"]
    targets = multi_hot(source.records, labels)
    mistakes = fit_calibration.count_mistakes(scores, targets, task)
    if task == "single_label" and mistakes > len(scores) / 2:
        right = f"the model is right for {len(scores) - mistakes} of {len(scores)} clips only"
        raise UserError(f"{source.name}: {right}: are their labels right? A calibration on them would be of no use")
    parts = stratified_folds(source.records, min(PARTS, len(units_of(source.records))), 0)
    temperature, tested = fit_calibration.useful_temperature(scores, targets, task, parts)
    result: Meta = {"model": meta["sha256"], "temperature": temperature}
    tempered = calibration.calibrated_scores(scores, {"task": task, "calibration": result})
    chosen = fit_calibration.choose_thresholds(tempered, targets, args.precision)
    if chosen is None:
        raise UserError(f"--precision {args.precision:g}: no threshold reaches it on {source.name}: ask for less")
    errors = [reliability.reliability(task, each, targets)["ece"] for each in (scores, tested)]
    unknown = reliability.count_unknown(tempered, targets, chosen.values)
    result |= {
        "thresholds": {label: float(value) for label, value in zip(labels, chosen.values, strict=True)},
        "goal": "best F1" if args.precision is None else f"precision {args.precision:g}",
        "fallback": [label for label, own in zip(labels, chosen.own, strict=True) if not own],
        "source": source.name,
        "clips": len(source.records),
        "ece_before": errors[0],
        "ece_after": errors[1],
        "command": runtime.command(),
    }
    return result, table(result, chosen.overall, unknown, args.precision, mistakes < fit_calibration.MISTAKES)


def table(result: Meta, overall: float, unknown: Meta, precision: float | None, few_mistakes: bool) -> list[str]:
    """The lines of what was found, for people."""
    values, fallback = list(result["thresholds"].values()), result["fallback"]
    kept = result["temperature"] == 1
    why = "the mistakes are too few to choose another one" if few_mistakes else "another one does not help"
    same = "" if min(values) == max(values) else f" to {max(values):.3f}"
    rows = {
        "clips": f"{result['clips']} ({result['source']})",
        "classes": str(len(values)),
        "temperature": f"{result['temperature']:.3f}" + (f" (kept: {why})" if kept else ""),
        "ECE": f"{result['ece_before']:.4f} before, {result['ece_after']:.4f} after"
        f" (expected calibration error{'' if kept else '; after: each clip at the temperature that others chose'})",
        "thresholds": f"{min(values):.3f}{same} ({result['goal']})",
        "unknown": f"{unknown['unknown']} of these clips reach no threshold",
    }
    if result["clips"] < FEW:
        rows["note"] = f"thresholds from so few clips are rough: with {FEW} or more they are better"
    if fallback:
        less = "" if precision is None else ", or do not reach the precision"
        few = ", ".join(runtime.show(label) for label in fallback[:5]) + (" ..." if len(fallback) > 5 else "")
        rows["fallback"] = (
            f"{len(fallback)} of {len(values)} classes have fewer than {LEAST} clips{less}: they share the threshold of"
            f" all classes together, {overall:.3f} ({few})"
        )
    return [f"{name:<13}{text}" for name, text in rows.items()]
