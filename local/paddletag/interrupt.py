"""Ctrl-C, at any moment of a script: one line, and exit status 130.

A script calls `begin` before it imports anything else, and works in the context `Work`. What comes earlier cannot be
helped: Python starts, compiles the script and finds this module, which imports nothing that takes time (`_signal` is
built in; `signal`, around it, takes milliseconds).
"""

import _signal  # type: ignore[import-not-found]  # it is built in, and typeshed has only `signal`
import os
import sys

TYPE_CHECKING = False  # as type checkers know it: `typing` takes time to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import TypeVar

    F = TypeVar("F", bound=Callable[..., object])

STATUS = 130  # 128 + SIGINT, as shells have it
LATER = 0.05  # seconds


class _State:
    owner: "int | None" = None  # the process that has called `begin`; those that it forks leave Ctrl-C to it
    phase = "imports"  # then "work", then "over"
    pressed = False
    undisturbed: "set[object]" = set()  # code of functions


def begin() -> None:
    """From here on, Ctrl-C ends the process at once: while a script imports its libraries, nothing is to be tidied up.

    Where SIGINT is ignored, as a shell has it for what it starts in the background, it stays so.
    """
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _State.owner = os.getpid()
        _signal.signal(_signal.SIGINT, _on_signal)
        sys.unraisablehook = _unraisable


class Work:
    """In this context Ctrl-C is a KeyboardInterrupt, so that what is under way tidies up; after it, it is ignored."""

    def __enter__(self) -> None:
        if _State.owner is not None:
            _State.phase = "work"

    def __exit__(self, *_: object) -> None:
        if _State.owner is not None:
            _State.phase = "over"  # nothing is raised from here on: the process is about to end
            _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
            _signal.setitimer(_signal.ITIMER_REAL, 0)


def undisturbed(function: "F") -> "F":
    """A decorator for what is called by C++, which makes another error of a KeyboardInterrupt: it comes after it."""
    from types import FunctionType

    assert isinstance(function, FunctionType)
    _State.undisturbed.add(function.__code__)
    return function


def pressed() -> bool:
    """Whether Ctrl-C was pressed: an error that comes after it may be what became of the KeyboardInterrupt."""
    return _State.pressed


def _on_signal(number: int, frame: "FrameType | None") -> None:
    if os.getpid() != _State.owner or _State.phase == "over":
        return
    if _State.phase == "imports":
        os.write(2, f"{os.path.basename(sys.argv[0])}: interrupted\n".encode(errors="backslashreplace"))
        os._exit(STATUS)
    _State.pressed = True
    if _may_raise(frame):
        raise KeyboardInterrupt
    _again_later()


def _may_raise(frame: "FrameType | None") -> bool:
    """Not while a module is imported, where it may become another error or none, nor in what must be undisturbed."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code in _State.undisturbed:
            return False
        frame = frame.f_back
    return True


def _again_later() -> None:
    _signal.signal(_signal.SIGALRM, _on_signal)
    _signal.setitimer(_signal.ITIMER_REAL, LATER)


def _unraisable(info: "sys.UnraisableHookArgs", usual: "Callable[..., object]" = sys.unraisablehook) -> None:
    if issubclass(info.exc_type, KeyboardInterrupt):  # it came where nothing can be raised, as in a __del__
        _again_later()
    else:
        usual(info)
