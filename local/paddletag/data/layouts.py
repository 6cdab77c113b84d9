"""Raw data sets as they come: a table, folders, AudioSet's segments, lists of paths -> records and labels.

Each layout only collects rows; `read` makes records of them, in the same way for all.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from yacs.config import CfgNode

from paddletag import config as configs
from paddletag.data.audioset import read_audioset
from paddletag.data.path_patterns import read_folders
from paddletag.data.splits import stratified_folds
from paddletag.data.table_rows import SOUND, TABLES, Find, Roles, Row, check_missing
from paddletag.data.tables import read_paths, read_table
from paddletag.data.text_files import read_labels, read_text
from paddletag.runtime import UserError, log
from paddletag.type_aliases import File, Record

# A layout's reader: (config, raw folder, where files are, labels of data.labels) -> (rows, what their fields tell).
LAYOUTS: dict[str, Callable[[CfgNode, Path, Find, dict[str, str]], tuple[list[Row], Roles]]] = {
    "csv": read_table, "folders": read_folders, "audioset": read_audioset, "paths": read_paths
}  # fmt: skip
DIGITS = 9  # of a number in a table, at most
WAYS = ("data.fold", "data.split", "data.folds", "data.split_lists", "data.metadata by split")  # to divide the clips
SPLITS = {"training": "train", "validation": "valid", "val": "valid", "testing": "test", "eval": "test",
          "evaluation": "test", **{name: name for name in configs.SPLITS}}  # fmt: skip


def read(config: CfgNode, raw: File, near: File = ".") -> tuple[list[Record], list[str]]:
    """The raw data set in the folder `raw` -> (records without `seconds`, labels in order).

    raw: may also be the table or list itself, in the place of data.metadata; paths in it are from its folder. Other
    files that the config names are looked for in `raw`, in the config's folder `near` and in the one above it.
    UserError for what is missing, ambiguous or cannot be understood; what is left out is logged with its count.
    """
    raw = Path(raw)
    if raw.is_file():
        config, raw = _of_table(config, raw)
    settings = config.data
    folders = (raw, Path(near), Path(near).parent)

    def find(name: str) -> Path:
        return next((folder / name for folder in folders if (folder / name).is_file()), raw / name)

    listed = read_labels(find(settings.labels)) if settings.labels else {}
    rows, roles = LAYOUTS[settings.layout](config, raw, find, listed)
    for row in rows:
        if any("\ud800" <= c <= "\udfff" for c in row.path):  # bytes that Python could not read as text
            raise UserError(f"{row.path}: its name is not text in UTF-8: rename it (many at once: convmv)")
    records = [{"id": name, "audio": row.path, "labels": row.names} for row, name in _ids(rows, roles, raw)]
    _add_times(records, rows, roles)
    for record, row in zip(records, rows, strict=True):
        if "group" in roles and row.fields[roles["group"]]:
            record["group"] = row.fields[roles["group"]]
    records = _divide(records, rows, roles, settings, find)
    if listed:
        return records, list(dict.fromkeys(listed.values()))
    numbers = _numbers(rows, roles["index"]) if "index" in roles else {}
    names = {name for record in records for name in record["labels"]}
    return records, sorted(names, key=lambda name: (numbers.get(name, 0), name))


def _of_table(config: CfgNode, table: Path) -> tuple[CfgNode, Path]:
    """(`config` with the file `table` as data.metadata, its folder). UserError where it says that by itself."""
    settings = config.data
    why = f"data.layout is {settings.layout}" if settings.layout not in TABLES else ""
    why = why or (f"data.metadata is {settings.metadata} already" if settings.metadata else "")
    if why:
        raise UserError(f"{table}: is a file, and {why}: name the folder of the data set (--raw)")
    config = config.clone()
    config.defrost()
    config.data.metadata = table.name
    return config, table.parent


def _ids(rows: Sequence[Row], roles: Roles, raw: Path) -> Iterable[tuple[Row, str]]:
    """(row, id) pairs: the field {id}, or the file's stem, or where these are shared, the path in the raw folder."""
    different = len({row.path for row in rows})
    ids = [row.fields[roles["id"]] for row in rows] if "id" in roles else []
    if len(set(ids)) != different:
        paths = [Path(os.path.relpath(row.path, raw)) for row in rows]
        forms = ([path.stem for path in paths], [str(path.with_suffix("")) for path in paths], list(map(str, paths)))
        ids = next((form for form in forms if len(set(form)) == different), forms[-1])
    return zip(rows, ids, strict=True)


def _add_times(records: Sequence[Record], rows: Sequence[Row], roles: Roles) -> None:
    """Add start and end (seconds) where the data has them; they become part of the id. UserError for other texts."""

    def seconds(role: str, row: Row) -> dict[str, float]:
        text = row.fields[roles[role]].strip() if role in roles else ""
        if text and not re.fullmatch(r"\d{1,9}(\.\d*)?", text, re.ASCII):
            raise UserError(f"{row.where}: {roles[role]}={text!r} is not a number of seconds")
        return {role: float(text)} if text else {}  # empty: from the file's start, to its end

    for record, row in zip(records, rows, strict=True):
        times = {**seconds("start", row), **seconds("end", row)}
        if times:
            start, end = times.get("start", 0.0), times.get("end")
            if end is not None and not start < end:
                raise UserError(f"{row.where}: the clip's end, {end} s, is not after its start, {start} s")
            record.update(times, id=f"{record['id']}_{start}-{'' if end is None else end}")


