"""The training loop in plain sight, and what it needs to go on after an interruption in the same bits."""

import contextlib
import math
import time
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddletag import checkpoint, dataset, distributed, engine, history, losses, metrics, models, optim, runtime
from paddletag.runtime import EVAL, TRAIN, UserError, log

NORMS = (nn.BatchNorm2D, nn.SyncBatchNorm)
SCORE = {"single_label": "accuracy", "multi_label": "mAP"}  # what the best epoch is chosen by


def train(model, config, records, labels, features, exp, validation=()):
    """Fine-tune `model` on `records`; return what is to be known of it: {"epochs", "steps", "seconds", ...}.

    It goes on from `exp`'s last checkpoint, where there is one. Rank 0 writes: checkpoints after every epoch (and every
    `train.save_steps`), history.csv, the learning curve and the scalars for VisualDL. `validation` are records to score
    after every epoch. UserError for fewer clips than one step needs, and for a run that no longer learns because its
    loss or gradient is not finite: such steps are skipped, and the last checkpoint is from before them.
    """
    settings, task = config.train, config.task
    rank, ranks = distributed.rank(), distributed.world_size()
    exp, checkpoints = Path(exp), Path(exp) / "checkpoints"
    last, best = checkpoints / "last.safetensors", checkpoints / "best.safetensors"

    learner = (Probe if config.model["freeze"] == "all" else Whole)(model, config, [*records, *validation], features)

    def batches_of(epoch):
        frames, front_end = learner.frames, model.front_end
        return dataset.TrainBatches(
            records, labels, learner.features, front_end, frames, learner.config, epoch, rank, ranks
        )

    steps = len(batches_of(0)) // settings.accumulate
    if not steps:
        each = f"{settings.batch_size} clips" + (f" x {settings.accumulate} passes" if settings.accumulate > 1 else "")
        each += f" x {ranks} processes" if ranks > 1 else ""
        raise UserError(f"train.batch_size: one step needs {each}, and there are {len(records)} to train on")
    learning = hold(model, config)
    scaler = paddle.amp.GradScaler(enable=settings.amp != "O0" and settings.amp_dtype == "float16")
    weights = None
    if settings.class_weights == "balanced":
        weights = paddle.to_tensor(losses.class_weights(dataset.multi_hot(records, labels)))
    distributed.broadcast_(list(model.state_dict().values()))
    average = optim.Average(model, settings.ema) if settings.ema else None
    state = {"epoch": 0, "step": 0, "seconds": 0.0, "sums": [0.0, 0.0, 0], "skipped": 0, "in_a_row": 0, "history": []}
    saved = None
    if last.exists():
        saved = checkpoint.load_state(last, model, scaler, average)
        state.update(saved.progress)
        log.info("going on after %s of %d, from %s", _place(state), settings.epochs, last)
        if state["epoch"] > settings.epochs:
            raise UserError(f"{last}: is from epoch {state['epoch']}, and train.epochs is {settings.epochs}")
    statistics = _statistics(model.state_dict())
    averaged = _statistics(average.state) if average else []

    def save():
        """All ranks: make BatchNorm's statistics one, and let rank 0 write all that is needed to go on."""
        distributed.average_(statistics)
        distributed.average_(averaged)
        if rank == 0 and not state["in_a_row"]:
            checkpoint.save_state(last, model, optimizer, state, scaler, average)

    scalars = history.Scalars(exp / "vdl") if rank == 0 else None
    total, net, optimizer = steps * settings.epochs, None, None
    for epoch in range(state["epoch"], settings.epochs):
        if net is None or epoch == settings.frozen_epochs:
            held = epoch < settings.frozen_epochs
            set_learning(model, learning & {*model.head} if held else learning)
            optimizer = optim.create(model, settings)
            if settings.amp == "O2":
                model, optimizer = paddle.amp.decorate(model, optimizer, "O2", settings.amp_dtype, master_weight=True)
            if saved and (state["step"] or epoch != settings.frozen_epochs):
                saved.restore(model, optimizer)  # but not the moments of the head alone, when all begins to learn
            # Only once: the process dies where a second DataParallel takes over parameters of a first.
            net = paddle.DataParallel(learner.net) if ranks > 1 and not held else learner.net
        train_mode(model)
        started, first, reader = time.perf_counter(), state["step"], 0.0
        booked = started  # up to when state["seconds"] has counted
        loss_sum, correct, seen = state["sums"]
        bar = runtime.progress(total=steps, initial=first, desc=f"epoch {epoch + 1}/{settings.epochs}", unit="step")
        batches = iter(dataset.loader(batches_of(epoch), settings.workers, first * settings.accumulate))
        for step in range(first, steps):
            now = epoch * steps + step
            warmup, hold_steps = (round(steps * n) for n in (settings.warmup_epochs, settings.hold_epochs))
            rate = optim.learning_rate(
                now, total, warmup, hold_steps, settings.lr, settings.final_lr, settings.schedule
            )
            optimizer.set_lr(rate)
            before = [tensor.clone() for tensor in statistics]
            found = [0.0, 0.0, 0]  # loss, clips that were right, clips
            for part in range(settings.accumulate):
                waiting = time.perf_counter()
                log_mel, wanted = next(batches)
                reader += time.perf_counter() - waiting
                # Dropout draws from paddle's own stream: tie it to the step, so that a resumed run draws the same.
                key = (settings.seed, now * settings.accumulate + part, rank)
                paddle.seed(int(dataset.random("dropout", *key).integers(2**31)))
                alone = net is not learner.net and part + 1 < settings.accumulate  # the last pass meets the other ranks
                with net.no_sync() if alone else contextlib.nullcontext():
                    with paddle.amp.auto_cast(settings.amp != "O0", level=_level(settings), dtype=settings.amp_dtype):
                        logits = net(learner.inputs(log_mel))
                    logits = logits.astype("float32")
                    loss = losses.loss(task, logits, wanted, settings.label_smoothing, weights)
                    scaler.scale(loss / settings.accumulate).backward()
                found[0] += float(loss) * len(wanted)
                found[1] += float((logits.argmax(1) == wanted.argmax(1)).sum())
                found[2] += len(wanted)
            if held:
                distributed.average_([p.grad for p in learner.net.parameters() if not p.stop_gradient])
            good = finite(model)
            if good or scaler.is_enable():  # a scaler skips the step itself, and learns from it
                scaler.step(optimizer)
            scaler.update()
            optimizer.clear_grad()
            if good:
                loss_sum, correct, seen = loss_sum + found[0], correct + found[1], seen + found[2]
                state["in_a_row"] = 0
                if average:
                    average.update()
            else:
                state["skipped"] += 1
                state["in_a_row"] += 1
                for tensor, old in zip(statistics, before, strict=True):  # the pass forward has spoilt them
                    paddle.assign(old, tensor)
                log.warning("skipped step %d of epoch %d: its gradient is not finite", step + 1, epoch + 1)
                if state["in_a_row"] >= min(settings.max_bad_steps, steps):
                    raise UserError(
                        f"the loss or its gradient was not finite for {state['in_a_row']} steps in a row, up to epoch"
                        f" {epoch + 1}, step {step + 1}: try a smaller train.lr;"
                        f" {last if last.exists() else 'no checkpoint'} is from before"
                    )
            bar.update()
            if (step + 1) % settings.log_freq == 0 or step + 1 == steps:
                done, spent = step + 1 - first, time.perf_counter() - started
                clips = done * settings.batch_size * settings.accumulate * ranks
                text, values = history.line(
                    (epoch + 1, settings.epochs), (step + 1, steps), loss_sum / max(1, seen),
                    correct / max(1, seen) if task == "single_label" else None,
                    rate, reader / done, spent / done, clips / spent, spent / done * (total - now - 1),
                )  # fmt: skip
                log.log(TRAIN, text)
                if scalars:
                    scalars.add(now + 1, values)
            if settings.save_steps and (step + 1) % settings.save_steps == 0 and step + 1 < steps:
                loss_sum, correct, seen = _total([loss_sum, correct, seen])
                spent, booked = time.perf_counter() - booked, time.perf_counter()
                state.update(step=step + 1, sums=[loss_sum, correct, seen], seconds=state["seconds"] + spent)
                save()
        bar.close()
        loss_sum, correct, seen = _total([loss_sum, correct, seen])
        row = {"epoch": epoch + 1, "lr": rate, "loss": loss_sum / max(1, seen)}
        if task == "single_label":
            row["accuracy"] = correct / max(1, seen)
        distributed.average_(statistics)
        if validation:
            distributed.average_(averaged)
            with average.swap() if average else contextlib.nullcontext():
                model.eval()
                row.update(validate(learner.scores(validation), dataset.multi_hot(validation, labels), labels, task))
                chosen = row.get(f"valid_{SCORE[task]}")
                if settings.select == "best" and chosen is None:
                    raise UserError(
                        f"train.select best: the {len(validation)} clips to validate on have no {SCORE[task]}: no label"
                        " has clips both with and without it: set aside more of them (train.validation), or select last"
                    )
                if settings.select == "best" and chosen > state.get("best", (0, -1.0))[1]:
                    state["best"] = (epoch + 1, chosen)
                    if rank == 0:
                        checkpoint.save_weights(best, model)
            text = " ".join(f"{key}={row[key]:.4f}" for key in row if key.startswith("valid_"))
            log.log(EVAL, "Epoch=%d/%d, %d clips to validate on: %s", epoch + 1, settings.epochs, len(validation), text)
        row.update(skipped=state["skipped"], seconds=round(time.perf_counter() - started, 2))
        state.update(epoch=epoch + 1, step=0, sums=[0.0, 0.0, 0], history=[*state["history"], row])
        state["seconds"] += time.perf_counter() - booked
        if rank == 0:  # before the checkpoint: after a death in between, both are written again
            history.write(exp / "history.csv", state["history"])
            scalars.add((epoch + 1) * steps, {key: row[key] for key in row if key.startswith("valid_")})
        save()
    if rank == 0:
        scalars.close()
        history.picture(exp / "learning_curve.png", state["history"])
    if state["in_a_row"]:
        raise UserError(f"the last {state['in_a_row']} steps were not finite: try a smaller train.lr")
    result = {"epochs": settings.epochs, "steps": total, "skipped": state["skipped"]}
    if settings.amp == "O2" and optimizer:
        checkpoint.full_precision(model, optimizer)
    if settings.select == "best":
        distributed.gather(None)  # rank 0 has written it
        checkpoint.load_weights(best, model)
        result["best_epoch"] = state["best"][0]
    elif average:
        average.into(model)
    model.eval()
    return {**result, "seconds": round(state["seconds"], 1)}


