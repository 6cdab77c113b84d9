"""What stage 0 finds in the files of a data set: what cannot be used, a table of the rest, and what will hurt."""

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paddletag.data import audio
from paddletag.data.splits import crossing_groups, records_of, split_of
from paddletag.runtime import progress
from paddletag.type_aliases import Record

QUIET = 1e-3  # of full scale: -60 dB
SHORT = 0.1  # seconds
BEYOND = 0.5  # seconds after the end of a file that a clip may be said to last
FEW = 5  # clips of a class
BLOCK = 60.0  # seconds decoded at a time
SHOWN = 5  # examples in a warning
MANY = 60  # classes: beyond, the table has the extremes alone


@dataclass(frozen=True)
class Sound:
    """What is known of a clip's file; the last three only where the sound was listened to."""

    rate: int  # Hz
    channels: int
    kind: str  # the suffix of its name
    peak: float | None = None  # of its mono sum, 1 is full scale; beyond the first minute, at least QUIET is enough
    digest: str | None = None  # of its length and its first minute
    fault: str | None = None  # why it cannot be decoded


def check_files(
    records: Sequence[Record], listen: bool = False, threads: int = 8
) -> tuple[list[Record], list[Sound], list[Record]]:
    """Read every file's header, and decode it if `listen`, in parallel.

    Returns (records with `seconds` and absolute paths, a `Sound` for each of them, rejected rows).
    """

    def check(record: Record) -> tuple[Record, Sound | None]:
        """(the record with its length and the sound of its file), or (the rejected row, None)."""
        try:
            info = audio.probe(record["audio"])
            start, end = record.get("start", 0.0), min(record.get("end", info.seconds), info.seconds)
            if start >= end:
                times = f"a clip of it starts at {start} s, but its sound ends at {end:.2f} s"
                raise audio.AudioError(f"{record['audio']}: {times}")
        except audio.AudioError as error:
            return {"id": record["id"], "audio": record["audio"], "reason": str(error)}, None
        sound = Sound(info.rate, info.channels, Path(record["audio"]).suffix.lower().lstrip("."))
        if listen:
            sound = _listen(record["audio"], sound, start, end)
        path = str(Path(record["audio"]).resolve())
        return {**record, "audio": path, "seconds": round(end - start, 3)}, sound

    results = []
    bar = progress(total=len(records), desc="sound" if listen else "headers", unit="clip")
    with ThreadPoolExecutor(threads) as pool, bar:
        for first in range(0, len(records), 10000):  # millions of waiting calls would take gigabytes
            for result in pool.map(check, records[first : first + 10000]):
                results.append(result)
                bar.update()
    kept = [(record, sound) for record, sound in results if sound]
    rejected = [row for row, sound in results if not sound]
    return [record for record, _ in kept], [sound for _, sound in kept], rejected


def _listen(path: str, sound: Sound, start: float, end: float) -> Sound:
    """`sound` with its peak and digest, or the fault of its file; start and end of the clip in seconds."""
    digest, peak, first = None, 0.0, start
    try:
        while first < end and peak < QUIET:  # a block at a time, so that an hour of sound fits into memory
            wave = audio.load(path, sound.rate, first, min(first + BLOCK, end))
            key = f"{end - start:.3f} {sound.rate}".encode()
            digest = digest or hashlib.blake2b(wave.data, digest_size=16, key=key)
            peak = max(peak, float(np.abs(wave).max()))
            first += BLOCK
    except audio.AudioError as error:
        return Sound(sound.rate, sound.channels, sound.kind, fault=str(error))
    assert digest is not None  # the clip is not empty
    return Sound(sound.rate, sound.channels, sound.kind, peak, digest.hexdigest())


def table(records: Sequence[Record], labels: Sequence[str], sounds: Sequence[Sound]) -> str:
    """A text on the clips as a whole, then the clips of each class."""
    seconds = [record["seconds"] for record in records]
    classes = class_counts(records, labels)
    low, high = min(classes.values()), max(classes.values())
    ratio = f"imbalance {high / low:.1f} to 1" if low else "some have none"
    sizes = Counter(map(split_of, records))
    named = any(isinstance(split, str) for split in sizes)
    order = [split for split in ("train", "valid", "test") if split in sizes] if named else sorted(sizes)
    rows = [
        ("clips", f"{len(records)}, {sum(seconds) / 3600:.2f} hours"),
        ("seconds", f"{min(seconds):g} to {max(seconds):g}, half of them up to {statistics.median(seconds):g}"),
        ("rate (Hz)", _counts(sound.rate for sound in sounds)),
        ("channels", _counts(sound.channels for sound in sounds)),
        ("format", _counts(sound.kind for sound in sounds)),
        ("splits" if named else "folds", ", ".join(f"{split}: {sizes[split]}" for split in order)),
    ]
    groups = {record["group"] for record in records if "group" in record}
    if groups:
        rows.append(("groups", str(len(groups))))
    unlabelled = sum(not record["labels"] for record in records)
    if unlabelled:
        rows.append(("no label", f"{unlabelled} clips"))
    rows.append(("classes", f"{len(classes)}, of {low} to {high} clips ({ratio})"))
    lines = [(name, str(count)) for name, count in classes.items()]
    if len(lines) > MANY:
        lines.sort(key=lambda line: -classes[line[0]])
        lines = [*lines[:SHOWN], ("...", ""), *lines[-SHOWN:]]
    width = max(len(name) for name, _ in lines)
    return "\n".join([*(f"  {key:<10} {text}" for key, text in rows), *(f"    {k:<{width}}  {n}" for k, n in lines)])


