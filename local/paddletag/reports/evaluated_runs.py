"""Runs to compare: the evaluated models in a run's folder, and the clips that several runs were all tested on.

A run is one model (exp/mn04/fold1), the models of several folds (exp/mn04), or those of several seeds too
(exp/mn04/seed0/fold1 ...).
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddletag.data.splits import describe_split
from paddletag.models.model_folder import META, read_meta
from paddletag.reports import evaluation_files
from paddletag.runtime import UserError, show
from paddletag.type_aliases import File, Meta

Fold = int | str
_SEED, _HELD_OUT = re.compile(r"seed(\d+)"), re.compile(r"fold\d+|test|valid")


@dataclass(frozen=True)
class Model:
    """A trained model and its evaluation, as `evaluation_files.read_evaluation` gives it."""

    meta: Meta
    evaluation: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """The evaluated models of a run by seed ("" without several) and fold, or split."""

    folder: Path
    models: dict[tuple[str, Fold], Model]

    @property
    def seeds(self) -> list[str]:
        """The seeds, each once."""
        return list(dict.fromkeys(seed for seed, _ in self.models))

    @property
    def folds(self) -> list[Fold]:
        """The folds, or splits, that the models of all seeds were tested on."""
        folds = dict.fromkeys(fold for _, fold in self.models)
        return [fold for fold in folds if all((seed, fold) in self.models for seed in self.seeds)]

    @property
    def meta(self) -> Meta:
        """The description of the first model."""
        return next(iter(self.models.values())).meta

    @property
    def clips(self) -> int:
        """The number of clips that any of its models was tested on."""
        return len({(fold, clip) for (_, fold), model in self.models.items() for clip in model.evaluation["ids"]})


def read_run(folder: File, tta: int = 1) -> tuple[Run, list[str]]:
    """(the run in `folder`, a line on each of its models that cannot be used).

    tta: the evaluations on so many rolled copies of each clip. UserError for a folder that is no evaluated run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: {'is a file, not the folder of a run' if folder.exists() else 'no such folder'}")
    models: dict[tuple[str, Fold], Model] = {}
    faults: list[str] = []
    found = list(_model_folders(folder))
    for seed, path in found:
        try:
            meta, evaluation = read_meta(path), evaluation_files.read_evaluation(path, tta)
            _check(path, meta, evaluation)
        except UserError as error:
            faults.append(str(error))
            continue
        same = (model.meta["sha256"] for (_, fold), model in models.items() if fold == evaluation["metrics"]["fold"])
        if seed or meta["sha256"] not in same:  # exp/fold1 may be a copy of exp/seed0/fold1
            models[seed, evaluation["metrics"]["fold"]] = Model(meta, evaluation)
    if not found:
        raise UserError(f"{folder}: no run: it holds no trained model, and no fold1, seed0/fold1 or test with one")
    if not models:
        raise UserError(f"{faults[0]}{f' (and {len(faults) - 1} more)' if len(faults) > 1 else ''}")
    if {"", *(seed for seed, _ in models)} != {""} and any(not seed for seed, _ in models):
        raise UserError(
            f"{folder}: holds models with and without seeds: name some of them, such as {found[0][1].parent}"
        )
    run = Run(folder, models)
    if not run.folds:
        raise UserError(f"{folder}: no fold was evaluated with all seeds: evaluate the others (stage 3)")
    return run, faults


def _model_folders(folder: Path) -> Iterator[tuple[str, Path]]:
    """(seed, folder) of each trained model of a run, those with a seed first."""
    if (folder / META).is_file():
        yield "", folder
        return
    for name in sorted(os.listdir(folder), key=_in_numbers):
        if seed := _SEED.fullmatch(name):
            yield from ((seed[1], path) for path in _held_out_folders(folder / name))
    yield from (("", path) for path in _held_out_folders(folder))


def _held_out_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    names = sorted(filter(_HELD_OUT.fullmatch, os.listdir(folder)), key=_in_numbers)
    return [folder / name for name in names if (folder / name / META).is_file()]


def _in_numbers(name: str) -> tuple[str, int]:
    number = re.search(r"\d+$", name)
    return name[: number.start()] if number else name, int(number[0]) if number else -1


def _check(path: Path, meta: Meta, evaluation: dict[str, Any]) -> None:
    """UserError where the arrays of an evaluation do not fit each other and the model."""
    scores, targets, ids = evaluation["scores"], evaluation["targets"], evaluation["ids"]
    shape = (len(ids), len(meta["labels"]))
    metrics, run = evaluation["metrics"], meta["run"]
    numbers = np.issubdtype(scores.dtype, np.floating) and targets.dtype.kind in "fiub" and len(ids) > 0
    if not numbers or scores.shape != shape or targets.shape != shape or len(set(ids.tolist())) < len(ids):
        raise UserError(f"{path}: its scores are damaged: evaluate the model again (stage 3)")
    if type(metrics.get("fold")) not in (int, str) or not isinstance(run.get("data"), str):
        raise UserError(f"{path}: its record has no fold, or no data: copy or evaluate the model again")
    tables = (meta.get("trained"), meta.get("classic", {}), run.get("config"))
    if not all(isinstance(table, dict) for table in tables) or not np.isfinite(scores).all():
        raise UserError(f"{path}: its record or its scores have no numbers: copy or evaluate the model again")


def short_names(folders: Sequence[Path]) -> list[str]:
    """Names that tell the folders apart: their paths without what they share."""
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    shared = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(shared).as_posix() for path in paths]


def refuse_different_data(runs: Sequence[Run], names: Sequence[str]) -> None:
    """UserError for runs whose comparison would say nothing: of several data sets, labels or tasks."""
    first = runs[0].meta
    for name, run in zip(names, runs, strict=True):
        for model in run.models.values():
            other = model.meta
            if other["task"] != first["task"]:
                raise UserError(f"{show(name)}: its task is {other['task']}, that of {show(names[0])} {first['task']}")
            if other["run"]["data"] != first["run"]["data"] or other["labels"] != first["labels"]:
                sizes = f"{len(first['labels'])} labels and {len(other['labels'])}"
                raise UserError(
                    f"{show(names[0])} and {show(name)} are of different data sets ({sizes}, or other clips or folds):"
                    " runs of one prepared data set can be compared"
                )


def common_clips(runs: Sequence[Run], names: Sequence[str]) -> dict[Fold, list[str]]:
    """{fold: ids} of the clips that all runs, with all their seeds, were tested on; in the first run's order.

    UserError where there are none.
    """
    clips: dict[Fold, list[str]] = {}
    for fold in runs[0].folds:
        if all(fold in run.folds for run in runs):
            sets = [set(run.models[seed, fold].evaluation["ids"].tolist()) for run in runs for seed in run.seeds]
            first = runs[0].models[runs[0].seeds[0], fold].evaluation["ids"].tolist()
            if ids := [clip for clip in first if all(clip in one for one in sets)]:
                clips[fold] = ids
    if not clips:
        tested = [
            f"{show(name)}: {', '.join(map(describe_split, run.folds))}" for name, run in zip(names, runs, strict=True)
        ]
        raise UserError(f"no clip was in the test of all runs ({'; '.join(tested)}): compare runs of the same folds")
    return clips


def scores_and_targets(model: Model, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(scores, targets), each [N, C], of these clips, in their order."""
    row = {clip: n for n, clip in enumerate(model.evaluation["ids"].tolist())}
    rows = [row[clip] for clip in ids]
    return model.evaluation["scores"][rows], model.evaluation["targets"][rows]
