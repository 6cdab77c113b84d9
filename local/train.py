"""Stage 2: features and a backbone -> a fine-tuned model in a folder that suffices to use it."""

from pathlib import Path

from paddletag import config as configs
from paddletag import distributed, manifest, models, runtime, shards
from paddletag.runtime import UserError, log


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("--config", required=True, help="the recipe's YAML file")
    parser.add_argument("--data", required=True, help="the prepared folder, with features")
    parser.add_argument("--fold", type=int, required=True, help="the fold to hold out: its clips are not looked at")
    parser.add_argument("--exp", required=True, help="folder for the model, its checkpoints and its log")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--opts", nargs="*", default=[], help="settings that override the config: key value ...")
    args = parser.parse_args()
    config = configs.load(args.config, args.opts)
    rank, ranks = distributed.rank(), distributed.world_size()
    exp = Path(args.exp)
    runtime.start_log(exp / "train.log", quiet=rank > 0)

    front_end = models.front_end(config)
    clips, labels = manifest.read(args.data)
    records, _ = manifest.split(clips, args.fold)
    features = shards.open_features(args.data, front_end, config.data.clip_seconds, records)
    run = {"config": configs.to_dict(config), "data": manifest.digest(clips), "fold": args.fold, "processes": ranks}
    if finished(exp, run):
        log.info("%s is up to date: trained for %d epochs", exp, config.train.epochs)
        return

    from paddletag import checkpoint, engine  # paddle takes seconds to import: after what can go wrong at once

    distributed.init(args.device)
    pretrained = {"pretrained": True, "none": False}.get(config.model.weights)
    if pretrained is None:
        pretrained = configs.find(config.model.weights)
    model = models.create_model(config.model.name, len(labels), pretrained, config.train.seed)
    model.front_end = front_end
    log.info(
        "fold %d: %s on %d clips, %d labels, %d process%s, %s",
        *(args.fold, config.model.name, len(records), len(labels), ranks, "es" if ranks > 1 else "", args.device),
    )
    if rank == 0:
        runtime.write_json(exp / "checkpoints" / "run.json", run)
    trained = engine.train(model, config, records, labels, features, exp)
    if rank == 0:
        meta = {
            "backbone": config.model.name,
            "labels": labels,
            "task": config.task,
            "clip_seconds": config.data.clip_seconds,
            "run": run,
            "trained": trained,
            "versions": runtime.versions(),
            "machine": runtime.machine(),
        }
        checkpoint.save_model(exp, model, meta)
        log.info("wrote %s after %.0f s of training", exp / checkpoint.MODEL, trained["seconds"])


def finished(exp, run):
    """Whether `exp` holds a finished run of the same kind. UserError if what it holds was trained in another way."""
    model, state = exp / "model.json", exp / "checkpoints" / "run.json"
    if not state.exists():
        return False
    before = runtime.read_json(state, "")
    changed = list(differences(before, run))
    if changed:
        raise UserError(f"{exp}: was trained in another way: {'; '.join(changed)}: choose another --exp, or remove it")
    return model.exists()


def differences(before, now, prefix=""):
    """The settings in which two runs differ and that change the result, as texts."""
    for key in sorted({*before, *now}):
        name, old, new = f"{prefix}{key}", before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, "" if key == "config" else f"{name}.")
        elif old != new and name not in configs.NOT_IN_RESULT:
            yield f"{name} was {old!r}, is {new!r}"


if __name__ == "__main__":
    runtime.run(main)
