"""Programs as child processes, run in turn: seconds on the clock, seconds of CPU, peak memory."""

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paddletag import runtime
from paddletag.runtime import UserError

SAMPLING = 0.1  # seconds between two looks at the memory of a program's processes


@dataclass(frozen=True)
class Program:
    """A command to measure.

    fresh: a folder that is removed before each run, since what is done already would not be done again.
    cores: it may use the first so many cores (0: all). most: it runs at most so often (0: as often as asked).
    own_clock: its last line is {"wall": s, "cpu": s}, JSON, of the part that counts.
    whole_memory: the peak is that of all its processes together, looked at every SAMPLING seconds.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    fresh: Path | None = None
    cores: int = 0
    most: int = 0
    own_clock: bool = False
    whole_memory: bool = False


@dataclass(frozen=True)
class Sample:
    """One run of a program."""

    wall: float  # seconds
    cpu: float  # seconds, of its processes together
    peak: float  # bytes: of its largest process, or of all together


@dataclass(frozen=True)
class Series:
    """The smallest, middle and largest of several figures."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Series":
        """Of at least one figure."""
        return cls(min(figures), statistics.median(figures), max(figures))


def in_turn(programs: Sequence[Program], repeat: int) -> dict[str, list[Sample]]:
    """Run A, B, A, B, ...: {name: its runs}. UserError for a program that fails."""
    samples: dict[str, list[Sample]] = {program.name: [] for program in programs}
    turns = [(turn, program) for turn in range(repeat) for program in programs if not 0 < program.most <= turn]
    with runtime.progress(turns, unit="run") as bar:
        for turn, program in bar:
            bar.set_description(f"{program.name}, run {turn + 1}")
            samples[program.name].append(run(program))
    return samples


def run(program: Program) -> Sample:
    """Run a program once. UserError with its last line if it fails."""
    if program.fresh:
        shutil.rmtree(program.fresh, ignore_errors=True)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        begin = time.perf_counter()
        process = subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **program.environment},
            preexec_fn=(lambda: os.sched_setaffinity(0, first_cores(program.cores))) if program.cores else None,
        )
        try:
            peak = _Peak(process.pid) if program.whole_memory else None
            # Of the process and of its children that it waited for. Linux counts this program's own memory before the
            # child begins its work too: this program must stay smaller than what it measures.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        for stream in (out, err):
            stream.seek(0)
        printed, errors = out.read().splitlines(), err.read().splitlines()
    if process.returncode:
        reason = (errors or printed or [""])[-1]
        raise UserError(f"{program.name}: failed with status {process.returncode}: {reason}")
    memory = peak.stop() if peak else usage.ru_maxrss * 1024
    cpu = usage.ru_utime + usage.ru_stime
    if program.own_clock:
        clock = json.loads(printed[-1])
        wall, cpu = clock["wall"], clock["cpu"]
    return Sample(wall, cpu, memory)


def first_cores(count: int) -> list[int]:
    """The first `count` of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))[:count]


class _Peak:
    """Looks again and again at the memory of a process and all below it, in a thread, until `stop`."""

    def __init__(self, pid: int) -> None:
        self._pid, self._highest, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """The highest sum so far, in bytes. Memory that processes share is counted once."""
        self._over.set()
        self._thread.join()
        return self._highest

    def _look(self) -> None:
        while not self._over.wait(SAMPLING):
            self._highest = max(self._highest, sum(map(memory, family(self._pid))))


def family(pid: int) -> list[int]:
    """A process and all that it and those have started, as far as they are there."""
    pids = [pid]
    for each in pids:
        try:
            children = Path(f"/proc/{each}/task/{each}/children").read_text()
        except OSError:
            continue
        pids += map(int, children.split())
    return pids


def memory(pid: int) -> int:
    """Bytes that a process has in memory, with its part of what it shares; 0 if it is no more."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


class Neighbours:
    """How much of the cores other programs have used since this was made."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._busy, self._own = self._counts()

    def share(self) -> float:
        """0: nothing else ran; 1: others used all the cores."""
        busy, own = self._counts()
        seconds = (time.perf_counter() - self._begin) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, busy - self._busy - (own - self._own)) / max(seconds, 1e-9))

    @staticmethod
    def _counts() -> tuple[float, float]:
        """CPU seconds of the whole machine, and of this program with what it has run."""
        user, nice, system, _, _, interrupts, soft, stolen = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        ticks = user + nice + system + interrupts + soft + stolen
        own = os.times()
        return ticks / os.sysconf("SC_CLK_TCK"), sum(own[:4])
