"""What a source lists: the sounds of a folder or an object store, of a text file of paths, or of a Parquet table.

Rows come one by one and in the same order each time, so that a source of any size takes little memory.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from paddletag.archives import stores
from paddletag.data.audio import SOUND, VIDEO, Span
from paddletag.files import walk
from paddletag.runtime import UserError, log
from paddletag.type_aliases import File

LONGEST_LINE = 2**15  # characters of a path in a list
TABLES = (".parquet", ".pq")


class Item(NamedTuple):
    """A row of a source: a sound, or the part of it from `start` to `end` seconds."""

    file: str  # as it is listed: a path, or the address of an object
    start: float | None = None
    end: float | None = None
    size: int = -1  # bytes, where listing it tells

    @property
    def shown(self) -> str:
        """The file as text that any table can hold: bytes that are no UTF-8 are escaped."""
        return os.fsencode(self.file).decode("utf-8", "backslashreplace")

    def sound(self, path: str) -> File:
        """What to tag: the file at `path`, or its span."""
        return path if self.start is None and self.end is None else Span(path, self.start or 0.0, self.end)


def list_items(source: str) -> Iterator[Item]:
    """The rows of a source, in its order; those of folders and object stores by name.

    UserError for what is no source.
    """
    if stores.is_address(source):
        yield from (Item(name, size=size) for name, size in stores.list_objects(source, SOUND + VIDEO))
    elif os.path.isdir(source):
        yield from _folder(source)
    elif not os.path.exists(source):
        raise UserError(f"{source}: no such file or folder")
    elif source.lower().endswith(TABLES):
        yield from _table(source)
    elif source.lower().endswith(SOUND + VIDEO):
        raise UserError(f"{source}: is a sound: name a folder, a list or a table of many (or: paddletag tag {source})")
    else:
        yield from _lines(source)


def base(source: str) -> str:
    """The folder that relative paths of a list or a table begin at: its own."""
    return "" if stores.is_address(source) else os.path.dirname(os.path.abspath(source))


def _folder(folder: str) -> Iterator[Item]:
    """The sounds below a folder. A folder that cannot be read is a row too, which tagging will refuse."""
    root, unreadable = os.path.abspath(folder), list[str]()

    def left_out(error: OSError) -> None:
        log.warning("%s: cannot be listed: %s", error.filename, os.strerror(error.errno or 0).lower())
        unreadable.append(os.path.abspath(error.filename))

    for name in walk(root, left_out):
        if name.lower().endswith(SOUND + VIDEO):
            path = os.path.join(root, name)
            try:
                yield Item(path, size=os.stat(path).st_size)
            except OSError:  # a link to nothing: tagging will say so
                yield Item(path)
    if unreadable == [root]:
        raise UserError(f"{folder}: cannot be listed")
    yield from map(Item, unreadable)


def _lines(path: str) -> Iterator[Item]:
    """The paths in a text file. Blank lines are skipped; bytes that are no UTF-8 stay as they are."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        while line := file.readline(LONGEST_LINE):
            name = line.removesuffix("\n")
            if len(line) == LONGEST_LINE or "\0" in line:
                raise UserError(f"{path}: not a text file with a path a line, nor a .parquet table")
            if name.strip():
                yield Item(name)


def _table(path: str) -> Iterator[Item]:
    """The rows of a Parquet table with the column `path` or `file`, and perhaps `start` and `end`."""
    try:
        with pq.ParquetFile(path) as table:
            names = table.schema_arrow.names
            column = next((name for name in ("path", "file") if name in names), None)
            if column is None:
                raise UserError(f"{path}: no column path or file; its columns: {', '.join(names)}")
            columns = [column, *(name for name in ("start", "end") if name in names)]
            row = 0
            for batch in table.iter_batches(columns=columns):
                files = batch[column].cast(pa.string()).to_pylist()
                times = [batch[name].cast(pa.float64()).to_pylist() for name in columns[1:]]
                spans = {name: values for name, values in zip(columns[1:], times, strict=True)}
                nothing = [None] * len(files)
                rows = zip(files, spans.get("start", nothing), spans.get("end", nothing), strict=True)
                for file, start, end in rows:
                    row += 1
                    if not file:
                        raise UserError(f"{path}: row {row} has no {column}")
                    yield Item(file, start, end)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a Parquet table of paths: {error}") from None


def describe(source: str) -> str:
    """A source for a record of the job: an address without the passwords and options that it may hold."""
    return stores.without_secrets(source) if stores.is_address(source) else str(Path(source).absolute())
