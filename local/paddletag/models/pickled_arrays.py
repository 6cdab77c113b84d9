"""What the names in a pickle of weights stand for: torch's tensors and storages, and numpy's arrays."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from paddletag.models.pickle_machine import Name, Refused, Unfinished, is_short_text
from paddletag.runtime import show

Buffer = bytes | memoryview
BFLOAT16 = "bf16"  # among the types of arrays below, which are numpy's; numpy itself has no such type

_TORCH = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": BFLOAT16,
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "|i1",
    "torch.ByteStorage": "|u1",
    "torch.BoolStorage": "|b1",
}
_NUMPY = {name[1:]: name for name in _TORCH.values() if name != BFLOAT16} | {"u8": "<u8", "u4": "<u4"}
_NUMPY["u2"] = BFLOAT16  # what Paddle means by it


def view(buffer: Buffer, dtype: str, shape: object, strides: object = None, offset: object = 0) -> np.ndarray:
    """A read-only array on the bytes of `buffer`; of BFLOAT16, a copy as float32.

    shape: tuple or list of natural numbers. strides and offset: count elements; without strides the buffer must be just
    full. ValueError for what is no shape, or does not fit into the buffer.
    """
    numpy_dtype = np.dtype("<u2" if dtype == BFLOAT16 else dtype)
    sizes = require_naturals(shape)
    if strides is None:
        if math.prod(sizes) * numpy_dtype.itemsize != len(buffer):
            raise ValueError(f"a shape of {list(sizes)[:8]} for {len(buffer)} bytes")
        array: np.ndarray = np.ndarray(sizes, numpy_dtype, buffer)
    else:
        array = _strided(buffer, numpy_dtype, sizes, require_naturals(strides), require_naturals([offset])[0])
    if dtype == BFLOAT16:
        array = np.asarray(np.left_shift(array, 16, dtype="<u4")).view("<f4")
    array.flags.writeable = False
    return array


def _strided(
    buffer: Buffer, dtype: np.dtype, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> np.ndarray:
    count, size = len(buffer) // dtype.itemsize, math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if size > count or (size and last >= count):
        raise ValueError("a tensor is larger than its storage")
    if not size:
        return np.zeros(shape, dtype)
    steps = [s * dtype.itemsize if n > 1 else 0 for n, s in zip(shape, strides, strict=True)]
    return np.ndarray(shape, dtype, buffer, offset * dtype.itemsize, steps)


def require_naturals(values: object) -> tuple[int, ...]:
    """The values of a tuple or list. ValueError unless they are natural numbers, 32 at most."""
    if not isinstance(values, (tuple, list)) or len(values) > 32 or any(type(v) is not int or v < 0 for v in values):
        raise ValueError("a shape, stride or offset is not of natural numbers")
    return tuple(values)


class DType(Unfinished):
    """numpy.dtype(code), which a pickle completes by a state that holds the byte order."""

    def __init__(self, code: object) -> None:
        if type(code) is not str or code not in _NUMPY:
            code = show(code) if type(code) is str else "without a name"
            raise Refused(f"holds an array of type {code}, which weights never have")
        self.code = code

    def build(self, state: object) -> None:
        """Refused for a big-endian byte order."""
        if type(state) is not tuple or state[1] not in ("<", "|"):
            raise Refused("holds a big-endian array, which is not supported")


class Array(Unfinished):
    """numpy's _reconstruct(ndarray, (0,), b"b"), which a pickle completes by shape, type and bytes."""

    state: object = None

    def build(self, state: object) -> None:
        """Keep the state; it is looked at when the array is made."""
        self.state = state

    def to_numpy(self, budget: "WeightNames", storage: Callable[[str], Buffer]) -> np.ndarray:
        """The array, read-only. ValueError where shape, type and bytes do not fit, or it is too large."""
        if type(self.state) is not tuple:
            raise ValueError("an array without a state")
        _, shape, dtype, fortran, data = self.state
        if type(dtype) is not DType:
            raise ValueError("an array without a type")
        budget.spend(2 * len(data))
        shape = require_naturals(shape)
        array = view(data, _NUMPY[dtype.code], shape[::-1] if fortran else shape)
        return array.T if fortran else array


