"""The backbones by name: one entry per set of weights, with the front end and the labels that belong to it.

Importing this module does not import paddle, so that features can be extracted and names checked without it.
"""

import fnmatch
import importlib
from dataclasses import dataclass, field
from pathlib import Path

from paddletag import frontend, weights
from paddletag.runtime import UserError, log

AUDIOSET_LABELS = Path(__file__).parents[1] / "assets" / "audioset_labels.txt"
EFFICIENTAT = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"


@dataclass(frozen=True)
class Entry:
    """What belongs to one set of weights. `url` is empty where only the architecture is known here."""

    name: str
    module: str  # the file in this folder; its class `cls` takes num_classes and `options`
    cls: str
    front_end: frontend.FrontEnd
    options: dict = field(default_factory=dict)
    labels: Path = AUDIOSET_LABELS
    url: str = ""
    sha256: str = ""
    licence: str = ""
    paper: str = ""
    map: float | None = None  # published mAP on AudioSet's evaluation set


def _mn(name, width, **known):
    paper = "Schmid et al. 2023, arXiv 2211.04772"
    return Entry(name, "mobilenet", "MN", frontend.MN, {"width": width}, licence="MIT", paper=paper, **known)


_ENTRIES = [
    _mn("mn01_as", 0.1),
    _mn("mn02_as", 0.2),
    _mn(
        "mn04_as",
        0.4,
        url=EFFICIENTAT + "mn04_as_mAP_432.pt",
        sha256="899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
        map=0.432,
    ),
    _mn("mn05_as", 0.5),
    _mn("mn10_as", 1.0),
    _mn("mn20_as", 2.0),
    _mn("mn30_as", 3.0),
    _mn("mn40_as", 4.0),
]
ENTRIES = {entry.name: entry for entry in _ENTRIES}


def list_models(pattern="*"):
    """The names that match a shell pattern such as `mn*`, in the registry's order."""
    return [name for name in ENTRIES if fnmatch.fnmatchcase(name, pattern)]


def entry(name):
    """The registry's entry for `name`. UserError that lists the names for one that is not there."""
    if name not in ENTRIES:
        raise UserError(f"model.name: no backbone is called {name!r}; there are: {', '.join(ENTRIES)}")
    return ENTRIES[name]


def front_end(config):
    """The front end that a config asks for: the backbone's own, with a warning where settings replace it."""
    own = entry(config.model.name).front_end
    changed = dict(config.features.front_end)
    front_end = own.replace(**changed)
    if changed:
        log.warning(
            "the weights of %s were trained with another front end: features.front_end sets %s",
            *(config.model.name, ", ".join(f"{key}={value}" for key, value in changed.items())),
        )
    return front_end


def warn_of_missing_weights(config):
    """Say early what stage 2 would stop at: pretrained weights that are not in the cache."""
    entry(config.model.name)
    if config.model.weights == "pretrained":
        try:
            weights.installed(config.model.name)
        except UserError as error:
            log.warning("stage 2 will stop: %s", error)


def audioset_labels(path=AUDIOSET_LABELS):
    """The label names of a registry entry, in the order of its logits."""
    return Path(path).read_text(encoding="utf-8").splitlines()


def create_model(name, num_classes=None, pretrained=False, seed=0):
    """The backbone `name` as a paddle layer, with `front_end` and `layout` as attributes.

    num_classes: of the head; default: that of the entry's own labels. With another number the pretrained head is
    replaced by a fresh one (found by its name; any other difference between the weights and the model is an error).
    pretrained: True (the entry's weights, from the cache), False (random, from `seed`), or the path of a file.
    Raises UserError for an unknown name, weights that are not in the cache, and weights of another architecture.
    """
    import paddle

    known = entry(name)
    own = len(audioset_labels(known.labels))
    paddle.seed(seed)
    build = getattr(importlib.import_module(f"paddletag.models.{known.module}"), known.cls)
    model = build(num_classes or own, **known.options)
    model.front_end = known.front_end
    if pretrained:
        if pretrained is True and not known.url:
            raise UserError(f"model.weights: no pretrained weights of {name} are known here: use none, or a path")
        path = weights.installed(name) if pretrained is True else Path(pretrained)
        head = () if num_classes in (None, own) else model.head
        load_weights(model, path, head)
    return model


def set_bn_momentum(model, momentum):
    """Let BatchNorm keep the share `momentum` of its running statistics at each step.

    Published backbones keep 0.99 of theirs: right for a hundred thousand steps, but after a few hundred steps from
    random weights such statistics still show the beginning.
    """
    from paddle import nn

    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer._momentum = momentum


def shapes(name):
    """{name: shape} of the weights of the registry's entry `name`."""
    return {key: tuple(tensor.shape) for key, tensor in create_model(name).state_dict().items()}


def load_weights(model, path, head=()):
    """Copy the weights in the file `path` into `model`, except those named in `head`.

    UserError that lists every missing, unexpected or mis-shaped name outside the head.
    """
    arrays = weights.read(path)
    if any(name.endswith("running_mean") for name in arrays):
        arrays = weights.from_torch(arrays)
    state = model.state_dict()
    weights.match(arrays, {name: tuple(tensor.shape) for name, tensor in state.items()}, path, head)
    for name, tensor in state.items():
        if name not in head:
            tensor.set_value(arrays[name].astype("float32"))
