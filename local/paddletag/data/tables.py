"""Raw data sets that list their clips: a table with a row per clip, or lines of paths and labels."""

from pathlib import Path

from yacs.config import CfgNode

from paddletag.data.table_rows import (
    Find,
    Roles,
    Row,
    audio_path,
    audio_pattern,
    checked_roles,
    label_names,
    metadata_files,
    require_settings,
)
from paddletag.data.text_files import read_csv, read_text
from paddletag.runtime import UserError


def read_table(config: CfgNode, raw: Path, find: Find, listed: dict[str, str]) -> tuple[list[Row], Roles]:
    """Layout `csv`: a row per clip, columns by name. UserError for what cannot be understood."""
    settings = config.data
    require_settings(settings, "metadata", "audio", "label")
    rows: list[Row] = []
    roles: Roles = {}
    for split, table in metadata_files(settings, find):
        lines, columns = read_csv(table, settings.delimiter, raw)
        before, roles = roles, checked_roles(settings, columns, table)
        if before not in ({}, roles):
            raise UserError(f"{table}: its columns have other names than those of the table before it: name them alike")
        pattern = audio_pattern(settings, columns, table)
        for line, fields in lines:
            where = f"{table}:{line}"
            if None in fields or None in fields.values():
                raise UserError(f"{where}: has {'more' if None in fields else 'fewer'} fields than the header")
            what = f"{where}: the label (column {roles['label']!r})"
            names = label_names(fields[roles["label"]], config.task, what)
            rows.append(Row(where, audio_path(pattern, fields, raw, where), names, fields, split))
    return _join_labels(rows, roles["label"]) if config.task == "multi_label" else rows, roles


def _join_labels(rows: list[Row], column: str) -> list[Row]:
    """Rows that differ in the label `column` alone, as in tables of events, become one row with all their labels."""
    joined: dict[tuple, Row] = {}
    for row in rows:
        key = row.path, row.split, *{**row.fields, column: None}.values()
        names = joined.setdefault(key, row).names
        names += [name for name in row.names if name not in names]
    return list(joined.values())


def read_paths(config: CfgNode, raw: Path, find: Find, listed: dict[str, str]) -> tuple[list[Row], Roles]:
    """Layout `paths`: lines `path label`, between them a tab or blanks; a label may be its number in data.labels.

    listed: the labels of data.labels in order. UserError for what cannot be understood.
    """
    settings = config.data
    require_settings(settings, "metadata")
    listed_names = list(listed.values())
    rows, roles = [], {}
    for split, file in metadata_files(settings, find):
        roles = {"label": "label", **checked_roles(settings, ("path", "label"), file)}
        for line, text in enumerate(read_text(file, raw).splitlines(), 1):
            if not text.strip():
                continue
            where = f"{file}:{line}"
            path, _, label = (part.strip() for part in (text if "\t" in text else _last_blank(text)).partition("\t"))
            if not path or not label:
                raise UserError(f"{where}: {text.strip()!r} is not a path, a blank and a label")
            names = label_names(label, config.task, f"{where}: the label")
            names = [_name_of(name, listed_names, where) for name in names]
            fields = {"path": path, "label": label}
            rows.append(Row(where, audio_path(settings.audio or "{path}", fields, raw, where), names, fields, split))
        if not rows:
            raise UserError(f"{file}: is empty")
    return rows, roles


def _last_blank(text: str) -> str:
    """`text` with a tab in the place of its last blanks."""
    return "\t".join(text.strip().rsplit(None, 1))


def _name_of(label: str, listed: list[str], where: str) -> str:
    """The label's name, which may be given as its number in the list. UserError for a number beyond its end."""
    if not label.isdecimal() or not listed or label in listed:
        return label
    if int(label) >= len(listed):
        raise UserError(f"{where}: data.labels has {len(listed)} labels, none with the number {label}")
    return listed[int(label)]
