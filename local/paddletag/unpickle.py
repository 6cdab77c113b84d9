"""A machine that runs the pickles of torch and Paddle without running what is in them.

A pickle is a program that may call anything. This machine knows dictionaries, lists, numbers, text, arrays and
tensors; whatever else a file asks for is refused by name. (Python's own unpickler, however restricted, can be driven
out of memory or time by a file of a few bytes.)

A pickle may take one value many times and put tuples into tuples: 200 bytes make a tuple whose text or hash needs
2**40 steps. So nothing is turned into text, hashed or compared here but short text and numbers, and an array is made
only when the pickle has ended, for each name that has it.
"""

import math
import pickle
import struct

import numpy as np

from paddletag.runtime import show

_TORCH = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": "bf16",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "|i1",
    "torch.ByteStorage": "|u1",
    "torch.BoolStorage": "|b1",
}
_NUMPY = {name[1:]: name for name in _TORCH.values() if name != "bf16"} | {"u8": "<u8", "u4": "<u4"}
_NUMPY["u2"] = "bf16"  # what Paddle means by it
_STEPS = 1_000_000  # of all pickles of a file; some forty for each tensor. What one leaves takes up to 250 bytes
_NAME = 500  # characters, at most, of what is compared with other names


class Refused(ValueError):
    """Why a file is not read; `read` puts the file's name in front."""


def view(buffer, dtype, shape, strides=None, offset=0):
    """A read-only view of `buffer`; strides and offset count elements, and without strides the buffer is just full."""
    half = dtype == "bf16"
    dtype = np.dtype("<u2" if half else dtype)
    shape = naturals(shape)
    if strides is None:
        if math.prod(shape) * dtype.itemsize != len(buffer):
            raise ValueError(f"a shape of {list(shape)[:8]} for {len(buffer)} bytes")
        array = np.ndarray(shape, dtype, buffer)
    else:
        strides = naturals(strides)
        count = len(buffer) // dtype.itemsize
        last = naturals([offset])[0] + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if math.prod(shape) > count or (math.prod(shape) and last >= count):
            raise ValueError("a tensor is larger than its storage")
        if not math.prod(shape):
            array = np.zeros(shape, dtype)
        else:
            steps = [s * dtype.itemsize if n > 1 else 0 for n, s in zip(shape, strides, strict=True)]
            array = np.ndarray(shape, dtype, buffer, offset * dtype.itemsize, steps)
    if half:
        array = np.asarray(np.left_shift(array, 16, dtype="<u4")).view("<f4")
    array.flags.writeable = False
    return array


def naturals(values):
    if type(values) not in (tuple, list) or len(values) > 32 or any(type(v) is not int or v < 0 for v in values):
        raise ValueError("a shape, stride or offset is not of natural numbers")
    return tuple(values)


class _Name(str):
    """A thing that a pickle imports, by name."""


class _DType:
    """numpy.dtype(code), which a pickle completes by a state that holds the byte order."""

    def __init__(self, code):
        if type(code) is not str or code not in _NUMPY:
            code = show(code) if type(code) is str else "without a name"
            raise Refused(f"holds an array of type {code}, which weights never have")
        self.code = code

    def build(self, state):
        if type(state) is not tuple or state[1] not in ("<", "|"):
            raise Refused("holds a big-endian array, which is not supported")


class Array:
    """numpy's _reconstruct(ndarray, (0,), b"b"), which a pickle completes by shape, type and bytes."""

    state = None

    def build(self, state):
        self.state = state

    def array(self, machine, storage):
        if type(self.state) is not tuple:
            raise ValueError("an array without a state")
        _, shape, dtype, fortran, data = self.state
        if type(dtype) is not _DType:
            raise ValueError("an array without a type")
        machine.spend(2 * len(data))
        shape = naturals(shape)
        array = view(data, _NUMPY[dtype.code], shape[::-1] if fortran else shape)
        return array.T if fortran else array


class _Storage:
    """A torch storage, whose bytes are elsewhere in the file. size: of them, as the pickle says."""

    def __init__(self, key, dtype, size):
        self.key, self.dtype, self.size = key, dtype, size


