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
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend. Its text is one line: which file or key, what is wrong, what to do."""

    def __init__(self, text):
        super().__init__(one_line(text))  # it names files, and a file's name may hold anything


class Parser(argparse.ArgumentParser):
    """argparse with `--stop-stage` and `--stop_stage` as one option, no abbreviations, and one-line errors."""

    def __init__(self, **kwargs):
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_args(self, args=None, namespace=None):
        args = [self._spelling(a) for a in (sys.argv[1:] if args is None else args)]
        return super().parse_args(args, namespace)

    def _spelling(self, arg):
        if not arg.startswith("--"):
            return arg
        name, equals, value = arg.partition("=")
        for known in ("--" + name[2:].replace("-", "_"), "--" + name[2:].replace("_", "-")):
            if known in self._option_string_actions:
                return known + equals + value
        return arg

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def flag(text):
    """The type of an option that takes true or false, as in `--smooth True`."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def run(main):
    """Run `main()` and exit: 0, or 2 with one line for what the user can mend, 130 on Ctrl-C, 141 where none reads."""
    name = Path(sys.argv[0]).name
    sys.stdout.reconfigure(errors="backslashreplace")  # as standard error is: a file's name may be no text
    try:
        main()
    except UserError as error:
        sys.exit(_fail(name, error))
    except BrokenPipeError:  # who read our output has seen enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(_fail(name, f"{where}no space left on the disk: free some, then run the same command again"))
        if where and error.errno:
            sys.exit(_fail(name, f"{where}{os.strerror(error.errno).lower()}"))
        raise
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)


def _fail(name, message):
    print(f"{name}: error: {one_line(message)}", file=sys.stderr)
    return 2


def one_line(text):
    """A text with nothing in it that a terminal would obey: ends of lines as a blank, the rest escaped."""
    parts = re.split(r"[^\S ]+", str(text))  # not at blanks: a file's name may have several
    text = " ".join(filter(None, map(str.strip, parts)))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def show(name):
    """A name for an error's text: short, and one line."""
    return one_line(name[:200])[:100]


@contextlib.contextmanager
def atomic(path):
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, remove it if not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        error.filename = str(path)  # the temporary name means nothing to the user
        raise
    os.close(handle)
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(name, 0o666 & ~umask)  # mkstemp's 0600 would hide results from the user's group
    try:
        yield Path(name)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failing write does not say where
        raise


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
        # Whoever held the lock has removed its file: then ours is a lock on nothing.
        with contextlib.suppress(FileNotFoundError):
            if holder is None and os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                break
        file.close()
        if holder is None:
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
    """The JSON value in `path`. `missing` is what to do when there is no such file, for the error's text."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: {missing}") from None
    except (ValueError, RecursionError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path}: not a JSON file: {error}") from None


log = logging.getLogger("paddletag")
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
