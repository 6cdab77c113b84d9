"""Raw data sets as they come: a table, folders, AudioSet's segments, lists of paths -> records and labels.

Each layout only collects rows; `read` makes records of them, in the same way for all.
"""

import csv
import hashlib
import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddletag import config as configs
from paddletag.files import walk
from paddletag.runtime import UserError, log

ROLES = ("label", "index", "fold", "split", "group", "start", "end")  # what a column, or a field of a pattern, may tell
WAYS = ("data.fold", "data.split", "data.folds", "data.split_lists", "data.metadata by split")  # to divide the clips
SPLITS = {"training": "train", "validation": "valid", "val": "valid", "testing": "test", "eval": "test",
          "evaluation": "test", **{name: name for name in configs.SPLITS}}  # fmt: skip
SOUND = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".w64", ".rf64",
         ".caf"}  # fmt: skip
OTHER_SOUND = {".m4a", ".mp4", ".webm", ".mkv", ".aac", ".wma"}  # what libsndfile does not read


class Row(NamedTuple):
    where: str  # the file and line, or the file, for errors
    path: str
    names: list  # of its labels
    fields: dict  # its columns, or the fields of the pattern
    split: str | None = None  # of the list that it stands in


def read(config, raw, near="."):
    """The raw data set in the folder `raw` -> (records without `seconds`, labels in order).

    Files that the config names are looked for in `raw`, in the config's folder `near` and in the one above it.
    UserError for what is missing, ambiguous or cannot be understood; what is left out is logged with its count.
    """
    settings, raw = config.data, Path(raw)
    folders = (raw, Path(near), Path(near).parent)

    def find(name):
        return next((folder / name for folder in folders if (folder / name).is_file()), raw / name)

    listed = read_labels(find(settings.labels)) if settings.labels else {}
    rows, roles = LAYOUTS[settings.layout](config, raw, find, listed)
    for row in rows:
        if any("\ud800" <= c <= "\udfff" for c in row.path):  # bytes that Python could not read as text
            raise UserError(f"{row.path}: its name is not text in UTF-8: rename it (many at once: convmv)")
    records = [{"id": name, "audio": row.path, "labels": row.names} for row, name in _ids(rows, roles, raw)]
    _segments(records, rows, roles)
    for record, row in zip(records, rows, strict=True):
        if "group" in roles and row.fields[roles["group"]]:
            record["group"] = row.fields[roles["group"]]
    records = _divide(records, rows, roles, settings, find)
    if listed:
        return records, list(dict.fromkeys(listed.values()))
    numbers = _numbers(rows, roles["index"]) if "index" in roles else {}
    names = {name for record in records for name in record["labels"]}
    return records, sorted(names, key=lambda name: (numbers.get(name, 0), name))


# ---------------------------------------------------------------------------------------------------------- layouts


def read_table(config, raw, find, listed):
    """Layout `csv`: a row per clip, columns by name."""
    settings = config.data
    _need(settings, "metadata", "audio", "label")
    rows, roles = [], {}
    for split, table in _files(settings, find):
        lines, columns = _read_csv(table, settings.delimiter, raw)
        roles = _roles(settings, columns, table)
        for line, row in lines:
            where = f"{table}:{line}"
            if None in row or None in row.values():
                raise UserError(f"{where}: has {'more' if None in row else 'fewer'} fields than the header")
            names = _names(row[settings.label], config.task, f"{where}: the label (column {settings.label!r})")
            rows.append(Row(where, str(raw / _fill(settings.audio, row, table)), names, row, split))
    return rows, roles


def read_paths(config, raw, find, listed):
    """Layout `paths`: lines `path label`, between them a tab or blanks; a label may be its number in data.labels."""
    settings = config.data
    _need(settings, "metadata")
    numbered, rows, roles = list(listed.values()), [], {}
    for split, file in _files(settings, find):
        roles = {"label": "label", **_roles(settings, ("path", "label"), file)}
        for line, text in enumerate(_read_text(file, raw).splitlines(), 1):
            if not text.strip():
                continue
            path, _, label = (part.strip() for part in (text if "\t" in text else _last_blank(text)).partition("\t"))
            where = f"{file}:{line}"
            if not path or not label:
                raise UserError(f"{where}: {text.strip()!r} is not a path, a blank and a label")
            names = _names(label, config.task, f"{where}: the label")
            for n, name in enumerate(names):
                if name.isdecimal() and numbered and name not in numbered:
                    if int(name) >= len(numbered):
                        raise UserError(f"{where}: data.labels has {len(numbered)} labels, none with the number {name}")
                    names[n] = numbered[int(name)]
            fields = {"path": path, "label": label}
            rows.append(Row(where, str(raw / _fill(settings.audio or "{path}", fields, file)), names, fields, split))
        if not rows:
            raise UserError(f"{file}: is empty")
    return rows, roles


