"""The page of an evaluation: how good a model is, and the clips that it gets wrong, to hear."""

import csv
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddletag.data import audio
from paddletag.data.splits import describe_split
from paddletag.models import model_folder
from paddletag.reports.embedded_media import base64_text, ogg_bytes, relative_url, thumbnail_png
from paddletag.reports.html_page import build_page
from paddletag.reports.spectrogram_image import FRONT_END
from paddletag.type_aliases import File, Record

CLIPS, CLIP_SECONDS = 40, 10.0  # embedded: how many clips, and how much of each
TOP = 5  # labels of a clip
EACH = 4  # clips with the weakest label, and without it, that the page shows first


def evaluation_page(
    evaluation: Mapping[str, Any],
    models: Sequence[File],
    records: Sequence[Record],
    output: File,
    data_set: str,
    clips: int = CLIPS,
) -> str:
    """The HTML of an evaluation, as `read_evaluation` gives it, of the trained model in the folder models[0].

    models: several, if the scores are the mean of theirs. records: those of the clips, for their sound. data_set: its
    name. `clips` clips are embedded: those that the page shows first, then the mistakes that the model is surest of,
    then the right ones that it is least sure of. The others' sound is referred to by its path from the folder
    `output`, where the report will lie. A mistake is a clip of which the highest label is not one of its own.
    """
    metas, metrics = [model_folder.read_meta(folder) for folder in models], evaluation["metrics"]
    settings = [{key: value for key, value in meta.items() if key != "labels"} for meta in metas]
    model = " + ".join(dict.fromkeys(meta["backbone"] for meta in metas))
    labels, side = [str(label) for label in evaluation["labels"]], describe_split(metrics["fold"])
    weakest = _weakest_label(metrics, labels)
    rows = _rows_to_embed(evaluation, metas[0]["task"], weakest)[:clips]
    data = {
        "data_set": data_set,
        "model": model,
        "side": side,
        "task": metas[0]["task"],
        "labels": labels,
        "weakest": weakest,
        "metrics": metrics,
        "clips": _clips(evaluation, records, output, set(rows)),
        "history": _history(Path(models[0]) / "history.csv") if len(models) == 1 else {},
        "about": settings[0] if len(models) == 1 else settings,
    }
    title = ", ".join(text for text in (data_set, model, side, metrics.get("date")) if text)  # no date: from before
    return build_page("evaluation", f"{title}: evaluation", data)


def _weakest_label(metrics: Mapping[str, Any], labels: Sequence[str]) -> int | None:
    """The number of the label with the lowest average precision; None where clips have one label each, or none had."""
    precisions = {name: row["ap"] for name, row in metrics.get("per_class", {}).items() if row.get("ap") is not None}
    return labels.index(min(precisions, key=lambda name: precisions[name])) if precisions else None


def _mistakes(evaluation: Mapping[str, Any]) -> np.ndarray:
    """Whether the highest label of a clip is none of its own: bool [N]."""
    scores, targets = evaluation["scores"], evaluation["targets"]
    return targets[np.arange(len(scores)), scores.argmax(1)] == 0


def _rows_to_embed(evaluation: Mapping[str, Any], task: str, weakest: int | None) -> list[int]:
    """All rows, those most worth hearing first: what the page opens with, then the mistakes, most confident first, then
    the others, least confident first.

    The page opens with the pair of labels that is confused most or, of several labels per clip, with the weakest one.
    """
    scores, targets = evaluation["scores"], evaluation["targets"]
    wrong = _mistakes(evaluation)
    confident = [int(i) for i in np.argsort(-scores.max(1), kind="stable")]
    mistakes, others = [i for i in confident if wrong[i]], [i for i in confident if not wrong[i]]
    first: list[int] = []
    if task == "single_label":
        pairs = Counter((int(targets[i].argmax()), int(scores[i].argmax())) for i in sorted(mistakes))
        most = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        first = [i for i in mistakes if (targets[i].argmax(), scores[i].argmax()) == most]
    elif weakest is not None:
        order = np.argsort(-scores[:, weakest], kind="stable")
        own = targets[order, weakest] > 0
        first = [int(i) for i in (*order[own][::-1][:EACH], *order[~own][:EACH])]
    return list(dict.fromkeys([*first, *mistakes, *reversed(others)]))


def _clips(
    evaluation: Mapping[str, Any], records: Sequence[Record], output: File, embedded: set[int]
) -> list[dict[str, Any]]:
    """What the page has of each clip, mistakes first, then by what the model is surest of; `embedded`: rows."""
    ids, scores, targets = evaluation["ids"], evaluation["scores"], evaluation["targets"]
    record_of = {record["id"]: record for record in records}
    best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    clips: list[dict[str, Any]] = []
    for i in np.lexsort((-scores.max(1), ~_mistakes(evaluation))):
        own = np.flatnonzero(targets[i])
        clip = {
            "id": str(ids[i]),
            "labels": own.tolist(),
            "own": [round(float(scores[i, k]), 4) for k in own],  # the scores of its labels
            "top": [[int(k), round(float(scores[i, k]), 4)] for k in best[i]],
        }
        if record := record_of.get(clip["id"]):
            clip |= _clip_sound(record, output, embed=int(i) in embedded)
        clips.append(clip)
    return clips


def _clip_sound(record: Record, output: File, embed: bool) -> dict[str, Any]:
    """Name, length in seconds and sound of a record: embedded with a picture, or a path; no sound if it is gone."""
    start, end = record.get("start", 0.0), record.get("end")
    clip: dict[str, Any] = {"file": os.path.basename(record["audio"]), "seconds": record["seconds"]}
    if embed:
        stop = min(end or math.inf, start + CLIP_SECONDS)
        try:
            wave = audio.load(record["audio"], FRONT_END.sample_rate, start, stop)
        except audio.AudioError:
            return clip
        return {**clip, "sound": base64_text(ogg_bytes(wave)), "picture": base64_text(thumbnail_png(wave))}
    if not os.path.isfile(record["audio"]):
        return clip
    return {**clip, "audio": relative_url(record["audio"], output), "start": start}


def _history(path: Path) -> dict[str, list[float | None]]:
    """{column: [number or None]} of the learning curve; {} if there is none."""
    if not path.exists():
        return {}

    def number(text: str | None) -> float | None:
        try:
            value = float(text or "nan")
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [number(row[key]) for row in rows] for key in (rows[0] if rows else ()) if key}