class Tensor:
    """A view of a torch storage; offset and strides count elements."""

    def __init__(self, storage, offset, shape, strides):
        if type(storage) is not _Storage:
            raise ValueError("a tensor without a storage")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self, machine, storage):
        dtype, data = self.storage.dtype, storage(self.storage.key)
        if len(data) != self.storage.size:
            raise ValueError(f"storage {show(self.storage.key)} has {len(data)} bytes, not what its tensor says")
        machine.spend(math.prod(naturals(self.shape)) * (4 if dtype == "bf16" else np.dtype(dtype).itemsize))
        return view(data, dtype, self.shape, self.strides, self.offset)


class Pickle:
    """A machine for the part of pickle, protocols 2 to 4, in which torch and Paddle write weights.

    data: the pickle, or several, from `at` on. size: that of the whole file; the arrays may together be four times as
    large (weights that are tied, bfloat16 that becomes float32), which bounds the memory. storages: {key: size in
    bytes} of those that torch's tensors refer to.
    """

    def __init__(self, data, size, at=0):
        self.data, self.at = memoryview(data), at
        self.left, self.steps_left = 4 * size, _STEPS
        self.storages = {}
        self.stack, self.marks, self.memo = [], [], {}
        self.calls = {
            "collections.OrderedDict": lambda: {},
            "_codecs.encode": self.encode,
            "builtins.tuple": self.tuple,
            "__builtin__.tuple": self.tuple,
            "numpy.dtype": lambda code, align, copy: _DType(code),
            "numpy.core.multiarray._reconstruct": lambda kind, shape, code: Array(),
            "numpy._core.multiarray._reconstruct": lambda kind, shape, code: Array(),
            "torch._utils._rebuild_tensor_v2": lambda storage, offset, shape, strides, gradient, hooks, metadata=None: (
                Tensor(storage, offset, shape, strides)
            ),
            "torch._utils._rebuild_parameter": lambda tensor, gradient, hooks: tensor,
        }
        self.names = {*self.calls, *_TORCH, "numpy.ndarray"}
        number, take, pop, push = self.number, self.take, self.stack.pop, self.stack.append
        self.steps = {
            pickle.PROTO: self.protocol,
            pickle.FRAME: lambda: take(8),
            pickle.NONE: lambda: push(None),
            pickle.NEWTRUE: lambda: push(True),
            pickle.NEWFALSE: lambda: push(False),
            pickle.BININT1: lambda: push(number(1)),
            pickle.BININT2: lambda: push(number(2)),
            pickle.BININT: lambda: push(number(4, signed=True)),
            pickle.LONG1: lambda: push(number(number(1), signed=True)),
            pickle.BINFLOAT: lambda: push(struct.unpack(">d", take(8))[0]),
            pickle.SHORT_BINUNICODE: lambda: push(str(take(number(1)), "utf-8")),
            pickle.BINUNICODE: lambda: push(str(take(number(4)), "utf-8")),
            pickle.BINUNICODE8: lambda: push(str(take(number(8)), "utf-8")),
            pickle.SHORT_BINBYTES: lambda: push(take(number(1))),
            pickle.BINBYTES: lambda: push(take(number(4))),
            pickle.BINBYTES8: lambda: push(take(number(8))),
            pickle.BINPUT: lambda: self.put(number(1)),
            pickle.LONG_BINPUT: lambda: self.put(number(4)),
            pickle.MEMOIZE: lambda: self.put(len(self.memo)),
            pickle.BINGET: lambda: push(self.memo[number(1)]),
            pickle.LONG_BINGET: lambda: push(self.memo[number(4)]),
            pickle.MARK: lambda: self.marks.append(len(self.stack)),
            pickle.EMPTY_TUPLE: lambda: push(()),
            pickle.TUPLE1: lambda: push(self.last(1)),
            pickle.TUPLE2: lambda: push(self.last(2)),
            pickle.TUPLE3: lambda: push(self.last(3)),
            pickle.TUPLE: lambda: push(self.since_mark()),
            pickle.EMPTY_LIST: lambda: push([]),
            pickle.APPEND: lambda: self.extend(self.last(1)),
            pickle.APPENDS: lambda: self.extend(self.since_mark()),
            pickle.EMPTY_DICT: lambda: push({}),
            pickle.SETITEM: lambda: self.update(self.last(2)),
            pickle.SETITEMS: lambda: self.update(self.since_mark()),
            pickle.GLOBAL: lambda: push(self.name(self.line(), self.line())),
            pickle.STACK_GLOBAL: lambda: push(self.name(*self.last(2))),
            pickle.REDUCE: lambda: push(self.call(*self.last(2))),
            pickle.BUILD: lambda: self.build(pop()),
            pickle.BINPERSID: lambda: push(self.persistent(pop())),
        }

    def run(self, more=False):
        """The value of the pickle at `at`, with an `Array` or `Tensor` for each array. more: data may follow it."""
        self.memo.clear()
        self.marks.clear()
        while self.steps_left:
            self.steps_left -= 1
            code = bytes(self.take(1))
            if code == pickle.STOP:
                if (self.at != len(self.data) and not more) or len(self.stack) != 1:
                    raise ValueError("its pickle ends too early")
                return self.stack.pop()
            if code not in self.steps:
                raise Refused(f"refuses to load: its pickle uses {code!r}, which a weight file never needs")
            self.steps[code]()
        raise Refused(f"refuses to load: its pickle has more than {_STEPS} steps, which a weight file never needs")

    def take(self, size):
        if size > len(self.data) - self.at:
            raise ValueError("its pickle breaks off")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size, signed=False):
        if size > 8:
            raise ValueError("an integer of more than 64 bits")
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self):
        line, end, _ = bytes(self.data[self.at : self.at + 256]).partition(b"\n")
        self.take(len(line) + len(end))
        return line.decode()

    def protocol(self):
        if self.number(1) > 4:
            raise Refused("refuses to load: a pickle of protocol 5, which torch and Paddle do not write")

    def put(self, place):
        self.memo[place] = self.stack[-1]

    def last(self, count):
        return self.cut(len(self.stack) - count)

    def since_mark(self):
        return self.cut(self.marks.pop())

    def cut(self, start):
        if not 0 <= start <= len(self.stack):
            raise ValueError("its pickle takes what it has not put")
        items = tuple(self.stack[start:])
        del self.stack[start:]
        return items

    def extend(self, items):
        if type(self.stack[-1]) is not list:
            raise ValueError("items for what is no list")
        self.stack[-1].extend(items)

    def update(self, items):
        if type(self.stack[-1]) is not dict:
            raise ValueError("items for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not int and not self.is_name(key):
                raise ValueError("a key that is neither short text nor a number")
            self.stack[-1][key] = value

    def is_name(self, value):
        return type(value) is str and len(value) <= _NAME

    def name(self, module, name):
        if type(module) is not str or type(name) is not str:
            raise ValueError("an import without a name")
        full = _Name(f"{module}.{name}")
        if full not in self.names:
            raise Refused(f"refuses to load: its pickle calls {show(full)}, which a weight file never needs")
        return full

    def call(self, function, arguments):
        if type(function) is not _Name or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        if function not in self.calls:
            raise Refused(f"refuses to load: its pickle calls {function}, which a weight file never needs")
        return self.calls[function](*arguments)

    def build(self, state):
        built = self.stack[-1]
        if type(built) in (Array, _DType):
            built.build(state)
        elif type(built) is not dict:  # a state dict's own attributes (the versions of its layers) are not needed
            raise ValueError("a state for what has none")

    def spend(self, size):
        self.left -= size
        if self.left < 0:
            raise ValueError("its arrays are larger than the file")

    def encode(self, text, encoding):
        if encoding != "latin1":
            raise ValueError("bytes in an unknown encoding")
        self.spend(len(text))
        return text.encode("latin1")

    def tuple(self, items):
        if type(items) is not tuple:
            raise ValueError("a tuple of what is none")
        return items

    def persistent(self, reference):
        """torch's ("storage", type, key, device, number of elements), and None in legacy files (a view before 0.4)."""
        word, kind, key, _, count, *view = reference if type(reference) is tuple else ()
        if word != "storage" or type(kind) is not _Name or not self.is_name(key):
            raise ValueError("a reference to what is no storage")
        if kind not in _TORCH or view not in ([], [None]):
            raise ValueError(f"a storage of type {kind}, or a view of one")
        if type(count) is not int or count < 0:
            raise ValueError("a storage without a size")
        dtype = _TORCH[kind]
        size = count * (2 if dtype == "bf16" else np.dtype(dtype).itemsize)
        if self.storages.setdefault(key, size) != size:
            raise ValueError(f"storage {show(key)} has two sizes")
        return _Storage(key, dtype, size)
