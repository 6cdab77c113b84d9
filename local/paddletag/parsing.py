"""Tagging results to what a person reads: the top labels of every window as text, or events with onset and offset."""

import csv
import difflib
import fnmatch
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import yaml

from paddletag.runtime import UserError, log, show

NUMBERS = ("scores", "time", "start", "end")  # the arrays that are read as such
THRESHOLD = 0.3  # of the scores, where none is given
UNPACKED = 100, 1 << 26  # a result may unpack to so many times its file's size, and so many bytes more
TOLERANCE = 0.1  # seconds between the ends of a sound and of its tagging: decoders differ


def read(path, label_file=None, seconds=False):
    """The arrays of a tagging result: time [N], scores [N, C], labels [C] and what else it holds.

    `label_file`: a text file of C lines, instead of the labels in the file. `seconds`: `start` and `end` [N] must be
    there. UserError for a file that is not a tagging result.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            _check_members(file.zip.infolist(), Path(path).stat().st_size)
            arrays = dict(file)
        windows, classes = arrays["scores"].shape
        # Text without letters and rows without classes take no bytes, however many there are.
        if not classes or any(arrays[name].dtype.kind not in "fiu" for name in arrays if name in NUMBERS):
            raise ValueError("its scores or times are no numbers")
        if not windows or not np.isfinite(arrays["scores"]).all():
            raise ValueError("it holds no scores, or some that are not numbers")
        if len(arrays["time"]) == windows + 1 and arrays["time"][-1] > 1 - 1e-6:
            # PaddleAudio wrote np.arange(0, 1, hop / length): for some lengths rounding adds the end itself.
            arrays["time"] = arrays["time"][:-1]
        if {len(arrays[name]) for name in ("time", "start", "end") if name in arrays} != {windows}:
            raise ValueError("its arrays differ in length")
        if not label_file and "labels" in arrays and len(arrays["labels"]) != classes:
            raise ValueError("its arrays differ in length")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: stage 4 (local/audio_tag.py) makes it") from None
    except KeyError as error:
        raise UserError(f"{path}: not a tagging result: it has no array {error}: run stage 4 again") from None
    except Exception as error:  # the file may hold any bytes: what goes wrong is its fault
        reason = show(str(error).split(". ")[0] or type(error).__name__)
        raise UserError(f"{path}: not a tagging result, or damaged ({reason}): run stage 4 again") from None
    if label_file:
        labels = _lines(label_file)
        if len(labels) != classes:
            raise UserError(f"{label_file}: holds {len(labels)} labels, but {path} has scores of {classes} classes")
        arrays["labels"] = np.array(labels)
    elif "labels" not in arrays:
        raise UserError(f"{path}: holds no labels: name a text file of {classes} lines with --label_file")
    if seconds and not {"start", "end"} <= set(arrays):
        raise UserError(f"{path}: has no times in seconds (start, end): run stage 4 (local/audio_tag.py) again")
    return arrays


def _check_members(members, size):
    """ValueError for a zip file of `size` bytes that unpacks to more than a result of this size can hold."""
    ways = {member.compress_type for member in members}
    if not ways <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # others unpack a whole block before one can stop them
        raise ValueError("compressed in another way than numpy does it")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two members have one name")
    if sum(member.file_size for member in members) > UNPACKED[0] * size + UNPACKED[1]:
        raise ValueError("it unpacks to far more than its size")


def check_length(arrays, sound, seconds):
    """UserError if the sound, which lasts `seconds`, is not the one that was tagged."""
    tagged = float(arrays["end"].max())
    if abs(seconds - tagged) > TOLERANCE:
        raise UserError(f"{sound}: lasts {seconds:.2f} s, the tagging {tagged:.2f} s: name the file that was tagged")


def origin(arrays):
    """The path of the sound that a tagging result is of, - for a pipe; "" where it does not say (PaddleAudio's)."""
    if "audio" in arrays:
        return str(arrays["audio"])
    if found := _source(arrays):  # of an older version
        return str(found[0])
    return "-" if "source" in arrays else ""


def _source(arrays):
    """[path, size, time of change ...] of the sound as it was when it was tagged; None where that is not known."""
    try:
        found = json.JSONDecoder().raw_decode(str(arrays["source"]))[0]
    except (KeyError, ValueError, RecursionError):  # PaddleAudio's, or of a pipe
        return None
    return found if isinstance(found, list) and len(found) >= 3 else None


def sound_file(arrays, path, given=None):
    """The sound that a tagging result, read from `path`, is of: `given`, or where it was when it was tagged.

    UserError if it is no longer there, or has changed since; a warning if `given` has another size.
    """
    if not (found := _source(arrays)):
        if given:
            return Path(given)
        raise UserError(f"{path}: does not say which file it is of: name it with --audio")
    sound, size, changed = Path(str(found[0])), found[1], found[2]
    if given:
        if Path(given).is_file() and Path(given).stat().st_size != size:
            log.warning("%s: has another size than the file that was tagged, %s: is it the same sound?", given, sound)
        return Path(given)
    if not sound.is_file():
        raise UserError(f"{path}: is of {sound}, which is no longer there: name the file with --audio")
    if (sound.stat().st_size, sound.stat().st_mtime_ns) != (size, changed):
        raise UserError(f"{sound}: has changed since it was tagged: tag it again (stage 4), or name it with --audio")
    return sound


def _lines(path):
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        reason = "not a text file in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror.lower()
        raise UserError(f"{path}: {reason}: name a file with a label per line") from None
    return [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []


def smooth(scores, size):
    """The mean of the last `size` windows (of as many as there are, at the start): [N, C] -> [N, C].

    It looks back only, so what it shows comes (size - 1) / 2 windows late. The rows are added in their order and type,
    so that the result has the bits of PaddleAudio's.
    """
    size = min(size, len(scores))
    if size <= 1:
        return scores
    counts = np.arange(1, size, dtype=scores.dtype)[:, None]
    first = np.cumsum(scores[: size - 1], axis=0, dtype=scores.dtype) / counts
    rest = scores[: len(scores) - size + 1].copy()
    for back in range(1, size):
        rest += scores[back : len(scores) - size + 1 + back]
    rest /= size
    return np.concatenate([first, rest])


def median(scores, size):
    """The median over `size` windows (odd) around each one, class by class, mirrored at the ends: [N, C] -> [N, C]."""
    from scipy.ndimage import median_filter

    if size == 1:
        return scores
    result = np.empty_like(scores)
    for k in range(scores.shape[1]):
        result[:, k] = median_filter(scores[:, k], size)
    return result


def choose(labels, patterns):
    """The ascending indices of the labels that are named: by their name, or else by a glob as `*speech*`; None: all."""
    if patterns is None:
        return np.arange(len(labels))
    labels, chosen = [str(label) for label in labels], set()
    for pattern in patterns:
        found = [i for i, label in enumerate(labels) if label == pattern]
        found = found or [i for i, label in enumerate(labels) if fnmatch.fnmatchcase(label, pattern)]
        if not found:
            lower = {label.lower(): label for label in labels}
            near = [lower[name] for name in difflib.get_close_matches(pattern.lower(), lower, 3, 0.5)]
            hint = f"near: {'; '.join(map(show, near))}" if near else "the labels are in the npz, as `labels`"
            raise UserError(f"{show(pattern)}: no label has this name ({hint})")
        chosen.update(found)
    return np.array(sorted(chosen), int)


def thresholds(items, labels, default=THRESHOLD):
    """A threshold per class [C] from a command line's words; a later one overrides an earlier one for its class.

    A word is a number (for every class), `NAME=NUMBER`, or the path of a file of such pairs: YAML (`name: number`) or
    CSV (`label,threshold`). Names may be globs.
    """
    overall, named = default, {}
    for item in items:
        name, _, value = item.rpartition("=")
        if _number(item) is not None:
            overall = _number(item)
        elif name and _number(value) is not None:
            named[name] = _number(value)
        elif Path(item).suffix.lower() in (".csv", ".yaml", ".yml"):
            named.update(_pairs(item))
        else:
            raise UserError(f"threshold {show(item)}: must be a number, LABEL=NUMBER, or a .yaml or .csv file of those")
    result = np.broadcast_to(np.asarray(overall, float), len(labels)).copy()
    for name, value in named.items():
        result[choose(labels, [name])] = value
    wrong = result[~((result >= 0) & (result <= 1))]
    if len(wrong):
        raise UserError(f"threshold {wrong[0]:g}: must lie between 0 and 1")
    return result


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


def _pairs(path):
    text = "\n".join(_lines(path))
    if Path(path).suffix.lower() == ".csv":
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
        rows = rows[1:] if rows and [cell.strip().lower() for cell in rows[0]] == ["label", "threshold"] else rows
    else:
        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise UserError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: must hold lines `label: number`")
        # YAML's aliases put a list many times into another one: the text of such lists grows without end.
        rows = [(str(name), str(value) if type(value) in (int, float, str) else "") for name, value in values.items()]
    for row in rows:
        if len(row) != 2 or _number(row[1]) is None:
            raise UserError(f"{path}: {show(', '.join(row))}: must be a label and a number")
    return {name: _number(value) for name, value in rows}


def events(arrays, threshold=THRESHOLD, low=None, min_duration=0.0, min_gap=0.0, classes=None, overlap=0.5):
    """What sounds when: [{onset, offset (s), label, peak, mean (of the scores of its windows)}], by onset.

    An event of a class starts with a window that scores at least `threshold` and lasts while windows score at least
    `low` (None: the threshold); either is a number or an array [C]. Events of a class less than `min_gap` seconds
    apart become one, then those shorter than `min_duration` seconds go. `classes`: names or globs, None for all.

    Windows are longer than the hop, so from the start of the first window to the end of the last an event would seem
    up to twice a window too long. What fills at least half a window is heard from when its onset meets a window's
    centre until its offset does: a window therefore speaks for half a hop on either side of its centre, and an event
    is exact to half a hop. `overlap` is that half, for models that a sound must fill less or more of a window for to
    reach the threshold: onset and offset move by (0.5 - overlap) windows, later and earlier. An event in the first
    window begins with it, and one in the last ends with the file: nothing tells where else it would.

    The page of a tagging report computes the same again when its threshold moves (`eventsOf` in tagging.js).
    """
    columns, scores = choose(arrays["labels"], classes), np.asarray(arrays["scores"], np.float32)
    if not len(scores):
        return []
    threshold = np.broadcast_to(np.asarray(threshold, np.float32), scores.shape[1])
    low = threshold if low is None else np.broadcast_to(np.asarray(low, np.float32), scores.shape[1])
    times = timing(arrays["start"], arrays["end"], min_duration, min_gap, overlap)
    found = []
    for k in columns[(scores[:, columns] >= threshold[columns]).any(0)]:
        column = np.ascontiguousarray(scores[:, k])
        steps = np.diff(heard(column, threshold[k], low[k]).astype(np.int8), prepend=0, append=0)
        runs = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1) - 1
        for first, last, onset, offset in _spans(*runs, times):
            part = column[first : last + 1]
            event = {"onset": float(onset / 1e6), "offset": float(offset / 1e6), "label": str(arrays["labels"][k])}
            found.append({**event, "peak": float(part.max()), "mean": float(part.mean(dtype=float))})
    return sorted(found, key=lambda event: (event["onset"], event["offset"]))


def heard(scores, threshold, low, before=False):
    """Whether a class is heard in each window: scores [N, ...] -> bool [N, ...].

    It is from a window that scores at least `threshold` until one that scores less than `low`. before [...]: whether it
    was heard in the window before the first. All are compared in float32, in which scores are kept: 0.7 reaches 0.7.
    """
    scores, threshold, low = (np.asarray(values, np.float32) for values in (scores, threshold, low))
    change = (scores >= threshold).astype(np.int8) - (scores < low)
    change = np.concatenate([np.broadcast_to(np.where(before, 1, -1), change[:1].shape), change])
    rows = np.arange(len(change)).reshape(-1, *[1] * (change.ndim - 1))
    latest = np.maximum.accumulate(np.where(change != 0, rows, 0))
    return np.take_along_axis(change, latest, 0)[1:] > 0


def timing(start, end, min_duration=0.0, min_gap=0.0, overlap=0.5):
    """What tells an event's times from its windows, in whole microseconds, in which 0.3 s is not less than 0.3 s.

    onsets, offsets [N]: what each window speaks for (`cells`). narrow: by how much events begin later and end earlier
    (`overlap`, see `events`), if `hop` is left of them. min_duration, min_gap: as of `events`.
    """
    onsets, offsets = cells(start, end)
    start, end = np.asarray(start), np.asarray(end)
    values = {
        "onsets": onsets,
        "offsets": offsets,
        "narrow": (0.5 - overlap) * (end - start).max(),
        "hop": np.diff(start).max(initial=0.0),  # the last one may be shorter
        "min_duration": min_duration,
        "min_gap": min_gap,
    }
    return {name: np.rint(1e6 * np.asarray(value)) for name, value in values.items()}


def cells(start, end):
    """What each window speaks for: (from [N], to [N]) in seconds, touching halfway between windows' centres.

    The first one's begins with the file, the last one's ends with it.
    """
    centre = start + (end - start).max() / 2  # windows may go beyond the file's end, where `end` is cut
    edges = np.concatenate([start[:1], (centre[1:] + centre[:-1]) / 2, [end.max()]]).clip(max=end.max())
    # Such windows may be centred beyond the end; one that is the first to hear something has heard its own part.
    return np.minimum(edges[:-1], (start + end) / 2), edges[1:]


def _spans(first, last, times):
    """[(first, last, onset, offset)] of a class's events, from the runs of windows first [R] to last [R] in which it is
    heard; times are as `timing` gives them.
    """
    onsets, offsets = times["onsets"], times["offsets"]
    onset, offset = onsets[first], offsets[last]
    by = np.minimum(times["narrow"], np.maximum(offset - onset - times["hop"], 0) // 2)
    onset = np.where(first == 0, onset, np.maximum(onset + by, onsets[0]))
    offset = np.where(last == len(offsets) - 1, offset, np.minimum(offset - by, offsets[-1]))
    gap = onset[1:] - offset[:-1]
    new = np.concatenate([[True], (gap > 0) & (gap >= times["min_gap"])])
    ends = np.append(new[1:], True)
    spans = zip(first[new], last[ends], onset[new], offset[ends], strict=True)
    return [span for span in spans if span[3] - span[2] >= times["min_duration"]]


def top_k(scores, labels, k):
    """[(label, score)] of the k highest of scores [C], highest first; equal scores in the order of the labels."""
    return [(str(labels[i]), float(scores[i])) for i in np.argsort(-scores, kind="stable")[:k]]


def text(arrays, k, time="time"):
    """PaddleAudio's format (its parse_result.py): per window its time, k lines `label: score`, and a blank line.

    `time` names the array of times: `time`, fractions of the file, as PaddleAudio; or `start`, seconds.
    """
    labels, lines = [str(label) for label in arrays["labels"]], []
    for when, scores in zip(arrays[time], arrays["scores"], strict=True):
        lines += [str(float(when)), *(f"{label}: {score}" for label, score in top_k(scores, labels, k)), ""]
    return "".join(line + "\n" for line in lines)


def events_csv(rows):
    """CSV with a header. Text is quoted, so a label may hold commas, quotes and line breaks."""
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(["onset", "offset", "label", "peak", "mean"])
    writer.writerows(_short(row).values() for row in rows)
    return file.getvalue()


def events_jsonl(rows):
    """JSON Lines: an event a line."""
    return "".join(json.dumps(_short(row), ensure_ascii=False) + "\n" for row in rows)


def events_audacity(rows):
    """Audacity's label track: onset, offset and label between tabs, so white space in a label becomes one space."""
    return "".join(f"{row['onset']:.6f}\t{row['offset']:.6f}\t{' '.join(row['label'].split())}\n" for row in rows)


def _short(row):
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
