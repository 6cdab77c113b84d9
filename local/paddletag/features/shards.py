"""Log-mel spectrograms on disk: Arrow files, memory-mapped to read, made in parallel, and kept while up to date."""

import contextlib
import functools
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from paddletag import parallel, runtime
from paddletag.data import arrow_files, audio, clip_table, manifest
from paddletag.data.clips import ids_of
from paddletag.features.clip_features import clip_log_mel
from paddletag.features.clip_index import EXTRACT, FIELDS, checked_batches, open_index, open_shard
from paddletag.features.frontend import FrontEnd
from paddletag.files import atomic
from paddletag.runtime import UserError
from paddletag.type_aliases import File, Record

TOO_LARGE = ": does not fit into memory"
BLOCK = 1 << 16  # clips that are Python objects at a time
BATCH_BYTES = 4 << 20  # rows are written in batches of about this size
AHEAD = 128 << 10  # bytes that are asked for at once: of more, Linux takes the first part alone
MOST_OPEN = 256  # shards that a process keeps open: many systems allow 1024 files

Clips = list[tuple[Record, str]]  # each with the fingerprint of its sound
Result = tuple[np.ndarray | None, str]  # a log-mel, or why there is none


class Features:
    """The features in a folder, by clip id. Rows are read where they lie: opening a folder loads no spectrogram.

    What is known of the clips lies in the file `cache`, made once (`clip_index`). most_open: shards that are kept open;
    a shard that was made again since this was made is an error when it is opened, and else is read as it was.
    UserError for a file that holds no features, or is damaged.
    """

    dtype: type[np.floating] = np.float16

    def __init__(self, folder: File, cache: File | None = None, most_open: int = MOST_OPEN) -> None:
        self.folder = Path(folder)
        self.index = open_index(self.folder, cache)
        self.n_mels = self.index.n_mels
        self._most_open = most_open
        self._open: dict[int, pa.RecordBatchFileReader] = {}  # those used last come last
        for shard in range(min(most_open, len(self.index.files))):
            with contextlib.suppress(FileNotFoundError):  # rank 0 has just removed it: `extract`
                self._open[shard] = open_shard(self.folder / self.index.files[shard][0])

    @functools.cached_property
    def shards(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """(file name, [(id, source) of each row]) of each shard, by name: for stage 1 alone."""
        rows = []
        for shard, (name, *_) in enumerate(self.index.files):
            with contextlib.suppress(FileNotFoundError):
                batches = checked_batches(self.folder / name, self._shard(shard))
                columns = [(batch["id"].to_pylist(), batch["source"].to_pylist()) for batch in batches]
                rows.append((name, [row for column in columns for row in zip(*column, strict=True)]))
        return rows

    @functools.cached_property
    def _sources(self) -> dict[str, str]:
        return {clip_id: source for _, rows in self.shards for clip_id, source in rows}

    def __contains__(self, clip_id: str) -> bool:
        """Whether there are features of the clip."""
        return self.index.ids.find(clip_id) is not None

    def source(self, clip_id: str) -> str | None:
        """The fingerprint of the sound that the features of a clip were made from, or None: for stage 1 alone."""
        return self._sources.get(clip_id)

    def missing(self, records: Sequence[Record]) -> list[str]:
        """The ids of those of `records` that have no features."""
        ids = ids_of(records)
        return [ids[place] for place in np.flatnonzero(self.index.rows_of(records) < 0)]

    def digest(self, records: Sequence[Record]) -> str:
        """A short name of what the clips of `records` sound like: a model remembers what it was trained on."""
        digest, index = hashlib.sha256(), self.index
        rows = np.sort(self.index.rows_of(records))  # in the order of the ids
        for first in range(0, len(rows), BLOCK):
            block = rows[first : first + BLOCK]
            pairs = zip(block.tolist(), index.crcs[block].tolist(), strict=True)
            digest.update("".join(f"{index.ids[row]} {crc}\n" for row, crc in pairs).encode())
        return digest.hexdigest()[:16]

    def sounds(self, records: Sequence[Record]) -> Iterator[str | None]:
        """What tells each clip's sound from another, in the order of `records`; None for clips without features."""
        rows = self.index.rows_of(records)
        for first in range(0, len(rows), BLOCK):
            block = rows[first : first + BLOCK]
            crcs = self.index.crcs[block].tolist()
            yield from (None if row < 0 else f"{crc:08x}" for row, crc in zip(block.tolist(), crcs, strict=True))

    def __getitem__(self, clip_id: str) -> np.ndarray:
        """The log-mel of the whole clip: float16 [frames, n_mels], a read-only view of the file."""
        found = self.index.ids.find(clip_id)
        if found is None:
            raise KeyError(clip_id)
        shard, number, row = (int(column[found]) for column in (self.index.shards, self.index.batches, self.index.rows))
        batch = self._shard(shard).get_batch(number)
        _, offsets, log_mels = batch["log_mel"].buffers()  # (a scalar of this column would be a copy)
        begin, end = np.frombuffer(offsets, np.int32)[row : row + 2]
        return np.frombuffer(log_mels, np.float16, (end - begin) // 2, begin).reshape(-1, self.n_mels)

    def shards_of(self, records: Sequence[Record]) -> np.ndarray:
        """The numbers of the shards in which the clips of `records` lie, which all have features: int32 [N]."""
        return self.index.shards[self.index.rows_of(records)]

    def read_ahead(self, shard: int) -> None:
        """Ask the system to read a whole shard into its cache, from begin to end, without waiting for it."""
        if not hasattr(os, "posix_fadvise"):  # not on all systems: then clips are read when they are used
            return
        name, size, _ = self.index.files[shard]
        with contextlib.suppress(OSError):  # reading it will say what is wrong
            handle = os.open(self.folder / name, os.O_RDONLY)
            try:
                for begin in range(0, size, AHEAD):
                    os.posix_fadvise(handle, begin, AHEAD, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)

    def _shard(self, shard: int) -> pa.RecordBatchFileReader:
        """A shard, opened now where it is not open. UserError for one that was made again since the index was."""
        reader = self._open.pop(shard, None)
        if reader is None:
            stamp = self.index.files[shard]
            path = self.folder / stamp[0]
            reader = open_shard(path)
            if arrow_files.stamp(path) != stamp:
                raise UserError(f"{path}: has changed since it was opened (stage 1?): run this again")
            if len(self._open) >= self._most_open:
                del self._open[next(iter(self._open))]
        self._open[shard] = reader
        return reader


def folder(data: File, front_end: FrontEnd, clip_seconds: float) -> Path:
    """Where the features of the prepared folder `data` lie."""
    return Path(data) / "features" / front_end.folder(clip_seconds)


def open_shards(data: File, front_end: FrontEnd, clip_seconds: float, records: Sequence[Record]) -> Features:
    """The stored features of `records` in the prepared folder `data`. UserError if some are missing."""
    where = folder(data, front_end, clip_seconds)
    features = Features(where, Path(data) / clip_table.FOLDER / f"{where.name}.arrow")
    missing = features.missing(records)
    if missing:
        what = f"no features of {missing[0]}" + (f" and {len(missing) - 1} more clips" if len(missing) > 1 else "")
        raise UserError(f"{where}: {what}: {EXTRACT}")
    return features


def extract(
    data: File,
    records: Sequence[Record],
    front_end: FrontEnd,
    clip_seconds: float,
    shard_size: int,
    limit: int,
    workers: int,
    rank: int = 0,
    ranks: int = 1,
) -> tuple[Path, dict[str, int]]:
    """Make what is missing or out of date of the features of `records`: (their folder, {made, kept, rejected}: counts).

    The caller holds the lock of their folder: `files.locked`.

    Shard k holds the clips k * shard_size and on, of the manifest; it is written by rank k modulo `ranks`, under a
    temporary name, and kept as it is if its clips and their sources are still the same. Clips that cannot be decoded go
    to the list of rejected ones, at most `limit` of them (UserError).
    """
    where = folder(data, front_end, clip_seconds)
    where.mkdir(parents=True, exist_ok=True)
    old = Features(where, most_open=sys.maxsize)  # they are read while they are replaced
    rejected = {row["id"]: row.get("source") for row in manifest.read_rejected(data)}
    stale, kept = _stale_shards(records, shard_size, range(rank, -(-len(records) // shard_size), ranks), old, rejected)
    counts = {"made": 0, "kept": kept, "rejected": 0}
    jobs = [(r, front_end, clip_seconds) for _, clips in stale for r, source in clips if old.source(r["id"]) != source]
    metadata = {"front_end": json.dumps(front_end.to_dict()), "clip_seconds": str(float(clip_seconds))}
    schema = pa.schema(FIELDS, metadata=metadata)
    processes = min(workers, len(jobs))
    results = parallel.in_order(_log_mel_or_reason, jobs, processes if processes > 1 else 0)
    bar = runtime.progress(total=len(jobs), desc="log-mel", unit="clip")
    with bar, contextlib.closing(results):
        counted = _counted(results, bar)
        for name, clips in stale:
            with atomic(where / name) as temporary, _Writer(temporary, schema) as writer:
                made, unusable = _write_clips(writer, clips, old, counted, limit)
                mended = [clip_id for clip_id in made if clip_id in rejected]
                if unusable or mended:
                    manifest.reject(data, unusable, limit, mended)
            counts["made"] += len(made)
            counts["kept"] += len(clips) - len(made) - len(unusable)
            counts["rejected"] += len(unusable)
    if rank == 0:
        _remove_surplus(where, len(records), shard_size)
    return where, counts


def _stale_shards(
    records: Sequence[Record], shard_size: int, numbers: range, old: Features, rejected: Mapping[str, str | None]
) -> tuple[list[tuple[str, Clips]], int]:
    """Those of the shards `numbers` that are to be written, as (file name, clips); how many clips the others hold.

    rejected: {id: the source of the clip when it was rejected}: it is left out as long as that is its source.
    """
    stored, stale, kept = dict(old.shards), [], 0
    for k in numbers:
        # one that is not there, or may not be looked at, is missing: decoding it will say so
        clips = list(manifest.fingerprints(records[k * shard_size : (k + 1) * shard_size], missing="missing"))
        clips = [(record, source) for record, source in clips if rejected.get(record["id"], "") != source]
        name = f"{k:06d}.arrow"
        if stored.get(name) == [(record["id"], source) for record, source in clips]:
            kept += len(clips)
        else:
            stale.append((name, clips))
    return stale, kept


def _write_clips(
    writer: "_Writer", clips: Clips, old: Features, results: Iterator[Result], limit: int
) -> tuple[list[str], list[Record]]:
    """Write the clips of a shard, from `old` where it has them and else from the `results`, which are in their order.

    Returns the ids of the new ones, and the rows of rejected.jsonl for those that cannot be used: UserError if these
    alone are more than `limit`.
    """
    made, unusable = [], []
    for record, source in clips:
        if old.source(record["id"]) == source:
            writer.add(record["id"], source, old[record["id"]])
            continue
        log_mel, reason = next(results)
        if log_mel is not None:
            writer.add(record["id"], source, log_mel)
            made.append(record["id"])
            continue
        unusable.append({"id": record["id"], "audio": record["audio"], "reason": reason, "source": source})
        if reason.endswith(TOO_LARGE):
            del unusable[-1]["source"]  # so that it is tried again: there may be more memory then
        if len(unusable) > limit:
            manifest.check_limit(unusable, limit)
    return made, unusable


def _counted(results: Iterator[Result], bar: Any) -> Iterator[Result]:
    """The results, each of which moves the bar when it is there."""
    for result in results:
        bar.update()
        yield result


def _remove_surplus(where: Path, clips: int, shard_size: int) -> None:
    """Remove the files of shards beyond the last one that so many clips fill."""
    for path in where.glob("*.arrow"):
        if path.stem.isdecimal() and int(path.stem) * shard_size >= clips:
            path.unlink()


class _Writer:
    """Rows to an Arrow file, a few megabytes at a time."""

    def __init__(self, path: File, schema: pa.Schema) -> None:
        self.schema, self.size = schema, 0
        self.rows: list[tuple[str, int, str, int, bytes]] = []  # as FIELDS says
        self.file = pa.OSFile(str(path), "wb")
        self.writer = pa.ipc.new_file(self.file, schema)

    def add(self, clip_id: str, source: str, log_mel: np.ndarray) -> None:
        """A row more: of a clip, the fingerprint of its sound, and its float16 [frames, n_mels]."""
        content = log_mel.tobytes()
        self.rows.append((clip_id, len(log_mel), source, zlib.crc32(content), content))
        self.size += log_mel.nbytes
        if self.size >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are waiting."""
        if self.rows:
            columns = zip(*self.rows, strict=True)
            arrays = [pa.array(column, kind) for column, (_, kind) in zip(columns, FIELDS, strict=True)]
            self.writer.write_batch(pa.record_batch(arrays, schema=self.schema))
            self.rows, self.size = [], 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
                self.writer.close()
        finally:
            self.file.close()


def _log_mel_or_reason(job: tuple[Record, FrontEnd, float]) -> Result:
    """(record, front end, seconds) -> (float16 [frames, n_mels], "") or (None, why the clip cannot be used)."""
    record, front_end, clip_seconds = job
    try:
        return clip_log_mel(record, front_end, clip_seconds).astype(np.float16), ""
    except audio.AudioError as error:
        return None, str(error)
    except MemoryError:
        return None, f"{record['audio']}{TOO_LARGE}"
