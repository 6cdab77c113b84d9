"""Names of files, and what lies below a folder."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

LONGEST_NAME = 255  # bytes of a file's name, on all common file systems


def file_name(stem: str, ending: str) -> str:
    """stem + ending; where file systems would not take so long a name, less of the stem, and 8 hex digits of it all."""
    if len(os.fsencode(stem + ending)) <= LONGEST_NAME:
        return stem + ending
    whole, ending = os.fsencode(stem), f"-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}{ending}"
    return whole[: LONGEST_NAME - len(os.fsencode(ending))].decode("utf-8", "ignore") + ending


def walk(folder: str | Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """The paths of all files below `folder`, relative to it, with /; hidden ones left out.

    Links are followed, after all else, to folders that have not been met. onerror: is called with the error of a folder
    that cannot be read, which is raised without it.
    """
    stack, links, seen = [("", str(folder))], [], set()
    while stack or links:
        if not stack:
            links.sort()
        prefix, path = stack.pop() if stack else links.pop(0)
        real = os.path.realpath(path)
        if real in seen:  # a link that leads back, or to what has been met
            continue
        seen.add(real)
        try:
            with os.scandir(path) as scan:
                entries = [entry for entry in scan if not entry.name.startswith(".") and entry.name != "__MACOSX"]
        except OSError as error:
            if onerror is None:
                raise
            onerror(error)
            continue
        for entry in entries:
            if os.path.isdir(entry.path):  # False for a link to itself, where entry.is_dir() fails
                (links if entry.is_symlink() else stack).append((f"{prefix}{entry.name}/", entry.path))
            else:
                yield prefix + entry.name
