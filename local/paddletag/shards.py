"""Log-mel spectrograms on disk: Arrow files that are memory-mapped, made in parallel, and kept while they are true."""

import contextlib
import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from paddletag import audio, manifest, pool, runtime
from paddletag.frontend import FrontEnd, clip_log_mel
from paddletag.runtime import UserError

FIELDS = [
    ("id", pa.string()),
    ("n_frames", pa.int32()),
    ("source", pa.string()),  # the fingerprint of the sound
    ("crc", pa.uint32()),  # of log_mel
    ("log_mel", pa.binary()),  # float16 [n_frames, n_mels]
]
TOO_LARGE = ": does not fit into memory"
BATCH_BYTES = 4 << 20  # rows are written in batches of about this size
EXTRACT = "run stage 1 first (bash run.sh --stage 1 --stop-stage 1)"


class Features:
    """The features in a folder, by clip id. Rows are read where they lie: opening a folder loads no spectrogram."""

    dtype = np.float16

    def __init__(self, folder):
        self.folder = Path(folder)
        self.shards = []  # per file, in the order of names: [(id, source) of each row]
        self._rows = {}
        for path in sorted(self.folder.glob("*.arrow")):
            try:
                reader = pa.ipc.open_file(pa.memory_map(str(path)))
                if reader.schema.names != [name for name, _ in FIELDS]:
                    raise ValueError("it has other columns")
                self.n_mels = json.loads(reader.schema.metadata[b"front_end"])["n_mels"]
                batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
                for batch in batches:
                    batch.validate(full=True)  # reading through a wrong offset would kill the process
                columns = [(batch["id"].to_pylist(), batch["source"].to_pylist()) for batch in batches]
                rows = [row for column in columns for row in zip(*column, strict=True)]
            except FileNotFoundError:
                continue  # rank 0 has just removed it: `extract`
            except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}: not a feature file ({error}): remove it, then {EXTRACT}") from None
            self.shards.append((path.name, rows))
            for batch in batches:
                self._rows.update((id, (batch, row)) for row, id in enumerate(batch["id"].to_pylist()))
        self._sources = {id: source for _, rows in self.shards for id, source in rows}

    def __contains__(self, id):
        return id in self._rows

    def source(self, id):
        """The fingerprint of the sound that the features of `id` were made from, or None."""
        return self._sources.get(id)

    def digest(self, records):
        """A short name of what the clips of `records` sound like: a model remembers what it was trained on."""
        rows = ((id, *self._rows[id]) for id in sorted(record["id"] for record in records))
        text = "".join(f"{id} {batch['crc'][row]}\n" for id, batch, row in rows)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def sounds(self, records: list[dict]) -> dict[str, str]:
        """{id: what tells a clip's sound from another}, of the clips of `records`."""
        rows = {record["id"]: self._rows[record["id"]] for record in records}
        return {id: f"{batch['crc'][row].as_py():08x}" for id, (batch, row) in rows.items()}

    def __getitem__(self, id):
        """The log-mel of the whole clip: float16 [frames, n_mels], a read-only view of the file."""
        batch, row = self._rows[id]
        _, offsets, log_mels = batch["log_mel"].buffers()  # (a scalar of this column would be a copy)
        begin, end = np.frombuffer(offsets, np.int32)[row : row + 2]
        return np.frombuffer(log_mels, np.float16, (end - begin) // 2, begin).reshape(-1, self.n_mels)


def folder(data: str | Path, front_end: FrontEnd, clip_seconds: float) -> Path:
    """Where the features of the prepared folder `data` lie."""
    return Path(data) / "features" / front_end.folder(clip_seconds)


def open_features(data, front_end, clip_seconds, records):
    """The features of `records` in the prepared folder `data`. UserError if some are missing."""
    where = folder(data, front_end, clip_seconds)
    features = Features(where)
    missing = [record["id"] for record in records if record["id"] not in features]
    if missing:
        what = f"no features of {missing[0]}" + (f" and {len(missing) - 1} more clips" if len(missing) > 1 else "")
        raise UserError(f"{where}: {what}: {EXTRACT}")
    return features


def extract(data, records, front_end, clip_seconds, shard_size, limit, workers, rank=0, ranks=1):
    """Make what is missing or out of date of the features of `records`; return the counts {made, kept, rejected}.

    The caller holds the lock of their folder: `runtime.locked`.

    Shard k holds the clips k * shard_size and on, of the manifest; it is written by rank k modulo `ranks`, under a
    temporary name, and kept as it is if its clips and their sources are still the same. Clips that cannot be decoded go
    to the list of rejected ones, at most `limit` of them (UserError).
    """
    where = folder(data, front_end, clip_seconds)
    where.mkdir(parents=True, exist_ok=True)
    old = Features(where)
    names = dict(old.shards)
    rejected = {row["id"]: row.get("source") for row in manifest.read_rejected(data)}
    counts = {"made": 0, "kept": 0, "rejected": 0}
    plan = []  # (file name, its records with their fingerprints), of the shards to write
    for k in range(rank, -(-len(records) // shard_size), ranks):
        rows = [_with_source(r) for r in records[k * shard_size : (k + 1) * shard_size]]
        rows = [(r, source) for r, source in rows if rejected.get(r["id"], "") != source]
        name = f"{k:06d}.arrow"
        if names.get(name) == [(r["id"], source) for r, source in rows]:
            counts["kept"] += len(rows)
        else:
            plan.append((name, rows))
    todo = [(r, front_end, clip_seconds) for _, rows in plan for r, source in rows if old.source(r["id"]) != source]
    metadata = {"front_end": json.dumps(front_end.to_dict()), "clip_seconds": str(float(clip_seconds))}
    schema = pa.schema(FIELDS, metadata=metadata)
    processes = min(workers, len(todo))
    results = pool.in_order(_one, todo, processes if processes > 1 else 0)
    bar = runtime.progress(total=len(todo), desc="log-mel", unit="clip")
    with bar, contextlib.closing(results):
        for name, rows in plan:
            bad, mended = [], []
            with runtime.atomic(where / name) as temporary, _Writer(temporary, schema) as writer:
                for record, source in rows:
                    if old.source(record["id"]) == source:
                        writer.add(record["id"], source, old[record["id"]])
                        counts["kept"] += 1
                        continue
                    log_mel, reason = next(results)
                    bar.update()
                    if reason:
                        bad.append({"id": record["id"], "audio": record["audio"], "reason": reason, "source": source})
                        if reason.endswith(TOO_LARGE):
                            del bad[-1]["source"]  # so that it is tried again: there may be more memory then
                        if len(bad) > limit:
                            manifest.check_limit(bad, limit)
                    else:
                        writer.add(record["id"], source, log_mel)
                        counts["made"] += 1
                        mended += [record["id"]] if record["id"] in rejected else []
                if bad or mended:
                    manifest.reject(data, bad, limit, mended)
                    counts["rejected"] += len(bad)
    if rank == 0:
        for path in where.glob("*.arrow"):
            if path.stem.isdecimal() and int(path.stem) * shard_size >= len(records):
                path.unlink()
    return where, counts


class _Writer:
    """Rows to an Arrow file, a few megabytes at a time."""

    def __init__(self, path, schema):
        self.schema, self.rows, self.size = schema, [], 0
        self.file = pa.OSFile(str(path), "wb")
        self.writer = pa.ipc.new_file(self.file, schema)

    def add(self, id, source, log_mel):
        content = log_mel.tobytes()
        self.rows.append((id, len(log_mel), source, zlib.crc32(content), content))
        self.size += log_mel.nbytes
        if self.size >= BATCH_BYTES:
            self.flush()

    def flush(self):
        if self.rows:
            columns = zip(*self.rows, strict=True)
            arrays = [pa.array(column, kind) for column, (_, kind) in zip(columns, FIELDS, strict=True)]
            self.writer.write_batch(pa.record_batch(arrays, schema=self.schema))
            self.rows, self.size = [], 0

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.flush()
                self.writer.close()
        finally:
            self.file.close()


def _one(job):
    """(record, front end, seconds) -> (float16 [frames, n_mels], "") or (None, why the clip cannot be used)."""
    try:
        return clip_log_mel(*job).astype(np.float16), ""
    except audio.AudioError as error:
        return None, str(error)
    except MemoryError:
        return None, f"{job[0]['audio']}{TOO_LARGE}"


def _with_source(record):
    try:
        return record, manifest.fingerprint(record)
    except OSError:  # it is not there, or may not be looked at
        return record, "missing"  # decoding it will say so
