"""What a training run leaves to look at: lines of the log, scalars for VisualDL, a table and its picture."""

import contextlib
import csv
import time
from pathlib import Path

from paddletag import runtime
from paddletag.runtime import log


class Watch:
    """Where an epoch's time goes."""

    def __init__(self):
        self.start = self.counted = time.perf_counter()
        self.waited = 0.0  # seconds for data

    def seconds(self) -> float:
        """Seconds since the epoch's start."""
        return time.perf_counter() - self.start

    def lap(self) -> float:
        """Seconds since the last call, or the start: each second is counted once."""
        now, before = time.perf_counter(), self.counted
        self.counted = now
        return now - before

    @contextlib.contextmanager
    def reading(self):
        """A block that waits for data."""
        begin = time.perf_counter()
        yield
        self.waited += time.perf_counter() - begin

    def costs(self, steps: int) -> tuple[float, float]:
        """Seconds per step, of so many since the start: to wait for data, and in all."""
        return self.waited / steps, self.seconds() / steps


def line(epoch, step, loss, accuracy, lr, reader_cost, batch_cost, ips, seconds_left):
    """(a line of the log as the ecosystem's tools write it, {name: value} of what is worth a curve).

    epoch, step: (number from 1, how many). accuracy: 0..1 or None. reader_cost, batch_cost: seconds per step, to wait
    for data and in all; ips: samples per second.
    """
    values = {"loss": loss, **({} if accuracy is None else {"accuracy": accuracy}), "lr": lr, "ips": ips}
    text = f"Epoch={epoch[0]}/{epoch[1]}, Step={step[0]}/{step[1]} loss={loss:.4f}"
    text += "" if accuracy is None else f" acc={accuracy:.4f}"
    text += f" lr={lr:.3e} reader_cost={reader_cost:.5f} batch_cost={batch_cost:.4f} ips={ips:.2f} samples/s"
    return f"{text} | ETA {_clock(seconds_left)}", values


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"


def write(path, rows):
    """Write the rows, one per epoch, as a CSV table; a column that only some rows have is empty in the others."""
    columns = dict.fromkeys(key for row in rows for key in row)
    with runtime.atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def picture(path, rows):
    """Draw the rows as a PNG."""
    from paddletag import plots  # matplotlib takes its time

    plots.save(plots.learning_curve(rows), path)


class Scalars:
    """Curves in `folder` for `visualdl --logdir`. Only rank 0 should have one.

    A run that goes on replaces the points from its first step on: VisualDL shows the newest file of a folder, so the
    earlier points move to a new one. Without VisualDL a note says so, and nothing is written.
    """

    def __init__(self, folder):
        self.folder, self.writer, self.missing = Path(folder), None, False

    def add(self, step, values):
        """Add {name: value} at `step`."""
        if not values or self.missing:
            return
        if self.writer is None and not self._open(step):
            return
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self):
        """Write what is left. `add` begins anew after it."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _open(self, first):
        try:
            from visualdl import LogWriter
        except (ImportError, OSError) as error:  # it makes a folder in the user's home, which may be read-only
            self.missing = True
            log.info("no curves for VisualDL (%s); history.csv has one row per epoch", error)
            return False
        old = sorted(self.folder.glob("*vdlrecords*"))
        points = {}
        for path in old:
            points.update(((tag, step), point) for tag, step, *point in _points(path) if step < first)
        self.writer = LogWriter(str(self.folder), file_name=f"vdlrecords.{time.time_ns()}.log")  # names tell the newest
        for (tag, step), (value, milliseconds) in points.items():
            self.writer.add_scalar(tag, value, step, milliseconds)
        self.writer.flush()
        for path in old:
            path.unlink()
        return True


def _points(path):
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
