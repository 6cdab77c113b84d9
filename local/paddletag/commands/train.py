"""Stage 2: features and a backbone -> a fine-tuned model in a folder that suffices to use it."""

import argparse
import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from paddletag import config as configs
from paddletag import runtime
from paddletag.commands.options import Parser, add_flag
from paddletag.data import clip_list, download, manifest
from paddletag.data.clip_table import open_clips
from paddletag.data.clips import joined
from paddletag.data.splits import describe_split, hold_out, parse_fold, records_of, validation_part
from paddletag.features.feature_source import open_features
from paddletag.files import locked, write_json
from paddletag.models import model_folder, registry
from paddletag.reports.model_card import write_card
from paddletag.runtime import UserError, log
from paddletag.training import distributed, run_record
from paddletag.type_aliases import Meta, Record


def main() -> None:
    """`paddletag train`."""
    parser = Parser(description=__doc__)
    parser.add_argument("--config", required=True, help="the recipe's YAML file")
    parser.add_argument("--data", required=True, help="the prepared folder, with features")
    fold = "the fold to hold out, a number, or test where the data has splits: its clips are not looked at"
    parser.add_argument("--fold", type=parse_fold, required=True, help=fold)
    parser.add_argument("--exp", required=True, help="folder for the model, its checkpoints and its log")
    extend = "true: a run that was finished may go on to more train.epochs"
    add_flag(parser, "--extend", extend)
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--opts", nargs="*", default=[], help="settings that override the config: key value ...")
    args = parser.parse_args()
    config = configs.load(args.config, args.opts)
    if (kind := config.classic.classifier) != "none":
        raise UserError(f"classic.classifier {kind}: no network, but a classic baseline: train_classic.py trains it")
    exp, rank = Path(args.exp), distributed.rank()
    clips, labels = open_clips(args.data)
    records, validation = divide(clips, args.fold, config)
    refuse_settings_that_need_a_gpu(config, args.device)
    configs.clips_per_pass(config.train, distributed.world_size())
    configs.fit_batch(config, len(records), distributed.world_size())  # UserError where there are too few
    runtime.start_log(exp / "train.log", quiet=rank > 0)
    # A run that was killed may have left its training at work, and this one would write between its lines.
    with contextlib.nullcontext() if rank else locked(exp / "train", wait=False):
        train(args, config, clips, labels, records, validation)


def train(
    args: argparse.Namespace,
    config: CfgNode,
    clips: Sequence[Record],
    labels: list[str],
    records: Sequence[Record],
    validation: Sequence[Record],
) -> None:
    """Train on `records` what the folder --exp does not hold yet.

    clips: all of the data set. records, validation: those to train and to validate on.
    """
    exp, rank, ranks = Path(args.exp), distributed.rank(), distributed.world_size()
    front_end = registry.front_end(config)
    used = joined(records, validation)
    features = open_features(args.data, front_end, config.data.clip_seconds, used, config.features.online)
    digest = manifest.digest(clips)
    weights_file, fault = find_weights(config, args.fold, digest)
    run = {
        "config": configs.to_dict(config),
        "data": digest,
        "sound": features.digest(used),
        "weights": None if fault else download.checksum(weights_file) if weights_file else "none",
        "fold": args.fold,
        "processes": ranks,
        "batch": "step",  # train.batch_size counts the clips of a step
    }

    def changes() -> str:
        return clip_list.changes(exp / model_folder.CLIPS, clips, features.sounds(clips))

    run_record.refuse_another_run(exp, run, args.extend, changes)
    if run_record.is_done(exp, run, f"trained for {config.train.epochs} epochs", args.extend):
        return
    if fault:
        raise fault
    warn_of_epochs(config)
    commands = command_lines(exp, args.extend)

    from paddletag.training import loop  # paddle takes seconds to import: after what can go wrong at once

    distributed.init(args.device)
    model = registry.create_model(config.model.name, len(labels), weights_file or False, config.train.seed, front_end)
    log.info(
        "%s: %s on %d clips, %d labels, %d process%s, %s%s",
        *(describe_split(args.fold), config.model.name, len(records), len(labels)),
        *(ranks, "es" if ranks > 1 else "", args.device),
        f", {len(validation)} clips to validate on" if validation else "",
    )
    if rank == 0:
        # The sounds of the fold that is held out too, where they are there: another data set may hold the same clips.
        clip_list.write_clip_list(exp / model_folder.CLIPS, clips, features.sounds(clips))
        write_json(exp / "checkpoints" / "run.json", run)
    draw = partial(draw_learning_curve, exp)
    trained = loop.train(model, config, records, labels, features, exp, validation, draw)
    if rank == 0:
        meta = describe_trained_model(config, labels, run, commands, trained)
        model_folder.save_model(exp, model, meta)
        write_card(exp)
        log.info("wrote %s after %.0f s of training", exp / model_folder.MODEL, trained["seconds"])


