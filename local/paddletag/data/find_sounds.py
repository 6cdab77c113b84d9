"""Which sounds a command line means, and what their results are called."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from paddletag.data.audio import SOUND, VIDEO, AudioError
from paddletag.files import walk
from paddletag.runtime import UserError, log
from paddletag.type_aliases import File

STDIN = "standard input"  # stands for a path where sound comes from there


def find(inputs: Iterable[File]) -> dict[Path, str]:
    """{path: name} of the sound files that `inputs` (files, folders, glob patterns) mean, in their order.

    The names are for results, and differ: a file's stem, below a folder with its place in it. Where files of several
    folders would share one, all names are places below the folder that the inputs have in common; where files differ in
    their suffix alone, their names have it too. Of a folder, files with the suffixes SOUND and VIDEO are taken, and
    nothing hidden. UserError for what is not there, and for a folder or a pattern without any sound.
    """
    folders: dict[Path, tuple[Path, Path]] = {}  # resolved path: (path, the folder that was given, or that it lies in)
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            files = [path / name for name in sorted(_sounds(path))]
            if not files:
                raise UserError(f"{item}: a folder without sound files")
        elif path.exists():
            files = [path]
        elif not any(c in str(item) for c in "*?["):
            raise AudioError(f"{item}: no such file")
        elif not (files := [Path(p) for p in sorted(glob.glob(str(item), recursive=True)) if os.path.isfile(p)]):
            raise UserError(f"{item}: no file matches this pattern")
        for file in files:
            folders.setdefault(file.resolve(), (file, path if path.is_dir() else file.parent))
    places = {file: file.relative_to(folder) for file, folder in folders.values()}
    homes = {(place.with_suffix(""), os.path.abspath(file.parent)) for file, place in places.items()}
    if len(homes) > len({stem for stem, _ in homes}):
        common = os.path.commonpath([os.path.abspath(folder) for _, folder in folders.values()])
        places = {file: Path(os.path.abspath(file)).relative_to(common) for file in places}
    return _distinct(places)


def _sounds(folder: Path) -> Iterator[Path]:
    """The sound files below a folder, relative to it; folders that cannot be read are logged."""

    def left_out(error: OSError) -> None:
        log.warning("%s: is left out: %s", error.filename, os.strerror(error.errno or 0).lower())

    for name in walk(folder, left_out):
        path = Path(name)
        if path.suffix.lower() in SOUND + VIDEO and os.path.isfile(folder / path):
            yield path


def _distinct(places: dict[Path, Path]) -> dict[Path, str]:
    """{file: its place without the suffix, or with it where another file would have the same name}."""
    names = {file: place.with_suffix("").as_posix() for file, place in places.items()}
    while len(claims := Counter(names.values())) < len(names):  # a name with its suffix may be that of another without
        names = {file: name if claims[name] == 1 else places[file].as_posix() for file, name in names.items()}
    return names