def read_folders(config, raw, find, listed):
    """Layout `folders`: the path of each file says its label and more, by the pattern data.audio."""
    settings = config.data
    _need(settings, "audio")
    patterns = [_pattern(text) for text in _alternatives(settings.audio)]
    roles = {}
    for role in (*ROLES, "id"):
        name = settings.get(role) or role
        lacking = [text for text, _, fields in patterns if name not in fields]
        if not lacking:
            roles[role] = name
        elif settings.get(role) or role == "label":
            raise UserError(f"data.audio: {lacking[0]} has no field {{{name}}} (data.{role})")
    rows, others = [], []
    for name in sorted(walk(raw)):
        suffix = Path(name).suffix.lower()
        usable = (pattern for text, pattern, _ in patterns if suffix in SOUND or text.endswith(suffix or "/"))
        found = next(filter(None, (pattern.fullmatch(name) for pattern in usable)), None)
        if found:
            where, fields = str(raw / name), found.groupdict()
            names = _names(fields[roles["label"]], config.task, f"{where}: the label (field {{{roles['label']}}})")
            rows.append(Row(where, where, names, fields))
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


def read_audioset(config, raw, find, listed):
    """Layout `audioset`: segments CSVs, and a folder of clips named by their YouTube id, many of them absent."""
    settings = config.data
    _need(settings, "metadata", "labels")
    if config.task != "multi_label":
        raise UserError(f"task: layout audioset has several labels a clip: multi_label, not {config.task}")
    folder = raw / settings.audio
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (data.audio)")
    for _, file in _files(settings, find):
        _roles(settings, ("positive_labels",), file)
    segments = [(split, file, *row) for split, file in _files(settings, find) for row in _read_segments(file, raw)]
    clips, others = _find_clips(folder, {segment[3] for segment in segments})
    rows, missing = [], []
    for split, file, line, video, start, mids in segments:
        where = f"{file}:{line}"
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
    _allow_missing(missing, len(segments), f"have no file in {folder}", settings)
    return rows, {"id": "id"}


LAYOUTS = {"csv": read_table, "folders": read_folders, "audioset": read_audioset, "paths": read_paths}

# ------------------------------------------------------------------------------------------------------ reading files


def read_labels(path):
    """{label, or its mid: its name} in the order of the file: a name per line, or AudioSet's index,mid,display_name."""
    lines = _read_text(path, None, "data.labels").splitlines()
    if lines and lines[0].replace(" ", "") == "index,mid,display_name":
        rows = [row for row in csv.reader(lines[1:]) if row]
        if not all(len(row) == 3 for row in rows):
            raise UserError(f"{path}: a line has not three fields: index, mid, display_name")
        labels = {mid: name for _, mid, name in rows}
    else:
        labels = {name.strip(): name.strip() for name in lines if name.strip()}
    if not labels:
        raise UserError(f"{path}: has no labels")
    return labels


def _read_text(path, raw, key="data.metadata"):
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        hint = f": is {raw} the folder of the data set? (--raw, {key})" if raw else f" ({key})"
        raise UserError(f"{path}: no such file{hint}") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path}: not a text file: {error}") from None


def _read_csv(table, delimiter, raw):
    """([(line number, {column: value})], columns) of a table with a header."""
    delimiter = delimiter.replace(r"\t", "\t") or ("\t" if table.suffix.lower() == ".tsv" else ",")
    if len(delimiter) != 1:
        raise UserError(f"data.delimiter must be one character, not {delimiter!r}")
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True, delimiter=delimiter)
            lines, columns = [(reader.line_num, row) for row in reader], reader.fieldnames
    except FileNotFoundError:
        raise UserError(f"{table}: no such file: is {raw} the folder of the data set? (--raw, data.metadata)") from None
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise UserError(f"{table}: not a CSV file: {error}") from None
    if not columns:
        raise UserError(f"{table}: is empty")
    if not lines:
        raise UserError(f"{table}: has no rows")
    return lines, columns


def _read_segments(file, raw):
    """(line, YouTube id, start in seconds, mids) of each row of a segments CSV."""
    lines = _read_text(file, raw).splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(("#", "YTID")):
            continue
        row = next(csv.reader([line], skipinitialspace=True))
        try:
            video, start, _, mids = row
            yield number, video, float(start), [mid.strip() for mid in mids.split(",") if mid.strip()]
        except ValueError:
            raise UserError(f'{file}:{number}: is not: YTID, start_seconds, end_seconds, "mid,mid"') from None


