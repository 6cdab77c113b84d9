"""The backbones by name: one entry per set of weights, with the front end and the labels that belong to it.

Importing this module does not import paddle, so that features can be extracted and names checked without it.
"""

import fnmatch
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from paddletag.features import frontend, mfcc
from paddletag.models import pretrained_weights
from paddletag.runtime import UserError, log
from paddletag.type_aliases import Arrays, File

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from paddletag.models.backbone import Backbone

AUDIOSET_LABELS = Path(__file__).parents[1] / "assets" / "audioset_labels.txt"
EFFICIENTAT = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"
PANNS = "https://zenodo.org/records/3987831/files/"


@dataclass(frozen=True)
class Entry:
    """What belongs to one set of weights.

    Where the authors' file has no checksum that is known here, it is not downloaded: `paddletag weights` shows
    its address, and takes a copy with --from. Names and shapes are checked in either case.
    """

    name: str
    module: str  # the file in this folder; its class `cls` takes num_classes, front_end and `options`
    cls: str
    front_end: frontend.FrontEnd
    embedding: int  # D of `embed(x)`, [B, D], of which `classify` makes the logits
    url: str  # of the authors' file
    options: dict[str, float] = field(default_factory=dict)
    any_mels: bool = False  # whether another number of mel bands fits the weights
    labels: Path = AUDIOSET_LABELS
    size: int | None = None  # bytes of the authors' file
    sha256: str = ""
    md5: str = ""
    licence: str = ""
    paper: str = ""
    map: float | None = None  # published mAP on AudioSet's evaluation set

    @property
    def counts(self) -> tuple[int, int]:
        """(parameters, MACs of a clip of 10 s), as `backbone.parameters` and `backbone.macs` count them."""
        return _COUNTS[self.name]

    @property
    def checksum(self) -> bool:
        """Whether the authors' file can be told from another one."""
        return bool(self.sha256 or self.md5)


def _mn(
    name: str, width: float, embedding: int, mean_ap: float, front_end: frontend.FrontEnd = frontend.MN, **file: Any
) -> Entry:
    return Entry(
        name, "mobilenet", "MN", front_end, embedding, f"{EFFICIENTAT}{name}_mAP_{1000 * mean_ap:.0f}.pt",
        options={"width": width}, any_mels=True, map=mean_ap,
        licence="MIT", paper="Schmid et al. 2023, arXiv 2211.04772", **file,
    )  # fmt: skip


def _panns(name: str, file: str, embedding: int, mean_ap: float, md5: str, size: int | None = None) -> Entry:
    return Entry(
        name, "panns", name.removeprefix("panns_").upper(), frontend.PANNS, embedding, PANNS + file,
        map=mean_ap, md5=md5, size=size, licence="CC BY 4.0", paper="Kong et al. 2020, arXiv 1912.10211",
    )  # fmt: skip


def _ast(name: str, file: str, mean_ap: float, size: int, sha256: str) -> Entry:
    return Entry(
        name, "ast", "AST", frontend.AST, 768, f"https://www.dropbox.com/s/{file}?dl=1", map=mean_ap,
        size=size, sha256=sha256, licence="BSD-3-Clause", paper="Gong et al. 2021, arXiv 2104.01778",
    )  # fmt: skip


def _hop(milliseconds: int) -> frontend.FrontEnd:
    return frontend.MN.replace(hop_length=32 * milliseconds)  # the window stays, as in EfficientAT


