"""The plan of a job: its rows cut into parts, written once, and checked by whoever goes on with the job.

In the folder of the results: plan.json (settings, model, a checksum of what the source lists), plan.parquet (a row
group for each part), tags/part-000000.parquet and refused/part-000000.parquet. A part is done when its file in tags/ is
there.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from paddletag import runtime
from paddletag.archives import sources
from paddletag.archives.sources import Item
from paddletag.files import atomic, locked, read_json, write_json
from paddletag.models import calibration
from paddletag.runtime import UserError, log
from paddletag.type_aliases import Meta

PLAN, ROWS, TAGS, REFUSED = "plan.json", "plan.parquet", "tags", "refused"
SCHEMA = pa.schema([("file", pa.binary()), ("start", pa.float64()), ("end", pa.float64())])
MOST_PARTS = 100_000
JOINING = 6, 0.1  # times that a job asks for its lock, and seconds between them
ANOTHER = "give another --out, or the command of before"


@dataclass(frozen=True)
class Job:
    """What the command line asks for."""

    source: str
    out: str
    model: str
    window: float  # seconds; 0: the whole sound
    hop: float  # seconds
    top_k: int | None  # None: all scores
    embeddings: bool
    part_files: int
    engine: str
    device: str
    batch_size: int

    def settings(self, meta: Meta) -> dict[str, Any]:
        """What all parts must have in common, with the model that `meta` describes."""
        return {
            "model": calibration.model_name(meta),
            "backbone": meta["backbone"],
            "labels": list(meta["labels"]),
            "window": self.window,
            "hop": self.hop,
            "scores": "all" if self.top_k is None else f"top {self.top_k}",
            "embeddings": self.embeddings,
            "part_files": self.part_files,
        }


class Plan:
    """The plan in a folder of results. UserError where there is none, or a damaged one."""

    def __init__(self, out: str) -> None:
        self.out = Path(out)
        content = read_json(self.out / PLAN, "paddletag tag-archive makes it")
        try:
            self.settings: dict[str, Any] = content["settings"]
            self.files, self.parts, self.digest = int(content["files"]), int(content["parts"]), str(content["sha256"])
            self._rows = pq.ParquetFile(self.out / ROWS)
            if (self._rows.num_row_groups, self._rows.metadata.num_rows) != (self.parts, self.files):
                raise ValueError(f"{ROWS} is another one's")
        except (KeyError, TypeError, ValueError, OSError, pa.ArrowException) as error:
            raise UserError(f"{self.out / PLAN}: damaged ({error}): give another --out") from None

    def items(self, part: int) -> list[Item]:
        """The rows of a part."""
        columns = self._rows.read_row_group(part).to_pydict()
        rows = zip(columns["file"], columns["start"], columns["end"], strict=True)
        return [Item(os.fsdecode(file), start, end) for file, start, end in rows]

    def path(self, kind: str, part: int) -> Path:
        """The file of a part in the folder TAGS or REFUSED."""
        return self.out / kind / f"part-{part:06d}.parquet"

    def is_done(self, part: int) -> bool:
        """Whether a part is finished. UserError for a file in its place that is not of this job."""
        path = self.path(TAGS, part)
        if not path.exists():
            return False
        try:
            same = pq.read_schema(path).metadata.get(b"plan") == self.digest.encode()
        except (OSError, AttributeError, pa.ArrowException):
            same = False
        if not same:
            raise UserError(f"{path}: damaged, or not of this job: remove it, then run the same command again")
        return True

    def check_settings(self, settings: dict[str, Any]) -> None:
        """UserError if the job was begun with other settings, or another model."""
        for key, value in settings.items():
            if (before := self.settings.get(key)) != value:
                words = "other labels" if key == "labels" else f"{key} {before}, not {value}"
                raise UserError(f"{self.out}: was begun with {words}: {ANOTHER}")


def make_or_check(job: Job, meta: Meta) -> Plan:
    """The plan of a job: made now, or that of before if it is the same.

    UserError for another one: other settings, another model, a source that lists something else now.
    """
    out = Path(job.out)
    with locked(out / PLAN):  # shards that begin together: one makes the plan, the others find it
        if (out / PLAN).exists():
            plan = Plan(job.out)
            plan.check_settings(job.settings(meta))
            digest, files = _digest(sources.list_items(job.source))
            if digest != plan.digest:
                what = f"{files} rows now, {plan.files} then" if files != plan.files else "other files, spans or sizes"
                raise UserError(f"{job.source}: has changed since the job in {job.out} was begun ({what}): {ANOTHER}")
            return plan
        if any((out / TAGS).glob("*.parquet")):
            raise UserError(f"{out / TAGS}: holds results without their {PLAN}: give another --out")
        _make(job, meta)
        return Plan(job.out)


def _make(job: Job, meta: Meta) -> None:
    """Write plan.parquet, then plan.json."""
    out, digest, files, parts = Path(job.out), hashlib.sha256(), 0, 0
    with runtime.progress(desc="listing", unit="file") as bar, atomic(out / ROWS) as temporary:
        with (
            open(temporary, "wb") as file,
            pq.ParquetWriter(file, SCHEMA, compression="zstd", write_statistics=False) as writer,
        ):
            items = sources.list_items(job.source)
            while chunk := list(islice(items, job.part_files)):
                if parts == MOST_PARTS:
                    advice = f"make them larger than {job.part_files} files: --part_files"
                    raise UserError(f"{job.source}: has more than {MOST_PARTS} parts: {advice}")
                columns = [[os.fsencode(i.file) for i in chunk], [i.start for i in chunk], [i.end for i in chunk]]
                arrays = [pa.array(c, kind) for c, kind in zip(columns, SCHEMA.types, strict=True)]
                writer.write_table(pa.table(arrays, schema=SCHEMA), row_group_size=len(chunk))
                _update(digest, chunk)
                files, parts = files + len(chunk), parts + 1
                bar.update(len(chunk))
        if not files:
            raise UserError(f"{job.source}: lists no sound files")
    content = {"settings": job.settings(meta), "source": sources.describe(job.source), "sha256": digest.hexdigest()}
    write_json(out / PLAN, {**content, "files": files, "parts": parts, "made": runtime.versions()})
    log.info("%s: %d files in %d parts", out / PLAN, files, parts)


def _digest(items: Iterable[Item]) -> tuple[str, int]:
    """(a checksum of what a source lists, how many rows)."""
    digest, files = hashlib.sha256(), 0
    for item in items:
        _update(digest, [item])
        files += 1
    return digest.hexdigest(), files


def _update(digest: Any, items: list[Item]) -> None:
    for file, *rest in items:
        digest.update(os.fsencode(file) + f"\0{rest}\n".encode())


@contextlib.contextmanager
def joined(out: str, number: int, of: int) -> Iterator[None]:
    """Work as shard `number` of `of` in a folder of results, beside the other shards of `of`.

    UserError where a job in another number of shards is at work there, or the same shard.
    """
    with contextlib.ExitStack() as locks:
        for attempt in range(JOINING[0]):
            try:  # two that come or go in the same moment may find each other's lock half made
                with contextlib.ExitStack() as stack:
                    stack.enter_context(locked(Path(out) / "job", wait=False, owner=f"a job in {of} shards"))
                    stack.enter_context(locked(Path(out) / f"shard-{number}-of-{of}", wait=False))
                    locks.enter_context(stack.pop_all())
                break
            except UserError:
                if attempt == JOINING[0] - 1:
                    raise
                time.sleep(JOINING[1])
        yield