class Whole:
    """All of the model learns, from log-mels."""

    def __init__(self, model, config, records, features):
        self.net, self.config, self.features = model, config, features
        self.frames = model.front_end.frames(model.front_end.samples(config.data.clip_seconds))

    def inputs(self, log_mel):
        return engine.to_input(self.net, log_mel)

    def scores(self, records):
        """Float32 [N, C] on every rank."""
        config = self.config
        return engine.evaluate(
            self.net, records, self.features, config.task, config.data.clip_seconds, config.evaluate.batch_size
        )


class Probe:
    """The head alone learns, from what the rest of the model makes of each window: computed once, here.

    A clip's embeddings [windows, D] take the place of its log-mel [frames, mels], one window that of a crop.
    """

    frames = 1

    def __init__(self, model, config, records, features):
        self.net, self.config = engine.head(model), config.clone()
        self.config.defrost()
        for key in ("roll", "gain", "freq_mask", "time_mask", "wavmix"):
            self.config.augment[key] = type(config.augment[key])()  # they change sound, which is not heard again
        self.features = engine.embeddings(
            model, records, features, config.data.clip_seconds, config.evaluate.batch_size
        )

    def inputs(self, embeddings):
        return embeddings[:, 0]

    def scores(self, records):
        with paddle.no_grad():
            logits = [self.net(paddle.to_tensor(self.features[record["id"]])) for record in records]
            return np.stack([losses.activation(self.config.task, rows).mean(0).numpy() for rows in logits])