_ENTRIES = [
    _mn("mn01_as", 0.1, 96, 0.298),
    _mn("mn02_as", 0.2, 192, 0.378),
    _mn(
        "mn04_as", 0.4, 384, 0.432, size=4_066_513,
        sha256="899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
    ),
    _mn("mn05_as", 0.5, 480, 0.443),
    _mn(  # EfficientAT publishes no checksums: this one is recorded alike by several projects that use the file
        "mn10_as", 1.0, 960, 0.471, size=19_708_753,
        sha256="0bd7dc2443af498c289a2e739f02ebb515d6aa3fd3ab9db539c86123ae368a4e",
    ),
    _mn("mn20_as", 2.0, 1920, 0.478),
    _mn("mn30_as", 3.0, 2880, 0.482),
    _mn("mn40_as", 4.0, 3840, 0.484),
    _mn("mn40_as_ext", 4.0, 3840, 0.487),  # trained for longer
    _mn("mn10_as_hop_5", 1.0, 960, 0.475, _hop(5)),
    _mn("mn10_as_hop_15", 1.0, 960, 0.463, _hop(15)),
    _mn("mn10_as_hop_20", 1.0, 960, 0.456, _hop(20)),
    _mn("mn10_as_hop_25", 1.0, 960, 0.447, _hop(25)),
    _mn("mn10_as_mels_40", 1.0, 960, 0.453, frontend.MN.replace(n_mels=40)),
    _mn("mn10_as_mels_64", 1.0, 960, 0.461, frontend.MN.replace(n_mels=64)),
    _mn("mn10_as_mels_256", 1.0, 960, 0.474, frontend.MN.replace(n_mels=256)),
    _panns(
        "panns_cnn14", "Cnn14_mAP=0.431.pth", 2048, 0.431, "541141fa2ee191a88f24a3219fff024e", size=327_428_481,
    ),
    _panns("panns_cnn10", "Cnn10_mAP=0.380.pth", 512, 0.380, "bfb1f1f9968938fa8ef4012b8471f5f6"),
    _panns("panns_cnn6", "Cnn6_mAP=0.343.pth", 512, 0.343, "e25e26b84585b14c7754c91e48efc9be"),
    _ast(  # no checksum from the authors either: two projects that use the file record this one
        "ast_base", "ca0b1v2nlxzyeb4/audioset_10_10_0.4593.pth", 0.459, size=352_587_700,
        sha256="dd1042f2a5a283e6fbe5f914678e3ec3ffefe21235c8eec38d186bd7bd6aa995",
    ),
]  # fmt: skip
ENTRIES = {entry.name: entry for entry in _ENTRIES}
_COUNTS = {  # counting them all takes half a minute; a test compares
    "mn01_as": (123_783, 18_146_304),
    "mn02_as": (324_695, 40_316_544),
    "mn04_as": (983_599, 110_643_072),
    "mn05_as": (1_431_239, 159_964_672),
    "mn10_as": (4_876_831, 541_078_208),
    "mn20_as": (17_909_287, 2_059_375_488),
    "mn30_as": (39_086_367, 4_554_880_320),
    "mn40_as": (68_427_303, 8_027_611_904),
    "mn40_as_ext": (68_427_303, 8_027_611_904),
    "mn10_as_hop_5": (4_876_831, 1_071_419_200),
    "mn10_as_hop_15": (4_876_831, 361_174_656),
    "mn10_as_hop_20": (4_876_831, 274_342_912),
    "mn10_as_hop_25": (4_876_831, 218_516_800),
    "mn10_as_mels_40": (4_876_831, 208_038_048),
    "mn10_as_mels_64": (4_876_831, 272_244_384),
    "mn10_as_mels_256": (4_876_831, 1_078_745_856),
    "panns_cnn14": (80_753_615, 20_041_926_656),
    "panns_cnn10": (5_219_279, 13_015_920_128),
    "panns_cnn6": (4_837_455, 9_933_434_368),
    "ast_base": (86_594_063, 130_514_373_888),
}


def list_models(pattern: str = "*") -> list[str]:
    """The names that match a shell pattern such as `mn*`, in the registry's order."""
    return [name for name in ENTRIES if fnmatch.fnmatchcase(name, pattern)]


def entry(name: str) -> Entry:
    """The registry's entry for `name`. UserError that lists the names for one that is not there."""
    if name not in ENTRIES:
        raise UserError(f"no backbone is called {name!r} (model.name); there are: {', '.join(ENTRIES)}")
    return ENTRIES[name]


def front_end(config: "CfgNode") -> frontend.FrontEnd:
    """The front end that a config asks for: MFCC's for `classic.features mfcc`, else the backbone's own; with what
    `features.front_end` replaces.

    UserError for settings that it does not have, or that the backbone cannot take. Logs a warning where the backbone's
    weights were trained with others.
    """
    changed = dict(config.features.front_end)
    if _without_backbone(config):
        return mfcc.MFCC.replace(**changed)
    own = entry(config.model.name)
    front_end = own.front_end.replace(**changed)
    if front_end.n_mels != own.front_end.n_mels and not own.any_mels:
        raise UserError(f"features.front_end.n_mels is {front_end.n_mels}: {own.name} takes {own.front_end.n_mels}")
    changed.pop("pad", None)  # a choice for clips that are too short, not part of how weights see a sound
    if changed and config.model.weights != "none":
        log.warning(
            "the weights of %s were trained with another front end: features.front_end sets %s",
            *(config.model.name, ", ".join(f"{key}={value}" for key, value in changed.items())),
        )
    return front_end


