"""Stage 3: a trained model and the fold that it was not trained on -> metrics.json, scores.npz, confusion.png."""

from pathlib import Path

import numpy as np
from paddletag import checkpoint, distributed, manifest, runtime, shards
from paddletag import config as configs
from paddletag.runtime import EVAL, UserError, log


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a trained model")
    parser.add_argument("--data", required=True, help="the prepared folder, with features")
    parser.add_argument("--fold", type=int, help="default: the fold that the model was not trained on")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    args = parser.parse_args()
    rank = distributed.rank()
    runtime.start_log(quiet=rank > 0)
    folder = Path(args.model)

    meta = checkpoint.read_meta(folder)
    clips, labels = manifest.read(args.data)
    fold = meta["run"]["fold"] if args.fold is None else args.fold
    _, records = manifest.split(clips, fold)
    if fold != meta["run"]["fold"]:
        raise UserError(f"--fold {fold}: {folder} was trained on it: test it on fold {meta['run']['fold']} alone")
    if labels != meta["labels"]:
        raise UserError(f"{args.data}: its labels are not those that {folder} was trained with")
    if manifest.digest(clips) != meta["run"]["data"]:
        raise UserError(
            f"{args.data}: its clips, labels or folds are not those that {folder} was trained with, so that fold {fold}"
            " may hold clips that it has met: train again (stage 2), with another --exp"
        )
    features = shards.open_features(args.data, checkpoint.front_end(meta), meta["clip_seconds"], records)
    data = f"{manifest.digest(records)}-{features.digest(records)}"
    metrics_file, scores_file = folder / "metrics.json", folder / "scores.npz"
    before = runtime.read_json(metrics_file, "") if metrics_file.exists() and scores_file.exists() else {}
    if (before.get("model"), before.get("data")) == (meta["sha256"], data):
        log.info("%s is up to date: %s", metrics_file, headline(before))
        return

    from paddletag import dataset, engine, metrics

    distributed.init(args.device)
    model, meta = checkpoint.load_model(folder)
    config = configs.from_dict(meta["run"]["config"])
    scores = engine.evaluate(model, records, features, meta["task"], meta["clip_seconds"], config.evaluate.batch_size)
    if rank:
        return
    targets = dataset.multi_hot(records, labels)
    found = metrics.evaluate(meta["task"], scores, targets, labels)
    with runtime.atomic(scores_file) as temporary, open(temporary, "wb") as file:
        ids = np.array([record["id"] for record in records])
        np.savez_compressed(file, ids=ids, scores=scores, targets=targets, labels=np.array(labels))
    if meta["task"] == "single_label":
        from paddletag import plots

        matrix = metrics.confusion(scores, targets)
        found["confused"] = metrics.most_confused(matrix, labels)
        with runtime.atomic(folder / "confusion.png") as temporary:
            plots.confusion(temporary, matrix, labels, f"Fold {fold}: {headline(found)}")
    runtime.write_json(metrics_file, {"fold": fold, "model": meta["sha256"], "data": data, **found})
    log.log(EVAL, "fold %d: %s; wrote %s", fold, headline(found), metrics_file)


def headline(found):
    if "accuracy" in found:
        return f"accuracy {100 * found['accuracy']:.2f} % of {found['n']} clips"
    return f"mAP {found['mAP']:.4f} on {found['n']} clips"


if __name__ == "__main__":
    runtime.run(main)
