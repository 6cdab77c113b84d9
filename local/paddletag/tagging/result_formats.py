"""Tagging results as text: PaddleAudio's format, and events in the FORMATS that tables and other programs read."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from paddletag.tagging.events import EventRow
from paddletag.tagging.labels import top_k
from paddletag.type_aliases import Arrays


@dataclass(frozen=True)
class SoundEvents:
    """The events of one sound, and what the formats say of the sound."""

    filename: str  # as the user names it
    path: str  # from the root of the file system
    seconds: float
    rate: int  # Hz, of the sound itself; only Raven's table needs it
    model: str  # name of the backbone, and the beginning of the checksum
    events: Sequence[EventRow]  # of `find_events`


@dataclass(frozen=True)
class Format:
    """A way to write events."""

    ending: str  # of a file's name
    write: Callable[[Sequence[SoundEvents], bool], str]  # (sounds, whether the table is one of several sounds) -> text
    several: bool = True  # whether a file may hold more than one sound


def model_name(arrays: Arrays) -> str:
    """The model of a result: the name of its backbone and the beginning of its checksum."""
    return " ".join([str(arrays.get("backbone", "")), str(arrays.get("model", ""))[:12]]).strip()


def scores_text(arrays: Arrays, k: int, time: str = "time") -> str:
    """PaddleAudio's format (its parse_result.py): per window its time, k lines `label: score`, and a blank line.

    `time` names the array of times: `time`, fractions of the file, as PaddleAudio; or `start`, seconds.
    """
    labels, lines = [str(label) for label in arrays["labels"]], list[str]()
    for when, scores in zip(arrays[time], arrays["scores"], strict=True):
        lines += [str(float(when)), *(f"{label}: {score}" for label, score in top_k(scores, labels, k)), ""]
    return "".join(line + "\n" for line in lines)


def events_csv(rows: Iterable[EventRow], several: bool = False) -> str:
    """Events (of `find_events`) as CSV with a header. Text is quoted, so a label may hold any character.

    several: the rows begin with `filename`.
    """
    return _table(rows, several, quoting=csv.QUOTE_NONNUMERIC)


def events_tsv(rows: Iterable[EventRow], several: bool = False) -> str:
    """The same between tabs. Text is quoted only where it holds a tab, a quote or the end of a line."""
    return _table(rows, several, delimiter="\t")


def events_jsonl(rows: Iterable[EventRow]) -> str:
    """Events as JSON Lines: one a line."""
    return "".join(json.dumps(_short(row), ensure_ascii=False) + "\n" for row in rows)


def events_audacity(rows: Iterable[EventRow]) -> str:
    """Events as Audacity's label track: onset, offset, label. Tabs part them, so white space in a label is a blank."""
    return "".join(f"{row['onset']:.6f}\t{row['offset']:.6f}\t{_one_cell(row['label'])}\n" for row in rows)


def events_json(sounds: Iterable[SoundEvents]) -> str:
    """One JSON document: {"files": [{"filename", "seconds", "model", "events": [{onset, offset, label, ...}]}]}."""
    files = [
        {
            "filename": sound.filename,
            "seconds": round(sound.seconds, 4),
            "model": sound.model,
            "events": [_short(row) for row in sound.events],
        }
        for sound in sounds
    ]
    return json.dumps({"files": files}, indent=2, ensure_ascii=False) + "\n"