def find_weights(config: CfgNode, fold: int | str, data: str) -> tuple[Path | None, UserError | None]:
    """(the file of weights to begin with, if any; what is wrong with it, which is of no matter to a finished run).

    data: the digest of the clips.
    """
    try:
        weights_file = registry.weights_path(config)
        run_record.refuse_leaking_weights(weights_file, fold, data)
    except UserError as error:
        return None, error
    return weights_file, None


def command_lines(exp: Path, extend: bool) -> list[str]:
    """The command lines that make the model of `exp`: this one, after those of the run that it extends."""
    extended = extend and (exp / model_folder.META).exists()
    before = model_folder.read_meta(exp).get("command", "").split("\n") if extended else []
    return list(dict.fromkeys(filter(None, [*before, runtime.command()])))


def describe_trained_model(
    config: CfgNode, labels: list[str], run: dict[str, Any], commands: list[str], trained: dict[str, Any]
) -> Meta:
    """What model.json says of a model besides its front end and checksum. trained: what `loop.train` gives."""
    return {
        "backbone": config.model.name,
        "labels": labels,
        "task": config.task,
        "clip_seconds": config.data.clip_seconds,
        "run": run,
        "command": "\n".join(commands),  # for the report of all folds
        "trained": trained,
        "versions": runtime.versions(),
        "machine": runtime.machine(),
        "date": runtime.today(),
    }


def draw_learning_curve(exp: Path, rows: list[dict[str, Any]]) -> None:
    """Draw the rows of history.csv as learning_curve.png, in the model's folder `exp`."""
    from paddletag.reports import figures  # matplotlib takes its time

    figures.save(figures.learning_curve(rows), exp / "learning_curve.png")


def divide(clips: Sequence[Record], fold: int | str, config: CfgNode) -> tuple[Sequence[Record], Sequence[Record]]:
    """(clips to train on, clips to validate on): the split valid, or else the share `train.validation` of the former.

    UserError for both, and for neither where train.select needs one.
    """
    records, _ = hold_out(clips, fold)
    valid, share = records_of(clips, "valid") if fold == "test" else [], config.train.validation
    if valid and share:
        raise UserError(f"train.validation {share:g}: the data has clips to validate on, its split valid: set it to 0")
    if config.train.select == "best" and not (valid or share):
        raise UserError(
            "train.select best needs clips to select on: set train.validation, a share of the training clips, or give"
            " the data a split valid"
        )
    return validation_part(records, share, config.train.seed) if share else (records, valid)


def warn_of_epochs(config: CfgNode) -> None:
    """Log a warning, on rank 0, for a train.epochs that leaves nothing of what other settings are for."""
    settings = config.train
    if distributed.rank():
        return
    if config.model["freeze"] != "all" and settings.frozen_epochs >= settings.epochs:
        log.warning(
            "train.frozen_epochs %d of train.epochs %d: the head alone learns, the other layers never do",
            *(settings.frozen_epochs, settings.epochs),
        )
    if settings.warmup_epochs >= settings.epochs:
        log.warning(
            "train.warmup_epochs %g of train.epochs %d: the learning rate rises until the end, and never goes down",
            *(settings.warmup_epochs, settings.epochs),
        )


def refuse_settings_that_need_a_gpu(config: CfgNode, device: str) -> None:
    """UserError for settings that Paddle has no kernel for on a CPU, or quietly ignores there."""
    if device != "cpu":
        return
    if config.train.amp != "O0":
        raise UserError(f"train.amp {config.train.amp}: mixed precision does nothing on a CPU: use --gpus, or O0")
    if config.model.sync_bn:
        raise UserError("model.sync_bn true: Paddle has no SyncBatchNorm for CPUs: use --gpus, or false")
