"""A stack machine that runs pickles without running what is in them.

A pickle is a program that may call anything. This machine knows dictionaries, lists, numbers and text, and the names
that it is given a meaning of (pickled_arrays.py); whatever else a file asks for is refused by name. (Python's own
unpickler, however restricted, can be driven out of memory or time by a file of a few bytes.)

A pickle may take one value many times and put tuples into tuples: 200 bytes make a tuple whose text or hash needs
2**40 steps. So nothing is turned into text, hashed or compared here but short text and numbers, and an array is made
only when the pickle has ended, for each name that has it.
"""

import pickle
import struct
from collections.abc import Callable
from typing import Any, Protocol

from paddletag.runtime import show

_STEPS = 1_000_000  # of all pickles of a file; some forty for each tensor. What one leaves takes up to 250 bytes
_LONGEST_TEXT = 500  # characters, at most, of what is compared with other text


class Refused(ValueError):
    """Why a file is not read; `weight_files.read` puts the file's name in front."""


class Name(str):
    """A thing that a pickle imports, by name."""


class Unfinished:
    """What a pickle makes by a call, and completes by a state."""

    def build(self, state: object) -> None:
        """Take the state, any value of the pickle. ValueError for one that does not fit."""
        raise NotImplementedError


class Meaning(Protocol):
    """What a pickle's names stand for. The machine calls nothing but what is in `calls`."""

    calls: dict[str, Callable[..., object]]  # by the name of what the pickle calls
    names: set[str]  # all that a pickle may import: those, and what is only handed on

    def persistent(self, reference: object) -> object:
        """What a reference to a thing outside the pickle stands for. ValueError for one that is not understood."""


def is_short_text(value: object) -> bool:
    """Whether a value of a pickle is text that costs little to hash and to compare."""
    return type(value) is str and len(value) <= _LONGEST_TEXT


