"""AudioSet as it comes: segments CSVs, and a folder of clips named by their YouTube id, many of them absent."""

import csv
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from yacs.config import CfgNode

from paddletag.data.table_rows import (
    OTHER_SOUND,
    SOUND,
    Find,
    Roles,
    Row,
    check_missing,
    checked_roles,
    metadata_files,
    require_settings,
)
from paddletag.data.text_files import read_text
from paddletag.files import walk
from paddletag.runtime import UserError, log
from paddletag.type_aliases import File


class Segment(NamedTuple):
    """A row of a segments CSV."""

    where: str  # the file and line, for errors
    split: str | None  # of the file
    video: str  # its YouTube id
    start: float  # seconds
    mids: list[str]  # of its labels


def read_audioset(config: CfgNode, raw: Path, find: Find, listed: dict[str, str]) -> tuple[list[Row], Roles]:
    """Layout `audioset`: segments CSVs, and a folder of clips named by their YouTube id, many of them absent.

    listed: {mid: the label's name}. UserError for what cannot be understood, and for more clips absent than
    data.max_missing allows.
    """
    settings = config.data
    require_settings(settings, "metadata", "labels")
    if config.task != "multi_label":
        raise UserError(f"task: layout audioset has several labels a clip: multi_label, not {config.task}")
    folder = raw / settings.audio
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (data.audio)")
    files = metadata_files(settings, find)
    for _, file in files:
        checked_roles(settings, ("positive_labels",), file)
    segments = [segment for split, file in files for segment in _read_segments(file, split, raw)]
    clips, others = find_clips(folder, {segment.video for segment in segments})
    rows, missing = [], []
    for where, split, video, start, mids in segments:
        unknown = [mid for mid in mids if mid not in listed]
        if unknown or not mids:
            mid = unknown[0] if mids else ""
            raise UserError(f"{where}: its label {mid!r} is not in {settings.labels} (data.labels)")
        path = clips.get((video, None)) or clips.get((video, start)) or clips.get((video, 1000 * start))
        if path:
            rows.append(Row(where, path, [listed[mid] for mid in mids], {"id": video}, split))
        else:
            missing.append(video)
    if others:
        log.warning("%d clips cannot be read by libsndfile, such as %s: convert them", len(others), others[0])
    check_missing(missing, len(segments), f"have no file in {folder}", settings)
    return rows, {"id": "id"}


def _read_segments(file: Path, split: str | None, raw: Path) -> Iterator[Segment]:
    """The rows of a segments CSV, whose clips belong to `split`."""
    lines = read_text(file, raw).splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(("#", "YTID")):
            continue
        row, where = next(csv.reader([line], skipinitialspace=True)), f"{file}:{number}"
        try:
            video, start, _, mids = row
            yield Segment(where, split, video, float(start), [mid.strip() for mid in mids.split(",") if mid.strip()])
        except ValueError:
            raise UserError(f'{where}: is not: YTID, start_seconds, end_seconds, "mid,mid"') from None


def find_clips(folder: File, wanted: Collection[str]) -> tuple[dict[tuple[str, float | None], str], list[str]]:
    """{(YouTube id, start in the file's name or None): path}, and the paths of clips that cannot be read.

    wanted: the ids to look for. A file's name is the id, perhaps after a Y, perhaps with start, or start and end, in
    seconds or milliseconds.
    """
    spelling = re.compile(r"Y?([\w-]{11})(?:_(\d+(?:\.\d+)?)(?:_\d+(?:\.\d+)?)?)?", re.ASCII)
    clips: dict[tuple[str, float | None], str] = {}
    others = []
    for name in walk(folder):
        stem, suffix = os.path.splitext(name.rpartition("/")[2])
        match = spelling.fullmatch(stem)
        if not match or match[1] not in wanted:
            continue
        if suffix.lower() in SOUND:
            key = match[1], None if match[2] is None else float(match[2])
            clips[key] = min(clips.get(key, name), name)  # whatever the order of the folder
        elif suffix.lower() in OTHER_SOUND:
            others.append(name)
    return {key: os.path.join(folder, name) for key, name in clips.items()}, sorted(others)
