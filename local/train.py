"""Stage 2: features and a backbone -> a fine-tuned model in a folder that suffices to use it."""

import os
from pathlib import Path

from paddletag import checkpoint, distributed, download, manifest, models, online, runtime
from paddletag import config as configs
from paddletag.runtime import UserError, log


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("--config", required=True, help="the recipe's YAML file")
    parser.add_argument("--data", required=True, help="the prepared folder, with features")
    parser.add_argument("--fold", type=int, required=True, help="the fold to hold out: its clips are not looked at")
    parser.add_argument("--exp", required=True, help="folder for the model, its checkpoints and its log")
    extend = "true: a run that was finished may go on to more train.epochs"
    parser.add_argument("--extend", type=runtime.flag, default=False, help=extend)
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--opts", nargs="*", default=[], help="settings that override the config: key value ...")
    args = parser.parse_args()
    config = configs.load(args.config, args.opts)
    rank, ranks = distributed.rank(), distributed.world_size()
    exp = Path(args.exp)
    clips, labels = manifest.read(args.data)
    records, _ = manifest.split(clips, args.fold)
    refuse_what_a_cpu_cannot(config, args.device)

    runtime.start_log(exp / "train.log", quiet=rank > 0)
    front_end = models.front_end(config)
    features = online.open_features(args.data, front_end, config.data.clip_seconds, records, config.features.online)
    weights_file = missing = None
    try:
        weights_file = models.weights_path(config)
        refuse_leaking_weights(weights_file, args.fold, manifest.digest(clips))
    except UserError as error:  # of no matter if the run is finished
        missing = error
    run = {
        "config": configs.to_dict(config),
        "data": manifest.digest(clips),
        "sound": features.digest(records),
        "weights": None if missing else download.checksum(weights_file) if weights_file else "none",
        "fold": args.fold,
        "processes": ranks,
    }
    if finished(exp, run, args.extend):
        log.info("%s is up to date: trained for %d epochs", exp, config.train.epochs)
        return
    if missing:
        raise missing

    from paddletag import training  # paddle takes seconds to import: after what can go wrong at once

    distributed.init(args.device)
    model = models.create_model(config.model.name, len(labels), weights_file or False, config.train.seed)
    model.front_end = front_end
    validation = []
    if config.train.validation:
        records, validation = manifest.inner_split(records, config.train.validation, config.train.seed)
    log.info(
        "fold %d: %s on %d clips, %d labels, %d process%s, %s%s",
        *(args.fold, config.model.name, len(records), len(labels), ranks, "es" if ranks > 1 else "", args.device),
        f", {len(validation)} clips to validate on" if validation else "",
    )
    if rank == 0:
        runtime.write_json(exp / "checkpoints" / "run.json", run)
    trained = training.train(model, config, records, labels, features, exp, validation)
    if rank == 0:
        meta = {
            "backbone": config.model.name,
            "labels": labels,
            "task": config.task,
            "clip_seconds": config.data.clip_seconds,
            "run": run,
            "command": os.environ.get("RECIPE_COMMAND", ""),  # of run.sh, for the report of all folds
            "trained": trained,
            "versions": runtime.versions(),
            "machine": runtime.machine(),
        }
        checkpoint.save_model(exp, model, meta)
        log.info("wrote %s after %.0f s of training", exp / checkpoint.MODEL, trained["seconds"])


def refuse_leaking_weights(file, fold, data):
    """UserError for weights that were fine-tuned on clips of the fold that is to be held out."""
    if file and (file.parent / checkpoint.META).exists():
        before = checkpoint.read_meta(file.parent)["run"]
        if before.get("data") == data and before.get("fold") != fold:
            raise UserError(f"model.weights: {file} has met fold {fold} of this data: no test would mean anything")


def refuse_what_a_cpu_cannot(config, device):
    """UserError for settings that Paddle has no kernel for on a CPU, or quietly ignores there."""
    if device != "cpu":
        return
    if config.train.amp != "O0":
        raise UserError(f"train.amp {config.train.amp}: mixed precision does nothing on a CPU: use --gpus, or O0")
    if config.model.sync_bn:
        raise UserError("model.sync_bn true: Paddle has no SyncBatchNorm for CPUs: use --gpus, or false")


def finished(exp, run, extend=False):
    """Whether `exp` holds a finished run of the same kind. UserError if what it holds was trained in another way.

    extend: a run that was trained for fewer epochs is not finished, and goes on from its last checkpoint.
    """
    done, checkpoints = (exp / checkpoint.META).exists(), exp / "checkpoints"
    if done:
        before = checkpoint.read_meta(exp)["run"]
    elif (checkpoints / "last.safetensors").exists():
        before = runtime.read_json(checkpoints / "run.json", f"remove {checkpoints} to train from the start")
    else:
        return False
    now = run if run["weights"] else {**run, "weights": before.get("weights")}
    epochs, wanted = before["config"]["train"]["epochs"], run["config"]["train"]["epochs"]
    longer = extend and wanted > epochs
    if longer:
        now = {**now, "config": {**now["config"], "train": {**now["config"]["train"], "epochs": epochs}}}
    changed = list(checkpoint.differences(before, now))
    if changed:
        hint = ""
        if not extend and wanted > epochs and len(changed) == 1:
            hint = " (--extend true goes on from its last checkpoint)"
        raise UserError(
            f"{exp}: was trained in another way: {'; '.join(changed)}: choose another --exp, or remove it{hint}"
        )
    if longer and not (checkpoints / "last.safetensors").exists():
        raise UserError(f"{checkpoints / 'last.safetensors'}: no such file: there is nothing to extend")
    return done and not longer and (exp / checkpoint.MODEL).exists()


if __name__ == "__main__":
    runtime.run(main)