def _numbers(rows: Sequence[Row], column: str) -> dict[str, int]:
    """{label: its number} as `column` tells; UserError where numbers and labels do not match one to one."""
    numbers: dict[str, int] = {}
    owners: dict[int, str] = {}
    for row in rows:
        value = row.fields[column]
        if len(row.names) != 1 or not value.isdecimal() or len(value) > DIGITS:
            raise UserError(f"{row.where}: {column}={value!r} is not one label's number")
        name, number = row.names[0], int(value)
        if numbers.setdefault(name, number) != number:
            raise UserError(f"{row.where}: label {name!r} has number {number} here, {numbers[name]} above")
        if owners.setdefault(number, name) != name:
            raise UserError(f"{row.where}: {column}={number} is the number of several labels: {owners[number]}, {name}")
    return numbers


# --------------------------------------------------------------------------------------------------- folds and splits


def _divide(records: list[Record], rows: Sequence[Row], roles: Roles, settings: CfgNode, find: Find) -> list[Record]:
    """Give every record its fold or split, in the one way that the config names; some may be left out."""
    way = _way_to_divide(rows, roles, settings)
    if way == "data.split_lists":
        return _divide_by_lists(records, rows, settings, find)
    values: Sequence[int | str | None]
    if way == "data.metadata by split":
        values = [row.split for row in rows]
    elif way == "data.folds":
        values = stratified_folds(records, settings.folds, settings.seed)
    elif way == "data.fold":
        values = _fold_numbers(rows, roles["fold"])
    else:
        values = _split_names(rows, roles["split"])
    key = "fold" if way in ("data.fold", "data.folds") else "split"
    for record, value in zip(records, values, strict=True):
        record[key] = value
    return records


def _way_to_divide(rows: Sequence[Row], roles: Roles, settings: CfgNode) -> str:
    """Which of WAYS the config names. UserError for none, and for several."""
    by_split = bool(rows and rows[0].split)
    given = ["fold" in roles, "split" in roles, settings.folds > 0, bool(settings.split_lists), by_split]
    ways = [way for way, is_given in zip(WAYS, given, strict=True) if is_given]
    if not ways:
        raise UserError(
            f"data.fold is empty: layout {settings.layout} needs it, or data.split, data.folds or data.split_lists,"
            " to know which clips to test on"
        )
    if len(ways) > 1:
        raise UserError(f"{' and '.join(ways)} both say how to divide the clips: give one of them")
    return ways[0]


def _fold_numbers(rows: Sequence[Row], column: str) -> list[int]:
    """Fold numbers as they stand; names get numbers, 1 for the first in sorted order, and are logged."""
    values = [row.fields[column].strip() for row in rows]
    if not any(re.fullmatch(r"[-+.\d]*", value) for value in values):
        names = sorted(set(values))
        log.info("folds by %s: %s", column, ", ".join(f"{n} = {name}" for n, name in enumerate(names, 1)))
        return [names.index(value) + 1 for value in values]
    for row, value in zip(rows, values, strict=True):
        if not value.isdecimal() or len(value) > DIGITS:
            raise UserError(f"{row.where}: {column}={row.fields[column]!r} is not the number of a fold")
    return [int(value) for value in values]


def _split_names(rows: Sequence[Row], column: str) -> list[str]:
    """train, valid or test for each row, as `column` tells in these or other usual words. UserError for others."""
    names = []
    for row in rows:
        name = SPLITS.get(row.fields[column].strip().lower())
        if name is None:
            raise UserError(f"{row.where}: {column}={row.fields[column]!r} is not a split: train, valid or test")
        names.append(name)
    return names


def _divide_by_lists(records: list[Record], rows: Sequence[Row], settings: CfgNode, find: Find) -> list[Record]:
    """Give the records the splits of data.split_lists, which name a clip by its id or by the end of its path."""
    splits = _read_split_lists(settings.split_lists, find)
    used: dict[str, str] = {}  # {a name on a list: path of its clip}
    kept = []
    for record, row in zip(records, rows, strict=True):
        parts = Path(row.path).with_suffix("").parts
        names = {record["id"], *("/".join(parts[n:]) for n in range(len(parts)))}
        named = [name for name in names if name in splits]
        for name in named:
            if name in used:
                raise UserError(f"data.split_lists: {name} may be {used[name]} or {row.path}: write more of its path")
            used[name] = row.path
        if len({splits[name] for name in named}) > 1:
            raise UserError(f"data.split_lists: {row.path} stands in two splits: as {' and as '.join(sorted(named))}")
        if named:
            kept.append({**record, "split": splits[named[0]]})
    missing = [name for name in splits if name not in used]
    check_missing(missing, len(splits), "on data.split_lists have no file", settings)
    if len(kept) < len(records):
        left_out = len(records) - len(kept)
        log.info("%d of %d clips are left out: they stand on none of data.split_lists", left_out, len(records))
    return kept


def _read_split_lists(lists: object, find: Find) -> dict[str, str]:
    """{name on a list: split} of the files {split: FILE}, a name per line, without the suffixes of sounds."""
    if not isinstance(lists, dict):
        raise UserError("data.split_lists must be a mapping: {train: FILE, valid: FILE, test: FILE}")
    splits: dict[str, str] = {}
    for split, file in lists.items():
        for line in read_text(find(file), None, "data.split_lists").splitlines():
            name = line.strip()
            suffix = Path(name).suffix
            name = name[: -len(suffix)] if suffix.lower() in SOUND else name
            if name and splits.setdefault(name, split) != split:
                raise UserError(f"{find(file)}: {name} stands in {split} and in {splits[name]}")
    return splits
