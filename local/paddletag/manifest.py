"""The list of clips: one JSON line each, checked once, here, so that nothing after it needs to check again.

A record is {"id", "audio", "labels": [names], "fold" or "split", "group"?, "start"?, "end"?, "seconds"}. Either all
records have a "fold", a number, or all have a "split": train, valid or test. Clips of split valid are never trained
on: they serve to choose an epoch (train.select) or a setting, and test alone is reported.
"""

import fcntl
import gzip
import hashlib
import heapq
import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from paddletag import runtime
from paddletag.runtime import UserError

NAME = "manifest.jsonl"
LABELS = "labels.txt"
REJECTED = "rejected.jsonl"
SHOWN = 5  # groups or clips that a message names
PREPARE = "run stage 0 first (bash run.sh --stage 0 --stop-stage 0)"


def side(record):
    """The part of the data that a clip lies in: the number of its fold, or train, valid, test."""
    return record.get("fold", record.get("split"))


def check(records, labels, listed=False):
    """What every reader relies on. UserError for duplicate ids, unknown labels, and splits that cannot work.

    listed: the labels come from a list (data.labels), so that some may have no clips, or none to learn from.
    Groups on several sides of a split are not refused: a data set may publish such a split (`crossing`), and the
    splits that are made here keep groups whole.
    """
    known, seen = set(labels), {}
    sides = defaultdict(set)  # of each label
    for name in labels:
        if name.splitlines() != [name]:
            raise UserError(f"data.label: {name!r} is not one line of text, as {LABELS} needs it")
    for record in records:
        here = side(record)
        if record["id"] in seen:
            where = "twice" if seen[record["id"]] == here else f"in {words(seen[record['id']])} and in {here}"
            raise UserError(f"{record['audio']}: the id {record['id']!r} stands {where}: ids must be unique")
        seen[record["id"]] = here
        for name in record["labels"]:
            if name not in known:
                raise UserError(f"{record['audio']}: its label {name!r} is not in {LABELS}")
            sides[name].add(here)
    found = set(seen.values())
    splits = any(isinstance(here, str) for here in found)
    if splits and not {"train", "test"} <= found:
        lacking = "test" if "train" in found else "train"
        raise UserError(f"data.split: no clip is in {lacking}: there is nothing to {lacking} on")
    if len(found) < 2:
        where = f"all clips are in fold {next(iter(found))}" if found else "there are no clips"
        raise UserError(f"data.fold: {where}: nothing is left to test on")
    for name in labels if not listed else ():
        if not sides[name]:
            raise UserError(f"data.label: {name!r} has no clip that can be used: give it some, or leave it out")
        if splits and "train" not in sides[name]:
            raise UserError(
                f"data.label: {name!r} occurs in {' and '.join(sorted(sides[name]))} only: no model would have met it;"
                " give it clips in train, or leave it out"
            )
        if len(sides[name]) == 1 and not splits:
            raise UserError(
                f"data.label: {name!r} occurs in {words(*sides[name])} only: a model tested on that fold would never"
                " have met it; give it clips in other folds, or leave it out"
            )


def crossing(records):
    """One line on the groups that have clips in several folds or splits; empty where there are none."""
    sides, clips = defaultdict(set), Counter()
    for record in records:
        if "group" in record:
            sides[record["group"]].add(side(record))
            clips[record["group"]] += 1
    groups = sorted(group for group, found in sides.items() if len(found) > 1)
    if not groups:
        return ""
    kind = "splits" if any(isinstance(name, str) for name in sides[groups[0]]) else "folds"
    few = [f"{runtime.show(group)} ({kind} {', '.join(map(str, sorted(sides[group])))})" for group in groups[:SHOWN]]
    more = f" and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
    return (
        f"{len(groups)} groups with {sum(clips[group] for group in groups)} clips lie in more than one of the {kind}"
        f" that the data set publishes: {', '.join(few)}{more}"
    )


def words(side):
    """A side as texts call it: fold 1, or test."""
    return side if isinstance(side, str) else f"fold {side}"


def write(data, records, labels, rejected, listed=False):
    """Check and write manifest, labels and rejected rows into the folder `data`; the manifest comes last.

    UserError for what `check` refuses, and for an audio file that is missing.
    """
    check(records, labels, listed)
    for record in records:
        if not os.path.isfile(record["audio"]):
            raise UserError(f"{record['audio']}: no such file")
    _write_lines(Path(data) / REJECTED, rejected)
    runtime.write_text(Path(data) / LABELS, "".join(f"{name}\n" for name in labels))
    _write_lines(Path(data) / NAME, records)


