"""What every script needs around its work: one-line errors and exit statuses, the log, bars, facts of the machine.

Nothing here imports paddle, so that a wrong option is reported at once.
"""

import contextlib
import ctypes
import datetime
import errno
import io
import logging
import math
import os
import platform
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from paddletag import interrupt
from paddletag.type_aliases import File

CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # where they lie, and which is that of this process


class UserError(Exception):
    """A mistake that the user can mend. Its text is one line: which file or key, what is wrong, what to do."""

    def __init__(self, text: object) -> None:
        super().__init__(one_line(text))  # it names files, and a file's name may hold anything


def run(main: Callable[[], object]) -> None:
    """Run `main()` and exit: 0, or 2 with one line for what the user can mend, 130 on Ctrl-C, 141 where none reads."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this
            setattr(sys, name, open(os.devnull, "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error is: a file's name may be no text
    try:
        with interrupt.Work():
            try:
                main()
            except SystemExit:  # after --help, for one
                sys.stdout.flush()
                raise
            sys.stdout.flush()  # here, where an error of it becomes a status
    except BaseException as error:
        status = _status(program(), error)
        if status is None:
            raise
        sys.exit(status)


def _status(name: str, error: BaseException) -> int | None:
    """The exit status for what ended a script, once it has been told; None for what is no fault of the user."""
    if isinstance(error, KeyboardInterrupt) or interrupt.pressed():
        print(f"{name}: interrupted", file=sys.stderr)
        return interrupt.STATUS
    if isinstance(error, UserError):
        return _fail(name, error)
    if isinstance(error, BrokenPipeError):  # who read our output has seen enough, as in `| head`
        _drop_output()
        return 128 + signal.SIGPIPE
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "paddletag":
        module = error.name.partition(".")[0]
        package = {"yaml": "pyyaml", "sklearn": "scikit-learn", "PIL": "pillow"}.get(module, module)
        extras = {"matplotlib": "reports", "pillow": "reports", "tqdm": "reports", "pyarrow": "archives"}
        extra = extras.get(package, "recipes")
        advice = f"pip install 'paddletag[{extra}]', or in a clone bash tools/install.sh"
        return _fail(name, f"this needs the package {package}, which is not installed here: {advice}")
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            if not where:
                _drop_output()
            return _fail(name, f"{where}no space left on the disk: free some, then run the same command again")
        if isinstance(error, FileExistsError) and where:
            return _fail(name, f"{where}is there already, and is no folder")
        if where and error.errno:
            return _fail(name, f"{where}{os.strerror(error.errno).lower()}")
    return None


def _drop_output() -> None:
    """Send standard output nowhere: Python would try to write the rest of it at its end, and complain."""
    with contextlib.suppress(io.UnsupportedOperation):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(name: str, message: object) -> int:
    print(f"{name}: error: {one_line(message)}", file=sys.stderr)
    return 2


def one_line(text: object) -> str:
    """A text with nothing in it that a terminal would obey: ends of lines as a blank, the rest escaped."""
    parts = re.split(r"[^\S ]+", str(text))  # not at blanks: a file's name may have several
    return escaped(" ".join(filter(None, map(str.strip, parts))))


def escaped(text: object) -> str:
    """A text with nothing in it that a terminal would obey: what is not printed is escaped, ends of lines too."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def show(name: str) -> str:
    """A name for an error's text: short, and one line."""
    return one_line(name[:200])[:100]


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print lines, now: on standard output, or `file`. A terminal obeys nothing that is in them."""
    for line in lines:
        _print_past_bars(escaped(line), file or sys.stdout)
    (file or sys.stdout).flush()


def _print_past_bars(line: str, file: TextIO) -> None:
    """Print a line above tqdm's bars, where there are any: printed past them, it would tear them."""
    tqdm = sys.modules.get("tqdm")
    (tqdm.tqdm.write if tqdm else print)(line, file=file)


class Lines(list[str]):
    """What the log writes below a line of its own; no other text that it is given makes a line."""


class _Plain(logging.Filter):
    """Nothing that is logged is obeyed by a terminal: files are named there, and labels."""

    def filter(self, record: logging.LogRecord) -> bool:
        below = [line for arg in record.args or () if isinstance(arg, Lines) for line in arg]
        record.args = tuple("" if isinstance(arg, Lines) else arg for arg in record.args or ())
        record.msg, record.args = "\n".join(map(escaped, [record.getMessage(), *below])), None
        return True


log = logging.getLogger("paddletag")
log.addFilter(_Plain())
TRAIN, EVAL = 21, 22  # levels of the log just above INFO, named as PaddleSpeech names them
_FORMAT = "[%(asctime)s] [%(levelname)8s] - %(message)s"


