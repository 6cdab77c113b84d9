"""Trained models as folders that suffice, and the state from which an interrupted training goes on."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
from safetensors import safe_open

from paddletag import classic, frontend, manifest, models, runtime, weights
from paddletag import config as configs
from paddletag.runtime import UserError

MODEL, META = "model.safetensors", "model.json"
CLIPS = "clips.jsonl.gz"  # what the model is made from, clip by clip
OF_FEATURES = ("data.clip_seconds", "features.", "classic.features", "model.name")  # with these, features change too
STATISTICS = ("._mean", "._variance")  # how the names of BatchNorm's running statistics end
_META = dict(backbone=str, labels=list, task=str, clip_seconds=float, front_end=dict, run=dict, sha256=str)


def save_model(folder, model, meta):
    """Write the folder of a trained model: the weights, then `meta` (labels, task, ...) with their checksum."""
    save_arrays(folder, _arrays(model), model.front_end, meta)


def save_arrays(folder, arrays, front_end, meta):
    """`save_model` for any model that is {name: array}."""
    folder = Path(folder)
    weights.write(folder / MODEL, arrays, {})
    sha256 = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
    runtime.write_json(folder / META, {**meta, "front_end": front_end.to_dict(), "sha256": sha256})


def read_meta(folder):
    """What is known of the trained model in `folder`: backbone, labels, front end, task, fold, config, versions.

    The folder may be a stranger's: UserError for what is no such description, or would cost more than sound should.
    """
    meta = _read_meta(folder)
    return {**meta, "run": as_of_now(meta["run"], Path(folder) / META)}


def _read_meta(folder):
    path = Path(folder) / META
    meta = runtime.read_json(path, f"is {folder} a trained model? (stage 2 makes it)")
    known = meta if isinstance(meta, dict) else {}
    wrong = [key for key, kind in _META.items() if type(known.get(key)) is not kind]
    if wrong:
        raise UserError(f"{path}: does not describe a trained model (no {', '.join(wrong)}): copy or train it again")
    if any(type(label) is not str for label in meta["labels"]) or meta["task"] not in configs.CHOICES["task"]:
        raise UserError(f"{path}: has labels that are not text, or another task: copy or train it again")
    for key in ("clip_seconds", "min_seconds"):
        seconds = meta.get(key, meta["clip_seconds"])
        if type(seconds) not in (int, float) or not 0 < seconds <= configs.LONGEST:
            raise UserError(f"{path}: {key} must be a number up to {configs.LONGEST}: copy or train it again")
    try:
        front_end(meta)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return meta


def as_of_now(run: dict, path: Path) -> dict:
    """The record of a run, read from `path`, as it is written now: a setting that was not there yet has its default,
    under which nothing changed; and once, train.batch_size counted the clips of one process and pass.
    """
    config = _with_defaults(run.get("config", {}), configs.to_dict(configs.defaults()))
    settings = config.get("train") if isinstance(config, dict) else None
    keys = ("batch_size", "accumulate")
    factors = [run.get("processes", 1), *(settings.get(key) if isinstance(settings, dict) else None for key in keys)]
    if not all(type(factor) is int and 0 < factor < 10**6 for factor in factors):
        raise UserError(f"{path}: its record of the run is damaged: copy or train the model again")
    if run.get("batch") != "step":
        config = {**config, "train": {**settings, "batch_size": math.prod(factors)}}
    return {**run, "batch": "step", "config": config}


def _with_defaults(tree, defaults):
    if not isinstance(tree, dict) or not isinstance(defaults, dict):
        return tree
    return {**defaults, **{key: _with_defaults(value, defaults.get(key)) for key, value in tree.items()}}


def describe(source):
    """The meta data of a trained folder or a registry name (`mn04_as`), without loading its weights."""
    if Path(source).is_dir():
        return read_meta(source)
    if source in models.ENTRIES:
        entry = models.entry(source)
        return {
            "backbone": source,
            "labels": models.audioset_labels(entry.labels),
            "front_end": entry.front_end.to_dict(),
            "task": "multi_label",
            "clip_seconds": 10.0,  # AudioSet's
            "min_seconds": 5.0,  # repeated, shorter sounds are recognised better: docs/padding.md
            "sha256": runtime.read_json(weights.installed(source).with_suffix(".json"), "")["sha256"],
        }
    backbones = ", ".join(models.list_models())
    raise UserError(f"{source}: neither the folder of a trained model (stage 2 makes it) nor a backbone: {backbones}")


def load_model(source):
    """(model in evaluation mode, its meta data) from a trained folder or a registry name."""
    meta = describe(source)
    if Path(source).is_dir():
        path = Path(source) / MODEL
        if not path.exists():
            raise UserError(f"{path}: no such file: train again, or take a copy of the whole folder")
        if hashlib.sha256(path.read_bytes()).hexdigest() != meta["sha256"]:
            raise UserError(f"{path}: does not match its checksum in {META}: the folder is damaged or half copied")
        if "classic" in meta:
            model = classic.load(meta, weights.read(path), front_end(meta), path)
        else:
            if 4 * models.entry(meta["backbone"]).embedding * len(meta["labels"]) > path.stat().st_size:
                raise UserError(f"{path}: is too small for the {len(meta['labels'])} labels in {META}: copy it again")
            model = models.create_model(meta["backbone"], len(meta["labels"]))
            models.load_weights(model, path)  # with its head, which `pretrained` would replace
            model.front_end = front_end(meta)
    else:
        model = models.create_model(source, pretrained=True)
    model.eval()
    return model, meta


def front_end(meta):
    """The front end of a trained model. UserError for settings that this version does not know, or none has."""
    settings = meta["front_end"]
    try:
        settings = {
            key: configs.typed(value, getattr(frontend.MN, key, value), f"front_end.{key}")
            for key, value in settings.items()
        }
        kind = classic.MfccFrontEnd if settings.get("name") == classic.MFCC.name else frontend.FrontEnd
        found = kind(**settings)
    except TypeError as error:
        raise UserError(f"front_end: {error}: was the model trained with another version?") from None
    # Each sample of a sound costs in proportion to the rate, to n_fft / hop_length and to n_mels.
    most = min(2**16, 64 * found.hop_length, 2**23 // found.n_mels)
    if not (1000 <= found.sample_rate <= 400_000 and found.n_fft <= most and math.isfinite(found.mean + found.floor)):
        raise UserError("front_end: its sample_rate, n_fft, hop_length or n_mels are not those of sound")
    return found


def differences(before, now, prefix=""):
    """The settings in which two runs (`run` in model.json) differ and that change the result, as texts."""
    for key in sorted({*before, *now}):
        name, old, new = f"{prefix}{key}", before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, "" if key == "config" else f"{name}.")
        elif old != new and name not in configs.NOT_IN_RESULT:
            yield f"{name} was {old!r}, is {new!r}"


def finished(exp, run, extend=False, what_changed=None):
    """Whether `exp` holds a finished run of the same kind. UserError if what it holds was trained in another way.

    extend: a run that was trained for fewer epochs is not finished, and goes on from its last checkpoint.
    what_changed: a function that says how the clips differ from those of `exp` / CLIPS (`manifest.changes`).
    """
    done, checkpoints = (exp / META).exists(), exp / "checkpoints"
    if not done and not (checkpoints / "last.safetensors").exists():
        return False
    hint = f"remove {checkpoints} to train from the start"
    recorded = _read_meta(exp)["run"] if done else runtime.read_json(checkpoints / "run.json", hint)
    if "config" not in recorded:
        raise UserError(f"{exp}: its record of the run is damaged: {hint}")
    before = as_of_now(recorded, exp)
    now = run if run["weights"] else {**run, "weights": before.get("weights")}
    epochs, wanted = before["config"]["train"]["epochs"], run["config"]["train"]["epochs"]
    longer = extend and wanted > epochs
    if longer:
        now = {**now, "config": {**now["config"], "train": {**now["config"]["train"], "epochs": epochs}}}
    data_keys = [key for key in ("data", "sound") if before.get(key) != now[key]]
    changed = list(differences(before, {**now, **{key: before.get(key) for key in data_keys}}))
    if data_keys and not (data_keys == ["sound"] and any(text.startswith(OF_FEATURES) for text in changed)):
        changed.insert(0, what_changed() if what_changed else "with other clips")
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
    if longer and not (checkpoints / "last.safetensors").exists():
        raise UserError(f"{checkpoints / 'last.safetensors'}: no such file: there is nothing to extend")
    return done and not longer and (exp / MODEL).exists()


def refuse_leaking_weights(file, fold, data):
    """UserError for weights that were fine-tuned on clips of the fold that is to be held out, or chosen by them."""
    if file and (file.parent / META).exists():
        before = read_meta(file.parent)["run"]
        if before.get("data") == data and before.get("fold") != fold:
            met = f"{file} has met {manifest.words(fold)} of this data"
            raise UserError(f"model.weights: {met}: no test would mean anything")


def save_weights(path, model):
    """The weights alone, as one file that is whole or absent."""
    weights.write(path, _arrays(model), {})


def load_weights(path, model):
    """Restore what `save_weights` wrote."""
    _fill(model, weights.read(path))


def save_state(path, model, optimizer, progress, scaler=None, average=None):
    """Write all that training needs to go on, as one file that is whole or absent.

    progress: plain values such as the epoch. The optimizer's moments are kept by the structured names of their
    parameters: paddle's automatic ones (`conv2d_17.w_0`) depend on what else was built in the process.
    average: an `optim.Average`.
    """
    state = optimizer.state_dict()
    arrays = {f"model/{name}": array for name, array in _arrays(model).items()}
    for name, parameter in model.named_parameters():
        for key in [key for key in state if key.startswith(f"{parameter.name}_")]:
            moment = key[len(parameter.name) + 1 :].rpartition("_")[0] + "_0"  # 1, where another optimizer was before
            arrays[f"optimizer/{name}/{moment}"] = np.asarray(state[key])
    if average:
        arrays.update((f"average/{name}", tensor.numpy()) for name, tensor in average.state.items())
        progress = {**progress, "averaged": average.updates}
    if scaler is not None and scaler.is_enable():
        scale = {key: np.asarray(value).tolist() for key, value in scaler.state_dict().items()}
        progress = {**progress, "scaler": scale}
    weights.write(path, arrays, {"progress": json.dumps(progress)})


class Saved:
    """What `load_state` has read: `progress`, and the optimizer's share, for when there is an optimizer."""

    def __init__(self, arrays, progress):
        self.arrays, self.progress = arrays, progress

    def restore(self, model, optimizer):
        """Give the optimizer its moments back."""
        import paddle

        auto = {name: parameter.name for name, parameter in model.named_parameters()}
        state = {}
        for key, array in self.arrays.items():
            if key.startswith("optimizer/"):
                _, name, moment = key.split("/")
                state[f"{auto[name]}_{moment}"] = paddle.to_tensor(array)
        optimizer.set_state_dict(state)


def load_state(path, model, scaler=None, average=None):
    """Restore what `save_state` wrote, but for the optimizer's share: a `Saved`. UserError for a damaged file."""
    try:
        arrays = weights.read(path)
        with safe_open(path, "numpy") as file:
            progress = json.loads(file.metadata()["progress"])
        _fill(model, {name: arrays[f"model/{name}"] for name in model.state_dict()})
        if average:
            average.load({name: arrays[f"average/{name}"] for name in average.state}, progress.pop("averaged"))
        if scaler is not None and scaler.is_enable():
            known = progress.pop("scaler")
            scaler.load_state_dict({**known, "scale": np.array(known["scale"], np.float32)})
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{error}; {path}: is no checkpoint to go on from: remove it to train from the start") from None
    return Saved(arrays, progress)


def _arrays(model):
    """The model's state as float32 arrays (integers stay)."""
    state = model.state_dict().items()
    return {name: (t.astype("float32") if t.is_floating_point() else t).numpy() for name, t in state}


def _fill(model, arrays):
    """Set the model's state from arrays, in its own precision."""
    import paddle

    for name, tensor in model.state_dict().items():
        tensor.set_value(paddle.to_tensor(arrays[name]).astype(tensor.dtype))
