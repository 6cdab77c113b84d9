"""What every script needs around its work: options, one-line errors, the log, files that are whole or absent.

Nothing here imports paddle, so that a wrong option is reported at once.
"""

import argparse
import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TextIO

from paddletag import interrupt
from paddletag.files import file_name

SIDE_BY_SIDE = 16  # processes that may write one file at once


class UserError(Exception):
    """A mistake that the user can mend. Its text is one line: which file or key, what is wrong, what to do."""

    def __init__(self, text):
        super().__init__(one_line(text))  # it names files, and a file's name may hold anything


class Parser(argparse.ArgumentParser):
    """argparse with `--stop-stage` and `--stop_stage` as one option, no abbreviations, and one-line errors.

    What it parses has one more attribute, `given`: the names of the options that stand on the command line, whatever
    their values.
    """

    def __init__(self, **kwargs):
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        end = args.index("--") if "--" in args else len(args)  # what follows are no options
        options = [self._spelling(arg) for arg in args[:end]]
        found = super().parse_args(options + args[end:], namespace)
        words = {option.partition("=")[0] for option in options}
        found.given = {action.dest for action in self._actions if words & set(action.option_strings)}
        return found

    def _spelling(self, arg):
        if not arg.startswith("--"):
            return arg
        name, equals, value = arg.partition("=")
        for known in ("--" + name[2:].replace("-", "_"), "--" + name[2:].replace("_", "-")):
            if known in self._option_string_actions:
                return known + equals + value
        return arg

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see --help)\n")


