"""Several runs side by side: how good they are on the clips that all were tested on, and in which settings they differ.

Each figure is a mean over a run's seeds. Each run is compared with one of them, the reference.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from paddletag import config as configs
from paddletag.data.splits import describe_split
from paddletag.reports.evaluated_runs import Fold, Run, common_clips, refuse_different_data, scores_and_targets
from paddletag.runtime import UserError, show
from paddletag.training import metrics, paired_tests

NO_MEANING = "-"  # of a setting to a run
DEFAULT = "default"  # of a setting that only some runs name
OF_NETWORKS = ("train.", "augment.", "model.freeze", "model.sync_bn", "model.bn_momentum")  # not of classic baselines
OF_BACKBONES = ("model.", "weights")  # not of classic baselines on MFCCs
OF_DATA = "data."  # where the clips come from and how they are found: they are the same, but for how much a model sees
SEED = "train.seed"


@dataclass(frozen=True)
class Row:
    """A run in the comparison. What compares it with the reference is None in the reference's own row."""

    name: str
    value: float  # accuracy or mAP, 0 to 1
    interval: list[float]
    by_seed: list[float]  # the same of each seed
    models: int
    seconds: float | None  # of training, the mean of its models
    difference: float | None = None  # from the reference
    better: float | None = (
        None  # clips that it gets right and the reference wrong; shares of seeds count; accuracy only
    )
    worse: float | None = None
    p: float | None = None
    p_corrected: float | None = None  # by Holm's method; None where there is one test


@dataclass(frozen=True)
class Comparison:
    """What a comparison says. settings: {key: a text for each run}, of those that differ."""

    task: str
    reference: str
    clips: int
    folds: list[Fold]
    rows: list[Row]
    settings: dict[str, list[str]]
    notes: list[str] = field(default_factory=list)


def compare(runs: Sequence[Run], names: Sequence[str], reference: int | None) -> Comparison:
    """Compare `runs`, called `names`. reference: the number of the run to compare the others with; None: the best.

    UserError for runs of different data sets, or without a clip in common.
    """
    refuse_different_data(runs, names)
    task, clips = runs[0].meta["task"], common_clips(runs, names)
    refuse_other_targets(runs, names, clips)
    compared = compare_accuracy if task == "single_label" else compare_map
    rows = [
        replace(row, name=name, models=len(run.seeds) * len(clips), seconds=mean_seconds(run, clips))
        for row, name, run in zip(compared(runs, clips, reference), names, runs, strict=True)
    ]
    tested = [n for n, row in enumerate(rows) if row.p is not None]
    if len(tested) > 1:
        corrected = paired_tests.holm([p for row in rows if (p := row.p) is not None])
        for n, value in zip(tested, corrected, strict=True):
            rows[n] = replace(rows[n], p_corrected=value)
    chosen = next(row.name for row in rows if row.difference is None)
    total = sum(map(len, clips.values()))
    notes = [*notes_on_clips(runs, names, total), *notes_on_tests(task, rows, reference is None), *notes_on_time(runs)]
    return Comparison(task, chosen, total, list(clips), rows, differing_settings(runs), notes)


def refuse_other_targets(runs: Sequence[Run], names: Sequence[str], clips: Mapping[Fold, Sequence[str]]) -> None:
    """UserError where a clip has other labels in one run than in another: the record of one of them is wrong."""
    for fold, ids in clips.items():
        _, first = scores_and_targets(runs[0].models[runs[0].seeds[0], fold], ids)
        for name, run in zip(names, runs, strict=True):
            for seed in run.seeds:
                if not np.array_equal(scores_and_targets(run.models[seed, fold], ids)[1], first):
                    raise UserError(
                        f"{show(name)}: {describe_split(fold)} has other labels there than in {show(names[0])}"
                    )


