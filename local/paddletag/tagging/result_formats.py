"""Tagging results as text: PaddleAudio's format, and events as CSV, JSON Lines and Audacity's labels."""

import csv
import io
import json
from collections.abc import Iterable

from paddletag.tagging.events import EventRow
from paddletag.tagging.labels import top_k
from paddletag.type_aliases import Arrays


def scores_text(arrays: Arrays, k: int, time: str = "time") -> str:
    """PaddleAudio's format (its parse_result.py): per window its time, k lines `label: score`, and a blank line.

    `time` names the array of times: `time`, fractions of the file, as PaddleAudio; or `start`, seconds.
    """
    labels, lines = [str(label) for label in arrays["labels"]], list[str]()
    for when, scores in zip(arrays[time], arrays["scores"], strict=True):
        lines += [str(float(when)), *(f"{label}: {score}" for label, score in top_k(scores, labels, k)), ""]
    return "".join(line + "\n" for line in lines)


def events_csv(rows: Iterable[EventRow]) -> str:
    """Events (of `find_events`) as CSV with a header. Text is quoted, so a label may hold any character."""
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(["onset", "offset", "label", "peak", "mean"])
    writer.writerows(_short(row).values() for row in rows)
    return file.getvalue()


def events_jsonl(rows: Iterable[EventRow]) -> str:
    """Events as JSON Lines: one a line."""
    return "".join(json.dumps(_short(row), ensure_ascii=False) + "\n" for row in rows)


def events_audacity(rows: Iterable[EventRow]) -> str:
    """Events as Audacity's label track: onset, offset, label. Tabs part them, so white space in a label is a blank."""
    return "".join(f"{row['onset']:.6f}\t{row['offset']:.6f}\t{' '.join(row['label'].split())}\n" for row in rows)


def _short(row: EventRow) -> EventRow:
    """The numbers with four digits after the point."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