class _Console(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        _print_past_bars(self.format(record), sys.stdout)
        sys.stdout.flush()


def start_log(file: File | None = None, quiet: bool = False) -> None:
    """Log to the console (only warnings if `quiet`, as on ranks other than 0), and append to `file` if given."""
    logging.addLevelName(TRAIN, "TRAIN")
    logging.addLevelName(EVAL, "EVAL")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # paddle shows INFO of all libraries
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers.clear()
    console = _Console()
    console.setLevel(logging.WARNING if quiet else logging.INFO)
    handlers: list[logging.Handler] = [console]
    if file and not quiet:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, encoding="utf-8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT))
        log.addHandler(handler)


def progress(iterable: Iterable | None = None, **options: Any) -> Any:
    """A tqdm bar with tqdm's `options`: shown on a terminal, silent elsewhere (logs, several folds side by side).

    Where tqdm is not installed, nothing is shown: tagging alone does without it.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return _NoBar(iterable)
    options.setdefault("disable", not sys.stderr.isatty() or os.environ.get("PADDLETAG_PROGRESS") == "0")
    options.setdefault("dynamic_ncols", True)
    options.setdefault("leave", False)
    options["desc"] = escaped(options.get("desc") or "")
    return tqdm(iterable, **options)


class _NoBar:
    """What is used of a bar, and shows nothing."""

    n = 0

    def __init__(self, iterable: Iterable | None) -> None:
        self._iterable = iterable

    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __iter__(self) -> Iterator:
        return iter(self._iterable or ())

    def update(self, n: float = 1) -> None:
        """Do nothing with the progress."""


def program() -> str:
    """What the user has started, for messages: audio_tag.py, or paddletag tag."""
    return os.path.basename(sys.argv[0])


def own_command(words: str) -> str:
    """What to type for `paddletag WORDS`, from where the user stands."""
    installed = Path(sys.executable).with_name("paddletag")
    if shutil.which("paddletag"):
        return f"paddletag {words}"
    if installed.is_file():
        with contextlib.suppress(OSError):  # where the current folder is no more
            installed = Path(min(str(installed), os.path.relpath(installed), key=len))
        return f"{installed} {words}"
    return f"{sys.executable} -m paddletag {words}"


def command() -> str:
    """The command line that makes a result again: that of run.sh, or of this script where it was called by itself."""
    if line := os.environ.get("RECIPE_COMMAND"):
        return line
    words = program().split() if program().startswith("paddletag ") else [sys.orig_argv[0], sys.argv[0]]
    return " ".join(map(_quoted, [*words, *sys.argv[1:]]))


def _quoted(word: str) -> str:
    """A word of a command line as a shell takes it, on one line whatever it holds."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + escaped(word.replace("\\", r"\\").replace("'", r"\'")) + "'"


def versions() -> dict[str, str]:
    """{package: version} of what can change a result."""
    from importlib import metadata  # takes its time

    installed = {"python": platform.python_version()}
    packages = "paddlepaddle paddlepaddle-gpu numpy scipy soxr soundfile pyarrow scikit-learn"
    for package in packages.split():
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def machine() -> str:
    """One line on the machine: processor and number of cores."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {cores()} cores"


def today() -> str:
    """The date here, as 2025-11-28."""
    return datetime.date.today().isoformat()


def cores() -> int:
    """The number of cores that this process may use: those it may run on, and no more than its cgroup's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota(*CGROUPS))))


def _quota(root: Path, own: Path) -> float:
    """The cores whose time the cgroup of a process grants, and those above it; infinity where there is no limit.

    root: where the cgroups are mounted. own: the file that names the cgroup of the process, in lines ID:KINDS:PATH.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
        groups = [
            (root / ("cpu" if kinds else ""), path) for _, kinds, path in lines if "cpu" in (kinds or "cpu").split(",")
        ]
    except (OSError, ValueError):
        return math.inf
    quota = math.inf
    for base, path in groups:
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            with contextlib.suppress(OSError, ValueError):
                time, period = (place / "cpu.max").read_text().split()
                quota = min(quota, int(time) / int(period))  # "max" is no number
            with contextlib.suppress(OSError, ValueError):
                time = (place / "cpu.cfs_quota_us").read_text()
                if int(time) > 0:
                    quota = min(quota, int(time) / int((place / "cpu.cfs_period_us").read_text()))
            if place == base:
                break
    return quota


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies: otherwise a worker outlives a killed launcher."""
    with contextlib.suppress(OSError, AttributeError):  # no such thing on other systems
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
