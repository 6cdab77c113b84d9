"""Columns in an Arrow file that is derived from others: mapped into memory, and made again when these have changed."""

import contextlib
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from paddletag.data.clips import Texts
from paddletag.files import atomic, locked
from paddletag.runtime import UserError, log
from paddletag.type_aliases import File

FORMAT = 1  # of the files: others are made again
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)

Made = tuple[pa.RecordBatch, dict[str, Any]]  # columns, and what else there is to know


def cached(path: File, key: Any, make: Callable[[], Made]) -> Made:
    """What `make` gives, from the file `path` if it was made with an equal `key` (a JSON value), else made and kept.

    Of several processes that ask at once, one makes it. Where the file cannot be written, it stays in memory.
    """
    path, key = Path(path), json.loads(json.dumps([FORMAT, key]))
    found = _open(path, key)
    if found:
        return found
    try:
        with locked(path):
            found = _open(path, key)
            if found:
                return found
            batch, about = make()
            schema = batch.schema.with_metadata({"key": json.dumps(key), "about": json.dumps(about)})
            with atomic(path) as temporary, pa.OSFile(str(temporary), "wb") as file:
                with pa.ipc.new_file(file, schema) as writer:
                    writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        log.info("%s cannot be written (%s): it is made at every start", path, (error.strerror or "").lower())
        return make()
    made = _open(path, key)
    if not made:
        raise UserError(f"{path}: cannot be read back: is the disk damaged?")
    return made


def _open(path: Path, key: Any) -> Made | None:
    """What the file holds; None where there is none, or another one, or a damaged one."""
    with contextlib.suppress(OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if json.loads(reader.schema.metadata[b"key"]) == key and reader.num_record_batches == 1:
            batch = reader.get_batch(0)
            batch.validate()
            return batch, json.loads(reader.schema.metadata[b"about"])
    return None


def stamp(path: File) -> list[int | str] | None:
    """What tells whether a file has changed: name, size, time of change. None where there is no such file."""
    with contextlib.suppress(FileNotFoundError):
        stat = Path(path).stat()
        return [Path(path).name, stat.st_size, stat.st_mtime_ns]
    return None


def texts(column: pa.Array) -> Texts:
    """A column of large_string, where it lies."""
    _, offsets, content = column.buffers()
    places = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return Texts(places, memoryview(content if content is not None else b"").cast("B"))


def numbers(column: pa.Array) -> np.ndarray:
    """A column of numbers, where it lies."""
    return column.to_numpy(zero_copy_only=True)


def text_column(parts: Texts) -> pa.Array:
    """The column that `texts` has taken apart: large_string."""
    buffers = [None, pa.py_buffer(parts.offsets), pa.py_buffer(parts.content)]
    return pa.Array.from_buffers(pa.large_string(), len(parts), buffers)