def _find_clips(folder, wanted):
    """{(YouTube id, start in the file's name or None): path}, and the paths of clips that cannot be read.

    The name is the id, perhaps after a Y, perhaps with start, or start and end, in seconds or milliseconds.
    """
    spelling = re.compile(r"Y?([\w-]{11})(?:_(\d+(?:\.\d+)?)(?:_\d+(?:\.\d+)?)?)?", re.ASCII)
    clips, others = {}, []
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


# ---------------------------------------------------------------------------------------------------- text to meaning


def _need(settings, *keys):
    for key in keys:
        if not settings[key]:
            raise UserError(f"data.{key} is empty: layout {settings.layout} needs it")


def _roles(settings, columns, table):
    """{what a column may tell: the column that the config names for it}. UserError for one that is not there."""
    roles = {role: settings[role] for role in ROLES if settings[role]}
    for role, column in roles.items():
        if column not in columns:
            raise UserError(f"{table}: no column {column!r} (data.{role}); its columns: {', '.join(columns)}")
    return roles


def _alternatives(text):
    return [part.strip() for part in text.split("|") if part.strip()]


def _files(settings, find):
    """(split or None, path) of each file that data.metadata names."""
    by_split = settings.metadata if isinstance(settings.metadata, dict) else {None: settings.metadata}
    return [(split, find(name)) for split, names in by_split.items() for name in _alternatives(names)]


def _last_blank(text):
    return "\t".join(text.strip().rsplit(None, 1))


def _fill(pattern, row, table):
    try:
        return pattern.format_map(row)
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{table}: data.audio {pattern!r} names a column that is not there: {error}") from None


def _names(text, task, what):
    names = [text.strip()]
    if task == "multi_label":
        names = list(dict.fromkeys(name.strip() for name in text.split(";") if name.strip()))
    if not all(names):
        raise UserError(f"{what} is empty")
    return names


def _pattern(text):
    """(text, its regular expression, its fields): {field} and * stand for anything within a name, .* for a sound file.

    Where a name can be read in several ways, the earlier field is the longer one.
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


def _numbers(rows, column):
    """{label: its number} as `column` tells; UserError where numbers and labels do not match one to one."""
    numbers, owners = {}, {}
    for row in rows:
        value = row.fields[column]
        if len(row.names) != 1 or not value.isdecimal():
            raise UserError(f"{row.where}: {column}={value!r} is not one label's number")
        name, number = row.names[0], int(value)
        if numbers.setdefault(name, number) != number:
            raise UserError(f"{row.where}: label {name!r} has number {number} here, {numbers[name]} above")
        if owners.setdefault(number, name) != name:
            raise UserError(f"{row.where}: {column}={number} is the number of several labels: {owners[number]}, {name}")
    return numbers


def _ids(rows, roles, raw):
    """(row, id) pairs: the field {id}, or the file's stem, or where these are shared, the path in the raw folder."""
    different = len({row.path for row in rows})
    ids = [row.fields[roles["id"]] for row in rows] if "id" in roles else []
    if len(set(ids)) != different:
        paths = [Path(os.path.relpath(row.path, raw)) for row in rows]
        forms = ([path.stem for path in paths], [str(path.with_suffix("")) for path in paths], list(map(str, paths)))
        ids = next((form for form in forms if len(set(form)) == different), forms[-1])
    return zip(rows, ids, strict=True)


def _segments(records, rows, roles):
    """Add start and end (seconds) where the data has them; they become part of the id."""

    def seconds(role, row):
        text = row.fields[roles[role]].strip() if role in roles else ""
        if text and not re.fullmatch(r"\d+\.?\d*", text, re.ASCII):
            raise UserError(f"{row.where}: {roles[role]}={text!r} is not a number of seconds")
        return {role: float(text)} if text else {}  # empty: from the file's start, to its end

    for record, row in zip(records, rows, strict=True):
        times = {**seconds("start", row), **seconds("end", row)}
        if times:
            start, end = times.get("start", 0.0), times.get("end", "")
            if end != "" and not start < end:
                raise UserError(f"{row.where}: the clip's end, {end} s, is not after its start, {start} s")
            record.update(times, id=f"{record['id']}_{start}-{end}")


# --------------------------------------------------------------------------------------------------- folds and splits


