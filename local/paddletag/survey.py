"""What stage 0 finds in the files of a data set: what cannot be used, a table of the rest, and what will hurt."""

import hashlib
import statistics
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paddletag import audio, manifest
from paddletag.runtime import progress

QUIET = 1e-3  # of full scale: -60 dB
SHORT = 0.1  # seconds
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


def check_files(records, listen=False, threads=8):
    """Read every file's header, and decode it if `listen`, in parallel.

    Returns (records with `seconds` and absolute paths, a `Sound` for each of them, rejected rows).
    """

    def check(record):
        try:
            info = audio.probe(record["audio"])
            start, end = record.get("start", 0.0), min(record.get("end", info.seconds), info.seconds)
            if start >= end:
                times = f"a clip of it starts at {start} s, but its sound ends at {end:.2f} s"
                raise audio.AudioError(f"{record['audio']}: {times}")
        except audio.AudioError as error:
            return None, None, {"id": record["id"], "audio": record["audio"], "reason": str(error)}
        sound = Sound(info.rate, info.channels, Path(record["audio"]).suffix.lower().lstrip("."))
        if listen:
            sound = _listen(record["audio"], sound, start, end)
        path = str(Path(record["audio"]).resolve())
        return {**record, "audio": path, "seconds": round(end - start, 3)}, sound, None

    found = []
    bar = progress(total=len(records), desc="sound" if listen else "headers", unit="clip")
    with ThreadPoolExecutor(threads) as pool, bar:
        for first in range(0, len(records), 10000):  # millions of waiting calls would take gigabytes
            for result in pool.map(check, records[first : first + 10000]):
                found.append(result)
                bar.update()
    kept = [(record, sound) for record, sound, _ in found if record]
    return [record for record, _ in kept], [sound for _, sound in kept], [row for _, _, row in found if row]


def _listen(path, sound, start, end):
    digest, peak, first = None, 0.0, start
    try:
        while first < end and peak < QUIET:  # a block at a time, so that an hour of sound fits into memory
            wave = audio.load(path, sound.rate, first, min(first + BLOCK, end))
            digest = digest or hashlib.blake2b(wave, digest_size=16, key=f"{end - start:.3f} {sound.rate}".encode())
            peak = max(peak, float(np.abs(wave).max()))
            first += BLOCK
    except audio.AudioError as error:
        return Sound(sound.rate, sound.channels, sound.kind, fault=str(error))
    return Sound(sound.rate, sound.channels, sound.kind, peak, digest.hexdigest())


def table(records, labels, sounds):
    """A text on the clips as a whole, then the clips of each class."""
    seconds = [record["seconds"] for record in records]
    classes = class_counts(records, labels)
    low, high = min(classes.values()), max(classes.values())
    ratio = f"imbalance {high / low:.1f} to 1" if low else "some have none"
    sides = Counter(map(manifest.side, records))
    splits = any(isinstance(side, str) for side in sides)
    order = [s for s in ("train", "valid", "test") if s in sides] if splits else sorted(sides)
    rows = [
        ("clips", f"{len(records)}, {sum(seconds) / 3600:.2f} hours"),
        ("seconds", f"{min(seconds):g} to {max(seconds):g}, half of them up to {statistics.median(seconds):g}"),
        ("rate (Hz)", _counts(sound.rate for sound in sounds)),
        ("channels", _counts(sound.channels for sound in sounds)),
        ("format", _counts(sound.kind for sound in sounds)),
        ("splits" if splits else "folds", ", ".join(f"{side}: {sides[side]}" for side in order)),
    ]
    groups = {record["group"] for record in records if "group" in record}
    if groups:
        rows.append(("groups", str(len(groups))))
    bare = sum(not record["labels"] for record in records)
    if bare:
        rows.append(("no label", f"{bare} clips"))
    rows.append(("classes", f"{len(classes)}, of {low} to {high} clips ({ratio})"))
    named = list(classes.items())
    if len(named) > MANY:
        named.sort(key=lambda item: -item[1])
        named = [*named[:SHOWN], ("...", ""), *named[-SHOWN:]]
    width = max(len(name) for name, _ in named)
    return "\n".join([*(f"  {key:<10} {text}" for key, text in rows), *(f"    {k:<{width}}  {n}" for k, n in named)])


def class_counts(records, labels):
    """{label: number of clips}, in the order of `labels`."""
    found = Counter(name for record in records for name in record["labels"])
    return {name: found[name] for name in labels}


def warnings(records, labels, sounds):
    """What will hurt, a line each: rare classes, splits that lack some, copies, silence, what cannot be decoded."""
    lines = []

    def warn(what, examples):
        if examples:
            more = f" and {len(examples) - SHOWN} more" if len(examples) > SHOWN else ""
            lines.append(f"{what.format(n=len(examples))}: {', '.join(examples[:SHOWN])}{more}")

    counts = class_counts(records, labels)
    rare = sorted((n, name) for name, n in counts.items() if 0 < n < FEW)
    warn(f"{{n}} classes have fewer than {FEW} clips, too few to learn and to test", [f"{k} ({n})" for n, k in rare])
    warn("{n} classes have no clips at all", [name for name, n in counts.items() if not n])
    splits = {record["split"] for record in records if "split" in record}
    for split in sorted(splits):
        there = class_counts(manifest.part(records, split), labels)
        verb = {"train": "learnt", "valid": "validated", "test": "tested"}[split]
        lacking = [name for name in labels if counts[name] and not there[name]]
        warn(f"{{n}} classes have no clips in {split}, so that they are not {verb}", lacking)
    if text := manifest.crossing(records):
        lines.append(f"{text}: a model is tested on recordings that it has partly heard")
    across, relabelled, copies = [], [], []
    for group in _same_sound(records, sounds):
        text = " = ".join(record["id"] for record in group)
        sides = sorted({str(manifest.side(record)) for record in group})
        if len(sides) > 1:
            kind = "split" if "split" in group[0] else "fold"
            across.append(f"{text} ({kind}s {', '.join(sides)})")
        elif len({tuple(sorted(record["labels"])) for record in group}) > 1:
            relabelled.append(f"{text} ({', '.join(sorted({name for r in group for name in r['labels']}))})")
        else:
            copies.append(text)
    warn("{n} sounds lie on both sides of a split: a model would be tested on what it was trained on", across)
    warn("{n} sounds occur several times with different labels", relabelled)
    warn("{n} sounds occur several times", copies)
    both = list(zip(records, sounds, strict=True))
    warn("{n} clips cannot be decoded, and stage 1 will reject them", [s.fault for _, s in both if s.fault])
    silent = [f"{r['id']} ({_decibels(s.peak)})" for r, s in both if s.peak is not None and s.peak < QUIET]
    warn("{n} clips are nearly silent: their peak is below -60 dB of full scale", silent)
    short = [f"{r['id']} ({r['seconds']:g} s)" for r, _ in both if r["seconds"] < SHORT]
    warn(f"{{n}} clips are shorter than {SHORT} s", short)
    return lines


def _same_sound(records, sounds):
    """Lists of records whose sound is the same, whatever the format of their files."""
    groups = defaultdict(list)
    for record, sound in zip(records, sounds, strict=True):
        if sound.digest and sound.peak:  # all digital silence is alike
            groups[sound.digest].append(record)
    return [group for group in groups.values() if len(group) > 1]


def _counts(values):
    found = Counter(values)
    if len(found) == 1:
        return str(next(iter(found)))
    return "mixed: " + ", ".join(f"{value} ({n})" for value, n in sorted(found.items()))


def _decibels(peak):
    return f"{20 * np.log10(peak):.0f} dB" if peak else "digital silence"
