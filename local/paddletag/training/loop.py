"""The training loop, from top to bottom: set up, resume, train an epoch, validate, save, finish."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from yacs.config import CfgNode

from paddletag import config as configs
from paddletag import runtime
from paddletag.data.clips import joined, labels_of
from paddletag.features.batches import generator_for, load_batches, multi_hot
from paddletag.models.backbone import Backbone
from paddletag.runtime import EVAL, TRAIN, UserError, log
from paddletag.training import batch_norm_statistics, checkpoint, distributed, history, learners, losses, metrics
from paddletag.training.bad_steps import StatisticsBackup, gradients_are_finite, most_in_a_row
from paddletag.training.history import Row
from paddletag.training.learning_rate import rate_of_step
from paddletag.training.loop_state import Progress, Run
from paddletag.training.mixed_precision import Precision
from paddletag.training.optimizer import create_optimizer
from paddletag.training.stopwatch import Stopwatch
from paddletag.training.visualdl_curves import Scalars
from paddletag.training.weight_average import WeightAverage
from paddletag.type_aliases import File, Record

if TYPE_CHECKING:
    from paddletag.features.feature_source import FeatureSource


def train(
    model: Backbone,
    config: CfgNode,
    records: Sequence[Record],
    labels: Sequence[str],
    features: "FeatureSource",
    exp: File,
    validation: Sequence[Record] = (),
    draw: Callable[[list[Row]], None] | None = None,
) -> dict[str, Any]:
    """Fine-tune `model` on `records`; return what is to be known of it: {"epochs", "steps", "seconds", ...}.

    It goes on from `exp`'s last checkpoint, where there is one. Rank 0 writes: checkpoints after every epoch (and every
    `train.save_steps`), history.csv and the scalars for VisualDL; and after the last epoch it calls `draw` with the
    rows of history.csv. `validation` are records to score after every epoch. UserError for a run that no longer learns
    because its loss or gradient is not finite: such steps are skipped, up to `train.max_bad_steps` of them in a row.
    """
    run = set_up(model, config, records, labels, features, Path(exp), validation)
    resume(run)
    run.progress.seconds += run.learner.seconds
    first = run.progress.epoch
    for epoch in range(first, config.train.epochs):
        if epoch in (first, config.train.frozen_epochs):
            choose_what_learns(run, epoch)
        row = train_epoch(run, epoch)
        row.update(validate(run, epoch))
        end_epoch(run, row)
        save(run)
    return finish(run, draw)


def set_up(
    model: Backbone,
    config: CfgNode,
    records: Sequence[Record],
    labels: Sequence[str],
    features: "FeatureSource",
    exp: Path,
    validation: Sequence[Record],
) -> Run:
    """The parts of a run, the same on all ranks; for fewer clips than one step takes, with smaller steps."""
    asked, config = config.train.batch_size, configs.fit_batch(config, len(records), distributed.world_size())
    settings = config.train
    if settings.batch_size < asked and distributed.rank() == 0:
        log.warning(
            "train.batch_size %d is more than the %d clips to train on: a step takes %d of them, train.lr stays %g",
            *(asked, len(records), settings.batch_size, settings.lr),
        )
    kind = learners.Probe if config.model["freeze"] == "all" else learners.Network
    learner = kind(model, config, joined(records, validation), features)
    learning = learners.prepare_model(model, config)
    class_weights = None
    if settings.class_weights == "balanced":
        class_weights = paddle.to_tensor(losses.class_weights(labels_of(records, labels).counts(len(labels))))
    distributed.broadcast_(list(model.state_dict().values()))
    average = WeightAverage(model, settings.ema) if settings.ema else None
    scalars = Scalars(exp / "vdl") if distributed.rank() == 0 else None
    run = Run(
        model, config, records, validation, labels, exp, learner, learning, Precision(settings), average,
        class_weights, scalars,
    )  # fmt: skip
    run.steps = len(run.batches(0)) // settings.accumulate
    return run


def resume(run: Run) -> None:
    """Go on from the last checkpoint, if there is one. The optimizer gets its share in `choose_what_learns`."""
    if not run.last.exists():
        return
    run.restart = checkpoint.load_state(run.last, run.model, run.precision.scaler, run.average)
    names = {item.name for item in fields(Progress)}
    run.progress = Progress(**{key: value for key, value in run.restart.progress.items() if key in names})
    epoch, step, epochs = run.progress.epoch, run.progress.step, run.config.train.epochs
    place = f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"
    log.info("going on after %s of %d, from %s", place, epochs, run.last)
    if epoch > epochs:
        raise UserError(f"{run.last}: is from epoch {epoch}, and train.epochs is {epochs}")


def choose_what_learns(run: Run, epoch: int) -> None:
    """Make the optimizer: for the head alone in `train.frozen_epochs`, and for all that learns after them.

    To be called before a run's first epoch, and before the one that follows the frozen ones.
    """
    frozen_epochs = run.config.train.frozen_epochs
    run.head_only = epoch < frozen_epochs
    learners.let_learn(run.model, run.learning & {*run.model.head} if run.head_only else run.learning)
    run.optimizer = create_optimizer(run.model, run.config.train)
    if run.restart and (run.progress.step or epoch != frozen_epochs):
        run.restart.restore_optimizer(run.model, run.optimizer)  # but not the head's moments, when all begins to learn
    run.restart = None  # it is three to four times as large as the model
    run.net = run.learner.net
    # Only once: the process dies where a second DataParallel takes over parameters of a first.
    if distributed.world_size() > 1 and not run.head_only:
        run.net = paddle.DataParallel(run.net)


def train_epoch(run: Run, epoch: int) -> Row:
    """Train from the epoch's first step that is not done yet; return the epoch's row of history.csv."""
    settings, progress, first = run.config.train, run.progress, run.progress.step
    learners.train_mode(run.model)
    backup = StatisticsBackup(run.model)
    sums = paddle.to_tensor(progress.sums, "float64")  # fetched only when they are shown: a GPU need not wait
    stopwatch = run.stopwatch = Stopwatch()
    batches = iter(load_batches(run.batches(epoch), settings.workers, first * settings.accumulate))
    bar = runtime.progress(total=run.steps, initial=first, desc=f"epoch {epoch + 1}/{settings.epochs}", unit="step")
    for step in range(first, run.steps):
        number = epoch * run.steps + step
        rate = rate_of_step(number, run.steps, settings)
        run.optimizer.set_lr(rate)
        backup.save()
        step_sums = forward_and_backward(run, batches, number)
        if update(run, backup, f"step {step + 1} of epoch {epoch + 1}"):
            sums = sums + step_sums
        bar.update()
        if (step + 1) % settings.log_freq == 0 or step + 1 == run.steps:
            show(run, epoch, step, rate, fetch(sums), stopwatch.costs(step + 1 - first))
        if settings.save_steps and (step + 1) % settings.save_steps == 0 and step + 1 < run.steps:
            progress.step, progress.sums = step + 1, mean_over_ranks(fetch(sums))
            progress.seconds += stopwatch.lap()
            sums = paddle.to_tensor(progress.sums, "float64")
            save(run)
    bar.close()
    loss, right, clips = mean_over_ranks(fetch(sums))
    row = {"epoch": epoch + 1, "lr": rate, "loss": loss / max(1, clips)}
    if run.config.task == "single_label":
        row["accuracy"] = right / max(1, clips)
    return row


def forward_and_backward(run: Run, batches: Iterator[list[paddle.Tensor]], number: int) -> paddle.Tensor:
    """The passes of a step, whose gradients add up: float64 [loss, right clips, clips] of this rank, on the device."""
    settings, sums = run.config.train, paddle.zeros([3], "float64")
    for k in range(settings.accumulate):
        with run.stopwatch.reading():
            batch, targets = next(batches)
        # Dropout draws from paddle's own stream: tie it to the pass, so that a resumed run draws the same.
        key = (settings.seed, number * settings.accumulate + k, distributed.rank())
        paddle.seed(int(generator_for("dropout", *key).integers(2**31)))
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
            sums += paddle.stack([loss.astype("float64") * len(targets), right, clips])
    return sums


def update(run: Run, backup: StatisticsBackup, name: str) -> bool:
    """Take the step, or skip it if its gradient is not finite; return whether it was taken.

    UserError when too many steps in a row were skipped.
    """
    progress, precision = run.progress, run.precision
    if run.head_only:
        distributed.average_([p.grad for p in run.learner.net.parameters() if not p.stop_gradient])
    good = gradients_are_finite(run.model)
    if good or precision.may_overflow:  # a scaler skips the step itself, and lowers its scale
        precision.scaler.step(run.optimizer)
    precision.scaler.update()
    run.optimizer.clear_grad()
    if good:
        progress.in_a_row = 0
        if run.average:
            run.average.update()
        return True
    backup.restore()
    progress.skipped += 1
    progress.in_a_row += 1
    log.warning("skipped %s: its gradient is not finite", name)
    if progress.in_a_row >= most_in_a_row(run.config.train, precision.may_overflow, run.steps):
        raise UserError(
            f"the loss or its gradient was not finite for {progress.in_a_row} steps in a row, up to {name}: try a"
            f" smaller train.lr{', with another --exp' if run.last.exists() else ''}"
        )
    return False


def show(run: Run, epoch: int, step: int, rate: float, sums: list[float], costs: tuple[float, float]) -> None:
    """A line of the log, and its points for VisualDL."""
    loss, right, clips = sums
    reader, batch = costs
    left = (run.config.train.epochs - epoch) * run.steps - step - 1
    text, values = history.log_line(
        (epoch + 1, run.config.train.epochs), (step + 1, run.steps), loss / max(1, clips),
        right / max(1, clips) if run.config.task == "single_label" else None,
        rate, reader, batch, run.config.train.batch_size / batch, batch * left,
    )  # fmt: skip
    log.log(TRAIN, text)
    if run.scalars:
        run.scalars.add(epoch * run.steps + step + 1, values)


def validate(run: Run, epoch: int) -> Row:
    """The columns of history.csv that validation adds; keeps the best epoch's weights, with train.select best."""
    share_statistics(run)
    if not run.validation:
        return {}
    with run.average.swap() if run.average else contextlib.nullcontext(), run.precision.cast():
        run.model.eval()
        targets = multi_hot(run.validation, run.labels)
        row = metrics.validation_metrics(run.config.task, run.learner.scores(run.validation), targets, run.labels)
        if run.config.train.select == "best":
            keep_best(run, epoch, row)
    text = " ".join(f"{key}={value:.4f}" for key, value in row.items())
    epochs, clips = run.config.train.epochs, len(run.validation)
    log.log(EVAL, "Epoch=%d/%d, %d clips to validate on: %s", epoch + 1, epochs, clips, text)
    return row


