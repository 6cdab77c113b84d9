"""The manifest as columns: a file beside it, made from it and made again when it has changed, for training to map.

JSON Lines stay what users read, write and mend. The columns have each clip's line as it stands, so that a record is
what the manifest says to the last digit, and what training looks up for all clips at once: ids, labels, splits.
"""

import array
import json
import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from paddletag.data import arrow_files, clip_list, manifest
from paddletag.data.arrow_files import Made
from paddletag.data.clips import Clips, Columns, Texts
from paddletag.data.splits import split_of
from paddletag.runtime import UserError, progress
from paddletag.type_aliases import File, Record

FOLDER = "cache"  # of the prepared folder: may be removed at any time
NAME = "clips.arrow"
BLOCK = 1 << 16  # rows that are Python objects at a time


def open_clips(data: File) -> tuple[Clips, list[str]]:
    """(clips, labels) of the prepared folder `data`: what `manifest.read` gives, as columns.

    UserError as there, and for a label that labels.txt does not have.
    """
    data = Path(data)
    manifest.refuse_unprepared(data)
    labels = manifest.read_labels(data)
    files = [data / manifest.NAME, data / manifest.LABELS, data / manifest.REJECTED]
    key = [arrow_files.stamp(file) for file in files]
    batch, about = arrow_files.cached(data / FOLDER / NAME, key, lambda: _columns_of(data, labels))
    lists = batch["labels"]
    columns = Columns(
        lines=arrow_files.texts(batch["line"]),
        ids=arrow_files.texts(batch["id"]),
        listed=arrow_files.texts(batch["listed"]),
        label_offsets=arrow_files.numbers(lists.offsets),
        label_codes=arrow_files.numbers(lists.values),
        split_codes=arrow_files.numbers(batch["split"]),
        by_id=arrow_files.numbers(batch["by_id"]),
        splits=about["splits"],
        labels=labels,
        digest=about["digest"],
    )
    return Clips(columns), labels


def _columns_of(data: Path, labels: list[str]) -> Made:
    """The columns of the manifest, without the clips that are rejected. UserError for what it should not hold."""
    path = data / manifest.NAME
    rejected = {row["id"] for row in manifest.read_rejected(data)}
    index = {name: code for code, name in enumerate(labels)}
    splits: dict[int | str, int] = {}
    lines, ids, listed, rows = (_TextsWriter() for _ in range(4))
    label_offsets, label_codes, split_codes = array.array("i", [0]), array.array("i"), array.array("i")
    for line, record in _records(path):
        try:
            clip_id, names, split = record["id"], record["labels"], split_of(record)
            if clip_id in rejected:
                continue
            label_codes.extend([index[name] for name in names])
            ids.add(clip_id.encode())
            listed.add(clip_list.listed_row(record).encode())
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: {_fault(record, index, error)}: {manifest.PREPARE}") from None
        lines.add(line)
        rows.add(manifest.digest_row(record).encode())
        label_offsets.append(len(label_codes))
        split_codes.append(splits.setdefault(split, len(splits)))
    id_column = ids.column()
    by_id = pc.sort_indices(id_column).cast(pa.int32())
    lists = pa.ListArray.from_arrays(_int32(label_offsets), _int32(label_codes))
    columns = {"line": lines.column(), "id": id_column, "listed": listed.column()}
    columns |= {"labels": lists, "split": _int32(split_codes), "by_id": by_id}
    about = {"splits": list(splits), "digest": manifest.digest_of_rows(_in_order(rows.column()))}
    return pa.RecordBatch.from_pydict(columns), about


def _records(path: Path) -> Iterator[tuple[bytes, Record]]:
    """(line, record) for each line of a manifest. UserError for a file of anything else."""
    if not path.stat().st_size:
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place, shown = 0, 0
        with progress(total=len(content), desc=path.name, unit="B", unit_scale=True) as bar:
            for line in iter(content.readline, b""):
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise manifest.not_json_lines(path, error) from None
                yield line, record
                place += len(line)
                if place - shown > 1 << 20:
                    bar.update(place - shown)
                    shown = place


def _fault(record: object, index: dict[str, int], error: Exception) -> str:
    """What is wrong with a record, in words."""
    if isinstance(record, dict) and isinstance(record.get("labels"), list) and "id" in record:
        unknown = [name for name in record["labels"] if not isinstance(name, str) or name not in index]
        if unknown:
            return f"{record['id']}: its label {unknown[0]!r} is not in {manifest.LABELS}"
    return f"a line is no record of a clip ({type(error).__name__}: {error})"


def _in_order(column: pa.Array) -> Iterator[bytes]:
    """The texts of a column, sorted, a block at a time."""
    order = pc.sort_indices(column)
    for first in range(0, len(order), BLOCK):
        texts = arrow_files.texts(column.take(order[first : first + BLOCK]))
        yield from (bytes(texts.encoded(row)) for row in range(len(texts)))


def _int32(values: "array.array[int]") -> pa.Array:
    return pa.array(np.frombuffer(values, np.int32) if len(values) else np.zeros(0, np.int32))


class _TextsWriter:
    """Texts that become a column of large_string. They go through a file without a name, not through memory."""

    def __init__(self) -> None:
        self.file, self.offsets = tempfile.TemporaryFile(), array.array("q", [0])

    def add(self, text: bytes) -> None:
        self.file.write(text)
        self.offsets.append(self.offsets[-1] + len(text))

    def column(self) -> pa.Array:
        self.file.flush()
        size = self.offsets[-1]
        content = mmap.mmap(self.file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        self.file.close()
        return arrow_files.text_column(Texts(np.frombuffer(self.offsets, np.int64), memoryview(content)))
