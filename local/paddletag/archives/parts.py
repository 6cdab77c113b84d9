"""A part of a job: its sounds tagged, and written as two Parquet files, of tags and of refused sounds.

Both are written under temporary names. The tags get their name last, so that a part is done or not.
"""

import contextlib
import json
import os
from collections import deque
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paddletag import __version__, runtime
from paddletag.archives import sources, stores
from paddletag.archives.plan import REFUSED, TAGS, Job, Plan
from paddletag.archives.sources import Item
from paddletag.data.audio import AudioError, Span
from paddletag.files import atomic
from paddletag.models import model_folder, registry
from paddletag.tagging import pipeline
from paddletag.tagging.labels import unknown_result
from paddletag.type_aliases import Arrays, File, Meta

PENDING, TABLES = 2**24, 256  # bytes, and tables, of scores that wait to be written
REFUSED_SCHEMA = pa.schema(
    [("file", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("reason", pa.string())]
)


class Done(NamedTuple):
    """What a part came to."""

    files: int
    refused: int
    seconds: float  # of sound that was tagged


def tag_part(job: Job, part: int, predict: pipeline.Predict, bar: bool = True) -> Done:
    """Tag the sounds of a part and write its files. predict: of the job's model, loaded before. bar: show one.

    A sound that cannot be used is a row of the refused ones. UserError where the model is not the one that the plan
    names, or a store does not answer; OSError for a full disk. A part that fails leaves nothing.
    """
    plan = Plan(job.out)
    meta = model_folder.describe_model(job.model)  # now: the model may have been replaced since the plan was made
    plan.check_settings(job.settings(meta))
    items = plan.items(part)
    refused: list[tuple[int, str]] = []
    metadata = _metadata(job, plan, part)
    shown: dict[str, Any] = {} if bar else {"disable": True}
    seconds = 0.0
    with (
        atomic(plan.path(TAGS, part)) as temporary,
        open(temporary, "wb") as file,
        _Writer(file, job, _schema(job, meta).with_metadata(metadata)) as writer,
        runtime.progress(total=len(items), desc=f"part {part}", unit="file", **shown) as progress,
        contextlib.closing(_results(job, meta, predict, items)) as results,
    ):
        for number, result in results:
            if isinstance(result, str):
                refused.append((number, result))
            else:
                seconds += writer.add(items[number], result)
            progress.update()
        _write_refused(plan, part, items, refused, metadata)
    return Done(len(items), len(refused), seconds)


def _results(
    job: Job, meta: Meta, predict: pipeline.Predict, items: list[Item]
) -> Generator[tuple[int, Arrays | str], None, None]:
    """(number of an item, its arrays or why it is refused), each item once, nearly in order."""
    front_end = model_folder.saved_front_end(meta)
    unusable: deque[tuple[int, str]] = deque()
    under_way: deque[tuple[int, stores.Copy]] = deque()
    names = (item.file for item in items)
    with stores.local_copies(names, stores.Stores(job.source), sources.base(job.source)) as copies:

        def sounds() -> Iterator[File]:  # another thread may run it: appending to a deque is one step
            for number, copy in enumerate(copies):
                error = copy.wait()
                if os.path.isdir(copy.path):  # the listing could not look into it
                    error = AudioError(f"{copy.path}: a folder that cannot be read")
                if error:
                    unusable.append((number, _reason(error, copy.path)))
                    copy.release()
                else:
                    under_way.append((number, copy))
                    yield items[number].sound(copy.path)

        results = pipeline.tag_sounds(predict, meta, front_end, sounds(), job.window, job.hop, job.batch_size)
        with contextlib.closing(results):
            for _, result in results:
                number, copy = under_way.popleft()
                copy.release()
                yield number, _reason(result, copy.path) if isinstance(result, AudioError) else result
        yield from unusable


def _reason(error: AudioError, path: str) -> str:
    """Why a sound is refused, without its name."""
    return str(error).removeprefix(str(AudioError(f"{path}: ")) + " ").removeprefix(f"{path}: ")


def _write_refused(
    plan: Plan, part: int, items: list[Item], refused: list[tuple[int, str]], metadata: dict[str, str]
) -> None:
    rows = [(items[number], reason) for number, reason in sorted(refused)]
    columns = [
        [item.shown for item, _ in rows],
        *([getattr(item, name) for item, _ in rows] for name in ("start", "end")),
    ]
    arrays = [*columns, [reason for _, reason in rows]]
    table = pa.table([pa.array(a, t) for a, t in zip(arrays, REFUSED_SCHEMA.types, strict=True)], schema=REFUSED_SCHEMA)
    with atomic(plan.path(REFUSED, part)) as temporary, open(temporary, "wb") as file:
        pq.write_table(table.replace_schema_metadata(metadata), file)


def _metadata(job: Job, plan: Plan, part: int) -> dict[str, str]:
    """What a part's files say of themselves: all texts, some of them JSON."""
    settings = {key: value for key, value in plan.settings.items() if key not in ("labels", "model", "backbone")}
    settings |= {"engine": job.engine, "device": job.device}
    return {
        "plan": plan.digest,
        "part": str(part),
        "model": plan.settings["model"],
        "backbone": plan.settings["backbone"],
        "labels": json.dumps(plan.settings["labels"], ensure_ascii=False),
        "settings": json.dumps(settings),
        "versions": json.dumps({"paddletag": __version__, **runtime.versions()}),
    }


class _Writer:
    """The tags of a part to a Parquet file, a few megabytes at a time."""

    def __init__(self, file: BinaryIO, job: Job, schema: pa.Schema) -> None:
        self.file, self.job, self.schema = file, job, schema
        self.writer = pq.ParquetWriter(file, schema, compression="zstd")
        self.pending: list[pa.Table] = []
        self.size = 0

    def add(self, item: Item, result: Arrays) -> float:
        """Add the windows of a sound: the seconds that it lasts."""
        offset = (item.start or 0.0) if isinstance(item.sound(""), Span) else 0.0
        rows = len(result["start"])
        columns = {
            "file": pa.repeat(pa.scalar(item.shown, pa.string()), rows),
            "start": pa.array(result["start"] + offset, pa.float64()),
            "end": pa.array(result["end"] + offset, pa.float64()),
            **(
                _all_scores(result)
                if self.job.top_k is None
                else _top_scores(result, self.job.top_k, not self.job.window)
            ),
        }
        if self.job.embeddings:
            columns["embedding"] = _halves(result["embeddings"])
        table = pa.table(columns, schema=self.schema)
        self.pending.append(table)
        self.size += table.nbytes
        if len(self.pending) == TABLES:  # a table takes far more memory than the one row of a short sound
            self.pending = [pa.concat_tables(self.pending).combine_chunks()]
        if self.size >= PENDING:
            self.flush()
        return float(result["end"][-1] if rows else 0.0)

    def flush(self) -> None:
        """Write the rows that are waiting."""
        if self.pending:
            self.writer.write_table(pa.concat_tables(self.pending))
            self.pending, self.size = [], 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
            self.writer.close()
        else:
            with contextlib.suppress(Exception):  # as of a full disk: what has ended this part says so
                self.writer.close()


def _schema(job: Job, meta: Meta) -> pa.Schema:
    """The columns of a part."""
    columns = {"file": pa.string(), "start": pa.float64(), "end": pa.float64()}
    if job.top_k is None:
        columns["scores"] = pa.list_(pa.float16(), len(meta["labels"]))
    else:
        columns |= {"labels": pa.list_(pa.string()), "scores": pa.list_(pa.float32())}
    if job.embeddings:
        columns["embedding"] = pa.list_(pa.float16(), registry.entry(meta["backbone"]).embedding)
    return pa.schema(columns)


def _top_scores(result: Arrays, k: int, whole: bool) -> dict[str, pa.Array]:
    """The k highest labels of each row, highest first; equal scores in the order of the labels.

    whole: the rows are of whole sounds, of which a calibrated model may say `unknown`.
    """
    if "thresholds" in result and whole:
        result = unknown_result(result, result["thresholds"]) or result
    scores = result["scores"]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    offsets = pa.array(np.arange(len(scores) + 1) * best.shape[1], pa.int32())
    labels = pa.array(result["labels"].tolist(), pa.string()).take(pa.array(best.ravel()))
    values = pa.array(np.take_along_axis(scores, best, 1).ravel(), pa.float32())
    return {
        "labels": pa.ListArray.from_arrays(offsets, labels),
        "scores": pa.ListArray.from_arrays(offsets, values),
    }


def _all_scores(result: Arrays) -> dict[str, pa.Array]:
    return {"scores": _halves(result["scores"])}


def _halves(rows: np.ndarray) -> pa.Array:
    """[N, D] as N lists of D numbers of 16 bits."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float16).ravel()), rows.shape[1])
