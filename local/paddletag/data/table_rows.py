"""What all layouts of raw data sets collect: a row per clip, and what its columns mean by the config."""

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
            raise UserError(f"data.{key} is empty: layout {settings.layout} needs it")


def checked_roles(settings: CfgNode, columns: Collection[str], table: File) -> Roles:
    """{what a column may tell: the column that the config names for it}. UserError for one that is not there."""
    roles = {role: settings[role] for role in ROLES if settings[role]}
    for role, column in roles.items():
        if column not in columns:
            raise UserError(f"{table}: no column {column!r} (data.{role}); its columns: {', '.join(columns)}")
    return roles


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


def audio_path(pattern: str, fields: dict[str, Any], table: File) -> str:
    """A row's file, by the pattern data.audio. UserError for a field that is not there."""
    try:
        return pattern.format_map(fields)
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{table}: data.audio {pattern!r} names a column that is not there: {error}") from None


def label_names(text: str, task: str, what: str) -> list[str]:
    """The labels that a text stands for: one, or for multi_label those between ;. UserError with `what` for none."""
    names = [text.strip()]
    if task == "multi_label":
        names = list(dict.fromkeys(name.strip() for name in text.split(";") if name.strip()))
    if not all(names):
        raise UserError(f"{what} is empty")
    return names