def class_counts(records: Sequence[Record], labels: Sequence[str]) -> dict[str, int]:
    """{label: number of clips}, in the order of `labels`."""
    counts = Counter(name for record in records for name in record["labels"])
    return {name: counts[name] for name in labels}


def warnings(
    records: Sequence[Record], labels: Sequence[str], sounds: Sequence[Sound], by_groups: bool = False
) -> list[str]:
    """What will hurt, a line each: rare classes, splits that lack some, copies, silence, what cannot be decoded.

    by_groups: the folds were made here, with groups kept whole, so that groups of one clip each are a mistake.
    """
    lines = []
    counts = class_counts(records, labels)
    rare = sorted((n, name) for name, n in counts.items() if 0 < n < FEW)
    few = f"{{n}} classes have fewer than {FEW} clips, too few to learn and to test"
    lines += _line(few, [f"{name} ({n})" for n, name in rare])
    lines += _line("{n} classes have no clips at all", [name for name, n in counts.items() if not n])
    splits = {record["split"] for record in records if "split" in record}
    for split in sorted(splits):
        split_counts = class_counts(records_of(records, split), labels)
        verb = {"train": "learnt", "valid": "validated", "test": "tested"}[split]
        lacking = [name for name in labels if counts[name] and not split_counts[name]]
        lines += _line(f"{{n}} classes have no clips in {split}, so that they are not {verb}", lacking)
    groups = {record["group"] for record in records if "group" in record}
    if by_groups and len(groups) == len(records) > 1:
        lines.append(
            f"data.group: each of the {len(records)} clips is a group of its own, so that groups keep nothing together:"
            " does it name the right column or field?"
        )
    if text := crossing_groups(records):
        lines.append(f"{text}: a model is tested on recordings that it has partly heard")
    lines += _copies(records, sounds)
    pairs = list(zip(records, sounds, strict=True))
    undecodable = "{n} clips cannot be decoded, and stage 1 will reject them"
    lines += _line(undecodable, [sound.fault for _, sound in pairs if sound.fault])
    silent = [f"{r['id']} ({_decibels(s.peak)})" for r, s in pairs if s.peak is not None and s.peak < QUIET]
    lines += _line("{n} clips are nearly silent: their peak is below -60 dB of full scale", silent)
    short = [f"{r['id']} ({r['seconds']:g} s)" for r in records if r["seconds"] < SHORT]
    lines += _line(f"{{n}} clips are shorter than {SHORT} s", short)
    cut = [
        f"{r['id']} ({r['seconds']:g} s)"
        for r in records
        if r.get("end", 0) - r.get("start", 0) > r["seconds"] + BEYOND
    ]
    lines += _line("{n} clips are shorter than the table says, since their files end before", cut)
    return lines


def _line(what: str, examples: Sequence[str]) -> list[str]:
    """A line that says `what` with the number of examples, {n}, and names the first of them; none without examples."""
    if not examples:
        return []
    more = f" and {len(examples) - SHOWN} more" if len(examples) > SHOWN else ""
    return [f"{what.format(n=len(examples))}: {', '.join(examples[:SHOWN])}{more}"]


def _copies(records: Sequence[Record], sounds: Sequence[Sound]) -> list[str]:
    """Lines on sounds that occur several times: across splits, with different labels, or merely so."""
    across, relabelled, plain = [], [], []
    for group in _same_sound(records, sounds):
        text = " = ".join(record["id"] for record in group)
        splits = sorted({str(split_of(record)) for record in group})
        if len(splits) > 1:
            kind = "split" if "split" in group[0] else "fold"
            across.append(f"{text} ({kind}s {', '.join(splits)})")
        elif len({tuple(sorted(record["labels"])) for record in group}) > 1:
            relabelled.append(f"{text} ({', '.join(sorted({name for r in group for name in r['labels']}))})")
        else:
            plain.append(text)
    tested = "{n} sounds lie on both sides of a split: a model would be tested on what it was trained on"
    differing = "{n} sounds occur several times with different labels"
    return _line(tested, across) + _line(differing, relabelled) + _line("{n} sounds occur several times", plain)


def _same_sound(records: Sequence[Record], sounds: Sequence[Sound]) -> list[list[Record]]:
    """Lists of records whose sound is the same, whatever the format of their files."""
    groups = defaultdict(list)
    for record, sound in zip(records, sounds, strict=True):
        if sound.digest and sound.peak:  # all digital silence is alike
            groups[sound.digest].append(record)
    return [group for group in groups.values() if len(group) > 1]


def _counts(values: Iterable[int | str]) -> str:
    """The one value that all have, or each with its number."""
    counts = Counter(values)
    if len(counts) == 1:
        return str(next(iter(counts)))
    return "mixed: " + ", ".join(f"{value} ({n})" for value, n in sorted(counts.items()))


def _decibels(peak: float) -> str:
    return f"{20 * np.log10(peak):.0f} dB" if peak else "digital silence"