class Reader:
    """The bytes of a file, taken one after the other from `at` on. ValueError where they end too early."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = memoryview(data), at

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        if size > len(self.data) - self.at:
            raise ValueError("its pickle breaks off")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int, signed: bool = False) -> int:
        """The next integer, of `size` bytes: 8 at most."""
        if size > 8:
            raise ValueError("an integer of more than 64 bits")
        return int.from_bytes(self.take(size), "little", signed=signed)

    def text(self, size: int) -> str:
        """The next text, of `size` bytes."""
        return str(self.take(size), "utf-8")

    def line(self) -> str:
        """The text up to the next end of a line, which is left out; 256 bytes at most."""
        line, end, _ = bytes(self.data[self.at : self.at + 256]).partition(b"\n")
        self.take(len(line) + len(end))
        return line.decode()


class StackMachine(Reader):
    """A machine for the part of pickle, protocols 2 to 4, in which torch and Paddle write weights.

    data: the pickle, or several, from `at` on. meaning: of the names in it.
    """

    def __init__(self, data: bytes, meaning: Meaning, at: int = 0) -> None:
        super().__init__(data, at)
        self.meaning, self.steps_left = meaning, _STEPS
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.operations = self._operations()

    def run(self, more: bool = False) -> Any:
        """The value of the pickle at `at`. more: data may follow it.

        Refused for an operation or a name that weights never need; other errors for a pickle that is damaged.
        """
        self.memo.clear()
        self.marks.clear()
        while self.steps_left:
            self.steps_left -= 1
            code = bytes(self.take(1))
            if code == pickle.STOP:
                if (self.at != len(self.data) and not more) or len(self.stack) != 1:
                    raise ValueError("its pickle ends too early")
                return self.stack.pop()
            if code not in self.operations:
                raise Refused(f"refuses to load: its pickle uses {code!r}, which a weight file never needs")
            self.operations[code]()
        raise Refused(f"refuses to load: its pickle has more than {_STEPS} steps, which a weight file never needs")

    def _operations(self) -> dict[bytes, Callable[[], object]]:
        """What to do, by the code of the operation."""
        number, take, text, pop, push = self.number, self.take, self.text, self.stack.pop, self.stack.append
        return {
            pickle.PROTO: self._require_known_protocol,
            pickle.FRAME: lambda: take(8),
            pickle.NONE: lambda: push(None),
            pickle.NEWTRUE: lambda: push(True),
            pickle.NEWFALSE: lambda: push(False),
            pickle.BININT1: lambda: push(number(1)),
            pickle.BININT2: lambda: push(number(2)),
            pickle.BININT: lambda: push(number(4, signed=True)),
            pickle.LONG1: lambda: push(number(number(1), signed=True)),
            pickle.BINFLOAT: lambda: push(struct.unpack(">d", take(8))[0]),
            pickle.SHORT_BINUNICODE: lambda: push(text(number(1))),
            pickle.BINUNICODE: lambda: push(text(number(4))),
            pickle.BINUNICODE8: lambda: push(text(number(8))),
            pickle.SHORT_BINBYTES: lambda: push(take(number(1))),
            pickle.BINBYTES: lambda: push(take(number(4))),
            pickle.BINBYTES8: lambda: push(take(number(8))),
            pickle.BINPUT: lambda: self._remember(number(1)),
            pickle.LONG_BINPUT: lambda: self._remember(number(4)),
            pickle.MEMOIZE: lambda: self._remember(len(self.memo)),
            pickle.BINGET: lambda: push(self.memo[number(1)]),
            pickle.LONG_BINGET: lambda: push(self.memo[number(4)]),
            pickle.MARK: lambda: self.marks.append(len(self.stack)),
            pickle.EMPTY_TUPLE: lambda: push(()),
            pickle.TUPLE1: lambda: push(self._pop_last(1)),
            pickle.TUPLE2: lambda: push(self._pop_last(2)),
            pickle.TUPLE3: lambda: push(self._pop_last(3)),
            pickle.TUPLE: lambda: push(self._pop_to_mark()),
            pickle.EMPTY_LIST: lambda: push([]),
            pickle.APPEND: lambda: self._extend(self._pop_last(1)),
            pickle.APPENDS: lambda: self._extend(self._pop_to_mark()),
            pickle.EMPTY_DICT: lambda: push({}),
            pickle.SETITEM: lambda: self._update(self._pop_last(2)),
            pickle.SETITEMS: lambda: self._update(self._pop_to_mark()),
            pickle.GLOBAL: lambda: push(self._import(self.line(), self.line())),
            pickle.STACK_GLOBAL: lambda: push(self._import(*self._pop_last(2))),
            pickle.REDUCE: lambda: push(self._call(*self._pop_last(2))),
            pickle.BUILD: lambda: self._build(pop()),
            pickle.BINPERSID: lambda: push(self.meaning.persistent(pop())),
        }

    def _require_known_protocol(self) -> None:
        if self.number(1) > 4:
            raise Refused("refuses to load: a pickle of protocol 5, which torch and Paddle do not write")

    def _remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def _pop_last(self, count: int) -> tuple[Any, ...]:
        return self._pop_from(len(self.stack) - count)

    def _pop_to_mark(self) -> tuple[Any, ...]:
        return self._pop_from(self.marks.pop())

    def _pop_from(self, start: int) -> tuple[Any, ...]:
        if not 0 <= start <= len(self.stack):
            raise ValueError("its pickle takes what it has not put")
        items = tuple(self.stack[start:])
        del self.stack[start:]
        return items

    def _extend(self, items: tuple[Any, ...]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("items for what is no list")
        self.stack[-1].extend(items)

    def _update(self, items: tuple[Any, ...]) -> None:
        if type(self.stack[-1]) is not dict:
            raise ValueError("items for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not int and not is_short_text(key):
                raise ValueError("a key that is neither short text nor a number")
            self.stack[-1][key] = value

    def _import(self, module: object, name: object) -> Name:
        if type(module) is not str or type(name) is not str:
            raise ValueError("an import without a name")
        full = Name(f"{module}.{name}")
        if full not in self.meaning.names:
            raise Refused(f"refuses to load: its pickle calls {show(full)}, which a weight file never needs")
        return full

    def _call(self, function: object, arguments: object) -> object:
        if type(function) is not Name or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        if function not in self.meaning.calls:
            raise Refused(f"refuses to load: its pickle calls {function}, which a weight file never needs")
        return self.meaning.calls[function](*arguments)

    def _build(self, state: object) -> None:
        built = self.stack[-1]
        if isinstance(built, Unfinished):
            built.build(state)
        elif type(built) is not dict:  # a state dict's own attributes (the versions of its layers) are not needed
            raise ValueError("a state for what has none")
