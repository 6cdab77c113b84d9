"""The page of an evaluation: how good a model is, and the clips that it gets wrong, to hear."""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddletag.data import audio
from paddletag.data.splits import describe_split
from paddletag.models import model_folder
from paddletag.reports.embedded_media import base64_text, ogg_bytes, relative_url
from paddletag.reports.html_page import build_page
from paddletag.reports.spectrogram_image import FRONT_END
from paddletag.type_aliases import File, Record

CLIPS, CLIP_SECONDS = 40, 10.0  # embedded: how many mistakes, and how much of each
TOP = 5  # labels of a clip


def evaluation_page(
    evaluation: Mapping[str, Any],
    models: Sequence[File],
    records: Sequence[Record],
    output: File,
    clips: int = CLIPS,
) -> str:
    """The HTML of an evaluation, as `read_evaluation` gives it, of the trained model in the folder models[0].

    models: several, if the scores are the mean of theirs. records: those of the clips, for their sound. `clips`
    mistakes, those that the model is surest of, are embedded; the others' sound is referred to by its path from the
    folder `output`, where the report will lie. A mistake is a clip of which the highest label is not one of its own.
    """
    metas, metrics = [model_folder.read_meta(folder) for folder in models], evaluation["metrics"]
    settings = [{key: value for key, value in meta.items() if key != "labels"} for meta in metas]
    model = " + ".join(dict.fromkeys(meta["backbone"] for meta in metas))
    data = {
        "model": model,
        "side": describe_split(metrics["fold"]),
        "task": metas[0]["task"],
        "labels": [str(label) for label in evaluation["labels"]],
        "metrics": metrics,
        "clips": _clips(evaluation, records, output, clips),
        "history": _history(Path(models[0]) / "history.csv") if len(models) == 1 else {},
        "about": settings[0] if len(models) == 1 else settings,
    }
    return build_page("evaluation", f"{model}, {data['side']}: evaluation", data)


def _clips(
    evaluation: Mapping[str, Any], records: Sequence[Record], output: File, embedded: int
) -> list[dict[str, Any]]:
    """What the page has of each clip, mistakes first, then by what the model is surest of."""
    ids, scores, targets = evaluation["ids"], evaluation["scores"], evaluation["targets"]
    record_of = {record["id"]: record for record in records}
    best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    wrong = targets[np.arange(len(scores)), best[:, 0]] == 0
    clips: list[dict[str, Any]] = []
    for i in np.lexsort((-scores.max(1), ~wrong)):
        clip = {
            "id": str(ids[i]),
            "labels": np.flatnonzero(targets[i]).tolist(),
            "top": [[int(k), round(float(scores[i, k]), 4)] for k in best[i]],
        }
        if record := record_of.get(clip["id"]):
            clip |= _clip_sound(record, output, embed=bool(wrong[i]) and len(clips) < embedded)
        clips.append(clip)
    return clips


def _clip_sound(record: Record, output: File, embed: bool) -> dict[str, str]:
    """Where the sound of a record is to be had: embedded, or a path; nothing for one that is no longer there."""
    start, end = record.get("start", 0.0), record.get("end")
    if embed:
        stop = min(end or math.inf, start + CLIP_SECONDS)
        try:
            return {"sound": base64_text(ogg_bytes(audio.load(record["audio"], FRONT_END.sample_rate, start, stop)))}
        except audio.AudioError:
            return {}
    span = f"#t={start},{end}" if end else f"#t={start}" if start else ""
    return {"audio": relative_url(record["audio"], output) + span} if os.path.isfile(record["audio"]) else {}


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
