"""Trained models as folders that suffice to use them."""

import hashlib
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddletag.features import frontend, mfcc
from paddletag.files import read_json, write_json
from paddletag.models import calibration, classic, pretrained_weights, registry
from paddletag.runtime import UserError
from paddletag.type_aliases import Arrays, File, Meta
from paddletag.typed_values import LONGEST, TASKS, typed

if TYPE_CHECKING:
    from paddle import nn

    from paddletag.models.backbone import Backbone

MODEL, META = "model.safetensors", "model.json"
CLIPS = "clips.jsonl.gz"  # what the model is made from, clip by clip
IN_A_RUN = ("fold*", "test", "valid", "seed*/fold*", "seed*/test", "seed*/valid")  # where a run's folder has its models
SHOWN = 8  # models of a run that an error names
_META: dict[str, type] = dict(
    backbone=str, labels=list, task=str, clip_seconds=float, front_end=dict, run=dict, sha256=str
)


def save_model(folder: File, model: "Backbone", meta: Meta) -> None:
    """Write the folder of a trained model: the weights, then `meta` (labels, task, ...) with their checksum."""
    save_arrays(folder, model_arrays(model), model.front_end, meta)


def save_arrays(folder: File, arrays: Arrays, front_end: frontend.FrontEnd, meta: Meta) -> None:
    """`save_model` for any model that is {name: array}."""
    folder = Path(folder)
    (folder / calibration.CALIBRATION).unlink(missing_ok=True)  # of the weights of before
    pretrained_weights.write(folder / MODEL, arrays, {})
    sha256 = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
    write_json(folder / META, {**meta, "front_end": front_end.to_dict(), "sha256": sha256})


def read_meta(folder: File) -> Meta:
    """What is known of the trained model in `folder`: backbone, labels, front end, task, fold, config, versions.

    The folder may be a stranger's: UserError for what is no such description, or would cost more than sound should.
    """
    meta = read_recorded_meta(folder)
    return {**meta, "run": current_form(meta["run"], Path(folder) / META)}


def read_recorded_meta(folder: File) -> Meta:
    """`read_meta` with the record of the run as it was written: see `current_form`."""
    path = Path(folder) / META
    meta = read_json(path, f"is {folder} a trained model? (stage 2 makes it)")
    wrong = [key for key, kind in _META.items() if type(meta.get(key)) is not kind]
    if wrong:
        raise UserError(f"{path}: does not describe a trained model (no {', '.join(wrong)}): copy or train it again")
    if any(type(label) is not str for label in meta["labels"]) or meta["task"] not in TASKS:
        raise UserError(f"{path}: has labels that are not text, or another task: copy or train it again")
    for key in ("clip_seconds", "min_seconds"):
        seconds = meta.get(key, meta["clip_seconds"])
        if type(seconds) not in (int, float) or not 0 < seconds <= LONGEST:
            raise UserError(f"{path}: {key} must be a number up to {LONGEST}: copy or train it again")
    try:
        saved_front_end(meta)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return meta


def current_form(run: Meta, path: Path) -> Meta:
    """The record of a run, read from `path`, as it is written now: a setting that was not there yet has its default,
    under which nothing changed; and once, train.batch_size counted the clips of one process and pass.
    """
    from paddletag import config as configs  # it needs packages that tagging with a backbone does not

    config = _with_defaults(run.get("config", {}), configs.to_dict(configs.defaults()))
    settings = config.get("train") if isinstance(config, dict) else None
    keys = ("batch_size", "accumulate")
    settings = settings if isinstance(settings, dict) else {}
    factors = [run.get("processes", 1), *(settings.get(key) for key in keys)]
    if not all(type(factor) is int and 0 < factor < 10**6 for factor in factors):
        raise UserError(f"{path}: its record of the run is damaged: copy or train the model again")
    if run.get("batch") != "step":
        config = {**config, "train": {**settings, "batch_size": math.prod(factors)}}
    return {**run, "batch": "step", "config": config}


def _with_defaults(tree: Any, defaults: Any) -> Any:
    if not isinstance(tree, dict) or not isinstance(defaults, dict):
        return tree
    return {**defaults, **{key: _with_defaults(value, defaults.get(key)) for key, value in tree.items()}}


def is_folder(source: File) -> bool:
    """Whether a model's name means a folder: a folder called as a backbone, and without a model in it, hides none."""
    return Path(source).is_dir() and (str(source) not in registry.ENTRIES or (Path(source) / META).is_file())


def find_model(source: File) -> File:
    """The folder of a trained model that `source` means: itself, or the only one in the folder of a run (exp/mn04).

    A backbone's name, and what holds no model, is returned as it is. UserError, with their names, for several models.
    """
    folder = Path(source)
    if not is_folder(source) or (folder / META).is_file():
        return source
    names = models_of_run(folder)
    if len(names) > 1:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise UserError(f"{source} holds {', '.join(names[:SHOWN])}{more}: name one, such as {folder / names[0]}")
    return folder / names[0] if names else source


