"""The training loop, from top to bottom: set up, resume, train an epoch, validate, save, finish."""

import contextlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddletag import checkpoint, dataset, distributed, history, learners, losses, metrics, optim, runtime, steps
from paddletag.runtime import EVAL, TRAIN, UserError, log

SCORE = {"single_label": "accuracy", "multi_label": "mAP"}  # what the best epoch is chosen by


@dataclass
class Progress:
    """How far a run is. Checkpoints keep it."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the epoch after them
    seconds: float = 0.0  # of training
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # of that epoch: loss, right clips, clips
    skipped: int = 0  # steps that were not finite
    in_a_row: int = 0  # of them, up to now
    best: list | None = None  # [epoch, score], with train.select best
    history: list[dict] = field(default_factory=list)  # a row for each finished epoch


@dataclass
class Run:
    """What the parts of the loop share. Rank 0 alone writes to `exp`."""

    model: nn.Layer
    config: object
    records: list[dict]
    validation: list[dict]
    labels: list[str]
    exp: Path
    learner: learners.Network | learners.Probe
    learning: set[str]  # the parameters that learn
    precision: steps.Precision
    average: optim.Average | None
    class_weights: paddle.Tensor | None
    steps: int = 0  # in an epoch
    progress: Progress = field(default_factory=Progress)
    saved: checkpoint.Saved | None = None  # the checkpoint to go on from
    head_only: bool = False  # in train.frozen_epochs
    net: nn.Layer | None = None  # the learner's, made parallel where there are several ranks
    optimizer: object = None
    watch: history.Watch | None = None  # of the epoch under way
    scalars: history.Scalars | None = None

    @property
    def last(self) -> Path:
        return self.exp / "checkpoints" / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.exp / "checkpoints" / "best.safetensors"

    def batches(self, epoch: int) -> dataset.TrainBatches:
        """The batches of an epoch that this rank trains on."""
        learner, ranks = self.learner, (distributed.rank(), distributed.world_size())
        features, front_end, frames = learner.features, self.model.front_end, learner.frames
        return dataset.TrainBatches(
            self.records, self.labels, features, front_end, frames, learner.config, epoch, *ranks
        )


def train(model, config, records, labels, features, exp, validation=()) -> dict:
    """Fine-tune `model` on `records`; return what is to be known of it: {"epochs", "steps", "seconds", ...}.

    It goes on from `exp`'s last checkpoint, where there is one. Rank 0 writes: checkpoints after every epoch (and every
    `train.save_steps`), history.csv, the learning curve and the scalars for VisualDL. `validation` are records to score
    after every epoch. UserError for fewer clips than one step needs, and for a run that no longer learns because its
    loss or gradient is not finite: such steps are skipped, up to `train.max_bad_steps` of them in a row.
    """
    run = set_up(model, config, records, labels, features, Path(exp), list(validation))
    resume(run)
    for epoch in range(run.progress.epoch, config.train.epochs):
        choose_what_learns(run, epoch)
        row = train_epoch(run, epoch)
        row.update(validate(run, epoch))
        end_epoch(run, row)
        save(run)
    return finish(run)


def set_up(model, config, records, labels, features, exp, validation) -> Run:
    """The parts of a run, the same on all ranks. UserError for fewer clips than one step needs."""
    settings = config.train
    kind = learners.Probe if config.model["freeze"] == "all" else learners.Network
    learner = kind(model, config, [*records, *validation], features)
    learning = learners.choose(model, config)
    weights = None
    if settings.class_weights == "balanced":
        weights = paddle.to_tensor(losses.class_weights(dataset.multi_hot(records, labels)))
    distributed.broadcast_(list(model.state_dict().values()))
    average = optim.Average(model, settings.ema) if settings.ema else None
    precision = steps.Precision(settings)
    run = Run(model, config, records, validation, labels, exp, learner, learning, precision, average, weights)
    run.steps = len(run.batches(0)) // settings.accumulate
    if not run.steps:
        there = f"there are {len(records)} to train on"
        raise UserError(f"train.batch_size: one step needs {settings.batch_size} clips, and {there}")
    if distributed.rank() == 0:
        run.scalars = history.Scalars(exp / "vdl")
    return run


def resume(run: Run) -> None:
    """Go on from the last checkpoint, if there is one. The optimizer gets its share in `choose_what_learns`."""
    if not run.last.exists():
        return
    run.saved = checkpoint.load_state(run.last, run.model, run.precision.scaler, run.average)
    names = {known.name for known in fields(Progress)}
    run.progress = Progress(**{key: value for key, value in run.saved.progress.items() if key in names})
    epoch, step, epochs = run.progress.epoch, run.progress.step, run.config.train.epochs
    place = f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"
    log.info("going on after %s of %d, from %s", place, epochs, run.last)
    if epoch > epochs:
        raise UserError(f"{run.last}: is from epoch {epoch}, and train.epochs is {epochs}")


def choose_what_learns(run: Run, epoch: int) -> None:
    """Make the optimizer: for the head alone in `train.frozen_epochs`, and anew for all that learns after them."""
    frozen_epochs = run.config.train.frozen_epochs
    if run.net is not None and epoch != frozen_epochs:
        return
    run.head_only = epoch < frozen_epochs
    learners.let_learn(run.model, run.learning & {*run.model.head} if run.head_only else run.learning)
    run.optimizer = optim.create(run.model, run.config.train)
    if run.saved and (run.progress.step or epoch != frozen_epochs):
        run.saved.restore(run.model, run.optimizer)  # but not the moments of the head alone, when all begins to learn
    run.saved = None  # it is three to four times as large as the model
    run.net = run.learner.net
    # Only once: the process dies where a second DataParallel takes over parameters of a first.
    if distributed.world_size() > 1 and not run.head_only:
        run.net = paddle.DataParallel(run.net)


def train_epoch(run: Run, epoch: int) -> dict:
    """Train from the epoch's first step that is not done yet; return the epoch's row of history.csv."""
    settings, progress, first = run.config.train, run.progress, run.progress.step
    learners.train_mode(run.model)
    guard = steps.Guard(run.model)
    sums = paddle.to_tensor(progress.sums, "float64")  # fetched only when they are shown: a GPU need not wait
    watch = run.watch = history.Watch()
    batches = iter(dataset.loader(run.batches(epoch), settings.workers, first * settings.accumulate))
    bar = runtime.progress(total=run.steps, initial=first, desc=f"epoch {epoch + 1}/{settings.epochs}", unit="step")
    for step in range(first, run.steps):
        number = epoch * run.steps + step
        rate = optim.rate_of_step(number, run.steps, settings)
        run.optimizer.set_lr(rate)
        guard.remember()
        found = forward_and_backward(run, batches, number)
        if update(run, guard, f"step {step + 1} of epoch {epoch + 1}"):
            sums = sums + found
        bar.update()
        if (step + 1) % settings.log_freq == 0 or step + 1 == run.steps:
            show(run, epoch, step, rate, sums.tolist(), watch.costs(step + 1 - first))
        if settings.save_steps and (step + 1) % settings.save_steps == 0 and step + 1 < run.steps:
            progress.step, progress.sums = step + 1, mean_over_ranks(sums.tolist())
            progress.seconds += watch.lap()
            sums = paddle.to_tensor(progress.sums, "float64")
            save(run)
    bar.close()
    loss, right, clips = mean_over_ranks(sums.tolist())
    row = {"epoch": epoch + 1, "lr": rate, "loss": loss / max(1, clips)}
    if run.config.task == "single_label":
        row["accuracy"] = right / max(1, clips)
    return row


def forward_and_backward(run: Run, batches, number: int) -> paddle.Tensor:
    """The passes of a step, whose gradients add up: float64 [loss, right clips, clips] of this rank, on the device."""
    settings, found = run.config.train, paddle.zeros([3], "float64")
    for k in range(settings.accumulate):
        with run.watch.reading():
            batch, targets = next(batches)
        # Dropout draws from paddle's own stream: tie it to the pass, so that a resumed run draws the same.
        key = (settings.seed, number * settings.accumulate + k, distributed.rank())
        paddle.seed(int(dataset.random("dropout", *key).integers(2**31)))
        alone = run.net is not run.learner.net and k + 1 < settings.accumulate  # the last pass meets the other ranks
        with run.net.no_sync() if alone else contextlib.nullcontext():
            with run.precision.cast():
                logits = run.net(run.learner.inputs(batch))
            logits = logits.astype("float32")
            options = settings.label_smoothing, run.class_weights, settings.loss
            loss = losses.loss(run.config.task, logits, targets, *options)
            run.precision.scaler.scale(loss / settings.accumulate).backward()
        with paddle.no_grad():
            right = (logits.argmax(1) == targets.argmax(1)).astype("float64").sum()
            clips = paddle.full([], len(targets), "float64")
            found += paddle.stack([loss.astype("float64") * len(targets), right, clips])
    return found


def update(run: Run, guard: steps.Guard, name: str) -> bool:
    """Take the step, or skip it if its gradient is not finite; return whether it was taken.

    UserError when too many steps in a row were skipped.
    """
    progress, precision = run.progress, run.precision
    if run.head_only:
        distributed.average_([p.grad for p in run.learner.net.parameters() if not p.stop_gradient])
    good = steps.finite(run.model)
    if good or precision.may_overflow:  # a scaler skips the step itself, and lowers its scale
        precision.scaler.step(run.optimizer)
    precision.scaler.update()
    run.optimizer.clear_grad()
    if good:
        progress.in_a_row = 0
        if run.average:
            run.average.update()
        return True
    guard.undo()
    progress.skipped += 1
    progress.in_a_row += 1
    log.warning("skipped %s: its gradient is not finite", name)
    if progress.in_a_row >= precision.most_bad_steps(run.steps):
        raise UserError(
            f"the loss or its gradient was not finite for {progress.in_a_row} steps in a row, up to {name}: try a"
            f" smaller train.lr{', with another --exp' if run.last.exists() else ''}"
        )
    return False


def show(run: Run, epoch: int, step: int, rate: float, sums: list, costs: tuple) -> None:
    """A line of the log, and its points for VisualDL."""
    loss, right, clips = sums
    reader, batch = costs
    left = (run.config.train.epochs - epoch) * run.steps - step - 1
    text, values = history.line(
        (epoch + 1, run.config.train.epochs), (step + 1, run.steps), loss / max(1, clips),
        right / max(1, clips) if run.config.task == "single_label" else None,
        rate, reader, batch, run.config.train.batch_size / batch, batch * left,
    )  # fmt: skip
    log.log(TRAIN, text)
    if run.scalars:
        run.scalars.add(epoch * run.steps + step + 1, values)


def validate(run: Run, epoch: int) -> dict:
    """The columns of history.csv that validation adds; keeps the best epoch's weights, with train.select best."""
    share_statistics(run)
    if not run.validation:
        return {}
    select, task = run.config.train.select == "best", run.config.task
    with run.average.swap() if run.average else contextlib.nullcontext(), run.precision.cast():
        run.model.eval()
        targets = dataset.multi_hot(run.validation, run.labels)
        row = measure(run.learner.scores(run.validation), targets, run.labels, task)
        score = row.get(f"valid_{SCORE[task]}")
        if select and score is None:
            raise UserError(
                f"train.select best: the {len(run.validation)} clips to validate on have no {SCORE[task]}: no label has"
                " clips both with and without it: set aside more of them (train.validation), or select last"
            )
        if select and score > (run.progress.best or (0, -1.0))[1]:
            run.progress.best = [epoch + 1, score]
            if distributed.rank() == 0:
                checkpoint.save_weights(run.best, run.model)
    text = " ".join(f"{key}={value:.4f}" for key, value in row.items())
    epochs, clips = run.config.train.epochs, len(run.validation)
    log.log(EVAL, "Epoch=%d/%d, %d clips to validate on: %s", epoch + 1, epochs, clips, text)
    return row


