"""The list of clips: one JSON line each, checked once, here, so that nothing after it needs to check again.

A record is {"id", "audio", "labels": [names], "fold" or "split", "group"?, "start"?, "end"?, "seconds"}. Either all
records have a "fold", a number, or all have a "split": train, valid or test. Clips of split valid are never trained
on: they serve to choose an epoch (train.select) or a setting, and test alone is reported.
"""

import fcntl
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from paddletag.data.clips import Clips
from paddletag.data.splits import describe_split, split_of
from paddletag.files import write_text
from paddletag.runtime import UserError
from paddletag.type_aliases import File, Record

NAME = "manifest.jsonl"
LABELS = "labels.txt"
REJECTED = "rejected.jsonl"
THREADS = 16  # that look at files side by side
TOGETHER = 256  # files that a thread looks at before it says so
PREPARE = "run stage 0 first (bash run.sh --stage 0 --stop-stage 0)"


def check(records: Sequence[Record], labels: Sequence[str], listed: bool = False) -> None:
    """What every reader relies on. UserError for duplicate ids, unknown labels, and splits that cannot work.

    listed: the labels come from a list (data.labels), so that some may have no clips, or none to learn from.
    Groups on several sides of a split are not refused: a data set may publish such a split (`crossing_groups`), and the
    splits that are made here keep groups whole.
    """
    for name in labels:
        if name.splitlines() != [name]:
            raise UserError(f"data.label: {name!r} is not one line of text, as {LABELS} needs it")
    split_by_id: dict[str, int | str] = {}
    splits_by_label = defaultdict(set)
    label_set = set(labels)
    for record in records:
        split = split_of(record)
        if record["id"] in split_by_id:
            other = split_by_id[record["id"]]
            where = "twice" if other == split else f"in {describe_split(other)} and in {split}"
            raise UserError(f"{record['audio']}: the id {record['id']!r} stands {where}: ids must be unique")
        split_by_id[record["id"]] = split
        for name in record["labels"]:
            if name not in label_set:
                raise UserError(f"{record['audio']}: its label {name!r} is not in {LABELS}")
            splits_by_label[name].add(split)
    splits = set(split_by_id.values())
    _check_splits(splits)
    if not listed:
        for name in labels:
            _check_label(name, splits_by_label[name], "train" in splits)


def _check_splits(splits: set[int | str]) -> None:
    """UserError where the splits, or folds, of all clips leave nothing to train or to test on."""
    if any(isinstance(split, str) for split in splits) and not {"train", "test"} <= splits:
        lacking = "test" if "train" in splits else "train"
        raise UserError(f"data.split: no clip is in {lacking}: there is nothing to {lacking} on")
    if len(splits) < 2:
        where = f"all clips are in fold {next(iter(splits))}" if splits else "there are no clips"
        raise UserError(f"data.fold: {where}: nothing is left to test on")


def _check_label(name: str, splits: set[int | str], named: bool) -> None:
    """UserError for a label that lies in these splits (named: train, valid, test) or folds, if none could learn it."""
    if not splits:
        raise UserError(f"data.label: {name!r} has no clip that can be used: give it some, or leave it out")
    if named and "train" not in splits:
        raise UserError(
            f"data.label: {name!r} occurs in {' and '.join(sorted(map(str, splits)))} only: no model would have met it;"
            " give it clips in train, or leave it out"
        )
    if len(splits) == 1 and not named:
        raise UserError(
            f"data.label: {name!r} occurs in {describe_split(*splits)} only: a model tested on that fold would"
            " never have met it; give it clips in other folds, or leave it out"
        )


def write(
    data: File, records: Sequence[Record], labels: Sequence[str], rejected: Sequence[Record], listed: bool = False
) -> None:
    """Check and write manifest, labels and rejected rows into the folder `data`; the manifest comes last.

    UserError for what `check` refuses, and for an audio file that is missing.
    """
    check(records, labels, listed)
    with ThreadPoolExecutor(THREADS) as pool:
        blocks = (records[first : first + TOGETHER] for first in range(0, len(records), TOGETHER))
        for missing in filter(None, pool.map(_first_missing, blocks)):
            raise UserError(f"{missing}: no such file")
    _write_lines(Path(data) / REJECTED, rejected)
    write_text(Path(data) / LABELS, "".join(f"{name}\n" for name in labels))
    _write_lines(Path(data) / NAME, records)


def _first_missing(records: Sequence[Record]) -> str | None:
    return next((record["audio"] for record in records if not os.path.isfile(record["audio"])), None)


def data_set_name(data: File) -> str:
    """What texts call the prepared folder `data`: its name, or that of the folder it is in where it is only "data"."""
    path = Path(os.path.abspath(data))
    return path.parent.name if path.name == "data" else path.name


def read(data: File, with_rejected: bool = False) -> tuple[list[Record], list[str]]:
    """(records, labels) of the prepared folder `data`; clips that stage 1 could not decode are left out.

    UserError for a folder that is not prepared, or whose files cannot be read.
    """
    refuse_unprepared(data)
    records = read_lines(Path(data) / NAME)
    rejected = set() if with_rejected else {row["id"] for row in read_rejected(data)}
    return [record for record in records if record["id"] not in rejected], read_labels(data)


