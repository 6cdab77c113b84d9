"""The files of an evaluation (stage 3) in a model's folder: their names, which say how it was done, and reading them.

They are metrics.json, scores.npz, report.html and, for one label per clip, confusion.png. Where `tta` rolled copies of
each clip were scored, the number stands in the names: metrics.tta5.json.
"""

from pathlib import Path
from typing import Any

import numpy as np

from paddletag.files import read_json
from paddletag.models import model_folder
from paddletag.runtime import UserError
from paddletag.type_aliases import File, Meta

METRICS = {"single_label": ("accuracy", "Accuracy (%)", 100, 2), "multi_label": ("mAP", "mAP", 1, 4)}


def result_name(name: str, tta: int = 1) -> str:
    """The name of a result: `metrics.json` is `metrics.tta5.json` where 5 rolled copies of each clip were scored."""
    path = Path(name)
    return f"{path.stem}.tta{tta}{path.suffix}" if tta > 1 else name


def read_metrics(folder: File, tta: int = 1, model: str = "the model") -> tuple[dict[str, Any], Meta]:
    """(metrics, meta data) of the trained model in `folder`, which errors call `model`.

    UserError where it was not evaluated in this way, or has been trained again since.
    """
    path = Path(folder) / result_name("metrics.json", tta)
    stage = f"(stage 3, --tta {tta})" if tta > 1 else "(stage 3)"
    metrics, meta = read_json(path, f"evaluate {model} first {stage}"), model_folder.read_meta(folder)
    if metrics.get("model") != meta["sha256"]:
        raise UserError(f"{path}: is of an earlier model: evaluate {model} again {stage}")
    if metrics.get("tta", 1) != tta:  # before their names said so
        raise UserError(f"{path}: is of --tta {metrics['tta']}: evaluate {model} again {stage}")
    return metrics, meta


def read_evaluation(folder: File, tta: int = 1) -> dict[str, Any]:
    """The evaluation of the trained model in `folder`: its `metrics`, `ids` [N], `scores` and `targets` [N, C] and
    `labels` [C].

    tta: the evaluation on so many rolled copies of each clip. UserError where it is missing, or of an earlier model.
    """
    metrics, _ = read_metrics(folder, tta)
    path = Path(folder) / result_name("scores.npz", tta)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("ids", "scores", "targets", "labels")}
    except Exception as error:  # the file may hold any bytes: what goes wrong is its fault
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
        raise UserError(f"{path}: {reason}: evaluate the model first (stage 3)") from None
    return {"metrics": metrics, **arrays}


def interval(metrics: dict[str, Any], task: str, text: str = "{}") -> str:
    """The 95 % interval of a model's metric, in `text`; empty where it was not measured."""
    key, _, factor, digits = METRICS[task]
    values = [f"{factor * value:.{digits}f}" for value in metrics.get(f"{key}_ci") or []]
    return text.format(" to ".join(values)) if values else ""
