"""The command on this node: start it, show what rank 0 says, find out which worker failed first and why, end it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NamedTuple

from paddletag.launch.launch_failed import EARLIER, LOG_LINES, LaunchFailed
from paddletag.launch.watch_options import Options
from paddletag.runtime import die_with_parent


class FailedWorker(NamedTuple):
    """What worker.py has written of the worker that failed first on this node."""

    rank: int
    local_rank: int
    status: int
    when: float


class Command:
    """Paddle's launcher, or with --alone any program, and the signals that this process gets meanwhile.

    signal: the last one, or None.
    """

    def __init__(self, options: Options) -> None:
        self.log, self.alone, self.step, self.parent = Path(options.log), options.alone, options.step, os.getppid()
        self.where = f"node {options.node}, " if options.nodes > 1 else ""
        self.process: subprocess.Popen[bytes] | None = None
        self.output: BinaryIO | None = None  # of rank 0
        self.signal: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.on_signal)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember it: `check` raises it at a good moment."""
        self.signal = number

    def start(self, command: list[str], env: dict[str, str]) -> None:
        """Start `command` (with --alone in the environment of this process)."""
        if self.alone:
            self.process = subprocess.Popen(command, preexec_fn=die_with_parent)
            return
        self.output = open(self.log / "workerlog.0", "rb")
        with open(self.log / "launcher.log", "wb") as log:
            self.process = subprocess.Popen(
                command,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # this process alone ends it
                preexec_fn=die_with_parent,
            )

    def check(self) -> None:
        """Show what is new in rank 0's output. LaunchFailed if the command has failed, or if this node is to end."""
        if self.signal:
            name = signal.Signals(self.signal).name
            raise LaunchFailed(128 + self.signal, f"{self.where}run.sh was interrupted ({name})")
        if os.getppid() != self.parent:
            raise LaunchFailed(137, f"{self.where}run.sh was killed", when=time.time() - EARLIER)
        self.show_output()
        if self.process and (self.failed_worker() or self.process.poll()):
            raise self.failure()

    def running(self) -> bool:
        """Whether the command was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def failed(self) -> bool:
        """Whether the command has ended with a status other than 0."""
        return self.process is not None and bool(self.process.poll())

    def show_output(self) -> None:
        """Copy what rank 0 has written since to standard output."""
        if self.output:
            try:
                sys.stdout.buffer.write(self.output.read())
                sys.stdout.flush()
            except BrokenPipeError:  # nobody reads any more
                self.output = None

    def has_shown(self, line: str) -> bool:
        """Whether rank 0's output on this node had this line."""
        return self.output is not None and line.encode() in (self.log / "workerlog.0").read_bytes().splitlines()

    def failed_worker(self) -> FailedWorker | None:
        """The worker that failed first, or None."""
        with contextlib.suppress(OSError):
            fields = (self.log / "failed").read_text().split()
            if len(fields) == 4:  # it is being written
                return FailedWorker(int(fields[0]), int(fields[1]), int(fields[2]), float(fields[3]))
        return None

    def failure(self) -> LaunchFailed:
        """What to say of a worker or launcher that failed."""
        assert self.process
        worker = self.failed_worker()
        who, log, when = "Paddle's launcher", self.log / "launcher.log", None
        status = self.process.poll() or 0
        if worker:
            who, log = f"rank {worker.rank}", self.log / f"workerlog.{worker.local_rank}"
            status, when = worker.status, worker.when
        elif status < 0:
            status, when = 128 - status, time.time() - EARLIER
        if self.alone:
            return LaunchFailed(status, f"{self.where}{self.step}, exit status {status}")
        lines = [line.rstrip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if status == 2 and worker:
            mistakes = [line for line in lines if ": error: " in line] or [f"see {log}"]
            return LaunchFailed(2, mistakes[-1], when=when, mistake=True)
        cause = f"{self.where}{who}, exit status {status}: {_reason(status, lines)}; log: {log}"
        return LaunchFailed(status, cause, [f"{who} | {line[:300]}" for line in lines[-LOG_LINES:]], when)

    def stop(self) -> None:
        """End the launcher and its workers, which die with it."""
        if self.process and self.running():
            for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.send_signal(number)
                    self.process.wait(seconds)
                    break
        if self.output:
            self.show_output()
            for pattern in ("envlog.*", "backup_env.*", "*." + "[a-z]" * 6 + ".log"):  # copies of the environment
                for path in self.log.glob(pattern):
                    path.unlink(missing_ok=True)


def _reason(status: int, lines: list[str]) -> str:
    """Why a process failed, by its exit status and the lines of its log."""
    if status > 128:
        return f"ended by signal {status - 128}" + " (out of memory?)" * (status == 137)
    errors = [line for line in lines if re.match(r"[A-Za-z_.]*(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or ["it says nothing"])[-1][:500]