def refuse(args: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """UserError if one of the options `names` was given: `why` says why it would change nothing."""
    for name in names:
        if name in args.given:
            raise UserError(f"--{name}: {why}")


def flag(text):
    """The type of an option that takes true or false, as in `--smooth True`."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def run(main):
    """Run `main()` and exit: 0, or 2 with one line for what the user can mend, 130 on Ctrl-C, 141 where none reads."""
    sys.stdout.reconfigure(errors="backslashreplace")  # as standard error is: a file's name may be no text
    try:
        with interrupt.Work():
            main()
    except BaseException as error:
        status = _status(Path(sys.argv[0]).name, error)
        if status is None:
            raise
        sys.exit(status)


def _status(name, error):
    """The exit status for what ended a script, once it has been told; None for what is no fault of the user."""
    if isinstance(error, KeyboardInterrupt) or interrupt.pressed():
        print(f"{name}: interrupted", file=sys.stderr)
        return interrupt.STATUS
    if isinstance(error, UserError):
        return _fail(name, error)
    if isinstance(error, BrokenPipeError):  # who read our output has seen enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 128 + signal.SIGPIPE
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(name, f"{where}no space left on the disk: free some, then run the same command again")
        if where and error.errno:
            return _fail(name, f"{where}{os.strerror(error.errno).lower()}")
    return None


def _fail(name, message):
    print(f"{name}: error: {one_line(message)}", file=sys.stderr)
    return 2


def one_line(text):
    """A text with nothing in it that a terminal would obey: ends of lines as a blank, the rest escaped."""
    parts = re.split(r"[^\S ]+", str(text))  # not at blanks: a file's name may have several
    return escaped(" ".join(filter(None, map(str.strip, parts))))


def escaped(text: object) -> str:
    """A text with nothing in it that a terminal would obey: what is not printed is escaped, ends of lines too."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def show(name):
    """A name for an error's text: short, and one line."""
    return one_line(name[:200])[:100]


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print lines, now: on standard output, or `file`. A terminal obeys nothing that is in them."""
    tqdm = sys.modules.get("tqdm")  # a line printed past its bar would tear it
    for line in lines:
        (tqdm.tqdm.write if tqdm else print)(escaped(line), file=file or sys.stdout)
    (file or sys.stdout).flush()


@contextlib.contextmanager
def atomic(path):
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, remove it if not.

    What a process that was killed has left of its own is removed by the next one that writes the same path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = _temporary(path)
    except OSError as error:
        error.filename = str(path)  # the temporary name means nothing to the user
        raise
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failing write does not say where
        raise
    finally:
        os.close(handle)


def _temporary(path):
    """(handle, path) of a new, empty file beside `path`. A lock on the handle says that its process is alive."""
    names = [path.with_name(file_name(f".{path.name}", f".{number}.tmp")) for number in range(SIDE_BY_SIDE)]
    for temporary in names:
        _remove_left_over(temporary)
    for temporary in names:
        with contextlib.suppress(FileExistsError):
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            _lock(handle)
            if _is_still(handle, temporary):
                return handle, temporary
            os.close(handle)  # before it had its lock, another process took it for a left-over
    raise UserError(f"{path}: {SIDE_BY_SIDE} processes write it at once, or have left .{path.name}.*.tmp: remove these")


def _remove_left_over(temporary):
    """Remove a temporary file whose process is no more."""
    with contextlib.suppress(OSError):  # it is another user's, or being written, or has got its name
        handle = os.open(temporary, os.O_RDWR)
        try:
            if _lock(handle, wait=False) and _is_still(handle, temporary):
                os.unlink(temporary)
        finally:
            os.close(handle)


def _lock(handle, wait=True):
    """Lock an open file. False where the file system knows no locks; BlockingIOError where another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return False
    return True


def _is_still(handle, path):
    """Whether an open file still has this path."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


@contextlib.contextmanager
def locked(path: str | Path, wait: bool = True, owner: str = "") -> Iterator[None]:
    """Keep other processes that ask for the same `path` out of the block: they wait for its end.

    owner: processes that give the same text, such as the ranks of one launch, are in the block together. wait: False
    for a UserError instead of waiting. The kernel releases the lock when its holder dies, in whatever way. Where the
    file system knows no locks, all are let in.
    """
    path = Path(path)
    made = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, waiting_for = path.with_name(f"{path.name}.lock"), None
    while True:
        file = open(lock, "a+")
        holder = _take_lock(file, owner)
        if holder is None and _is_still(file.fileno(), lock):
            break
        file.close()
        if holder is None:  # whoever held the lock has removed its file: ours would be a lock on nothing
            continue
        if not wait:
            raise UserError(f"{path}: {holder} is at work there: wait for its end, or end it")
        if holder != waiting_for:
            log.info("waiting for %s, which is making %s", holder, path)
            waiting_for = holder
        time.sleep(0.1)
    os.register_at_fork(after_in_child=file.close)  # a child must not hold the lock when this process is no more
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # others of the same owner may still be in
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.unlink(missing_ok=True)
            if made:
                path.parent.rmdir()  # if the block has written nothing
        file.close()


def _take_lock(file, owner):
    """Take the lock for `owner`: None if that is done now, else who has it."""
    me = owner or f"process {os.getpid()} on {socket.gethostname()}"

    def holder():
        file.seek(0)
        return one_line(file.read(200)) or "another process"

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(me)
        file.flush()
        if owner:  # let the others in, if nobody else was faster
            fcntl.flock(file, fcntl.LOCK_SH)
        return None if holder() == me else holder()
    except BlockingIOError:
        if not owner or holder() != me:
            return holder()
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            return None
        raise
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return holder()
    return None if holder() == me else holder()


def write_text(path, text):
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path, missing):
    """The JSON object in `path`. `missing` is what to do when there is no such file, for the error's text."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        raise ValueError(f"it holds {type(value).__name__}, not an object")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: {missing}") from None
    except (ValueError, RecursionError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path}: not a JSON file: {error}") from None


class Lines(list):
    """What the log writes below a line of its own; no other text that it is given makes a line."""


class _Plain(logging.Filter):
    """Nothing that is logged is obeyed by a terminal: files are named there, and labels."""

    def filter(self, record):
        below = [line for arg in record.args or () if isinstance(arg, Lines) for line in arg]
        record.args = tuple("" if isinstance(arg, Lines) else arg for arg in record.args or ())
        record.msg, record.args = "\n".join(map(escaped, [record.getMessage(), *below])), None
        return True


log = logging.getLogger("paddletag")
log.addFilter(_Plain())
TRAIN, EVAL = 21, 22  # just above INFO, named as PaddleSpeech names them
logging.addLevelName(TRAIN, "TRAIN")
logging.addLevelName(EVAL, "EVAL")
_FORMAT = "[%(asctime)s] [%(levelname)8s] - %(message)s"


class _Console(logging.StreamHandler):
    def emit(self, record):
        from tqdm import tqdm  # a line printed past tqdm would tear the bar

        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def start_log(file=None, quiet=False):
    """Log to the console (only warnings if `quiet`, as on ranks other than 0), and append to `file` if given."""
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers.clear()
    console = _Console()
    console.setLevel(logging.WARNING if quiet else logging.INFO)
    handlers = [console]
    if file and not quiet:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, encoding="utf-8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT))
        log.addHandler(handler)


def progress(iterable=None, **kwargs):
    """tqdm on a terminal, silent elsewhere (logs, several folds side by side)."""
    from tqdm import tqdm

    kwargs.setdefault("disable", not sys.stderr.isatty() or os.environ.get("PADDLETAG_PROGRESS") == "0")
    kwargs.setdefault("dynamic_ncols", True)
    kwargs.setdefault("leave", False)
    kwargs["desc"] = escaped(kwargs.get("desc") or "")
    return tqdm(iterable, **kwargs)


def command() -> str:
    """The command line that makes a result again: that of run.sh, or of this script where it was called by itself."""
    return os.environ.get("RECIPE_COMMAND") or shlex.join([sys.orig_argv[0], *sys.argv])


def versions():
    """{package: version} of what can change a result."""
    found = {"python": platform.python_version()}
    packages = "paddlepaddle paddlepaddle-gpu numpy scipy soxr soundfile pyarrow scikit-learn"
    for package in packages.split():
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def machine():
    """One line on the machine: processor and number of cores."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {cores()} cores"


def cores():
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