def read(data, with_rejected=False):
    """(records, labels) of the prepared folder `data`; clips that stage 1 could not decode are left out."""
    data = Path(data)
    for name in (NAME, LABELS):
        if not (data / name).exists():
            raise UserError(f"{data / name}: no such file: {PREPARE}")
    records = read_lines(data / NAME)
    out = set() if with_rejected else {row["id"] for row in read_rejected(data)}
    try:
        labels = (data / LABELS).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{data / LABELS}: not UTF-8 text ({error}): remove it, then {PREPARE}") from None
    return [record for record in records if record["id"] not in out], labels


def read_rejected(data):
    path = Path(data) / REJECTED
    return read_lines(path) if path.exists() else []


def reject(data, rows, limit, mended=()):
    """Add `rows` to the list of clips that are left out and drop the ids `mended`; ranks may call this at once.

    UserError, naming the first of them, if there are more than `limit` then (`data.max_rejected`).
    """
    data = Path(data)
    with open(data / NAME, "r+") as lock:  # any file that lasts would do
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = {row["id"]: row for row in read_rejected(data)} | {row["id"]: row for row in rows}
        rejected = [row for id, row in known.items() if id not in mended]
        check_limit(rejected, limit)
        _write_lines(data / REJECTED, rejected)


def check_limit(rejected, limit):
    """UserError if more clips are unusable than `data.max_rejected` allows."""
    if len(rejected) > limit:
        others = f" (and {len(rejected) - 1} more)" if len(rejected) > 1 else ""
        allowed = "none" if limit == 0 else limit
        raise UserError(
            f"{rejected[0]['reason']}{others}; mend or remove it, or allow some to be left out:"
            f" data.max_rejected ({allowed} now)"
        )


def read_lines(path):
    """The JSON values in the lines of `path`."""
    with open(path, encoding="utf-8") as file:
        try:
            return [json.loads(line) for line in file]
        except ValueError as error:
            raise UserError(f"{path}: not a file of JSON lines ({error}): remove it, then {PREPARE}") from None


def _write_lines(path, rows):
    runtime.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def fingerprint(record):
    """What a clip's features depend on, of its source: path, size, time of change, start, end."""
    stat = Path(record["audio"]).stat()
    return json.dumps([record["audio"], stat.st_size, stat.st_mtime_ns, record.get("start", 0), record.get("end")])


def digest(records):
    """A short name of a list of clips with their labels and folds: a model remembers what it was trained on."""
    rows = sorted(json.dumps([r["id"], r["labels"], side(r)]) for r in records)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def write_clip_list(path: str | Path, records: list[dict], sounds: dict[str, str]) -> None:
    """Keep what a model is made from: a line of JSON for each clip, compressed.

    sounds: {id: what tells this sound from another}, for the clips that are trained or validated on.
    """
    rows = ([r["id"], short_name(r), side(r), r["labels"], sounds.get(r["id"])] for r in records)
    with runtime.atomic(path) as temporary, open(temporary, "wb") as raw:
        with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:  # no name and time: equal lists are equal bytes
            file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def changes(path: str | Path, records: list[dict], sounds: dict[str, str] | None = None) -> str:
    """One line on how `records` differ from the list that `write_clip_list` kept; it names the first few clips.

    Without `sounds`, what the clips sound like is not compared.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            before = {id: [name, side, labels, sound] for id, name, side, labels, sound in map(json.loads, file)}
    except (OSError, EOFError, ValueError, LookupError, TypeError):
        return "its clips, labels, folds or sounds are others now"  # a model of before, or a copy without the list
    kept = {id: row[3] for id, row in before.items()} if sounds is None else sounds
    now = {r["id"]: [short_name(r), side(r), r["labels"], kept.get(r["id"])] for r in records}
    lines = [f"+ {now[id][0]}" for id in now if id not in before]
    lines += [f"- {before[id][0]}" for id in before if id not in now]
    for id in now:
        if id in before and before[id][1:] != now[id][1:]:
            name, _, labels, sound = now[id]
            what = [f"{words(before[id][1])}, now {words(now[id][1])}"] if before[id][1] != now[id][1] else []
            what += [f"{'; '.join(before[id][2])}, now {'; '.join(labels)}"] if before[id][2] != labels else []
            what += ["another sound"] if before[id][3] != sound else []
            lines.append(f"{name} ({', '.join(what)})")
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"{len(now)} clips, trained with {len(before)}: {', '.join(lines[:SHOWN])}{more}"


def short_name(record: dict) -> str:
    """A clip's file with its folder, and where in the file it lies: for people."""
    name = "/".join(Path(record["audio"]).parts[-2:])
    return f"{name} from {record.get('start', 0)} s" if "start" in record or "end" in record else name