def keep_best(run: Run, epoch: int, row: Row) -> None:
    """Keep the model's weights if `row`, of `validate`, has the best score up to now. UserError where it has none."""
    name = metrics.MAIN_METRIC[run.config.task]
    score = row.get(f"valid_{name}")
    if score is None:
        raise UserError(
            f"train.select best: the {len(run.validation)} clips to validate on have no {name}: no label has"
            " clips both with and without it: set aside more of them (train.validation), or select last"
        )
    if score > (run.progress.best or (0, -1.0))[1]:
        run.progress.best = [epoch + 1, score]
        if distributed.rank() == 0:
            checkpoint.save_weights(run.best, run.model)


def end_epoch(run: Run, row: Row) -> None:
    """Count the epoch as finished, and write its row: before the checkpoint, after whose loss both are made again."""
    progress = run.progress
    row.update(skipped=progress.skipped, seconds=round(run.stopwatch.seconds(), 2))
    progress.seconds += run.stopwatch.lap()
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


def finish(run: Run, draw: Callable[[list[Row]], None] | None) -> dict[str, Any]:
    """Give the model its final weights, and say what there is to know of the run."""
    settings, progress = run.config.train, run.progress
    if run.scalars:
        run.scalars.close()
        if draw:
            draw(progress.history)
    if progress.in_a_row >= run.steps:
        raise UserError("no step of the last epoch was finite: try a smaller train.lr, with another --exp")
    result = {"epochs": settings.epochs, "steps": run.steps * settings.epochs, "skipped": progress.skipped}
    result["batch_size"] = settings.batch_size  # smaller than the config's where there are few clips
    if settings.select == "best":
        distributed.gather(None)  # rank 0 has written it
        checkpoint.load_weights(run.best, run.model)
        assert progress.best is not None  # every epoch has a score then
        result["best_epoch"] = progress.best[0]
    elif run.average:
        run.average.copy_to(run.model)
    run.model.eval()
    return {**result, "seconds": round(progress.seconds, 1)}


def share_statistics(run: Run) -> None:
    """Give all ranks the mean of their BatchNorm statistics: each gathers its own from its own clips."""
    batch_norm_statistics.average_over_ranks_(run.model.state_dict())
    if run.average:
        batch_norm_statistics.average_over_ranks_(run.average.state)


def fetch(sums: paddle.Tensor) -> list[float]:
    """The numbers of a tensor [N], once the device has them."""
    return sums.numpy().tolist()


def mean_over_ranks(sums: list[float]) -> list[float]:
    """Sums of all ranks, the same on each: means, so that what follows weighs alike."""
    return np.mean(distributed.gather(sums), axis=0).tolist() if distributed.world_size() > 1 else sums
