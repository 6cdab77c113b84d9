"""Stage 2: features and a backbone -> a fine-tuned model in a folder that suffices to use it."""

if __name__ == "__main__":  # before all else
    from paddletag import interrupt

    interrupt.begin()

import contextlib
from pathlib import Path

from paddletag import checkpoint, distributed, download, manifest, models, online, runtime
from paddletag import config as configs
from paddletag.runtime import UserError, log


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("--config", required=True, help="the recipe's YAML file")
    parser.add_argument("--data", required=True, help="the prepared folder, with features")
    fold = "the fold to hold out, a number, or test where the data has splits: its clips are not looked at"
    parser.add_argument("--fold", type=manifest.parse_fold, required=True, help=fold)
    parser.add_argument("--exp", required=True, help="folder for the model, its checkpoints and its log")
    extend = "true: a run that was finished may go on to more train.epochs"
    parser.add_argument("--extend", type=runtime.flag, default=False, help=extend)
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--opts", nargs="*", default=[], help="settings that override the config: key value ...")
    args = parser.parse_args()
    config = configs.load(args.config, args.opts)
    if (kind := config.classic.classifier) != "none":
        raise UserError(f"classic.classifier {kind}: no network, but a classic baseline: train_classic.py trains it")
    exp, rank = Path(args.exp), distributed.rank()
    clips, labels = manifest.read(args.data)
    parts = divide(clips, args.fold, config)
    refuse_what_a_cpu_cannot(config, args.device)
    configs.clips_per_pass(config.train, distributed.world_size())
    runtime.start_log(exp / "train.log", quiet=rank > 0)
    # A run that was killed may have left its training at work, and this one would write between its lines.
    with contextlib.nullcontext() if rank else runtime.locked(exp / "train", wait=False):
        train(args, config, clips, labels, *parts)


def train(args, config, clips, labels, records, validation):
    """Train on `records` what the folder --exp does not hold yet."""
    exp, rank, ranks = Path(args.exp), distributed.rank(), distributed.world_size()
    front_end = models.front_end(config)
    known = [*records, *validation]
    features = online.open_features(args.data, front_end, config.data.clip_seconds, known, config.features.online)
    weights_file = missing = None
    try:
        weights_file = models.weights_path(config)
        checkpoint.refuse_leaking_weights(weights_file, args.fold, manifest.digest(clips))
    except UserError as error:  # of no matter if the run is finished
        missing = error
    run = {
        "config": configs.to_dict(config),
        "data": manifest.digest(clips),
        "sound": features.digest(known),
        "weights": None if missing else download.checksum(weights_file) if weights_file else "none",
        "fold": args.fold,
        "processes": ranks,
        "batch": "step",  # train.batch_size counts the clips of a step
    }
    sounds = features.sounds(known)
    if checkpoint.finished(exp, run, args.extend, lambda: manifest.changes(exp / checkpoint.CLIPS, clips, sounds)):
        log.info("%s is up to date: trained for %d epochs", exp, config.train.epochs)
        return
    if missing:
        raise missing
    extended = args.extend and (exp / checkpoint.META).exists()
    before = checkpoint.read_meta(exp).get("command", "").split("\n") if extended else []  # what is to be extended
    commands = dict.fromkeys(filter(None, [*before, runtime.command()]))

    from paddletag import training  # paddle takes seconds to import: after what can go wrong at once

    distributed.init(args.device)
    model = models.create_model(config.model.name, len(labels), weights_file or False, config.train.seed)
    model.front_end = front_end
    log.info(
        "%s: %s on %d clips, %d labels, %d process%s, %s%s",
        *(manifest.words(args.fold), config.model.name, len(records), len(labels)),
        *(ranks, "es" if ranks > 1 else "", args.device),
        f", {len(validation)} clips to validate on" if validation else "",
    )
    if rank == 0:
        manifest.write_clip_list(exp / checkpoint.CLIPS, clips, sounds)
        runtime.write_json(exp / "checkpoints" / "run.json", run)
    trained = training.train(model, config, records, labels, features, exp, validation)
    if rank == 0:
        meta = {
            "backbone": config.model.name,
            "labels": labels,
            "task": config.task,
            "clip_seconds": config.data.clip_seconds,
            "run": run,
            "command": "\n".join(commands),  # for the report of all folds
            "trained": trained,
            "versions": runtime.versions(),
            "machine": runtime.machine(),
        }
        checkpoint.save_model(exp, model, meta)
        log.info("wrote %s after %.0f s of training", exp / checkpoint.MODEL, trained["seconds"])


def divide(clips, fold, config):
    """(clips to train on, clips to validate on): the split valid, or else the share `train.validation` of the former.

    UserError for both, and for neither where train.select needs one.
    """
    records, _ = manifest.split(clips, fold)
    valid, share = manifest.part(clips, "valid") if fold == "test" else [], config.train.validation
    if valid and share:
        raise UserError(f"train.validation {share:g}: the data has clips to validate on, its split valid: set it to 0")
    if config.train.select == "best" and not (valid or share):
        raise UserError(
            "train.select best needs clips to select on: set train.validation, a share of the training clips, or give"
            " the data a split valid"
        )
    return manifest.inner_split(records, share, config.train.seed) if share else (records, valid)


def refuse_what_a_cpu_cannot(config, device):
    """UserError for settings that Paddle has no kernel for on a CPU, or quietly ignores there."""
    if device != "cpu":
        return
    if config.train.amp != "O0":
        raise UserError(f"train.amp {config.train.amp}: mixed precision does nothing on a CPU: use --gpus, or O0")
    if config.model.sync_bn:
        raise UserError("model.sync_bn true: Paddle has no SyncBatchNorm for CPUs: use --gpus, or false")


if __name__ == "__main__":
    runtime.run(main)
