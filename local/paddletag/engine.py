"""The training loop, and the one way from log-mels to scores that evaluation, tagging and export share."""

import csv
import math
import time
from pathlib import Path

import numpy as np
import paddle

from paddletag import checkpoint, dataset, distributed, losses, optim, runtime
from paddletag.runtime import TRAIN, UserError, log


def to_input(model, log_mel):
    """[B, T, M] -> the model's own layout: [B, 1, M, T] or [B, 1, T, M]."""
    return (log_mel.transpose([0, 2, 1]) if model.layout == "FT" else log_mel).unsqueeze(1)


def predict(model, batches, task):
    """Scores of batches of windows: yields (keys, scores float32 [B, C]). The model must be in evaluation mode."""
    for keys, log_mel in batches:
        with paddle.no_grad():  # around the call alone: a generator that waits would switch off its caller's gradients
            logits = model(to_input(model, paddle.to_tensor(log_mel)))
            scores = losses.activation(task, logits.astype("float32")).numpy()
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


def evaluate(model, records, features, task, clip_seconds, batch_size):
    """Scores of `records`, each clip computed by one rank: float32 [N, C] in the order of `records`, on every rank."""
    rank, ranks = distributed.rank(), distributed.world_size()
    mine = [record["id"] for record in records[rank::ranks]]
    scores = clip_scores(model, ((id, features[id]) for id in mine), task, clip_seconds, batch_size, len(mine))
    every = {id: row for part in distributed.gather(scores) for id, row in part.items()}
    return np.stack([every[record["id"]] for record in records])


def train(model, config, records, labels, features, exp):
    """Fine-tune `model` on `records`; return {"epochs", "steps", "seconds"}. Goes on from `exp`'s last checkpoint.

    Rank 0 writes checkpoints/last.safetensors after every epoch, and history.csv. UserError for a loss that is not
    finite and for fewer clips than one step needs.
    """
    settings, front_end = config.train, model.front_end
    rank, ranks = distributed.rank(), distributed.world_size()
    frames = front_end.frames(front_end.samples(config.data.clip_seconds))
    last = Path(exp) / "checkpoints" / "last.safetensors"

    def batches_of(epoch):
        return dataset.TrainBatches(records, labels, features, front_end, frames, config, epoch, rank, ranks)

    steps = len(batches_of(0))
    if not steps:
        each = f"{settings.batch_size} clips" + (f" x {ranks} processes" if ranks > 1 else "")
        raise UserError(f"train.batch_size: one step needs {each}, and there are {len(records)} to train on")
    optimizer = optim.adamw(model, settings)
    state = {"epoch": 0, "seconds": 0.0, "history": []}
    if last.exists():
        state = checkpoint.load_state(last, model, optimizer)
        log.info("going on after epoch %d of %d, from %s", state["epoch"], settings.epochs, last)
    distributed.broadcast_(list(model.state_dict().values()))

    for epoch in range(state["epoch"], settings.epochs):
        model.train()
        started, seen, loss_sum, correct, reader = time.perf_counter(), 0, 0.0, 0.0, 0.0
        bar = runtime.progress(
            total=steps, desc=f"epoch {epoch + 1}/{settings.epochs}", unit="step", **({"disable": True} if rank else {})
        )
        waiting = time.perf_counter()
        for step, (log_mel, targets) in enumerate(dataset.loader(batches_of(epoch), settings.workers)):
            reader += time.perf_counter() - waiting
            now = epoch * steps + step
            rate = optim.learning_rate(
                now, steps * settings.epochs, round(steps * settings.warmup_epochs), settings.lr, settings.final_lr
            )
            optimizer.set_lr(rate)
            # Dropout draws from paddle's own stream: tie it to the step, so that a resumed run draws the same.
            paddle.seed(int(dataset.random("dropout", settings.seed, now, rank).integers(2**31)))

            logits = model(to_input(model, log_mel))
            loss = losses.loss(config.task, logits, targets, settings.label_smoothing)
            loss.backward()
            distributed.average_([p.grad for p in model.parameters() if p.grad is not None])
            optimizer.step()
            optimizer.clear_grad()

            seen += len(targets)
            loss_sum += float(loss) * len(targets)
            correct += float((logits.argmax(1) == targets.argmax(1)).sum())
            if not math.isfinite(loss_sum):
                raise UserError(
                    f"the loss became {float(loss)} at epoch {epoch + 1}, step {step + 1}: try a smaller train.lr;"
                    f" {last if epoch else 'no checkpoint'} holds the last good epoch"
                )
            bar.update()
            if (step + 1) % settings.log_freq == 0 or step + 1 == steps:
                cost = (time.perf_counter() - started) / (step + 1)
                left = cost * (steps * settings.epochs - now - 1)
                log.log(
                    TRAIN,
                    "Epoch=%d/%d, Step=%d/%d loss=%.4f acc=%.4f lr=%.3e reader_cost=%.5f batch_cost=%.4f"
                    " ips=%.2f samples/s | ETA %s",
                    *(epoch + 1, settings.epochs, step + 1, steps, loss_sum / seen, correct / seen, rate),
                    *(reader / (step + 1), cost, seen * ranks / (time.perf_counter() - started), _clock(left)),
                )
            waiting = time.perf_counter()
        bar.close()
        distributed.average_(_batch_norm_statistics(model))
        loss_mean, accuracy = np.mean(distributed.gather([loss_sum / seen, correct / seen]), axis=0).tolist()
        state["seconds"] += time.perf_counter() - started
        state["epoch"] = epoch + 1
        state["history"].append({"epoch": epoch + 1, "loss": loss_mean, "accuracy": accuracy, "lr": rate})
        if rank == 0:
            checkpoint.save_state(last, model, optimizer, state)
            _write_history(Path(exp) / "history.csv", state["history"])
    model.eval()
    return {"epochs": settings.epochs, "steps": steps * settings.epochs, "seconds": round(state["seconds"], 1)}


def _batch_norm_statistics(model):
    """Running means and variances: each rank gathers its own from its own clips."""
    return [tensor for name, tensor in model.state_dict().items() if name.endswith(("._mean", "._variance"))]


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"


def _write_history(path, history):
    with runtime.atomic(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)
