"""Raw data sets whose files' paths tell of their clips: the pattern of the paths, and its fields."""

import re
from pathlib import Path

from yacs.config import CfgNode

from paddletag.data.table_rows import (
    OTHER_SOUND,
    ROLES,
    SOUND,
    Find,
    Roles,
    Row,
    alternatives,
    label_names,
    require_settings,
)
from paddletag.files import walk
from paddletag.runtime import UserError, log

Pattern = tuple[str, re.Pattern[str], list[str]]  # a text, its regular expression, its fields


def read_folders(config: CfgNode, raw: Path, find: Find, listed: dict[str, str]) -> tuple[list[Row], Roles]:
    """Layout `folders`: the path of each file says its label and more, by the pattern data.audio.

    Sound files that no pattern matches are left out, and counted in the log. UserError where there are no others.
    """
    settings = config.data
    require_settings(settings, "audio")
    patterns = [_pattern(text) for text in alternatives(settings.audio)]
    roles = _roles(settings, patterns)
    rows, others = [], []
    for name in sorted(walk(raw)):
        suffix = Path(name).suffix.lower()
        usable = (pattern for text, pattern, _ in patterns if suffix in SOUND or text.endswith(suffix or "/"))
        match = next(filter(None, (pattern.fullmatch(name) for pattern in usable)), None)
        if match:
            where, fields = str(raw / name), match.groupdict()
            what = f"{where}: the label (field {{{roles['label']}}})"
            rows.append(Row(where, where, label_names(fields[roles["label"]], config.task, what), fields))
        elif suffix in SOUND | OTHER_SOUND:
            others.append(name)
    if not rows:
        what = f"{len(others)} sound files elsewhere, such as {others[0]}" if others else "no sound files at all"
        raise UserError(f"data.audio: no file in {raw} matches {settings.audio}; there are {what}")
    if others:
        log.warning(
            "%d sound files are left out: their paths do not match data.audio, or libsndfile cannot read their kind:"
            " such as %s", len(others), others[0]
        )  # fmt: skip
    return rows, roles


def _roles(settings: CfgNode, patterns: list[Pattern]) -> Roles:
    """{what a field tells: its name}, of the fields that all patterns have. UserError for one that is needed."""
    roles = {}
    for role in (*ROLES, "id"):
        name = settings.get(role) or role
        lacking = [text for text, _, fields in patterns if name not in fields]
        if not lacking:
            roles[role] = name
        elif settings.get(role) or role == "label":
            raise UserError(f"data.audio: {lacking[0]} has no field {{{name}}} (data.{role})")
    return roles


def _pattern(text: str) -> Pattern:
    """(text, its regular expression, its fields): {field} and * stand for anything within a name, .* for a sound file.

    Where a name can be read in several ways, the earlier field is the longer one. UserError for what is no pattern.
    """
    if text.endswith(".*"):
        text = text[:-2] + ".{ext}"
    parts, fields = [], []
    for part in re.split(r"(\{\w+\}|\*)", text):
        if part == "*":
            parts.append("[^/]*")
        elif not part.startswith("{"):
            if set(part) & set("{}"):
                raise UserError(f"data.audio: {text}: a field is a name in braces, such as {{label}}")
            parts.append(re.escape(part))
        elif part[1:-1] in fields:
            parts.append(f"(?P={part[1:-1]})")
        else:
            if not part[1:-1].isidentifier():
                raise UserError(f"data.audio: {text}: the name of a field must begin with a letter, not {part}")
            parts.append(f"(?P<{part[1:-1]}>[^/]+)")
            fields.append(part[1:-1])
    return text, re.compile("".join(parts)), fields