def events_raven(sounds: Iterable[SoundEvents]) -> str:
    """Raven's selection table: a box per event, as high as the sound's rate allows, on channel 1.

    Raven opens several files as one sequence, in which Begin Time and End Time count from the beginning of the first
    file; File Offset counts from the beginning of the event's own file.
    """
    header = "Selection,View,Channel,Begin Time (s),End Time (s),Low Freq (Hz),High Freq (Hz),Begin Path"
    lines = [[*header.split(","), "File Offset (s)", "Annotation", "Score"]]
    before = 0.0  # seconds
    for sound in sounds:
        for row in sound.events:
            times = [f"{before + row['onset']:.4f}", f"{before + row['offset']:.4f}"]
            cells = [str(len(lines)), "Spectrogram 1", "1", *times, "0", f"{sound.rate / 2:g}", _one_cell(sound.path)]
            lines.append([*cells, f"{row['onset']:.4f}", _one_cell(row["label"]), f"{row['peak']:.4f}"])
        before += sound.seconds
    return "".join("\t".join(cells) + "\n" for cells in lines)


def events_labelstudio(sounds: Iterable[SoundEvents]) -> str:
    """Tasks with predictions for Label Studio: a JSON list.

    The project's labelling needs `<Labels name="label" toName="audio">` and `<Audio name="audio" value="$audio">`. The
    sound is named as Label Studio's local files are, by its path from the root of the file system.
    """
    return json.dumps([_task(sound) for sound in sounds], indent=2, ensure_ascii=False) + "\n"


def _task(sound: SoundEvents) -> dict[str, Any]:
    """A sound as Label Studio's task with one prediction."""
    regions = [
        {
            "id": f"event{number}",
            "from_name": "label",
            "to_name": "audio",
            "type": "labels",
            "original_length": round(sound.seconds, 4),
            "value": {"start": row["onset"], "end": row["offset"], "channel": 0, "labels": [row["label"]]},
            "score": row["peak"],
        }
        for number, row in enumerate(map(_short, sound.events), 1)
    ]
    score = sum(row["peak"] for row in sound.events) / max(1, len(sound.events))
    prediction = {"model_version": sound.model, "score": round(score, 4), "result": regions}
    url = "/data/local-files/?d=" + quote(sound.path.lstrip("/"), errors="surrogateescape")
    return {"data": {"audio": url}, "predictions": [prediction]}


def _table(rows: Iterable[EventRow], several: bool, **options: Any) -> str:
    file = io.StringIO()
    if several:  # a spreadsheet would compute a name that begins like a formula; its path may also begin with ./
        rows = [{**row, "filename": _not_a_formula(str(row["filename"]))} for row in rows]
    rows = [_short(row) for row in rows]
    if any("\r" in str(value) for row in rows for value in row.values()):  # it ends a line, but csv does not quote it
        options["quoting"] = csv.QUOTE_NONNUMERIC
    writer = csv.writer(file, lineterminator="\n", **options)
    writer.writerow([*(["filename"] if several else []), "onset", "offset", "label", "peak", "mean"])
    writer.writerows(row.values() for row in rows)
    return file.getvalue()


def _rows(sounds: Iterable[SoundEvents], several: bool) -> list[EventRow]:
    """The events of all sounds; of `several`, each begins with `filename`."""
    return [{**({"filename": sound.filename} if several else {}), **row} for sound in sounds for row in sound.events]


def _not_a_formula(name: str) -> str:
    return f"./{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def _one_cell(text: str) -> str:
    """A text with no white space but blanks: it fits between two tabs."""
    return " ".join(text.split())


def _short(row: EventRow) -> EventRow:
    """The numbers with four digits after the point."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


FORMATS = {
    "csv": Format(".csv", lambda sounds, several: events_csv(_rows(sounds, several), several)),
    "tsv": Format(".tsv", lambda sounds, several: events_tsv(_rows(sounds, several), several)),
    "json": Format(".json", lambda sounds, several: events_json(sounds)),
    "jsonl": Format(".jsonl", lambda sounds, several: events_jsonl(_rows(sounds, several))),
    "audacity": Format(".audacity.txt", lambda sounds, several: events_audacity(_rows(sounds, False)), several=False),
    "raven": Format(".raven.txt", lambda sounds, several: events_raven(sounds)),
    "labelstudio": Format(".labelstudio.json", lambda sounds, several: events_labelstudio(sounds)),
}