def refuse_unprepared(data: File) -> None:
    """UserError for a folder `data` without a manifest or labels."""
    for path in (Path(data) / NAME, Path(data) / LABELS):
        if not path.exists():
            raise UserError(f"{path}: no such file: {PREPARE}")


def read_labels(data: File) -> list[str]:
    """The labels of the prepared folder `data`. UserError for a damaged file."""
    data = Path(data)
    try:
        return (data / LABELS).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{data / LABELS}: not UTF-8 text ({error}): remove it, then {PREPARE}") from None


def read_rejected(data: File) -> list[Record]:
    """The rows of clips that are left out, {"id", "audio", "reason", ...}; [] where there is no list of them."""
    path = Path(data) / REJECTED
    return read_lines(path) if path.exists() else []


def reject(data: File, rows: Sequence[Record], limit: int, mended: Collection[str] = ()) -> None:
    """Add `rows` to the list of clips that are left out and drop the ids `mended`; ranks may call this at once.

    UserError, naming the first of them, if there are more than `limit` then (`data.max_rejected`).
    """
    data = Path(data)
    with open(data / NAME, "r+") as lock:  # any file that lasts would do
        fcntl.flock(lock, fcntl.LOCK_EX)
        by_id = {row["id"]: row for row in [*read_rejected(data), *rows]}
        rejected = [row for clip_id, row in by_id.items() if clip_id not in mended]
        check_limit(rejected, limit)
        _write_lines(data / REJECTED, rejected)


def check_limit(rejected: Sequence[Record], limit: int) -> None:
    """UserError if more clips are unusable than `data.max_rejected` allows."""
    if len(rejected) > limit:
        others = f" (and {len(rejected) - 1} more)" if len(rejected) > 1 else ""
        allowed = "none" if limit == 0 else limit
        raise UserError(
            f"{rejected[0]['reason']}{others}; mend or remove it, or allow some to be left out:"
            f" data.max_rejected ({allowed} now)"
        )


def read_lines(path: File) -> list[Any]:
    """The JSON values in the lines of `path`. UserError for a file of anything else."""
    with open(path, encoding="utf-8") as file:
        try:
            return [json.loads(line) for line in file]
        except ValueError as error:
            raise not_json_lines(path, error) from None


def not_json_lines(path: File, error: ValueError) -> UserError:
    """The error for a file that holds something else than lines of JSON."""
    return UserError(f"{path}: not a file of JSON lines ({error}): remove it, then {PREPARE}")


def _write_lines(path: Path, rows: Sequence[Record]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def fingerprint(record: Record) -> str:
    """What a clip's features depend on, of its source: path, size, time of change, start, end."""
    stat = os.stat(record["audio"])
    return json.dumps([record["audio"], stat.st_size, stat.st_mtime_ns, record.get("start", 0), record.get("end")])


def fingerprints(records: Sequence[Record], missing: str | None = None) -> Iterator[tuple[Record, str]]:
    """Each of `records` with its fingerprint: many files are looked at side by side, for a network's disks are slow.

    missing: what stands for a file that is not there, or may not be looked at; with None it is an OSError.
    """

    def look(first: int) -> list[tuple[Record, str]]:
        return [(record, fingerprint_or(record, missing)) for record in records[first : first + TOGETHER]]

    firsts = range(0, len(records), TOGETHER)
    with ThreadPoolExecutor(THREADS) as pool:
        for begin in range(0, len(firsts), 4 * THREADS):  # millions of waiting calls would take gigabytes
            for pairs in pool.map(look, firsts[begin : begin + 4 * THREADS]):
                yield from pairs


def fingerprint_or(record: Record, missing: str | None) -> str:
    """The fingerprint of a clip, or `missing` (if it is a text) where its file cannot be looked at."""
    try:
        return fingerprint(record)
    except OSError:
        if missing is None:
            raise
        return missing


def digest(records: Sequence[Record]) -> str:
    """A short name of a list of clips with their labels and folds: a model remembers what it was trained on."""
    if isinstance(records, Clips) and records.digest:
        return records.digest
    return digest_of_rows(sorted(digest_row(record).encode() for record in records))


def digest_row(record: Record) -> str:
    """What `digest` looks at of a clip, as one line of ASCII."""
    return json.dumps([record["id"], record["labels"], split_of(record)])


def digest_of_rows(rows: Iterable[bytes]) -> str:
    """`digest` of the clips whose sorted rows these are."""
    digest, between = hashlib.sha256(), b""
    for row in rows:
        digest.update(between + row)
        between = b"\n"
    return digest.hexdigest()[:16]


def short_name(record: Record) -> str:
    """A clip's file with its folder, and where in the file it lies: for people."""
    name, parts = "/".join(record["audio"].rsplit("/", 2)[-2:]), record["audio"].split("/")
    if len(parts) < 3 or not all(parts[1:]) or "." in parts:  # paths of other forms: slower
        name = "/".join(Path(record["audio"]).parts[-2:])
    return f"{name} from {record.get('start', 0)} s" if "start" in record or "end" in record else name
