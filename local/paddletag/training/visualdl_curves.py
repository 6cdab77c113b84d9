"""Curves of a training run for VisualDL, the ecosystem's viewer: `visualdl --logdir`."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paddletag.runtime import log
from paddletag.type_aliases import File


class Scalars:
    """Curves in `folder` for `visualdl --logdir`. Only rank 0 should have one.

    A run that goes on replaces the points from its first step on: VisualDL shows the newest file of a folder, so the
    earlier points move to a new one. Without VisualDL a note says so, and nothing is written.
    """

    def __init__(self, folder: File) -> None:
        self.folder = Path(folder)
        self.writer: Any = None  # visualdl's LogWriter, from the first point on
        self.missing = False

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add {name: value} at `step`."""
        if not values or self.missing:
            return
        if self.writer is None and not self._open(step):
            return
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left. `add` begins anew after it."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _open(self, first: int) -> bool:
        """Begin a file with the points of earlier ones before the step `first`; whether VisualDL is there to do it."""
        try:
            from visualdl import LogWriter
        except (ImportError, OSError) as error:  # it makes a folder in the user's home, which may be read-only
            self.missing = True
            log.info("no curves for VisualDL (%s); history.csv has one row per epoch", error)
            return False
        old = sorted(self.folder.glob("*vdlrecords*"))
        points = {}
        for path in old:
            points.update({(name, step): point for name, step, *point in _points(path) if step < first})
        self.writer = LogWriter(str(self.folder), file_name=f"vdlrecords.{time.time_ns()}.log")  # names tell the newest
        for (name, step), (value, milliseconds) in points.items():
            self.writer.add_scalar(name, value, step, milliseconds)
        self.writer.flush()
        for path in old:
            path.unlink()
        return True


def _points(path: Path) -> Iterator[tuple[str, int, float, int]]:
    """The scalars in a file of VisualDL: (name, step, value, milliseconds since 1970), up to a record that is torn."""
    from google.protobuf.message import DecodeError
    from visualdl.proto.record_pb2 import Record
    from visualdl.reader.record_reader import RecordReader

    for data in RecordReader(str(path)).get_all():
        try:
            values = Record.FromString(data).values
        except DecodeError:
            return
        for value in values:
            if value.WhichOneof("one_value") == "value":
                yield value.tag, value.id, value.value, value.timestamp
