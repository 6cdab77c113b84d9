"""Stage 2 of a classic baseline: features and a scikit-learn classifier -> a model in a folder, as train.py writes it.

One process on the CPU fits it, to the windows that evaluation would cut the training clips into, a row each.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from paddletag import config as configs
from paddletag import runtime
from paddletag.commands.options import Parser, add_flag
from paddletag.commands.train import describe_trained_model
from paddletag.data import clip_list, download, manifest
from paddletag.data.splits import describe_split, hold_out, parse_fold
from paddletag.features.feature_source import open_features
from paddletag.files import locked
from paddletag.models import classic, model_folder, registry
from paddletag.reports.model_card import write_card
from paddletag.runtime import UserError, log
from paddletag.training import distributed, fit_classic, run_record
from paddletag.type_aliases import Record


def main() -> None:
    """`paddletag train-classic`."""
    parser = Parser(description=__doc__)
    parser.add_argument("--config", required=True, help="the recipe's YAML file")
    parser.add_argument("--data", required=True, help="the prepared folder, with features")
    fold = "the fold to hold out, a number, or test where the data has splits: its clips are not looked at"
    parser.add_argument("--fold", type=parse_fold, required=True, help=fold)
    parser.add_argument("--exp", required=True, help="folder for the model and its log")
    features = configs.CHOICES["classic.features"]
    parser.add_argument("--features", choices=features, help="instead of the config's classic.features")
    kinds = [kind for kind in configs.CHOICES["classic.classifier"] if kind != "none"]
    parser.add_argument("--classifier", choices=kinds, help="instead of the config's classic.classifier")
    add_flag(parser, "--extend", "false: there are no epochs to add")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"], help="for embeddings")
    parser.add_argument("--opts", nargs="*", default=[], help="settings that override the config: key value ...")
    args = parser.parse_args()
    chosen = {"classic.features": args.features, "classic.classifier": args.classifier}
    config = configs.load(args.config, [*args.opts, *(word for item in chosen.items() if item[1] for word in item)])
    settings = config.classic
    if settings.classifier == "none":
        raise UserError(f"classic.classifier is none: choose one of {', '.join(kinds)}, or train a network: train.py")
    if config.task != "single_label":
        raise UserError(f"task {config.task}: classic baselines are for single_label: train a network: train.py")
    if (ranks := distributed.world_size()) > 1:
        raise UserError(f"train_classic.py runs as one process, not as {ranks}: start it without a launcher")
    if args.extend:
        raise UserError("--extend true: a classic baseline has no epochs: train it anew, with another --exp")
    exp = Path(args.exp)
    clips, labels = manifest.read(args.data)
    records, _ = hold_out(clips, args.fold)

    runtime.start_log(exp / "train.log")
    with locked(exp / "train", wait=False):
        train(args, config, clips, labels, records)


def train(
    args: argparse.Namespace, config: CfgNode, clips: Sequence[Record], labels: list[str], records: Sequence[Record]
) -> None:
    """Fit to `records` what the folder --exp does not hold yet."""
    exp, fold, settings = Path(args.exp), args.fold, config.classic
    front_end = registry.front_end(config)
    features = open_features(args.data, front_end, config.data.clip_seconds, records, config.features.online)
    weights_file = registry.weights_path(config) if settings.features == "embeddings" else None
    run_record.refuse_leaking_weights(weights_file, fold, manifest.digest(clips))
    run = {
        "config": configs.to_dict(config),
        "data": manifest.digest(clips),
        "sound": features.digest(records),
        "weights": download.checksum(weights_file) if weights_file else "none",
        "fold": fold,
        "processes": 1,
        "batch": "step",
    }
    name = f"{settings.classifier} on {'mfcc' if settings.features == 'mfcc' else config.model.name}"

    def changes() -> str:
        return clip_list.changes(exp / model_folder.CLIPS, clips, features.sounds(clips))

    run_record.refuse_another_run(exp, run, describe_changes=changes)
    if run_record.is_done(exp, run, name):
        return

    distributed.init(args.device)
    started = time.perf_counter()
    backbone = None
    if settings.features == "embeddings":
        backbone = registry.create_model(config.model.name, len(labels), weights_file or False, config.train.seed)
    model = classic.Classic(front_end, backbone, settings.classifier)
    model.eval()
    log.info("%s: %s, %d clips, %d labels", describe_split(fold), name, len(records), len(labels))
    size = config.evaluate.batch_size
    clip_ids, rows = fit_classic.window_features(
        model, records, features, config.data.clip_seconds, size, config.train.workers
    )
    target = {record["id"]: labels.index(record["labels"][0]) for record in records}
    targets = [target[clip_id] for clip_id in clip_ids]
    log.info("fitting %s to %d windows", settings.classifier, len(rows))
    model.arrays = fit_classic.fit(
        settings.classifier, rows, targets, len(labels), config.train.seed, settings.standardise
    )
    seconds = round(time.perf_counter() - started, 1)
    trained = {"rows": len(rows), "seconds": seconds}
    meta = {
        **describe_trained_model(config, labels, run, [runtime.command()], trained),
        "backbone": name,
        "classic": {"features": settings.features, "classifier": settings.classifier, "backbone": config.model.name},
    }
    # The sounds of the fold that is held out too, where they are there: another data set may hold the same clips.
    clip_list.write_clip_list(exp / model_folder.CLIPS, clips, features.sounds(clips))
    model_folder.save_arrays(exp, model.to_arrays(), front_end, meta)
    write_card(exp)
    log.info("wrote %s after %.0f s of training", exp / model_folder.MODEL, seconds)