def models_of_run(folder: File) -> list[str]:
    """The trained models in the folder of a run: fold1, fold2 ..., test, seed0/fold1 ..., by number."""
    paths = [path.parent for place in IN_A_RUN for path in Path(folder).glob(f"{place}/{META}")]
    names = [str(path.relative_to(folder)) for path in paths]
    return sorted(names, key=lambda name: [int(n) if n.isdecimal() else n for n in re.split(r"(\d+)", name)])


def describe_folder(folder: File) -> Meta:
    """`read_meta`, with `calibration` where there is one. UserError as of both, and for what is no trained model."""
    meta = read_meta(folder)
    calibrated = calibration.read(folder, meta)
    return {**meta, "calibration": calibrated} if calibrated else meta


def describe_model(source: File) -> Meta:
    """The meta data of a trained folder, or of the only one in a run's folder, or of a registry name (`mn04_as`).

    Its weights are not loaded. That of a calibrated model has `calibration`, as `calibration.read` gives it. UserError
    where there is no such model, or where there are several.
    """
    source = find_model(source)
    if is_folder(source):
        return describe_folder(source)
    name = str(source)
    if name in registry.ENTRIES:
        entry = registry.entry(name)
        return {
            "backbone": name,
            "labels": registry.audioset_labels(entry.labels),
            "front_end": entry.front_end.to_dict(),
            "task": "multi_label",
            "clip_seconds": 10.0,  # AudioSet's
            "min_seconds": 5.0,  # repeated, shorter sounds are recognised better: docs/padding.md
            "sha256": read_json(pretrained_weights.installed(name).with_suffix(".json"), "")["sha256"],
        }
    backbones = ", ".join(registry.list_models())
    raise UserError(f"{source}: neither the folder of a trained model (stage 2 makes it) nor a backbone: {backbones}")


def load_model(
    source: File, front_end: frontend.FrontEnd | None = None, meta: Meta | None = None
) -> "tuple[Backbone | classic.Classic, Meta]":
    """(model in evaluation mode, its meta data) from what `describe_model` takes.

    front_end: in place of its own, to fill short sounds in another way. meta: of a trained folder, as `read_meta` gives
    it; None: as `describe_model` does. UserError for a folder that is damaged, or
    weights that are not installed.
    """
    source = find_model(source)
    meta = meta or describe_model(source)
    front_end = front_end or saved_front_end(meta)
    model: Backbone | classic.Classic
    if not is_folder(source):
        model = registry.create_model(meta["backbone"], pretrained=True, front_end=front_end)
    else:
        path = Path(source) / MODEL
        if not path.exists():
            raise UserError(f"{path}: no such file: train again, or take a copy of the whole folder")
        if hashlib.sha256(path.read_bytes()).hexdigest() != meta["sha256"]:
            raise UserError(f"{path}: does not match its checksum in {META}: the folder is damaged or half copied")
        if "classic" in meta:
            model = classic.load(meta, pretrained_weights.read(path), front_end, path)
        else:
            if 4 * registry.entry(meta["backbone"]).embedding * len(meta["labels"]) > path.stat().st_size:
                raise UserError(f"{path}: is too small for the {len(meta['labels'])} labels in {META}: copy it again")
            model = registry.create_model(meta["backbone"], len(meta["labels"]), front_end=front_end)
            registry.load_weights(model, path)  # with its head, which `pretrained` would replace
    model.eval()
    return model, meta


def saved_front_end(meta: Meta) -> frontend.FrontEnd:
    """The front end of a trained model. UserError for settings that this version does not know, or none has."""
    settings = meta["front_end"]
    try:
        settings = {
            key: typed(value, getattr(frontend.MN, key, value), f"front_end.{key}") for key, value in settings.items()
        }
        kind = mfcc.MfccFrontEnd if settings.get("name") == mfcc.MFCC.name else frontend.FrontEnd
        front_end = kind(**settings)
    except TypeError as error:
        raise UserError(f"front_end: {error}: was the model trained with another version?") from None
    # Each sample of a sound costs in proportion to the rate, to n_fft / hop_length and to n_mels.
    longest = min(2**16, 64 * front_end.hop_length, 2**23 // front_end.n_mels)
    rate_is_of_sound = 1000 <= front_end.sample_rate <= 400_000
    if not (rate_is_of_sound and front_end.n_fft <= longest and math.isfinite(front_end.mean + front_end.floor)):
        raise UserError("front_end: its sample_rate, n_fft, hop_length or n_mels are not those of sound")
    return front_end


def model_arrays(model: "nn.Layer") -> Arrays:
    """The model's state as float32 arrays (integers stay)."""
    state = model.state_dict().items()
    return {name: (t.astype("float32") if t.is_floating_point() else t).numpy() for name, t in state}