def parse_fold(text):
    """What --fold says: a fold's number, or test or valid, for data with splits. UserError for anything else."""
    if text.isdecimal():
        return int(text)
    if text in ("test", "valid"):
        return text
    raise UserError(f"--fold {text}: neither the number of a fold nor, for data with splits, test or valid")


def part(records, name):
    """The records of split `name`; [] where the data has folds."""
    return [record for record in records if record.get("split") == name]


def split(records, fold):
    """(training records, held-out records) for a fold's number, or for test or valid where the data has splits.

    UserError for a fold that does not exist. Of data with splits, train alone is trained on, whatever is held out.
    """
    if part(records, "train"):
        splits = [name for name in ("test", "valid") if part(records, name)]
        if fold not in splits:
            raise UserError(f"fold {fold}: the data has splits, not folds; to hold out there are: {', '.join(splits)}")
        return part(records, "train"), part(records, fold)
    folds = sorted({record["fold"] for record in records})
    if fold not in folds:
        raise UserError(f"fold {fold}: no such fold in the data; there are: {', '.join(map(str, folds))}")
    return [r for r in records if r["fold"] != fold], [r for r in records if r["fold"] == fold]


def inner_split(records, share, seed):
    """(training records, validation records): about `share` of `records` and of every label, drawn by `seed`.

    Groups stay whole, and every label keeps clips to train on; one clip or group is set aside at least. UserError if
    that cannot be.
    """
    rows = defaultdict(list)  # of the units that stay together: groups, and clips without one
    for row, record in enumerate(records):
        rows["group" in record, record.get("group", row)].append(row)
    units = list(rows.values())
    units = [units[i] for i in np.random.default_rng((0, seed)).permutation(len(units))]
    counts = [Counter(name for row in unit for name in records[row]["labels"] or [None]) for unit in units]
    left, queues = Counter(), defaultdict(list)  # by label (None: clips without one): clips to train on, its units
    for i, count in enumerate(counts):
        left.update(count)
        for name in count:
            queues[name].append(i)
    lacks, total = {name: share * n for name, n in left.items()}, share * len(records)  # still to be set aside
    taken = set()

    def keeps_labels(i):
        return all(left[name] > n for name, n in counts[i].items())

    def fits(i):
        return i not in taken and keeps_labels(i) and len(units[i]) <= 2 * total  # larger ones would miss by more

    def gain(i):  # by how much unit i lessens the sum of the squares of what labels lack
        return sum(n * (2 * lacks[name] - n) for name, n in counts[i].items())

    # The label that lacks most comes next, with the best of a few of its units: a common label, served first, comes
    # again with the others. What labels lack only sinks, so that an entry of the heap errs upwards.
    heap = [(-lack, k, name) for k, (name, lack) in enumerate(lacks.items())]
    heapq.heapify(heap)
    while heap and total >= 0.5:
        known, k, name = heap[0]
        if lacks[name] <= 0 or not queues[name]:
            heapq.heappop(heap)
        elif -known > lacks[name]:
            heapq.heapreplace(heap, (-lacks[name], k, name))
        else:
            few = list(filter(fits, queues[name][-8:]))
            best = max(few, key=gain, default=None)
            queues[name][-8:] = [i for i in few if i != best]
            if few:
                taken.add(best)
                left.subtract(counts[best])
                total -= len(units[best])
                for other, n in counts[best].items():
                    lacks[other] -= n
    taken = taken or {min(filter(keeps_labels, range(len(units))), key=lambda i: len(units[i]), default=None)}
    if None in taken:
        raise UserError(
            f"train.validation: none of the {len(records)} clips can be set aside (with its group): each has a label"
            " that no other one has; set it to 0, or give the labels more clips"
        )
    aside = {row for i in taken for row in units[i]}
    return [r for n, r in enumerate(records) if n not in aside], [r for n, r in enumerate(records) if n in aside]
