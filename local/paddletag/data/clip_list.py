"""The list of the clips that a model was made from, in its folder: what it has met, and how that differs from now."""

import gzip
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from paddletag.data.clips import Clips
from paddletag.data.manifest import short_name
from paddletag.data.splits import describe_split, split_of
from paddletag.files import atomic
from paddletag.type_aliases import File, Record

ENCODER = json.JSONEncoder(ensure_ascii=False)  # json.dumps would make one for each row
BLOCK = 1024  # rows that are written at once
SHOWN = 5  # groups or clips that a message names
TELLING = re.compile("[1-9][0-9]{4}")  # in a file's name: two sounds do not have such a number by chance
LEVEL = 3  # of compression: 9 takes eight times as long, and a tenth less space


def write_clip_list(path: File, records: Sequence[Record], sounds: Iterable[str | None]) -> None:
    """Keep what a model is made from: a line of JSON for each clip, compressed.

    sounds: what tells each clip's sound from another, in the order of `records`, for the clips that are trained or
    validated on, and others where it is known.
    """
    with atomic(path) as temporary, open(temporary, "wb") as raw:
        with gzip.GzipFile("", "wb", LEVEL, fileobj=raw, mtime=0) as file:  # no name and time: equal lists, equal bytes
            rows = (
                row + (b"null]\n" if sound is None else ENCODER.encode(sound).encode() + b"]\n")
                for row, sound in zip(_listed(records), sounds, strict=True)
            )
            while block := b"".join(itertools.islice(rows, BLOCK)):  # a call for each row would take minutes
                file.write(block)


def _listed(records: Sequence[Record]) -> Iterator[bytes]:
    if isinstance(records, Clips):
        return (bytes(records.columns.listed.encoded(row)) for row in records.rows.tolist())
    return (listed_row(record).encode() for record in records)


def listed_row(record: Record) -> str:
    """The row of a clip in `write_clip_list`'s file, up to its sound."""
    row = [record["id"], short_name(record), split_of(record), record["labels"]]
    return ENCODER.encode(row)[:-1] + ", "


def read_clip_list(path: File) -> dict[str, tuple[Any, ...]] | None:
    """{id: (short name, fold or split, labels, sound or None)} of the list that `write_clip_list` kept; None where it
    cannot be read: of a model of before, or in a copy without it."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return {
                clip_id: (name, split, labels, sound) for clip_id, name, split, labels, sound in map(json.loads, file)
            }
    except (OSError, EOFError, ValueError, LookupError, TypeError):
        return None


def same_clips(
    kept: dict[str, tuple[Any, ...]], records: Sequence[Record], sounds: Mapping[str, str | None]
) -> list[tuple[str, int | str]]:
    """[(short name, fold or split there)] of those of `records` that a list of `read_clip_list` has too.

    sounds: {id: what tells it from another} of `records`. Clips are the same that sound alike, or whose files have the
    same name with a number of 5 digits in it (TELLING), which a copy in another encoding keeps. Where the list has no
    checksum of the sound, those that have the same short name are too.
    """
    rows = [row for row in kept.values() if isinstance(row[0], str) and isinstance(row[1], (int, str))]
    by_sound = {row[3]: row[1] for row in rows if isinstance(row[3], str)}
    by_name = {row[0]: row[1] for row in rows if row[3] is None or str(row[3]).startswith("[")}  # [: path and time
    by_file = {_file_name(row[0]): row[1] for row in rows if TELLING.search(_file_name(row[0]))}
    found = []
    for record in records:
        name, sound = short_name(record), sounds.get(record["id"])
        split = by_sound.get(sound, by_name.get(name)) if sound is not None else by_name.get(name)
        split = by_file.get(_file_name(name)) if split is None else split
        if split is not None:
            found.append((name, split))
    return found


def changes(path: File, records: Sequence[Record], sounds: Iterable[str | None] | None = None) -> str:
    """One line on how `records` differ from the list that `write_clip_list` kept; it names the first few clips.

    sounds: as `write_clip_list` takes them. Where one of the two lists does not know what a clip sounds like, that is
    not compared.
    """
    before = read_clip_list(path)
    if before is None:
        return "its clips, labels, folds or sounds are others now"
    pairs = zip(records, itertools.repeat(None) if sounds is None else sounds, strict=False)
    now = {r["id"]: (short_name(r), split_of(r), r["labels"], sound) for r, sound in pairs}
    lines = [f"+ {now[clip_id][0]}" for clip_id in now if clip_id not in before]
    lines += [f"- {before[clip_id][0]}" for clip_id in before if clip_id not in now]
    for clip_id, (name, *new) in now.items():
        if clip_id in before and (words := _differences(before[clip_id][1:], new)):
            lines.append(f"{name} ({', '.join(words)})")
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"{len(now)} clips, trained with {len(before)}: {', '.join(lines[:SHOWN])}{more}"


def count_clips(path: File) -> dict[int | str, int]:
    """{fold or split: its clips} of the list that `write_clip_list` kept; {} where there is none."""
    return dict(Counter(row[1] for row in (read_clip_list(path) or {}).values()))


def _differences(before: Sequence[Any], now: Sequence[Any]) -> list[str]:
    """What differs between two (split, labels, sound) of a clip, in words."""
    words = []
    if before[0] != now[0]:
        words.append(f"{describe_split(before[0])}, now {describe_split(now[0])}")
    if before[1] != now[1]:
        words.append(f"{'; '.join(before[1])}, now {'; '.join(now[1])}")
    if None not in (before[2], now[2]) and before[2] != now[2]:
        words.append("another sound")
    return words


def _file_name(name: str) -> str:
    """The name of a clip's file from its short name: without the folder, and the file's ending."""
    path, _, start = name.partition(" from ")
    return Path(path).stem + (f" from {start}" if start else "")