def compare_accuracy(runs: Sequence[Run], clips: Mapping[Fold, Sequence[str]], reference: int | None) -> list[Row]:
    """A row for each run: accuracy over all clips, and the exact test of the clips' results (`paired_tests`)."""
    right = [np.stack([right_clips(run, seed, clips) for seed in run.seeds]) for run in runs]  # each: [seeds, clips]
    values = [float(one.mean()) for one in right]
    chosen = int(np.argmax(values)) if reference is None else reference
    rows = []
    for n, one in enumerate(right):
        interval = metrics.wilson(values[n], one.shape[1])
        row = Row("", values[n], interval, one.mean(1).tolist(), 0, None)
        if n != chosen:
            seeds = math.lcm(len(one), len(right[chosen]))
            counts, other = (of.sum(0) * (seeds // len(of)) for of in (one, right[chosen]))
            difference = counts.astype(int) - other.astype(int)
            better, worse = (float(np.maximum(sign * difference, 0).sum() / seeds) for sign in (1, -1))
            p = paired_tests.exact_test(difference)
            row = replace(row, difference=values[n] - values[chosen], better=better, worse=worse, p=p)
        rows.append(row)
    return rows


def right_clips(run: Run, seed: str, clips: Mapping[Fold, Sequence[str]]) -> np.ndarray:
    """Whether each clip's highest label is its own, to the models of one seed: bool [N]."""
    pairs = (scores_and_targets(run.models[seed, fold], ids) for fold, ids in clips.items())
    return np.concatenate([scores.argmax(1) == targets.argmax(1) for scores, targets in pairs])


def compare_map(runs: Sequence[Run], clips: Mapping[Fold, Sequence[str]], reference: int | None) -> list[Row]:
    """A row for each run: the mean of its folds' mAP, and a paired bootstrap: all runs meet the same drawings."""
    models = sum(len(run.seeds) for run in runs)
    classes = len(runs[0].meta["labels"])
    resamples = metrics.affordable_resamples(sum(map(len, clips.values())) * classes * models)
    drawn = [np.stack([map_of(run, seed, clips, resamples) for seed in run.seeds]) for run in runs]
    if any(np.isnan(one[:, 0]).any() for one in drawn):
        raise UserError("no mAP: a fold has no label with clips both with and without it")
    usable = ~np.isnan(np.concatenate(drawn)).any(0)  # a drawing without any positive says nothing
    values = [float(one[:, 0].mean()) for one in drawn]
    samples = [one.mean(0)[1:][usable[1:]] for one in drawn]
    chosen = int(np.argmax(values)) if reference is None else reference
    rows = []
    for n, (value, sample, one) in enumerate(zip(values, samples, drawn, strict=True)):
        half = metrics.WIDTH * float(sample.std(ddof=1)) if len(sample) > 1 else 0.0
        row = Row("", value, [max(0.0, value - half), min(1.0, value + half)], one[:, 0].tolist(), 0, None)
        if n != chosen:
            difference = value - values[chosen]
            p = paired_tests.bootstrap_test(difference, sample - samples[chosen])
            row = replace(row, difference=difference, p=p)
        rows.append(row)
    return rows


def map_of(run: Run, seed: str, clips: Mapping[Fold, Sequence[str]], resamples: int) -> np.ndarray:
    """The mean over the folds of one seed's mAP: of the clips as they are, then of each drawing, [1 + resamples]."""
    values = []
    for n, (fold, ids) in enumerate(clips.items()):
        scores, targets = scores_and_targets(run.models[seed, fold], ids)
        used = metrics.measurable(targets)
        weights = metrics.draw_clips(len(ids), resamples, seed=n)
        weights = np.concatenate([np.ones((len(ids), 1), weights.dtype), weights], axis=1)
        values.append(metrics.mean_precisions(scores[:, used], targets[:, used], weights))
    return np.mean(values, axis=0)


def mean_seconds(run: Run, clips: Mapping[Fold, Sequence[str]]) -> float | None:
    """The seconds that training took, the mean of the models that are compared; None where one has no record of it."""
    seconds = [run.models[seed, fold].meta["trained"].get("seconds") for seed in run.seeds for fold in clips]
    numbers = [value for value in seconds if isinstance(value, (int, float))]
    return sum(numbers) / len(numbers) if len(numbers) == len(seconds) else None


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """{key: a text for each run} of the settings that differ between runs and change the result.

    Models of one run that differ have all their values. A key without meaning to a run has `NO_MEANING`.
    """
    tables = [[dict(settings(model.meta)) for model in run.models.values()] for run in runs]
    keys = dict.fromkeys(key for run in tables for table in run for key in table)
    differing = {}
    for key in keys:
        missing = DEFAULT if key.startswith("features.front_end.") else NO_MEANING
        texts = [", ".join(dict.fromkeys(table.get(key, missing) for table in run)) for run in tables]
        if len({text for text in texts if text != NO_MEANING}) > 1:
            differing[key] = texts
    return differing


def settings(meta: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, text) of the settings that a model was trained with, and that change it."""
    unused: tuple[str, ...] = ("classic.",)
    if "classic" in meta:
        unused = (*OF_NETWORKS, *(OF_BACKBONES if meta["classic"].get("features") == "mfcc" else ()))
    run = {**meta["run"]["config"], **{key: str(meta["run"].get(key))[:16] for key in ("processes", "weights")}}
    yield "backbone", str(meta["backbone"])
    for key, value in _flat(run):
        kept = not key.startswith((*unused, OF_DATA)) or key in (SEED, "data.clip_seconds")
        if kept and key not in configs.NOT_IN_RESULT and key != "model.name":  # the backbone says it
            yield key, str(value) if value != "" else '""'


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, dict):
            yield f"{prefix}{key}", value


def notes_on_clips(runs: Sequence[Run], names: Sequence[str], total: int) -> Iterator[str]:
    """A line on each run of which not all clips are compared."""
    for name, run in zip(names, runs, strict=True):
        if run.clips != total:
            yield f"{name}: {total} of its {run.clips} clips are compared, those that all runs were tested on."


def notes_on_tests(task: str, rows: Sequence[Row], best: bool) -> Iterator[str]:
    """Lines on what the figures mean."""
    yield "Seconds are of training, the mean of a run's models."
    several = any(len(row.by_seed) > 1 for row in rows)
    if several:
        yield "Figures of a run with several seeds are means over the seeds."
    if len(rows) < 2:
        return
    if task == "multi_label":
        yield "mAP is the mean over the folds. p is by a paired bootstrap: all runs meet the same drawings of clips."
    elif several:
        yield (
            "p is by an exact test on the same clips, each with the share of the seeds that get it right."
            " Between runs with one seed each this is McNemar's exact test."
        )
    else:
        yield "p is by McNemar's exact test on the same clips."
    yield "p says whether a difference would remain with other clips, not with other seeds."
    if len(rows) > 2:
        yield f"p (Holm) is corrected for {len(rows) - 1} tests: use it where you look at all of them."
    if best:
        yield "The reference was chosen as the best on these same clips: the p of the others are a little too small."


def notes_on_time(runs: Sequence[Run]) -> Iterator[str]:
    """A line where seconds of training cannot be compared."""
    models = [model for run in runs for model in run.models.values()]
    if len({(str(model.meta.get("machine")), model.meta["run"].get("processes")) for model in models}) > 1:
        yield "Not all models were trained on one machine with as many processes: their seconds cannot be compared."
