"""Every setting of a recipe with its default. A recipe's YAML lists only what differs; `--opts` overrides both."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from paddletag.runtime import UserError
from paddletag.type_aliases import File
from paddletag.typed_values import LONGEST, TASKS, typed

_C = CfgNode()

_C.task = "single_label"  # single_label | multi_label: chooses loss, activation and metrics together

_C.data = CfgNode()
_C.data.name = ""  # of the data set, for people: each model's card (README.md in its folder) has it
_C.data.licence = ""  # of the data set, or where to read it; for the card too
_C.data.url = ""  # archive that stage 0 downloads when no --raw is given
_C.data.md5 = ""  # of that archive
_C.data.root = ""  # the folder inside the archive that holds the data set
_C.data.layout = "csv"  # csv: a table | folders: names that tell | audioset: segments CSVs | paths: lines `path label`
_C.data.metadata = ""  # table or list; {train: FILE, valid: FILE, test: FILE}: of each split; A | B; empty: --raw is it
_C.data.delimiter = ""  # between the table's columns; empty: a tab in .tsv, else what the header has
_C.data.audio = ""  # a row's file, {column} its value; folders: pattern of the files' paths; audioset: their folder
_C.data.label = ""  # column (or field of the pattern) of the label; for multi_label, names separated by ;
_C.data.labels = ""  # file of the labels in order: a name per line, or AudioSet's index,mid,display_name
_C.data.index = ""  # column of the label's number, which gives the labels' order; empty: by name
_C.data.fold = ""  # column of the fold: numbers, or names (each is held out in turn: fold 1 is the first by name)
_C.data.split = ""  # column that says train, valid or test
_C.data.split_lists = ""  # {train: FILE, valid: FILE, test: FILE}: ids, a line each; clips on no list are left out
_C.data.folds = 0  # so many folds with equal shares of every label, groups kept whole; 0: the data set says
_C.data.seed = 0  # of data.folds
_C.data.group = ""  # column of what must not lie on both sides of a split, such as the recording or the speaker
_C.data.start = ""  # column of the second at which a clip starts in its file
_C.data.end = ""  # column of the second at which it ends
_C.data.clip_seconds = 5.0  # length of what the model sees at once, up to 600; longer clips are cropped or windowed
_C.data.max_missing = 0.0  # share of the listed clips (audioset, split_lists) that may have no file
_C.data.max_rejected = 0  # how many unusable files to leave out (listed in rejected.jsonl) before giving up
_C.data.check_sound = 20000  # stage 0 decodes data sets of up to so many clips, to find silence and copies

_C.model = CfgNode()
_C.model.name = "mn04_as"  # a backbone of paddletag.models
_C.model.weights = "pretrained"  # pretrained | none | path of a weight file
_C.model.freeze = "none"  # none | all: the head alone is trained, on embeddings computed once | so many first stages
_C.model.freeze_bn = False  # BatchNorm keeps its statistics and weights, as in evaluation
_C.model.sync_bn = False  # BatchNorm over the clips of all GPUs instead of each one's own
_C.model.bn_momentum = 0.0  # share of the old running statistics that BatchNorm keeps at a step; 0: the backbone's own

_C.features = CfgNode()
_C.features.front_end = CfgNode(new_allowed=True)  # settings that replace those of the backbone's own front end
_C.features.shard_size = 512  # clips per file
_C.features.online = False  # compute log-mels from the sound in every epoch, instead of once in stage 1

_C.augment = CfgNode()
_C.augment.mixup = 0.0  # alpha of Beta(alpha, alpha); 0: off
_C.augment.roll = 0.0  # seconds: largest circular shift in time
_C.augment.gain = 0.0  # dB: largest change of level, either way
_C.augment.freq_mask = 0  # mels: widest SpecAugment mask over frequency
_C.augment.time_mask = 0  # frames: widest SpecAugment mask over time
_C.augment.wavmix = 0.0  # share of the clips that get another training clip as background; features.online only
_C.augment.wavmix_snr = 10.0  # dB: lowest level of a clip over its background; drawn from there to 20 dB more

_C.train = CfgNode()
_C.train.epochs = 10
_C.train.batch_size = 16  # clips per step of the optimizer, over all processes and passes
_C.train.accumulate = 1  # forward passes that share a step's clips, for those that do not fit into memory at once
_C.train.optimizer = "adamw"  # adamw | adam | sgd
_C.train.momentum = 0.9  # of sgd
_C.train.lr = 3e-4  # peak learning rate
_C.train.schedule = "cosine"  # cosine | linear: after a linear warm-up | exponential: exponential warm-up, linear down
_C.train.warmup_epochs = 1.0  # epochs up to lr
_C.train.hold_epochs = 0.0  # epochs at lr, before it goes down
_C.train.final_lr = 0.01  # the last step's learning rate, as a fraction of lr
_C.train.layer_decay = 1.0  # each stage's learning rate as a fraction of that of the stage above it; the head has lr
_C.train.weight_decay = 1e-4  # none on norms and biases
_C.train.loss = "cross_entropy"  # cross_entropy | binary: each class by itself; multi_label has binary in any case
_C.train.label_smoothing = 0.0
_C.train.class_weights = "none"  # none | balanced: rare classes weigh more in the loss
_C.train.sampler = "shuffle"  # shuffle | balanced: every class is drawn equally often
_C.train.shuffle = "global"  # global: any clip may follow any | buffer: whole shards one by one, for network disks
_C.train.shuffle_buffer = 10000  # clips per process that train.shuffle buffer draws the next one from
_C.train.clip_norm = 0.0  # largest norm of the gradient; 0: any
_C.train.frozen_epochs = 0  # first epochs, in which the head alone is trained
_C.train.ema = 0.0  # decay per step of a moving average of the weights, which becomes the model; 0: off
_C.train.amp = "O0"  # O0 | O1: Paddle's levels of mixed precision, on GPUs; O0 is none
_C.train.amp_dtype = "bfloat16"  # bfloat16 | float16 (with loss scaling)
_C.train.max_bad_steps = 20  # steps in a row whose loss or gradient is not finite: skipped, then the run stops
_C.train.validation = 0.0  # share of the training clips (whole groups) to validate every epoch on
_C.train.select = "last"  # last | best: the epoch with the best score on train.validation, or on the data's split valid
_C.train.seed = 0
_C.train.workers = 0  # processes per rank that read clips ahead, in training and evaluation; 0: it reads itself
_C.train.log_freq = 10  # steps between two lines of the log
_C.train.save_steps = 0  # steps between two checkpoints within an epoch; 0: only at its end

_C.classic = CfgNode()  # baselines of scikit-learn: train_classic.py
_C.classic.classifier = "none"  # none: a network is trained | knn | svm | forest | tree | logistic
_C.classic.features = "mfcc"  # mfcc: statistics of MFCCs and zero crossings | embeddings: of the backbone
_C.classic.standardise = True  # by each feature's mean and deviation over the training clips

_C.evaluate = CfgNode()
_C.evaluate.batch_size = 32  # windows per step

SPLITS = ("train", "valid", "test")
CHOICES = {
    "task": TASKS,
    "data.layout": ("csv", "folders", "audioset", "paths"),
    "train.optimizer": ("adamw", "adam", "sgd"),
    "train.loss": ("cross_entropy", "binary"),
    "train.schedule": ("cosine", "linear", "exponential"),
    "train.class_weights": ("none", "balanced"),
    "train.sampler": ("shuffle", "balanced"),
    "train.shuffle": ("global", "buffer"),
    "train.amp": ("O0", "O1"),
    "train.amp_dtype": ("bfloat16", "float16"),
    "train.select": ("last", "best"),
    "classic.classifier": ("none", "knn", "svm", "forest", "tree", "logistic"),
    "classic.features": ("mfcc", "embeddings"),
}
POSITIVE = (
    "data.clip_seconds", "features.shard_size", "train.epochs", "train.batch_size", "train.lr", "train.log_freq",
    "train.accumulate", "train.max_bad_steps", "train.shuffle_buffer", "train.layer_decay", "evaluate.batch_size",
)  # fmt: skip
AT_MOST = {
    "data.clip_seconds": LONGEST, "augment.roll": LONGEST, "augment.gain": 100, "augment.wavmix_snr": 100,
    "data.seed": 2**32 - 1, "train.seed": 2**32 - 1, "data.max_missing": 1, "train.final_lr": 1, "train.layer_decay": 1,
    "augment.wavmix": 1, "train.workers": 256,
}  # fmt: skip
PER_SPLIT = ("data.metadata", "data.split_lists")  # a file, or files by split: {train: FILE, valid: FILE, test: FILE}
FREE = ("features.front_end",)  # its settings belong to the front end, which checks them
FOR_CARDS = ("data.name", "data.licence")  # told to people, and used for nothing else
NOT_IN_RESULT = (  # may change between a run and its resume
    *FOR_CARDS, "data.check_sound", "train.workers", "train.log_freq", "train.max_bad_steps", "evaluate.batch_size",
)  # fmt: skip


def defaults() -> CfgNode:
    """A config of its own with the defaults, which may be changed."""
    return _C.clone()


def load(path: File, opts: Sequence[str] = ()) -> CfgNode:
    """The resolved, frozen config: defaults, then the YAML file `path`, then `opts` = [key, value, key, value ...].

    UserError for a file that is missing or not YAML, an unknown key, a value of the wrong type or out of range.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8") as file:
            tree = yaml.load(file, _Yaml)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path}: not a YAML file: {error}") from None
    config = defaults()
    if tree is not None:
        _merge(config, tree, str(path))
    if len(opts) % 2:
        raise UserError(f"--opts takes pairs of a key and a value, as in: train.lr 1e-4; the last one is {opts[-1]!r}")
    for key, text in zip(opts[::2], opts[1::2], strict=True):
        _merge(config, _option(config, key, text), "--opts")
    _check(config, f"{path} with --opts" if opts else path)
    config.freeze()
    return config


