"""Stage 2 of a classic baseline: features and a scikit-learn classifier -> a model in a folder, as train.py writes it.

One process on the CPU fits it, to the windows that evaluation would cut the training clips into, a row each.
"""

if __name__ == "__main__":  # before all else
    from paddletag import interrupt

    interrupt.begin()

import time
from pathlib import Path

from paddletag import checkpoint, classic, distributed, download, manifest, models, online, runtime
from paddletag import config as configs
from paddletag.runtime import UserError, log


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("--config", required=True, help="the recipe's YAML file")
    parser.add_argument("--data", required=True, help="the prepared folder, with features")
    fold = "the fold to hold out, a number, or test where the data has splits: its clips are not looked at"
    parser.add_argument("--fold", type=manifest.parse_fold, required=True, help=fold)
    parser.add_argument("--exp", required=True, help="folder for the model and its log")
    features = configs.CHOICES["classic.features"]
    parser.add_argument("--features", choices=features, help="instead of the config's classic.features")
    kinds = [kind for kind in configs.CHOICES["classic.classifier"] if kind != "none"]
    parser.add_argument("--classifier", choices=kinds, help="instead of the config's classic.classifier")
    parser.add_argument("--extend", type=runtime.flag, default=False, help="false: there are no epochs to add")
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
    exp, fold = Path(args.exp), args.fold
    clips, labels = manifest.read(args.data)
    records, _ = manifest.split(clips, fold)

    runtime.start_log(exp / "train.log")
    with runtime.locked(exp / "train", wait=False):
        train(args, config, clips, labels, records)


def train(args, config, clips, labels, records):
    """Fit to `records` what the folder --exp does not hold yet."""
    exp, fold, settings = Path(args.exp), args.fold, config.classic
    front_end = classic.front_end(config)
    features = online.open_features(args.data, front_end, config.data.clip_seconds, records, config.features.online)
    weights_file = models.weights_path(config) if settings.features == "embeddings" else None
    checkpoint.refuse_leaking_weights(weights_file, fold, manifest.digest(clips))
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
    sounds = features.sounds(records)
    if checkpoint.finished(exp, run, False, lambda: manifest.changes(exp / checkpoint.CLIPS, clips, sounds)):
        log.info("%s is up to date: %s", exp, name)
        return

    distributed.init(args.device)
    started = time.perf_counter()
    backbone = None
    if settings.features == "embeddings":
        backbone = models.create_model(config.model.name, len(labels), weights_file or False, config.train.seed)
    model = classic.Classic(front_end, backbone, settings.classifier)
    model.eval()
    log.info("%s: %s, %d clips, %d labels", manifest.words(fold), name, len(records), len(labels))
    size = config.evaluate.batch_size
    ids, rows = classic.window_features(
        model, records, features, config.data.clip_seconds, size, config.train.workers
    )
    target = {record["id"]: labels.index(record["labels"][0]) for record in records}
    targets = [target[id] for id in ids]
    model.arrays = classic.fit(settings.classifier, rows, targets, len(labels), config.train.seed, settings.standardise)
    seconds = round(time.perf_counter() - started, 1)
    meta = {
        "backbone": name,
        "classic": {"features": settings.features, "classifier": settings.classifier, "backbone": config.model.name},
        "labels": labels,
        "task": config.task,
        "clip_seconds": config.data.clip_seconds,
        "run": run,
        "command": runtime.command(),
        "trained": {"rows": len(rows), "seconds": seconds},
        "versions": runtime.versions(),
        "machine": runtime.machine(),
    }
    manifest.write_clip_list(exp / checkpoint.CLIPS, clips, sounds)
    checkpoint.save_arrays(exp, model.to_arrays(), front_end, meta)
    log.info("wrote %s after %.0f s of training", exp / checkpoint.MODEL, seconds)


if __name__ == "__main__":
    runtime.run(main)
