"""The npz files that stage 4 writes: which of them are up to date, and whose they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paddletag.data import manifest
from paddletag.data.find_sounds import STDIN
from paddletag.files import atomic, file_name
from paddletag.runtime import UserError, log
from paddletag.tagging import result_files
from paddletag.tagging.labels import top_k
from paddletag.type_aliases import Arrays, File


def results_to_make(
    outputs: Mapping[File, Path], model: str, pad: str, window: float, hop: float, embeddings: bool, again: bool
) -> dict[File, tuple[Path, str]]:
    """{path: (path of its npz file, its fingerprint)} of the sounds whose result is missing, or of another way to tag.

    outputs: {path of a sound: path of its npz file}. model: its checksum. pad: what fills sounds that are too short.
    window, hop: seconds. again: take those too whose result is up to date.
    UserError if the result of another sound lies in the place of one.
    """
    wanted = {}
    for path, output in outputs.items():
        source = _fingerprint(path, pad, window, hop, embeddings)
        before = _read_origin(output)
        if before is not None:
            _refuse_result_of_another_sound(output, before, path)
        if not again and source and before and (str(before.get("model")), str(before.get("source"))) == (model, source):
            log.info("%s is up to date", output)
        else:
            wanted[path] = output, source
    return wanted


def save(path: File, arrays: Arrays, output: Path, source: str) -> None:
    """Write the result of a sound to `output`, with what it is of: its path and `source`, its fingerprint."""
    content: dict[str, Any] = {**arrays, "audio": np.array(full_name(path)), "source": np.array(source)}
    with atomic(output) as temporary, open(temporary, "wb") as file:
        np.savez(file, **content)
    best = top_k(arrays["scores"].mean(0), arrays["labels"], 3)
    log.info("%s: %s", path, ", ".join(f"{label} {score:.3f}" for label, score in best))
    log.info("Saved tagging results to %s", output)


def full_name(path: File) -> str:
    """A sound as its result names it: by the whole path, and a pipe as on the command line."""
    return "-" if path == STDIN else str(Path(path).resolve())


def output_path(folder: File, name: str, ending: str) -> Path:
    """The path of a file of the sound's result `name` in a folder; a name too long for file systems is cut."""
    place = Path(folder, name)
    return place.with_name(file_name(place.name, ending))


def _fingerprint(path: File, pad: str, window: float, hop: float, embeddings: bool) -> str:
    """What a result depends on besides the model; nothing for a pipe, which is never the same again."""
    if path == STDIN or not Path(path).is_file():
        return ""
    record = {"audio": full_name(path), "start": window, "end": hop or window}
    return manifest.fingerprint(record) + f" {pad} within{' embeddings' * embeddings}"


def _read_origin(output: Path) -> Arrays | None:
    """What a result is of: its arrays audio and source, and with scores model, as far as it has them.

    None where there is no result yet, or a damaged one.
    """
    try:
        with np.load(output, allow_pickle=False) as file:
            kept = ("audio", "source", "model") if "scores" in file else ("audio", "source")
            return {name: file[name] for name in kept if name in file}
    except Exception:
        return None


def _refuse_result_of_another_sound(output: Path, origin: Arrays, path: File) -> None:
    """UserError if the result `output`, whose origin `_read_origin` gave, is not of the sound `path`."""
    if (sound := result_files.origin(origin)) != full_name(path):
        what = f"is the result of {sound}" if sound else "does not say which sound it is of"
        advice = "remove it, or give another --output_dir"
        raise UserError(f"{output}: {what}, and that of {path} would take its place: {advice}")
