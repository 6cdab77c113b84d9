"""Folds and splits: how clips are divided, what is held out, and which clips validate.

A record has either a fold, a number, or a split: train, valid or test.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from paddletag.data.clips import select, splits_of, with_splits
from paddletag.runtime import UserError, show
from paddletag.type_aliases import Record

SHOWN = 5  # groups that a message names
MOST_PARTS = 100  # equal parts of which some become the validation clips


def split_of(record: Record) -> int | str:
    """The number of a record's fold, or its split: train, valid or test."""
    return record["fold"] if "fold" in record else record["split"]


def describe_split(split: int | str) -> str:
    """A fold or split as texts call it: fold 1, or test."""
    return split if isinstance(split, str) else f"fold {split}"


def crossing_groups(records: Sequence[Record]) -> str:
    """One line on the groups that have clips in several folds or splits; empty where there are none."""
    splits = defaultdict(set)
    clips: Counter[str] = Counter()
    for record in records:
        if "group" in record:
            splits[record["group"]].add(split_of(record))
            clips[record["group"]] += 1
    groups = sorted(group for group, several in splits.items() if len(several) > 1)
    if not groups:
        return ""
    kind = "splits" if any(isinstance(name, str) for name in splits[groups[0]]) else "folds"
    few = [f"{show(group)} ({kind} {', '.join(map(str, sorted(splits[group])))})" for group in groups[:SHOWN]]
    more = f" and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
    return (
        f"{len(groups)} groups with {sum(clips[group] for group in groups)} clips lie in more than one of the {kind}"
        f" that the data set publishes: {', '.join(few)}{more}"
    )


def parse_fold(text: str) -> int | str:
    """What --fold says: a fold's number, or test or valid, for data with splits. UserError for anything else."""
    if text.isdecimal():
        return int(text)
    if text in ("test", "valid"):
        return text
    raise UserError(f"--fold {text}: neither the number of a fold nor, for data with splits, test or valid")


def records_of(records: Sequence[Record], split: str) -> Sequence[Record]:
    """The records of a split; none where the data has folds."""
    return with_splits(records, {split})


def hold_out(records: Sequence[Record], fold: int | str) -> tuple[Sequence[Record], Sequence[Record]]:
    """(training records, held-out records) for a fold's number, or for test or valid where the data has splits.

    UserError for a fold that does not exist. Of data with splits, train alone is trained on, whatever is held out.
    """
    codes, names = splits_of(records)
    occurring = {names[code] for code in np.unique(codes)}
    if "train" in occurring:
        splits = [name for name in ("test", "valid") if name in occurring]
        if fold not in splits:
            raise UserError(f"fold {fold}: the data has splits, not folds; to hold out there are: {', '.join(splits)}")
        return records_of(records, "train"), records_of(records, str(fold))
    if fold not in occurring:
        folds = ", ".join(map(str, sorted(occurring, key=_numbers_first)))
        raise UserError(f"fold {fold}: no such fold in the data; there are: {folds}")
    return with_splits(records, occurring - {fold}), with_splits(records, {fold})


def _numbers_first(split: int | str | None) -> tuple[bool, int | str]:
    return (False, split) if isinstance(split, int) else (True, str(split))


def validation_part(records: Sequence[Record], share: float, seed: int) -> tuple[Sequence[Record], Sequence[Record]]:
    """(training records, validation records): about `share` of `records` and of every label, drawn by `seed`.

    The validation records are some of the parts that `stratified_folds` makes, so that the seed tells apart only groups
    of equal size. Groups stay whole, and every label keeps clips to train on; one clip or group is set aside at least.
    UserError if that cannot be.
    """
    units = units_of(records)
    labels_left = Counter(name for record in records for name in record["labels"])
    aside: set[int] = set()

    def set_aside(rows: list[int]) -> None:
        labels = Counter(name for row in rows for name in records[row]["labels"])
        if all(labels_left[name] > n for name, n in labels.items()) and len(aside) + len(rows) < len(records):
            labels_left.subtract(labels)
            aside.update(rows)

    in_share = _fitting_rows(records, len(units), share, seed)
    for rows in units.values():
        if rows[0] in in_share:
            set_aside(rows)
    for rows in sorted(units.values(), key=len):
        if not aside:
            set_aside(rows)
    if not aside:
        raise UserError(
            f"train.validation: none of the {len(records)} clips can be set aside (with its group): each has a label"
            " that no other one has; set it to 0, or give the labels more clips"
        )
    is_aside = np.zeros(len(records), bool)
    is_aside[[*aside]] = True
    return select(records, np.flatnonzero(~is_aside)), select(records, np.flatnonzero(is_aside))


def _fitting_rows(records: Sequence[Record], units: int, share: float, seed: int) -> set[int]:
    """The rows of about `share` of the records: of as few equal parts as make it up, those whose sizes fit best.

    units: the number of groups, and clips without one.
    """
    if units < 2:
        return set()
    parts = round(1 / share) if share * MOST_PARTS < 1 else Fraction(share).limit_denominator(MOST_PARTS).denominator
    parts = max(2, min(parts, units))
    count = min(max(1, round(share * parts)), parts - 1)
    numbers = stratified_folds(records, parts, seed)
    sizes, wanted = Counter(numbers), share * len(records) / count
    chosen = sorted(sizes, key=lambda number: (abs(sizes[number] - wanted), number))[:count]
    return {row for row, number in enumerate(numbers) if number in chosen}


def units_of(records: Sequence[Record]) -> dict[tuple[str, object], list[int]]:
    """{key: rows of `records`} of what stays together: groups, and clips without one."""
    units = defaultdict(list)
    for row, record in enumerate(records):
        units[("group", record["group"]) if "group" in record else ("id", record["id"])].append(row)
    return units


def stratified_folds(records: Sequence[Record], folds: int, seed: int) -> list[int]:
    """A fold, 1 to `folds`, for each record: equal shares of every label in each, groups kept whole.

    Greedy, large groups first, each into the fold that has the least of what is in it; equal ones in an order that
    depends on the seed and on their names alone, so that a new clip hardly moves the others.
    UserError for fewer groups (clips, where there are none) than folds.
    """
    units = units_of(records)
    if len(units) < folds:
        what = "groups" if any("group" in record for record in records) else "clips"
        raise UserError(f"data.folds: {folds} folds need as many {what}: there are {len(units)}")
    total = Counter(name for record in records for name in record["labels"])
    columns = {name: n for n, name in enumerate(total)}
    weights = np.array([1 / total[name] for name in columns])
    counts, sizes, numbers = np.zeros((folds, len(columns))), np.zeros(folds), [0] * len(records)

    def order(key: tuple[str, object]) -> tuple[int, bytes]:
        return -len(units[key]), hashlib.sha256(f"{seed}/{key[1]}".encode()).digest()

    for key in sorted(units, key=order):
        labels = Counter(columns[name] for row in units[key] for name in records[row]["labels"])
        unit_columns, unit_counts = list(labels), list(labels.values())
        costs = counts[:, unit_columns] @ (weights[unit_columns] * np.array(unit_counts)) if labels else sizes
        costs = costs.round(9)  # equal costs must be equal on every CPU, however it adds them up
        fold = int(np.lexsort((sizes, costs))[0])
        counts[fold, unit_columns] += unit_counts
        sizes[fold] += len(units[key])
        for row in units[key]:
            numbers[row] = fold + 1
    return numbers
