"""Where labels were heard in the results of a job, read batch by batch."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from paddletag.archives.plan import TAGS
from paddletag.files import atomic
from paddletag.runtime import UserError
from paddletag.type_aliases import File

PLACE = [("file", pa.string()), ("start", pa.float64()), ("end", pa.float64())]
SCHEMA = pa.schema([*PLACE, ("label", pa.string()), ("score", pa.float32())])
BATCH = 2**15  # rows that are read at a time


class Results:
    """The tags in the folder of a job. UserError for a folder without any, and for a damaged one.

    labels: of the model.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder) / TAGS if (Path(folder) / TAGS).is_dir() else Path(folder)
        paths = sorted(str(path) for path in self.folder.glob("*.parquet"))
        if not paths:
            raise UserError(f"{folder}: holds no tags: paddletag tag-archive makes them (is the first part finished?)")
        try:
            data = ds.dataset(paths, format="parquet")
            self.labels: list[str] = [str(label) for label in json.loads(data.schema.metadata[b"labels"])]
        except (OSError, TypeError, KeyError, ValueError, pa.ArrowException) as error:
            raise UserError(f"{self.folder}: holds other Parquet files, or damaged ones ({_short(error)})") from None
        self._fragments = sorted(data.get_fragments(), key=lambda fragment: fragment.path)
        self._all_scores = "labels" not in data.schema.names

    def find(self, chosen: Iterable[int], min_score: float) -> Iterator[pa.RecordBatch]:
        """The windows in which a label is heard, of SCHEMA: in the order of the source, then of time, then by score.

        chosen: numbers of labels. Of results that keep the highest labels of a window, only those can be found.
        UserError for a part that is damaged, or of another model.
        """
        wanted = np.zeros(len(self.labels), bool)
        wanted[list(chosen)] = True
        columns = ["file", "start", "end", "scores", *([] if self._all_scores else ["labels"])]
        for fragment in self._fragments:
            try:
                labels = json.loads((fragment.physical_schema.metadata or {})[b"labels"])
                if labels != self.labels:
                    raise UserError(f"{fragment.path}: is of a model with other labels than the first part")
                for batch in fragment.to_batches(columns=columns, batch_size=BATCH, batch_readahead=2):
                    rows, names, scores = self._scores(batch, wanted)
                    yield _hits(batch, rows, names, scores, min_score)
            except (OSError, KeyError, ValueError, pa.ArrowException) as error:
                raise UserError(f"{fragment.path}: is damaged, or no part of a job ({_short(error)})") from None

    def _scores(self, batch: pa.RecordBatch, wanted: np.ndarray) -> tuple[np.ndarray, pa.Array, np.ndarray]:
        """(row, label, score) of each score of a wanted label, in three arrays."""
        if self._all_scores:
            columns = np.flatnonzero(wanted)
            scores = batch["scores"].flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)[:, columns]
            rows, places = np.divmod(np.arange(scores.size), max(1, len(columns)))
            names = pa.array(self.labels, pa.string()).take(pa.array(columns[places]))
            return rows, names, scores.astype(np.float32).ravel()
        rows = batch["labels"].value_parent_indices().to_numpy()
        names = batch["labels"].flatten()
        kept = pa.compute.is_in(names, pa.array([self.labels[i] for i in np.flatnonzero(wanted)], pa.string()))
        mask = kept.to_numpy(zero_copy_only=False)
        return rows[mask], names.filter(kept), batch["scores"].flatten().to_numpy()[mask]


def _hits(
    batch: pa.RecordBatch, rows: np.ndarray, names: pa.Array, scores: np.ndarray, min_score: float
) -> pa.RecordBatch:
    places = np.flatnonzero(scores >= np.float32(min_score))
    places = places[np.lexsort((-scores[places], rows[places]))]
    taken = pa.array(rows[places])
    columns = [batch[name].take(taken) for name in ("file", "start", "end")]
    return pa.record_batch([*columns, names.take(pa.array(places)), pa.array(scores[places], pa.float32())], SCHEMA)


def best(batches: Iterable[pa.RecordBatch], count: int) -> pa.Table:
    """The `count` hits with the highest scores, highest first; equal ones in their order."""
    kept = SCHEMA.empty_table()
    for batch in batches:
        kept = pa.concat_tables([kept, pa.Table.from_batches([batch])])
        order = np.argsort(-kept["score"].to_numpy(), kind="stable")[:count]
        kept = kept.take(pa.array(order)).combine_chunks()
    return kept


def write(batches: Iterable[pa.RecordBatch], path: File) -> int:
    """Write hits to a .csv or .parquet file: their number."""
    count = 0
    with atomic(path) as temporary, open(temporary, "wb") as file:
        kinds = {".csv": pa.csv.CSVWriter, ".parquet": pq.ParquetWriter}
        with kinds[Path(path).suffix.lower()](file, SCHEMA) as writer:
            for batch in batches:
                if len(batch):
                    writer.write_table(pa.Table.from_batches([batch]))
                count += len(batch)
    return count


def endings() -> Sequence[str]:
    """What the name of a file for `write` may end with."""
    return ".csv", ".parquet"


def _short(error: Exception) -> str:
    return str(error).split("\n")[0][:200]
