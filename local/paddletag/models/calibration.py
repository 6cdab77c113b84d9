"""Calibration of a trained model: a temperature for its scores and a threshold per class, in its calibration.json.

`paddletag calibrate` writes the file. It belongs to the weights whose checksum it holds, and to no others.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from paddletag.files import read_json
from paddletag.runtime import UserError, show
from paddletag.type_aliases import File, Meta

CALIBRATION = "calibration.json"
COLDEST, HOTTEST = 0.05, 20.0  # temperatures
FLOOR, CEILING = 1e-30, 1 - 2.0**-25  # of scores, where their logarithms are needed: float32 knows 0 and 1


def read(folder: File, meta: Meta) -> Meta | None:
    """The calibration of the trained model in `folder`, whose model.json says `meta`; None where there is none.

    It has at least `temperature`, a number, and `thresholds`, {label: number}. The folder may be a stranger's:
    UserError for a file that is damaged, or of other weights or labels.
    """
    path = Path(folder) / CALIBRATION
    if not path.exists():
        return None
    advice = "calibrate the model again (paddletag calibrate), or remove this file"
    found = read_json(path, advice)
    if found.get("model") != meta["sha256"]:
        raise UserError(f"{path}: is of other weights than those in this folder: {advice}")
    if not _is_number(found.get("temperature"), COLDEST, HOTTEST):
        raise UserError(f"{path}: its temperature is no number from {COLDEST:g} to {HOTTEST:g}: {advice}")
    thresholds = found.get("thresholds")
    if not isinstance(thresholds, dict) or set(thresholds) != set(meta["labels"]):
        raise UserError(f"{path}: its thresholds are not those of the model's {len(meta['labels'])} labels: {advice}")
    for label, value in thresholds.items():
        if not _is_number(value, 0, 1):
            raise UserError(f"{path}: the threshold of {show(label)} is no number from 0 to 1: {advice}")
    return found


def thresholds(meta: Meta) -> np.ndarray | None:
    """The threshold of each label of a calibrated model, float32 [C]; None where `meta` has no calibration."""
    if "calibration" not in meta:
        return None
    return np.array([meta["calibration"]["thresholds"][label] for label in meta["labels"]], np.float32)


def calibrated_scores(scores: np.ndarray, meta: Meta) -> np.ndarray:
    """Scores [N, C] as the model with this meta data gives them to users: at its temperature, float32.

    Without a calibration these are the same scores. Of a clip in several windows, it is for their mean.
    """
    temperature = meta["calibration"]["temperature"] if "calibration" in meta else 1
    return scores if temperature == 1 else temper(scores, meta["task"], temperature).astype(np.float32)


def temper(scores: np.ndarray, task: str, temperature: float) -> np.ndarray:
    """Scores [N, C] whose logits are divided by `temperature`: float64. Their order within a row stays.

    single_label: what a softmax gave, p^(1/T), so that each row adds up to 1. multi_label: what a sigmoid gave.
    """
    p = np.clip(np.asarray(scores, np.float64), FLOOR, CEILING)
    if task == "single_label":
        logits = np.log(p) / temperature
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)
    return 1 / (1 + np.exp((np.log1p(-p) - np.log(p)) / temperature))


def digest(meta: Meta) -> str:
    """A short name of a model's calibration; empty where there is none."""
    if "calibration" not in meta:
        return ""
    kept = [meta["calibration"][key] for key in ("temperature", "thresholds")]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def model_name(meta: Meta) -> str:
    """What tells a model from others by its scores: the checksum of its weights, and its calibration if it has one."""
    return " ".join(filter(None, [meta["sha256"], digest(meta)]))


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high
