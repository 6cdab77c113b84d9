"""The one way from log-mels to scores and embeddings that training, evaluation, tagging and export share."""

import numpy as np
import paddle

from paddletag import dataset, distributed, losses, runtime


def to_input(model, log_mel):
    """[B, T, M] -> the model's own layout: [B, 1, M, T] or [B, 1, T, M]."""
    return (log_mel.transpose([0, 2, 1]) if model.layout == "FT" else log_mel).unsqueeze(1)


def score(model, log_mel, task):
    """Log-mels [B, T, M] -> (scores float32 [B, C], embedding [B, D]). The model must be in evaluation mode."""
    with paddle.no_grad():
        embedding = model.embed(to_input(model, paddle.to_tensor(log_mel)))
        scores = losses.activation(task, model.classify(embedding).astype("float32"))
        return scores.numpy(), embedding.astype("float32").numpy()


def predict(model, batches, task):
    """Scores of batches of windows: yields (keys, scores float32 [B, C]), with the caller's gradients left on."""
    for keys, log_mel in batches:
        scores, _ = score(model, log_mel, task)
        yield keys, scores


def clip_scores(model, clips, task, clip_seconds, batch_size, total=None):
    """The scores of whole clips: the mean over the windows that cover each of them.

    clips: iterable of (id, log-mel [T, M]). Returns {id: float32 [C]} in the order of the clips.
    """
    length = model.front_end.frames(model.front_end.samples(clip_seconds))
    sums, counts = {}, {}
    bar = runtime.progress(total=total, desc="scores", unit="clip")
    for keys, scores in predict(model, dataset.windows(clips, length, batch_size), task):
        for key, row in zip(keys, scores, strict=True):
            sums[key] = sums.get(key, 0) + row.astype(np.float64)
            counts[key] = counts.get(key, 0) + 1
        bar.update(len(sums) - bar.n)
    bar.close()
    return {key: (sums[key] / counts[key]).astype(np.float32) for key in sums}


def evaluate(model, records, features, task, clip_seconds, batch_size, tta=1, workers=0):
    """Scores of `records`, each clip computed by one rank: float32 [N, C] in the order of `records`, on every rank.

    tta: the mean over so many copies of each clip, rolled circularly in time by equal parts of its length (test-time
    augmentation); the first is the clip itself. workers: processes that read ahead.
    """
    rank, ranks = distributed.rank(), distributed.world_size()
    mine = [record["id"] for record in records[rank::ranks]]
    log_mels = dataset.clips(mine, features, workers)
    copies = ((id, np.roll(log_mel, k * len(log_mel) // tta, 0)) for id, log_mel in log_mels for k in range(tta))
    scores = clip_scores(model, copies, task, clip_seconds, batch_size, len(mine))
    every = {id: row for part in distributed.gather(scores) for id, row in part.items()}
    return np.stack([every[record["id"]] for record in records])


def head(model):
    """The last layer, which is replaced for another set of labels."""
    return dict(model.named_sublayers())[model.head[0].rpartition(".")[0]]


def embeddings(model, records, features, clip_seconds, batch_size, workers=0):
    """What the head of the model is given for each window of `records`: {id: float32 [windows, D]}, on every rank."""
    rank, ranks = distributed.rank(), distributed.world_size()
    length = model.front_end.frames(model.front_end.samples(clip_seconds))
    mine, caught = [record["id"] for record in records[rank::ranks]], []
    hook = head(model).register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].astype("float32").numpy()))
    rows = {id: [] for id in mine}
    model.eval()
    with runtime.progress(total=len(mine), desc="embeddings", unit="clip") as bar:
        batches = dataset.windows(dataset.clips(mine, features, workers), length, batch_size)
        for keys, _ in predict(model, batches, "multi_label"):
            for key, row in zip(keys, caught.pop(), strict=True):
                rows[key].append(row)
            bar.update(sum(map(bool, rows.values())) - bar.n)
    hook.remove()
    return {id: np.stack(part) for parts in distributed.gather(rows) for id, part in parts.items()}
