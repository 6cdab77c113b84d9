"""Tagging results as stage 4 writes them: npz files, read with care, and the sounds that they are of."""

import json
import zipfile
from pathlib import Path

import numpy as np

from paddletag.runtime import UserError, log, show
from paddletag.tagging.labels import read_lines
from paddletag.type_aliases import Arrays, File

NUMBERS = ("scores", "time", "start", "end")  # the arrays that are read as such
UNPACKED = 100, 1 << 26  # a result may unpack to so many times its file's size, and so many bytes more
TOLERANCE = 0.1  # seconds between the ends of a sound and of its tagging: decoders differ


def read_result(path: File, label_file: File | None = None, seconds: bool = False) -> Arrays:
    """The arrays of a tagging result: time [N], scores [N, C], labels [C] and what else it holds.

    That of a calibrated model holds thresholds, float32 [C]. `label_file`: a text file of C lines, instead of the
    labels in the file. `seconds`: `start` and `end` [N] must be there. UserError for a file that is not a tagging
    result, and for labels that are not as many as its classes.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            _check_members(file.zip.infolist(), Path(path).stat().st_size)
            arrays = dict(file)
        windows, classes = arrays["scores"].shape
        # Text without letters and rows without classes take no bytes, however many there are.
        if not classes or any(arrays[name].dtype.kind not in "fiu" for name in arrays if name in NUMBERS):
            raise ValueError("its scores or times are no numbers")
        if not windows or not all(np.isfinite(arrays[name]).all() for name in NUMBERS if name in arrays):
            raise ValueError("it holds no scores, or some that are not numbers")
        if len(arrays["time"]) == windows + 1 and arrays["time"][-1] > 1 - 1e-6:
            # PaddleAudio wrote np.arange(0, 1, hop / length): for some lengths rounding adds the end itself.
            arrays["time"] = arrays["time"][:-1]
        if {len(arrays[name]) for name in ("time", "start", "end") if name in arrays} != {windows}:
            raise ValueError("its arrays differ in length")
        if "thresholds" in arrays:
            _check_thresholds(arrays["thresholds"], classes)
        if not label_file and "labels" in arrays and len(arrays["labels"]) != classes:
            raise ValueError("its arrays differ in length")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: stage 4 (paddletag tag --output_dir) makes it") from None
    except KeyError as error:
        raise UserError(f"{path}: not a tagging result: it has no array {error}: run stage 4 again") from None
    except Exception as error:  # the file may hold any bytes: what goes wrong is its fault
        reason = show(str(error).split(". ")[0] or type(error).__name__)
        raise UserError(f"{path}: not a tagging result, or damaged ({reason}): run stage 4 again") from None
    if label_file:
        labels = read_lines(label_file)
        if len(labels) != classes:
            raise UserError(f"{label_file}: holds {len(labels)} labels, but {path} has scores of {classes} classes")
        arrays["labels"] = np.array(labels)
    elif "labels" not in arrays:
        raise UserError(f"{path}: holds no labels: name a text file of {classes} lines with --label_file")
    if seconds and not {"start", "end"} <= set(arrays):
        raise UserError(f"{path}: has no times in seconds (start, end): run stage 4 again")
    return arrays


def _check_thresholds(values: np.ndarray, classes: int) -> None:
    """ValueError for what are no thresholds of so many classes."""
    if values.shape != (classes,) or values.dtype.kind != "f" or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("its thresholds are not those of its classes")


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """ValueError for a zip file of `size` bytes that unpacks to more than a result of this size can hold."""
    ways = {member.compress_type for member in members}
    if not ways <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # others unpack a whole block before one can stop them
        raise ValueError("compressed in another way than numpy does it")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two members have one name")
    if sum(member.file_size for member in members) > UNPACKED[0] * size + UNPACKED[1]:
        raise ValueError("it unpacks to far more than its size")


def check_length(arrays: Arrays, sound: File, seconds: float) -> None:
    """UserError if the sound, which lasts `seconds`, is not the one that was tagged."""
    tagged = float(arrays["end"].max())
    if abs(seconds - tagged) > TOLERANCE:
        raise UserError(f"{sound}: lasts {seconds:.2f} s, the tagging {tagged:.2f} s: name the file that was tagged")


def origin(arrays: Arrays) -> str:
    """The path of the sound that a tagging result is of, - for a pipe; "" where it does not say (PaddleAudio's)."""
    if "audio" in arrays:
        return str(arrays["audio"])
    if source := _source(arrays):  # of an older version
        return str(source[0])
    return "-" if "source" in arrays else ""


def _source(arrays: Arrays) -> list | None:
    """[path, size, time of change ...] of the sound as it was when it was tagged; None where that is not known."""
    try:
        source = json.JSONDecoder().raw_decode(str(arrays["source"]))[0]
    except (KeyError, ValueError, RecursionError):  # PaddleAudio's, or of a pipe
        return None
    return source if isinstance(source, list) and len(source) >= 3 else None


def sound_file(arrays: Arrays, path: File, given: File | None = None) -> Path:
    """The sound that a tagging result, read from `path`, is of: `given`, or where it was when it was tagged.

    UserError if it is no longer there, or has changed since; a warning if `given` has another size.
    """
    if not (source := _source(arrays)):
        if given:
            return Path(given)
        raise UserError(f"{path}: does not say which file it is of: name it with --audio")
    sound, size, changed = Path(str(source[0])), source[1], source[2]
    if given:
        if Path(given).is_file() and Path(given).stat().st_size != size:
            log.warning("%s: has another size than the file that was tagged, %s: is it the same sound?", given, sound)
        return Path(given)
    if not sound.is_file():
        raise UserError(f"{path}: is of {sound}, which is no longer there: name the file with --audio")
    if (sound.stat().st_size, sound.stat().st_mtime_ns) != (size, changed):
        raise UserError(f"{sound}: has changed since it was tagged: tag it again (stage 4), or name it with --audio")
    return sound
