"""Where each clip's features lie among the shards: columns in the order of the ids, mapped from a file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from paddletag.data import arrow_files
from paddletag.data.arrow_files import Made
from paddletag.data.clips import Clips, Texts, ids_of
from paddletag.runtime import UserError, progress
from paddletag.type_aliases import File, Record

FIELDS = [
    ("id", pa.string()),
    ("n_frames", pa.int32()),
    ("source", pa.string()),  # the fingerprint of the sound
    ("crc", pa.uint32()),  # of log_mel
    ("log_mel", pa.binary()),  # float16 [n_frames, n_mels]
]
EXTRACT = "run stage 1 first (bash run.sh --stage 1 --stop-stage 1)"


@dataclass(frozen=True)
class ClipIndex:
    """The columns, in the order of the ids. A clip's row in the index is its number here."""

    ids: Texts
    crcs: np.ndarray  # uint32 [N]: checksums of the log-mels
    shards: np.ndarray  # int32 [N]: places in `files`
    batches: np.ndarray  # int32 [N]: of the shard
    rows: np.ndarray  # int32 [N]: of the batch
    files: list[list]  # `arrow_files.stamp` of each shard
    n_mels: int

    def rows_of(self, records: Sequence[Record]) -> np.ndarray:
        """The rows of the clips of `records`, -1 where there is none: int32 [N]."""
        if isinstance(records, Clips):
            ids = arrow_files.text_column(records.columns.ids)
            if len(records) < len(ids):
                ids = ids.take(pa.array(records.rows))
        else:
            ids = pa.array(ids_of(records), pa.large_string())
        found = pc.index_in(ids, value_set=arrow_files.text_column(self.ids))
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False)


def open_index(folder: Path, cache: File | None) -> ClipIndex:
    """The index of the shards in a folder, from the file `cache`, where it is kept if they are still the same.

    UserError for a file that holds no features, or is damaged.
    """
    stamps = [stamp for path in sorted(folder.glob("*.arrow")) if (stamp := arrow_files.stamp(path))]
    stamps = [stamp for path in sorted(folder.glob("*.arrow")) if (stamp := arrow_files.stamp(path))]

    def make() -> Made:
        return _index(folder, stamps)

    columns, about = arrow_files.cached(cache, stamps, make) if cache else make()
    crcs, shards, batches, rows = (arrow_files.numbers(columns[name]) for name in ("crc", "shard", "batch", "row"))
    return ClipIndex(arrow_files.texts(columns["id"]), crcs, shards, batches, rows, stamps, about["n_mels"])


def open_shard(path: Path) -> pa.RecordBatchFileReader:
    """A shard, mapped. FileNotFoundError where it is not there, UserError where it holds no features, or is damaged."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema.names != [name for name, _ in FIELDS]:
            raise ValueError("it has other columns")
        json.loads(reader.schema.metadata[b"front_end"])["n_mels"]
        return reader
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from None


def checked_batches(path: Path, reader: pa.RecordBatchFileReader) -> list[pa.RecordBatch]:
    """All batches of a shard. UserError for damaged ones: reading through a wrong offset would kill the process."""
    try:
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)
        return batches
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: object) -> UserError:
    """The error for a shard that cannot be read."""
    return UserError(f"{path}: not a feature file ({error}): remove it, then {EXTRACT}")


def _index(folder: Path, stamps: Sequence[list]) -> Made:
    """The columns of an index, and the width of its log-mels. Of clips that are in several shards, the last counts."""
    ids, crcs, places, n_mels = [], [], [], 0
    for shard, (name, *_) in enumerate(progress(stamps, desc="features", unit="file")):
        try:
            reader = open_shard(folder / name)
        except FileNotFoundError:
            continue  # rank 0 has just removed it: `shards.extract`
        n_mels = json.loads(reader.schema.metadata[b"front_end"])["n_mels"]
        for number, batch in enumerate(checked_batches(folder / name, reader)):
            ids.append(batch["id"].cast(pa.large_string()))
            crcs.append(batch["crc"].to_numpy())
            rows = np.arange(batch.num_rows, dtype=np.int32)
            places.append(np.stack([np.full_like(rows, shard), np.full_like(rows, number), rows]))
    id_column = pa.concat_arrays(ids) if ids else pa.array([], pa.large_string())
    shard_batch_row = np.concatenate(places, axis=1) if places else np.zeros((3, 0), np.int32)
    order = pc.sort_indices(id_column)  # not said to be stable: so by place within an id
    sorted_ids, taken = id_column.take(order), order.to_numpy()
    if len(taken):
        same = pc.equal(sorted_ids[1:], sorted_ids[:-1]).to_numpy(zero_copy_only=False)
        if same.any():
            group = np.concatenate([[0], np.cumsum(~same)])
            taken = taken[np.lexsort((taken, group))]
            taken = taken[np.concatenate([group[1:] != group[:-1], [True]])]
            sorted_ids = id_column.take(pa.array(taken))
    names = ("shard", "batch", "row")
    columns = {"id": sorted_ids, "crc": pa.array(np.concatenate(crcs)[taken] if crcs else np.zeros(0, np.uint32))}
    columns.update({name: pa.array(column[taken]) for name, column in zip(names, shard_batch_row, strict=True)})
    return pa.RecordBatch.from_pydict(columns), {"n_mels": n_mels}
