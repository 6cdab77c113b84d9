"""Trained models as folders that suffice, and the state from which an interrupted training goes on."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from paddletag import frontend, models, runtime, weights
from paddletag.runtime import UserError

MODEL, META = "model.safetensors", "model.json"


def save_model(folder, model, meta):
    """Write the folder of a trained model: the weights, then `meta` (labels, task, ...) with their checksum."""
    folder = Path(folder)
    weights.write(folder / MODEL, _arrays(model), {})
    sha256 = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
    runtime.write_json(folder / META, {**meta, "front_end": model.front_end.to_dict(), "sha256": sha256})


def read_meta(folder):
    """What is known of the trained model in `folder`: backbone, labels, front end, task, fold, config, versions."""
    return runtime.read_json(Path(folder) / META, f"is {folder} a trained model? (stage 2 makes it)")


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
            "sha256": runtime.read_json(weights.installed(source).with_suffix(".json"), "")["sha256"],
        }
    raise UserError(f"{source}: neither the folder of a trained model nor a backbone ({', '.join(models.ENTRIES)})")


def load_model(source):
    """(model in evaluation mode, its meta data) from a trained folder or a registry name."""
    meta = describe(source)
    if Path(source).is_dir():
        path = Path(source) / MODEL
        if not path.exists():
            raise UserError(f"{path}: no such file: train again, or take a copy of the whole folder")
        if hashlib.sha256(path.read_bytes()).hexdigest() != meta["sha256"]:
            raise UserError(f"{path}: does not match its checksum in {META}: the folder is damaged or half copied")
        model = models.create_model(meta["backbone"], len(meta["labels"]), pretrained=path)
        model.front_end = frontend.from_dict(meta["front_end"])
    else:
        model = models.create_model(source, pretrained=True)
    model.eval()
    return model, meta


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
    """Restore what `save_state` wrote; return its `progress`."""
    import paddle

    arrays = weights.read(path)
    with safe_open(path, "numpy") as file:
        progress = file.metadata()["progress"]
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
    return json.loads(progress)


def _arrays(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}
