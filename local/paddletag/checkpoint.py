"""Trained models as folders that suffice, and the state from which an interrupted training goes on."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from paddletag import config as configs
from paddletag import frontend, models, runtime, weights
from paddletag.runtime import UserError

MODEL, META = "model.safetensors", "model.json"
_META = dict(backbone=str, labels=list, task=str, clip_seconds=float, front_end=dict, run=dict, sha256=str)


def save_model(folder, model, meta):
    """Write the folder of a trained model: the weights, then `meta` (labels, task, ...) with their checksum."""
    folder = Path(folder)
    weights.write(folder / MODEL, _arrays(model), {})
    sha256 = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
    runtime.write_json(folder / META, {**meta, "front_end": model.front_end.to_dict(), "sha256": sha256})


def read_meta(folder):
    """What is known of the trained model in `folder`: backbone, labels, front end, task, fold, config, versions."""
    path = Path(folder) / META
    meta = runtime.read_json(path, f"is {folder} a trained model? (stage 2 makes it)")
    known = meta if isinstance(meta, dict) else {}
    wrong = [key for key, kind in _META.items() if type(known.get(key)) is not kind]
    if wrong:
        raise UserError(f"{path}: does not describe a trained model (no {', '.join(wrong)}): copy or train it again")
    return meta


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
            "min_seconds": 0.3,
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
        model = models.create_model(meta["backbone"], len(meta["labels"]))
        models.load_weights(model, path)  # with its head, which `pretrained` would replace
        model.front_end = front_end(meta)
    else:
        model = models.create_model(source, pretrained=True)
    model.eval()
    return model, meta


def front_end(meta):
    """The front end of a trained model. UserError for settings that this version does not know."""
    try:
        return frontend.from_dict(meta["front_end"])
    except TypeError as error:
        raise UserError(f"{META}: front_end: {error}: was the model trained with another version?") from None


def differences(before, now, prefix=""):
    """The settings in which two runs (`run` in model.json) differ and that change the result, as texts."""
    for key in sorted({*before, *now}):
        name, old, new = f"{prefix}{key}", before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, "" if key == "config" else f"{name}.")
        elif old != new and name not in configs.NOT_IN_RESULT:
            yield f"{name} was {old!r}, is {new!r}"


def save_state(path, model, optimizer, progress):
    """Write all that training needs to go on, as one file that is whole or absent.

    progress: plain values such as the epoch. The optimizer's moments are kept by the structured names of their
    parameters: paddle's automatic ones (`conv2d_17.w_0`) depend on what else was built in the process.
    """
    arrays = {f"model/{name}": array for name, array in _arrays(model).items()}
    state = optimizer.state_dict()
    for name, parameter in model.named_parameters():
        for key in [key for key in state if key.startswith(f"{parameter.name}_")]:
            arrays[f"optimizer/{name}/{key[len(parameter.name) + 1 :]}"] = np.asarray(state[key])
    weights.write(path, arrays, {"progress": json.dumps(progress)})


def load_state(path, model, optimizer):
    """Restore what `save_state` wrote; return its `progress`. UserError for a damaged file."""
    import paddle

    try:
        arrays = weights.read(path)
        with safe_open(path, "numpy") as file:
            progress = json.loads(file.metadata()["progress"])
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{error}; {path}: is no checkpoint to go on from: remove it to train from the start") from None
    state = model.state_dict()
    for name, tensor in state.items():
        tensor.set_value(arrays[f"model/{name}"])
    auto = {name: parameter.name for name, parameter in model.named_parameters()}
    moments = {}
    for key, array in arrays.items():
        if key.startswith("optimizer/"):
            _, name, moment = key.split("/")
            moments[f"{auto[name]}_{moment}"] = paddle.to_tensor(array)
    optimizer.set_state_dict(moments)
    return progress


def _arrays(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}
