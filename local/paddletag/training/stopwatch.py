"""Where an epoch's time goes: in all, and to wait for data."""

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """The seconds since it was made, by the clock of `time.perf_counter`."""

    def __init__(self) -> None:
        self.start = self.last_lap = time.perf_counter()
        self.waited = 0.0  # seconds for data

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def lap(self) -> float:
        """Seconds since the last call, or the start: each second is counted once."""
        now, before = time.perf_counter(), self.last_lap
        self.last_lap = now
        return now - before

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """A block that waits for data."""
        begin = time.perf_counter()
        yield
        self.waited += time.perf_counter() - begin

    def costs(self, steps: int) -> tuple[float, float]:
        """Seconds per step, of so many since the start: to wait for data, and in all."""
        return self.waited / steps, self.seconds() / steps