def hold(model, config):
    """Do what `model.freeze`, `freeze_bn`, `bn_momentum` and `sync_bn` say; return the names of what is to learn."""
    if config.model.bn_momentum:
        models.set_bn_momentum(model, config.model.bn_momentum)
    freeze = config.model["freeze"]
    if freeze.isdecimal():
        models.freeze(model, int(freeze))
    if config.model.sync_bn:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    norms = {f"{name}." for name, layer in model.named_sublayers() if isinstance(layer, NORMS)}
    learning = {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    if freeze == "all":
        learning &= {*model.head}
    if config.model.freeze_bn:
        learning = {name for name in learning if name.rpartition(".")[0] + "." not in norms}
    set_learning(model, learning)
    return learning


def set_learning(model, learning):
    """Let the parameters of those names learn, and no others."""
    for name, parameter in model.named_parameters():
        if not name.endswith(checkpoint.STATISTICS):
            parameter.stop_gradient = name not in learning
            parameter.clear_gradient(False)


def train_mode(model):
    """Training mode, but for BatchNorms whose weights do not learn: they keep their statistics too."""
    model.train()
    for layer in model.sublayers():
        if isinstance(layer, NORMS) and layer.weight.stop_gradient:
            layer.eval()


def finite(model):
    """Whether all gradients are numbers. They are the same on all ranks, so that all decide alike."""
    sums = [p.grad.astype("float32").sum() for p in model.parameters() if not p.stop_gradient and p.grad is not None]
    return math.isfinite(float(paddle.add_n(sums)))


def validate(scores, targets, labels, task):
    """The columns of history.csv that validation adds; no score where no label has clips both with and without it."""
    loss = -np.log(np.maximum((scores * targets).sum(1), 1e-12)).mean() if task == "single_label" else None
    if loss is None:
        p = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
        loss = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    score = metrics.evaluate(task, scores, targets, labels, intervals=False)[SCORE[task]]
    return {"valid_loss": float(loss), **({} if score is None else {f"valid_{SCORE[task]}": score})}


def _statistics(state):
    """BatchNorm's running means and variances: each rank gathers its own from its own clips."""
    return [tensor for name, tensor in state.items() if name.endswith(checkpoint.STATISTICS)]


def _level(settings):
    return settings.amp if settings.amp != "O0" else "O1"  # auto_cast wants one of the two, even when it is off


def _total(sums):
    """[loss, right, clips] of all ranks, the same on each: means, so that what follows weighs alike."""
    return np.mean(distributed.gather(sums), axis=0).tolist() if distributed.world_size() > 1 else sums


def _place(state):
    return f"step {state['step']} of epoch {state['epoch'] + 1}" if state["step"] else f"epoch {state['epoch']}"