def end_epoch(run: Run, row: dict) -> None:
    """Count the epoch as finished, and write its row: before the checkpoint, after whose loss both are made again."""
    progress = run.progress
    row.update(skipped=progress.skipped, seconds=round(run.watch.seconds(), 2))
    progress.seconds += run.watch.lap()
    progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, [0.0, 0.0, 0.0]
    progress.history = [*progress.history, row]
    if run.scalars:
        history.write(run.exp / "history.csv", progress.history)
        valid = {key: value for key, value in row.items() if key.startswith("valid_")}
        run.scalars.add(progress.epoch * run.steps, valid)


def save(run: Run) -> None:
    """All ranks: make BatchNorm's statistics one, and let rank 0 write all that is needed to go on.

    Not amid bad steps, which may be the end of the run: the checkpoint is to be from before them. Where a loss scale
    overflows now and then, they are nothing to wait for.
    """
    share_statistics(run)
    if distributed.rank() == 0 and (run.precision.may_overflow or not run.progress.in_a_row):
        checkpoint.save_state(
            run.last, run.model, run.optimizer, asdict(run.progress), run.precision.scaler, run.average
        )


def finish(run: Run) -> dict:
    """Give the model its final weights, and say what there is to know of the run."""
    settings, progress = run.config.train, run.progress
    if run.scalars:
        run.scalars.close()
        history.picture(run.exp / "learning_curve.png", progress.history)
    if progress.in_a_row >= run.steps:
        raise UserError("no step of the last epoch was finite: try a smaller train.lr, with another --exp")
    result = {"epochs": settings.epochs, "steps": run.steps * settings.epochs, "skipped": progress.skipped}
    if settings.select == "best":
        distributed.gather(None)  # rank 0 has written it
        checkpoint.load_weights(run.best, run.model)
        result["best_epoch"] = progress.best[0]
    elif run.average:
        run.average.into(run.model)
    run.model.eval()
    return {**result, "seconds": round(progress.seconds, 1)}


def measure(scores: np.ndarray, targets: np.ndarray, labels: list[str], task: str) -> dict:
    """{"valid_loss", "valid_accuracy" or "valid_mAP"} of scores [N, C]; no score where no label has clips both with
    and without it."""
    if task == "single_label":
        loss = -np.log(np.maximum((scores * targets).sum(1), 1e-12)).mean()
    else:
        p = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
        loss = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    score = metrics.evaluate(task, scores, targets, labels, intervals=False)[SCORE[task]]
    return {"valid_loss": float(loss), **({} if score is None else {f"valid_{SCORE[task]}": score})}


def share_statistics(run: Run) -> None:
    """Give all ranks the mean of their BatchNorm statistics: each gathers its own from its own clips."""
    distributed.average_(steps.statistics(run.model.state_dict()))
    if run.average:
        distributed.average_(steps.statistics(run.average.state))


def mean_over_ranks(sums: list[float]) -> list[float]:
    """Sums of all ranks, the same on each: means, so that what follows weighs alike."""
    return np.mean(distributed.gather(sums), axis=0).tolist() if distributed.world_size() > 1 else sums
