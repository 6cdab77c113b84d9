"""What a folder of a model was trained with: whether a run is the same as before, and what it has met."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from paddletag import config as configs
from paddletag.data.splits import describe_split
from paddletag.files import atomic, read_json
from paddletag.models.model_folder import META, MODEL, current_form, read_meta, read_recorded_meta
from paddletag.runtime import UserError, log
from paddletag.training import distributed
from paddletag.type_aliases import Meta

NOT_OF_TRAINING = (".", "train.", "metrics", "scores", "report", "confusion")  # names of logs, locks, evaluations
OF_FEATURES = ("data.clip_seconds", "features.", "classic.features", "model.name")  # with these, features change too


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The settings in which two runs (`run` in model.json) differ and that change the result, as texts."""
    for key in sorted({*before, *now}):
        name, old, new = f"{prefix}{key}", before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, "" if key == "config" else f"{name}.")
        elif old != new and name not in configs.NOT_IN_RESULT:
            yield f"{name} was {old!r}, is {new!r}"


def refuse_another_run(
    exp: Path, run: Meta, extend: bool = False, describe_changes: Callable[[], str] | None = None
) -> None:
    """UserError if what `exp` holds, finished or not, was trained in another way than `run`.

    extend: more epochs are no other way; UserError if they are asked for and there is no checkpoint to go on from.
    describe_changes: a function that says how the clips differ from those of `exp` / CLIPS (`clip_list.changes`).
    """
    recorded = _recorded_run(exp)
    if recorded is None:
        return
    before = current_form(recorded, exp)
    now = run if run["weights"] else {**run, "weights": before.get("weights")}
    epochs, wanted = _epochs(before), _epochs(run)
    longer = extend and wanted > epochs
    if longer:
        now = {**now, "config": {**now["config"], "train": {**now["config"]["train"], "epochs": epochs}}}
    data_keys = [key for key in ("data", "sound") if before.get(key) != now[key]]
    changed = list(differences(before, {**now, **{key: before.get(key) for key in data_keys}}))
    if data_keys and not (data_keys == ["sound"] and any(text.startswith(OF_FEATURES) for text in changed)):
        changed.insert(0, describe_changes() if describe_changes else "with other clips")
    if changed:
        hint, clips = "", before["config"]["train"]["batch_size"]
        if clips != recorded["config"]["train"]["batch_size"] and run["config"]["train"]["batch_size"] != clips:
            hint = f" (train.batch_size counts the clips of a whole step now: {clips} is what this run had)"
        if not extend and wanted > epochs and len(changed) == 1:
            hint = " (--extend true goes on from its last checkpoint)"
        raise UserError(
            f"{exp}: was trained in another way: {'; '.join(changed)}: choose another --exp, or remove this folder"
            f"{hint}"
        )
    last = exp / "checkpoints" / "last.safetensors"
    if longer and not last.exists():
        raise UserError(f"{last}: no such file: there is nothing to extend")


def is_done(exp: Path, run: Meta, what: str, extend: bool = False) -> bool:
    """Whether there is nothing to train: the run is finished in `exp`, or elsewhere, and then rank 0 copies it there.

    what: the run in a few words, for the log. extend: as for `refuse_another_run`, which has let `exp` pass.
    """
    if _is_finished(exp, run, extend):
        log.info("%s is up to date: %s", exp, what)
        return True
    same = _same_run(exp, run)
    if same and distributed.rank() == 0:
        _copy_run(same, exp)
    return same is not None


def refuse_leaking_weights(file: Path | None, fold: int | str, data: str) -> None:
    """UserError for weights that were fine-tuned on clips of the fold that is to be held out, or chosen by them.

    file: the weights, which may be those of a trained model's folder. data: `manifest.digest` of the clips.
    """
    if file and (file.parent / META).exists():
        before = read_meta(file.parent)["run"]
        if before.get("data") == data and before.get("fold") != fold:
            met = f"{file} has met {describe_split(fold)} of this data"
            raise UserError(f"model.weights: {met}: no test would mean anything")


def _recorded_run(exp: Path) -> Meta | None:
    """The record of the run in `exp`, as it was written; None where there is none. UserError for a damaged one."""
    checkpoints = exp / "checkpoints"
    hint = f"remove {checkpoints} to train from the start"
    if (exp / META).exists():
        recorded = read_recorded_meta(exp)["run"]
    elif (checkpoints / "last.safetensors").exists():
        recorded = read_json(checkpoints / "run.json", hint)
    else:
        return None
    if "config" not in recorded:
        raise UserError(f"{exp}: its record of the run is damaged: {hint}")
    return recorded


def _epochs(run: Meta) -> int:
    return run["config"]["train"]["epochs"]


def _is_finished(exp: Path, run: Meta, extend: bool = False) -> bool:
    """Whether `exp`, which `refuse_another_run` lets pass, holds a finished model.

    extend: a run that was trained for fewer epochs is not finished, and goes on from its last checkpoint.
    """
    if not (exp / META).exists() or not (exp / MODEL).exists():
        return False
    return not extend or _epochs(run) <= _epochs(read_meta(exp)["run"])


def _same_run(exp: Path, run: Meta) -> Path | None:
    """The folder of a finished run that is `run`, and lies where `exp` would lie with or without --seeds; or None.

    exp/seed0/fold1 and exp/fold1 are the same run where the config's seed is 0 and all other settings are the same.
    """
    seed = f"seed{run['config']['train']['seed']}"
    other = exp.parents[1] / exp.name if exp.parent.name == seed else exp.parent / seed / exp.name
    if not _is_finished(other, run):
        return None
    before = current_form(read_recorded_meta(other)["run"], other)
    return None if list(differences(before, {**run, "weights": run["weights"] or before.get("weights")})) else other


def _copy_run(source: Path, exp: Path) -> None:
    """Copy the finished run in the folder `source` to `exp`, without its logs and what stage 3 has made of it."""
    files = [path for path in source.rglob("*") if path.is_file() and not path.name.startswith(NOT_OF_TRAINING)]
    last = ("last.safetensors", META)  # the one without its run.json, or the other without the rest, would be damaged
    for path in sorted(files, key=lambda path: last.index(path.name) if path.name in last else -1):
        with atomic(exp / path.relative_to(source)) as temporary:
            shutil.copyfile(path, temporary)
    log.info("%s is the same run: copied it to %s", source, exp)