class Storage:
    """A torch storage, whose bytes are elsewhere in the file. size: of them, as the pickle says."""

    def __init__(self, key: str, dtype: str, size: int) -> None:
        self.key, self.dtype, self.size = key, dtype, size


class Tensor:
    """A view of a torch storage; offset and strides count elements."""

    def __init__(self, storage: object, offset: object, shape: object, strides: object) -> None:
        if type(storage) is not Storage:
            raise ValueError("a tensor without a storage")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def to_numpy(self, budget: "WeightNames", storage: Callable[[str], Buffer]) -> np.ndarray:
        """The array, read-only; storage: key -> the bytes of a torch storage. ValueError where these do not fit."""
        dtype, data = self.storage.dtype, storage(self.storage.key)
        if len(data) != self.storage.size:
            raise ValueError(f"storage {show(self.storage.key)} has {len(data)} bytes, not what its tensor says")
        budget.spend(math.prod(require_naturals(self.shape)) * (4 if dtype == BFLOAT16 else np.dtype(dtype).itemsize))
        return view(data, dtype, self.shape, self.strides, self.offset)


class WeightNames:
    """The names that torch, Paddle and numpy put into a pickle of weights: an `unpickle.Meaning`.

    size: that of the whole file; the arrays may together be four times as large (weights that are tied, bfloat16 that
    becomes float32), which bounds the memory. storages: {key: size in bytes} of those that torch's tensors refer to.
    """

    def __init__(self, size: int) -> None:
        self.bytes_left = 4 * size
        self.storages: dict[str, int] = {}
        self.calls: dict[str, Callable[..., object]] = {
            "collections.OrderedDict": lambda: {},
            "_codecs.encode": self._encode,
            "builtins.tuple": _require_tuple,
            "__builtin__.tuple": _require_tuple,
            "numpy.dtype": lambda code, align, copy: DType(code),
            "numpy.core.multiarray._reconstruct": lambda kind, shape, code: Array(),
            "numpy._core.multiarray._reconstruct": lambda kind, shape, code: Array(),
            "torch._utils._rebuild_tensor_v2": lambda storage, offset, shape, strides, gradient, hooks, metadata=None: (
                Tensor(storage, offset, shape, strides)
            ),
            "torch._utils._rebuild_parameter": lambda tensor, gradient, hooks: tensor,
        }
        self.names = {*self.calls, *_TORCH, "numpy.ndarray"}

    def persistent(self, reference: object) -> Storage:
        """torch's ("storage", type, key, device, number of elements), and None in legacy files (a view before 0.4).

        ValueError for any other reference.
        """
        word, kind, key, _, count, *views = reference if type(reference) is tuple else ()
        if word != "storage" or type(kind) is not Name or not is_short_text(key):
            raise ValueError("a reference to what is no storage")
        if kind not in _TORCH or views not in ([], [None]):
            raise ValueError(f"a storage of type {kind}, or a view of one")
        if type(count) is not int or count < 0:
            raise ValueError("a storage without a size")
        dtype = _TORCH[kind]
        size = count * (2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize)
        if self.storages.setdefault(key, size) != size:
            raise ValueError(f"storage {show(key)} has two sizes")
        return Storage(key, dtype, size)

    def spend(self, size: int) -> None:
        """Count `size` bytes that an array takes. ValueError when all together are more than the file may make."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise ValueError("its arrays are larger than the file")

    def _encode(self, text: Any, encoding: object) -> bytes:
        if encoding != "latin1":
            raise ValueError("bytes in an unknown encoding")
        self.spend(len(text))
        return text.encode("latin1")


def _require_tuple(items: object) -> tuple[Any, ...]:
    if type(items) is not tuple:
        raise ValueError("a tuple of what is none")
    return items