def _divide(records, rows, roles, settings, find):
    """Give every record its fold or split, in the one way that the config names; some may be left out."""
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
    if by_split:
        sides = [row.split for row in rows]
    elif settings.folds:
        sides = stratified_folds(records, settings.folds, settings.seed)
    elif settings.split_lists:
        return _divide_by_lists(records, rows, settings, find)
    elif "fold" in roles:
        sides = _fold_numbers(rows, roles["fold"])
    else:
        column = roles["split"]
        sides = [SPLITS.get(row.fields[column].strip().lower()) for row in rows]
        if None in sides:
            row = rows[sides.index(None)]
            raise UserError(f"{row.where}: {column}={row.fields[column]!r} is not a split: train, valid or test")
    key = "split" if by_split or "split" in roles else "fold"
    for record, side in zip(records, sides, strict=True):
        record[key] = side
    return records


def _fold_numbers(rows, column):
    """Fold numbers as they stand; names get numbers, 1 for the first in sorted order, and are logged."""
    values = [row.fields[column].strip() for row in rows]
    if not any(re.fullmatch(r"[-+.\d]*", value) for value in values):
        names = sorted(set(values))
        log.info("folds by %s: %s", column, ", ".join(f"{n} = {name}" for n, name in enumerate(names, 1)))
        return [names.index(value) + 1 for value in values]
    for row, value in zip(rows, values, strict=True):
        if not value.isdecimal():
            raise UserError(f"{row.where}: {column}={row.fields[column]!r} is not the number of a fold")
    return [int(value) for value in values]


def _divide_by_lists(records, rows, settings, find):
    """Give the records the splits of data.split_lists, which name a clip by its id or by the end of its path."""
    if not isinstance(settings.split_lists, dict):
        raise UserError("data.split_lists must be a mapping: {train: FILE, valid: FILE, test: FILE}")
    splits = {}  # {id on a list: split}
    for split, file in settings.split_lists.items():
        for line in _read_text(find(file), None, "data.split_lists").splitlines():
            id = line.strip()
            id = id[: -len(Path(id).suffix)] if Path(id).suffix.lower() in SOUND else id
            if id and splits.setdefault(id, split) != split:
                raise UserError(f"{find(file)}: {id} stands in {split} and in {splits[id]}")
    used, kept = {}, []
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
    missing = [id for id in splits if id not in used]
    _allow_missing(missing, len(splits), "on data.split_lists have no file", settings)
    if len(kept) < len(records):
        left = len(records) - len(kept)
        log.info("%d of %d clips are left out: they stand on none of data.split_lists", left, len(records))
    return kept


def _allow_missing(missing, total, what, settings):
    if not missing:
        return
    text = f"{len(missing)} of {total} clips {what}, such as {missing[0]}"
    if len(missing) > settings.max_missing * total:
        allowed = f"{settings.max_missing:g} now"
        raise UserError(f"{text}: get them, or allow a share to be missing: data.max_missing ({allowed}, at most 1)")
    log.warning("%s", text)


def stratified_folds(records, folds, seed):
    """A fold, 1 to `folds`, for each record: equal shares of every label in each, groups kept whole.

    Greedy, large groups first, each into the fold that has the least of what is in it; equal ones in an order that
    depends on the seed and on their names alone, so that a new clip hardly moves the others.
    UserError for fewer groups (clips, where there are none) than folds.
    """
    members = defaultdict(list)  # of each group; a clip without one is its own
    for n, record in enumerate(records):
        members[("group", record["group"]) if "group" in record else ("id", record["id"])].append(n)
    if len(members) < folds:
        what = "groups" if any("group" in record for record in records) else "clips"
        raise UserError(f"data.folds: {folds} folds need as many {what}: there are {len(members)}")
    total = Counter(name for record in records for name in record["labels"])
    columns = {name: n for n, name in enumerate(total)}
    weights = np.array([1 / total[name] for name in columns])
    counts, sizes, sides = np.zeros((folds, len(columns))), np.zeros(folds), [0] * len(records)

    def order(key):
        return -len(members[key]), hashlib.sha256(f"{seed}/{key[1]}".encode()).digest()

    for key in sorted(members, key=order):
        own = Counter(columns[name] for n in members[key] for name in records[n]["labels"])
        held = list(own)
        costs = counts[:, held] @ (weights[held] * np.array([own[n] for n in held])) if held else sizes
        fold = min(range(folds), key=lambda k: (costs[k], sizes[k], k))
        counts[fold, held] += [own[n] for n in held]
        sizes[fold] += len(members[key])
        for n in members[key]:
            sides[n] = fold + 1
    return sides