def _without_backbone(config: "CfgNode") -> bool:
    return config.classic.classifier != "none" and config.classic.features == "mfcc"


def weights_path(config: "CfgNode") -> Path | None:
    """The file that `model.weights` means: in the cache, at a path, or None. UserError if it is not there."""
    backbone = entry(config.model.name)
    if config.model.weights == "none":
        return None
    if config.model.weights == "pretrained":
        return pretrained_weights.installed(backbone.name)
    from paddletag import config as configs

    path = configs.find(config.model.weights)
    if not path.is_file():
        raise UserError(f"model.weights: {path}: no such file (besides a path there are: pretrained, none)")
    return path


def warn_of_missing_weights(config: "CfgNode") -> None:
    """Log early what stage 2 would stop at. UserError for a backbone that is not in the registry."""
    entry(config.model.name)
    if _without_backbone(config):
        return
    try:
        weights_path(config)
    except UserError as error:
        log.warning("stage 2 will stop: %s", error)


def audioset_labels(path: File = AUDIOSET_LABELS) -> list[str]:
    """The label names of a registry entry, in the order of its logits."""
    return Path(path).read_text(encoding="utf-8").splitlines()


def create_model(
    name: str,
    num_classes: int | None = None,
    pretrained: bool | File = False,
    seed: int = 0,
    front_end: frontend.FrontEnd | None = None,
) -> "Backbone":
    """The backbone `name` as a paddle layer, with its front end as an attribute.

    num_classes: of the head; default: that of the entry's own labels. With another number the pretrained head is
    replaced by a fresh one (found by its name; any other difference between the weights and the model is an error).
    pretrained: True (the entry's weights, from the cache), False (random, from `seed`), or the path of a file.
    front_end: what its log-mels are to come from; default: the entry's own.
    Raises UserError for an unknown name, weights that are not in the cache, and weights of another architecture.
    """
    import paddle

    description = entry(name)
    own = len(audioset_labels(description.labels))
    if num_classes is not None and num_classes < 1:
        raise UserError(f"num_classes is {num_classes}: a model needs at least one")
    paddle.seed(seed)
    build = getattr(_module(description), description.cls)
    model = build(num_classes or own, front_end or description.front_end, **description.options)
    if pretrained:
        path = pretrained_weights.installed(name) if pretrained is True else Path(pretrained)
        head = () if num_classes in (None, own) else model.head
        load_weights(model, path, head, partial(convert, name))
    return model


def _module(description: Entry) -> ModuleType:
    return importlib.import_module(f"paddletag.models.{description.module}")


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the weights of the registry's entry `name`."""
    return {key: tuple(tensor.shape) for key, tensor in create_model(name).state_dict().items()}


def convert(name: str, arrays: Arrays) -> Arrays:
    """{name: array} as the authors of the registry's entry `name`, or others, have saved it -> as our model has it.

    Arrays that are our model's already are returned as they are. Names that belong to no file of this model stay, for
    `pretrained_weights.require_match` to report.
    """
    return _module(entry(name)).convert(arrays)


def load_weights(
    model: "Backbone", path: File, head: Sequence[str] = (), convert: pretrained_weights.Convert | None = None
) -> None:
    """Copy the weights in the file `path` into `model`, except those named in `head`.

    convert: {name: array} -> {name: array}, for files that may be other than ours. UserError that lists every missing,
    unexpected or mis-shaped name outside the head.
    """
    arrays = pretrained_weights.read(path)
    arrays = convert(arrays) if convert else arrays
    state = model.state_dict()
    pretrained_weights.require_match(arrays, {name: tuple(tensor.shape) for name, tensor in state.items()}, path, head)
    for name, tensor in state.items():
        if name not in head:
            tensor.set_value(arrays[name].astype("float32"))
