"""What a training run leaves to read: lines of the log as it goes on, and a table with a row for each epoch."""

import csv
from collections.abc import Sequence
from typing import Any

from paddletag.files import atomic
from paddletag.type_aliases import File

Row = dict[str, Any]  # what is known of an epoch, by the names of the table's columns


def log_line(
    epoch: tuple[int, int],
    step: tuple[int, int],
    loss: float,
    accuracy: float | None,
    lr: float,
    reader_cost: float,
    batch_cost: float,
    ips: float,
    seconds_left: float,
) -> tuple[str, dict[str, float]]:
    """(a line of the log as the ecosystem's tools write it, {name: value} of what is worth a curve).

    epoch, step: (number from 1, how many). accuracy: 0..1 or None. reader_cost, batch_cost: seconds per step, to wait
    for data and in all; ips: samples per second.
    """
    values = {"loss": loss, **({} if accuracy is None else {"accuracy": accuracy}), "lr": lr, "ips": ips}
    text = f"Epoch={epoch[0]}/{epoch[1]}, Step={step[0]}/{step[1]} loss={loss:.4f}"
    text += "" if accuracy is None else f" acc={accuracy:.4f}"
    text += f" lr={lr:.3e} reader_cost={reader_cost:.5f} batch_cost={batch_cost:.4f} ips={ips:.2f} samples/s"
    return f"{text} | ETA {_clock(seconds_left)}", values


def _clock(duration: float) -> str:
    """A duration in seconds as hours:minutes:seconds."""
    minutes, seconds = divmod(round(duration), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"


def write(path: File, rows: Sequence[Row]) -> None:
    """Write the rows, one per epoch, as a CSV table; a column that only some rows have is empty in the others."""
    columns = dict.fromkeys(key for row in rows for key in row)
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
