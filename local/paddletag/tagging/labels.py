"""Labels: read from a file, chosen by name, thresholds from a command line's words, the highest, and unknown."""

import csv
import difflib
import fnmatch
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from paddletag.runtime import UserError, show
from paddletag.type_aliases import Arrays, File

THRESHOLD = 0.3  # of the scores, where none is given
UNKNOWN = "unknown"  # the answer of a calibrated model that is sure of no label


def read_lines(path: File, what: str = "a file with a label per line") -> list[str]:
    """The lines of a text file in UTF-8, without blanks around them. UserError for a file that is none: give `what`."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        reason = str(error.strerror).lower() if isinstance(error, OSError) else "not a text file in UTF-8"
        raise UserError(f"{path}: {reason}: name {what}") from None
    return [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []


def choose_labels(labels: Iterable[str], patterns: Iterable[str] | None) -> np.ndarray:
    """The ascending indices of the labels that are named: by their name, or else by a glob as `*speech*`; None: all.

    Capitals count only where names differ in nothing else. int [n]. UserError for a name that no label has.
    """
    names = [str(label) for label in labels]
    if patterns is None:
        return np.arange(len(names))
    chosen: set[int] = set()
    for pattern in patterns:
        matching = _matching(names, pattern) or _matching([name.lower() for name in names], pattern.lower())
        if not matching:
            lower = {name.lower(): name for name in names}
            near = [lower[name] for name in difflib.get_close_matches(pattern.lower(), lower, 3, 0.5)]
            hint = (
                f"near: {'; '.join(map(show, near))}"
                if near
                else f"there are {len(names)}, such as {'; '.join(map(show, names[:3]))}"
            )
            raise UserError(f"{show(pattern)}: no label has this name ({hint})")
        chosen.update(matching)
    return np.array(sorted(chosen), int)


def _matching(names: Sequence[str], pattern: str) -> list[int]:
    """The indices of the names that are the pattern, or else that it describes as a glob."""
    equal = [i for i, name in enumerate(names) if name == pattern]
    return equal or [i for i, name in enumerate(names) if fnmatch.fnmatchcase(name, pattern)]


def split_names(text: str, labels: Iterable[str]) -> list[str]:
    """The names and globs between the commas of a text. A label's whole name comes first: it may hold commas itself."""
    names, known, parts = list[str](), {str(label) for label in labels}, text.split(",")
    longest = 1 + max((name.count(",") for name in known), default=0)
    while parts:
        counts = range(min(longest, len(parts)), 0, -1)
        count = next((n for n in counts if ",".join(parts[:n]).strip() in known), 1)
        names.append(",".join(parts[:count]).strip())
        parts = parts[count:]
    return [name for name in names if name]


def event_thresholds(
    labels: Sequence[str] | np.ndarray,
    words: Iterable[str] | None = None,
    low_words: Iterable[str] | None = None,
    default: float | np.ndarray = THRESHOLD,
) -> tuple[np.ndarray, np.ndarray]:
    """(the score at which an event of each label starts, the score down to which it lasts): float64 [C] each.

    words, low_words: as `label_thresholds` takes them; without any, `default`, and the low one is the high one.
    UserError as `label_thresholds`, and for a low threshold above the high one.
    """
    high = label_thresholds(words or [], labels, default)
    low = label_thresholds(low_words or [], labels, high)
    for label, start, last in zip(labels, high, low, strict=True):
        if last > start:
            raise UserError(f"--low_threshold {last:g}: is above the threshold {start:g} of {show(str(label))}")
    return high, low


def label_thresholds(
    words: Iterable[str], labels: Sequence[str] | np.ndarray, default: float | np.ndarray = THRESHOLD
) -> np.ndarray:
    """A threshold per class, float64 [C], from a command line's words; a later one overrides an earlier one.

    A word is a number (for every class), `NAME=NUMBER`, or the path of a file of such pairs: YAML (`name: number`) or
    CSV (`label,threshold`). Names may be globs. default: a number or an array [C], for classes that no word is for.
    UserError for a word that is none of these, and for a threshold outside 0 to 1.
    """
    overall, named = default, {}
    for word in words:
        name, _, value = word.rpartition("=")
        if (number := _number(word)) is not None:
            overall = number
        elif name and (number := _number(value)) is not None:
            named[name] = number
        elif Path(word).suffix.lower() in (".csv", ".yaml", ".yml"):
            named.update(_read_thresholds(word))
        else:
            raise UserError(f"threshold {show(word)}: must be a number, LABEL=NUMBER, or a .yaml or .csv file of those")
    result = np.broadcast_to(np.asarray(overall, float), len(labels)).copy()
    for name, number in named.items():
        result[choose_labels(labels, [name])] = number
    wrong = result[~((result >= 0) & (result <= 1))]
    if len(wrong):
        raise UserError(f"threshold {wrong[0]:g}: must lie between 0 and 1")
    return result


def top_k(scores: np.ndarray, labels: Sequence[str] | np.ndarray, k: int) -> list[tuple[str, float]]:
    """[(label, score)] of the k highest of scores [C], highest first; equal scores in the order of the labels."""
    return [(str(labels[i]), float(scores[i])) for i in np.argsort(-scores, kind="stable")[:k]]


def answers(
    scores: np.ndarray, labels: Sequence[str] | np.ndarray, thresholds: np.ndarray | None, k: int = 5
) -> list[tuple[str, float]]:
    """What to say of a whole clip with scores [C]: its k highest labels as `top_k` gives them, or
    [(UNKNOWN, the highest score)] where no label reaches its threshold.

    thresholds [C]: of a calibrated model; None: there is no unknown.
    """
    if thresholds is None or (scores >= np.asarray(thresholds, np.float32)).any():
        return top_k(scores, labels, k)
    return [(UNKNOWN, float(scores.max()))]


def unknown_result(arrays: Arrays, thresholds: np.ndarray) -> Arrays | None:
    """A tagging result of a whole clip in which no label reaches its threshold [C], as one of the label UNKNOWN alone.

    Its score is the highest. None for all other results. It is for calibrated models.
    """
    scores = arrays["scores"]
    if len(scores) > 1 or (scores >= np.asarray(thresholds, np.float32)).any():
        return None
    return {**arrays, "labels": np.array([UNKNOWN]), "scores": scores.max(1, keepdims=True)}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _read_thresholds(path: File) -> dict[str, float]:
    """{name: number} of a YAML or CSV file."""
    text = "\n".join(read_lines(path, "a .yaml or .csv file of labels and thresholds"))
    if Path(path).suffix.lower() == ".csv":
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
        rows = rows[1:] if rows and [cell.strip().lower() for cell in rows[0]] == ["label", "threshold"] else rows
    else:
        import yaml  # recipes bring it; tagging alone does without

        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise UserError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: must hold lines `label: number`")
        # YAML's aliases put a list many times into another one: the text of such lists grows without end.
        rows = [[str(name), str(value) if type(value) in (int, float, str) else ""] for name, value in values.items()]
    thresholds = {}
    for row in rows:
        number = _number(row[1]) if len(row) == 2 else None
        if number is None:
            raise UserError(f"{path}: {show(', '.join(row))}: must be a label and a number")
        thresholds[row[0]] = number
    return thresholds
