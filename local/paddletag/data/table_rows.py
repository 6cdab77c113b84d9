"""What all layouts of raw data sets collect: a row per clip, and what its columns mean by the config."""

import os
import string
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from paddletag.runtime import UserError, log
from paddletag.type_aliases import File

ROLES = ("label", "index", "fold", "split", "group", "start", "end")  # what a column, or a field of a pattern, may tell
SOUND = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".w64", ".rf64",
         ".caf"}  # fmt: skip
OTHER_SOUND = {".m4a", ".mp4", ".webm", ".mkv", ".aac", ".wma"}  # what libsndfile does not read

TABLES = ("csv", "paths")  # the layouts of data sets that are one file

Roles = dict[str, str]  # {what a column, or a field, tells: its name}
Find = Callable[[str], Path]  # where a file is that the config names


class Row(NamedTuple):
    """A clip as a raw data set lists it."""

    where: str  # the file and line, or the file, for errors
    path: str
    names: list[str]  # of its labels
    fields: dict[str, Any]  # its columns, or the fields of the pattern
    split: str | None = None  # of the list that it stands in


def require_settings(settings: CfgNode, *keys: str) -> None:
    """UserError for keys of `data` that the layout needs, and that are empty."""
    for key in keys:
        if not settings[key]:
            instead = (
                ", or the file itself as --raw" if key == "metadata" and settings.layout in ("csv", "paths") else ""
            )
            raise UserError(f"data.{key} is empty: layout {settings.layout} needs it{instead}")


def checked_roles(settings: CfgNode, columns: Collection[str], table: File) -> Roles:
    """{what a column may tell: the column that the config names for it, of `A | B` the first that is there}.

    UserError for one that is not there.
    """
    roles = {}
    for role in filter(settings.get, ROLES):
        names = [settings[role], *alternatives(settings[role])]
        roles[role] = next((name for name in names if name in columns), "")
        if not roles[role]:
            raise UserError(f"{table}: no column {settings[role]!r} (data.{role}); its columns: {', '.join(columns)}")
    return roles


def audio_pattern(settings: CfgNode, columns: Collection[str], table: File) -> str:
    """The pattern of a row's file that data.audio names: of `A | B` the first whose columns are there.

    UserError where none of them is.
    """
    for pattern in [settings.audio, *alternatives(settings.audio)]:
        try:
            if {name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None} <= {*columns}:
                return pattern
        except ValueError:  # a brace too many
            continue
    named = f"data.audio {settings.audio!r} names a column that is not there"
    raise UserError(f"{table}: {named}; its columns: {', '.join(columns)}")


def check_missing(missing: Sequence[str], total: int, what: str, settings: CfgNode) -> None:
    """UserError if more clips are missing, of a total, than data.max_missing allows; a warning for fewer.

    what: what is wrong with them, for the text.
    """
    if not missing:
        return
    text = f"{len(missing)} of {total} clips {what}, such as {missing[0]}"
    if len(missing) > settings.max_missing * total:
        allowed = f"{settings.max_missing:g} now"
        raise UserError(f"{text}: get them, or allow a share to be missing: data.max_missing ({allowed}, at most 1)")
    log.warning("%s", text)


def alternatives(text: str) -> list[str]:
    """What stands between the bars of `A | B`."""
    return [part.strip() for part in text.split("|") if part.strip()]


def metadata_files(settings: CfgNode, find: Find) -> list[tuple[str | None, Path]]:
    """(split or None, path) of each file that data.metadata names."""
    by_split = settings.metadata if isinstance(settings.metadata, dict) else {None: settings.metadata}
    return [(split, find(name)) for split, names in by_split.items() for name in alternatives(names)]


def audio_path(pattern: str, fields: dict[str, Any], raw: Path, where: str) -> str:
    """A row's file, by a pattern of `audio_pattern`: absolute, from the user's home (~/), or from the folder `raw`.

    where: the row, for errors. UserError for no path, and for a pattern that says more than the names of columns.
    """
    try:
        path = pattern.format_map(fields)
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{where}: data.audio {pattern!r}: {error}") from None
    if not path.strip() or path.endswith("/"):
        raise UserError(f"{where}: the path of the sound (data.audio {pattern!r}) is empty")
    whole = str(raw / (os.path.expanduser(path) if path.startswith("~/") else path))
    if "\0" in whole or os.path.normpath(whole) == os.path.normpath(raw):
        raise UserError(f"{where}: the path of the sound, {path!r}, is that of no file")
    return whole


def label_names(text: str, task: str, what: str) -> list[str]:
    """The labels that a text stands for: one, or for multi_label those between ;. UserError with `what` for none."""
    names = [text.strip()]
    if task == "multi_label":
        names = list(dict.fromkeys(name.strip() for name in text.split(";") if name.strip()))
    if not all(names):
        raise UserError(f"{what} is empty")
    return names