def from_dict(tree: Mapping[str, Any]) -> CfgNode:
    """A resolved config from what `to_dict` gave, as saved with a model."""
    config = defaults()
    _merge(config, tree, "model.json")
    config.freeze()
    return config


def to_dict(config: CfgNode) -> dict[str, Any]:
    """The config as plain dictionaries."""
    return {key: to_dict(value) if isinstance(value, CfgNode) else value for key, value in config.items()}


def clips_per_pass(settings: CfgNode, ranks: int) -> int:
    """The clips of one forward pass of one process, by `train`'s settings. UserError where a step does not divide."""
    step, parts = settings.batch_size, settings.accumulate * ranks
    if step % parts:
        near = sorted({max(1, step // parts) * parts, (step // parts + 1) * parts})
        raise UserError(
            f"train.batch_size {step}: the clips of a step do not divide into {_parts_of_a_step(settings, ranks)};"
            f" the nearest that do: {' and '.join(map(str, near))}"
        )
    return step // parts


def fit_batch(config: CfgNode, clips: int, ranks: int) -> CfgNode:
    """`config` for so many clips to train on: where one step would need more, it has the largest train.batch_size that
    they fill. All else stays, train.lr too. UserError where the clips do not even fill each pass of each process.
    """
    settings, parts = config.train, config.train.accumulate * ranks
    if clips >= settings.batch_size:
        return config
    if clips < parts:
        shared = _parts_of_a_step(settings, ranks)
        raise UserError(f"the {clips} clips to train on do not fill a step of {shared}: use fewer of these")
    config = config.clone()
    config.defrost()
    config.train.batch_size = clips // parts * parts
    config.freeze()
    return config


def _parts_of_a_step(settings: CfgNode, ranks: int) -> str:
    return f"{ranks} process{'es' * (ranks > 1)} x train.accumulate {settings.accumulate}"


def find(path: File) -> Path:
    """A path given by the user: as it is, or where the user stood when run.sh changed directory."""
    from_caller = Path(os.environ.get("RECIPE_CALLER", "."), path)
    return from_caller if from_caller.exists() else Path(path)


class _Yaml(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping: YAML would quietly forget the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} stands twice", key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def _option(config: CfgNode, key: str, text: str) -> Any:
    """The tree that `key` = `text` on the command line stands for. What sets a text is taken as it is, not as YAML."""
    names, current = key.split("."), config
    for name in names:
        current = current.get(name) if isinstance(current, CfgNode) else None
    try:
        value = text if isinstance(current, str) else yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--opts: {key}: {text!r} is not a YAML value") from None
    for name in reversed(names):
        value = {name: value}
    return value


def _merge(config: CfgNode, tree: object, where: str, prefix: str = "") -> None:
    """Put the values of `tree` (keys below `prefix`) into `config`. UserError that names `where` and the key."""
    if not isinstance(tree, dict):
        raise UserError(f"{where}: {prefix.rstrip('.') or 'the file'} must be a mapping of keys to values")
    for key, value in tree.items():
        name = f"{prefix}{key}"
        free = prefix.rstrip(".") in FREE
        if key not in config and not free:
            keys = ", ".join(f"{prefix}{other}" for other in config)
            raise UserError(f"{where}: unknown key {name}; there are: {keys}")
        if name in PER_SPLIT and isinstance(value, dict):
            _merge_splits(config, key, value, f"{where}: {name}")
        elif not free and isinstance(config[key], CfgNode):
            _merge(config[key], value, where, f"{name}.")
        else:
            default = "" if name in PER_SPLIT else config.get(key)
            config[key] = value if free else typed(value, default, f"{where}: {name}")


def _merge_splits(config: CfgNode, key: str, files: dict[Any, Any], name: str) -> None:
    """Put {split: file} into `config`, beside the files of other splits. name: of the key, for errors."""
    for split, file in files.items():
        if split not in SPLITS:
            raise UserError(f"{name}: {split!r} is not a split: give files for {', '.join(SPLITS)}")
        before = config[key] if isinstance(config[key], dict) else {}
        config[key] = {**before, split: typed(file, "", f"{name}.{split}")}


def _check(config: CfgNode, path: File) -> None:
    """UserError that names `path` and the key, for a value out of range."""

    def get(name: str) -> Any:
        section, _, key = name.rpartition(".")
        return config[section][key] if section else config[key]

    for name, choices in CHOICES.items():
        if get(name) not in choices:
            raise UserError(f"{path}: {name} must be one of {', '.join(choices)}, not {get(name)!r}")
    for name in POSITIVE:
        if not 0 < get(name) < float("inf"):
            raise UserError(f"{path}: {name} must be more than 0, not {get(name)}")
    for name, most in AT_MOST.items():
        if get(name) > most:
            raise UserError(f"{path}: {name} must be at most {most}, not {get(name)}")
    for section in ("data", "model", "augment", "train"):
        for key, value in config[section].items():
            if isinstance(value, (int, float)) and not 0 <= value < float("inf"):
                raise UserError(f"{path}: {section}.{key} must be 0 or more, not {value}")
    if config.data.folds == 1:
        raise UserError(f"{path}: data.folds must be 2 or more, or 0 where the data set says its folds, not 1")
    freeze = get("model.freeze")  # as an attribute, freeze is yacs's own method
    if freeze not in ("none", "all") and not freeze.isdecimal():
        raise UserError(f"{path}: model.freeze must be none, all or a number of stages, not {freeze!r}")
    if config.model.bn_momentum >= 1:
        raise UserError(f"{path}: model.bn_momentum must be below 1, not {config.model.bn_momentum}")
    for key in ("train.label_smoothing", "train.ema", "train.validation"):
        if get(key) >= 1:
            raise UserError(f"{path}: {key} must be below 1, not {get(key)}")
    if get("train.shuffle") == "buffer":
        _check_buffer(config, path)
    if config.augment.wavmix and not config.features.online:
        raise UserError(f"{path}: augment.wavmix mixes sounds, not stored features: set features.online true")


def _check_buffer(config: CfgNode, path: File) -> None:
    """UserError for settings with which train.shuffle buffer would do nothing, or not what it says."""
    clash = ""
    if config.features.online:
        clash = "features.online true has no shards to read one by one"
    elif config.train.sampler == "balanced":
        clash = "train.sampler balanced draws from all clips"
    elif config.model["freeze"] == "all":
        clash = "model.freeze all keeps what it trains on in memory"
    if clash:
        raise UserError(f"{path}: train.shuffle buffer: {clash}: set train.shuffle global")
