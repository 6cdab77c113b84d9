"""Weights of torch, Paddle and safetensors files as numpy arrays, and the cache of converted ones.

Torch's and Paddle's files are pickles: programs that may call anything. `read` runs them on a small machine of its
own that knows dictionaries, lists, numbers, text, arrays and tensors; whatever else a file asks for is refused by
name. Neither framework is needed.
"""

import io
import json
import math
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

from paddletag.download import checksum, fetch, locked, mismatch, show
from paddletag.runtime import UserError, atomic, log, read_json, write_json

_SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bf16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
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
_NUMPY = {name[1:]: name for name in _SAFETENSORS.values() if name != "bf16"}
_NUMPY["u2"] = "bf16"  # what Paddle means by it
_WRAPPERS = ("model", "state_dict")  # PANNs and Lightning put the weights beside the state of the training
_STEPS = 5_000_000  # of a pickle; some forty for each tensor
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6 begins with this number


class _Refused(ValueError):
    """Why a file is not read; `read` puts the file's name in front."""


def read(path):
    """The weights in a file of torch (either format), a `.pdparams` or a safetensors file, told apart by content.

    Returns {name: array}; the arrays are read-only views and bfloat16 becomes float32. A checkpoint that holds the
    weights under `model` or `state_dict`, beside other things, is unwrapped; Paddle's table of parameter names is
    dropped. Nothing in the file is executed. UserError for every file that is damaged, of another kind, or calls
    for what weights never need.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            kind = _kind(head)
            data = head + file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not a file of weights") from None
    except _Refused as error:
        raise UserError(f"{path}: {error}") from None
    try:
        return kind(data)
    except _Refused as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # the file may hold any bytes, in four nested formats: what goes wrong is its fault
        what = show(str(error) or type(error).__name__)
        raise UserError(f"{path}: a damaged file of weights ({what}): get it again") from None


def _kind(head):
    if not head:
        raise _Refused("an empty file: get it again")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000:  # the library's own limit
        return _read_safetensors
    if head.startswith(b"PK\x03\x04"):
        return _read_torch
    if head.startswith(_LEGACY):
        return _read_legacy
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return _read_paddle
    raise _Refused(f"not weights of torch, Paddle or safetensors: it starts with {head[:16]!r}")


def _read_safetensors(data):
    end = 8 + int.from_bytes(data[:8], "little")
    if end > len(data):
        raise ValueError("its header breaks off")
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    payload, arrays, filled = memoryview(data)[end:], {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if entry["dtype"] not in _SAFETENSORS:
            raise _Refused(f"{show(name)} has the type {show(str(entry['dtype']))}, which no backbone here uses")
        if start != filled:
            raise ValueError(f"{show(name)} does not begin where the one before it ends")
        arrays[name] = _array(payload[start:stop], _SAFETENSORS[entry["dtype"]], entry["shape"])
        filled = stop
    if filled != len(payload):
        raise ValueError(f"{filled} bytes of arrays expected, {len(payload)} found")
    return _named_arrays(arrays)


def _read_torch(data):
    """The zip files of torch.save since 1.6: `<name>/data.pkl`, and each storage's bytes in `<name>/data/<key>`."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    members = {info.filename: info for info in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in members):
        raise _Refused("a TorchScript program, not a state dict")
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise _Refused("a compressed zip file, which torch.save never writes")
    # Stored as they are and not overlapping, all members together are no larger than the file.
    if len(members) < len(archive.infolist()) or sum(info.file_size for info in members.values()) > len(data):
        raise ValueError("members of the zip file overlap")
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _Refused("a zip file, but not one that torch.save has written: no data.pkl in it")
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "byteorder" in members and archive.read(folder + "byteorder") != b"little":
        raise _Refused("written on a big-endian machine, which is not supported")
    storages = {}

    def storage(key, size):
        if key not in storages:
            if f"{folder}data/{key}" not in members:
                raise ValueError(f"storage {show(key)} is missing")
            storages[key] = archive.read(f"{folder}data/{key}")  # checks the CRC
        return storages[key]

    return _named_arrays(_Pickle(archive.read(pickles[0]), len(data), storage).run())


def _read_legacy(data):
    """torch.save before 1.6: pickles of a number, a version, the machine, the weights and the storages' keys, in whose
    order the storages follow, each as its number of elements (8 bytes) and its bytes.

    The weights come before the bytes that they refer to. So their pickle runs twice: to learn the storages' sizes, and
    to make arrays.
    """
    data, at = memoryview(data), len(_LEGACY)

    def run(storage=None):
        nonlocal at
        machine = _Pickle(data[at:], len(data), storage)
        value = machine.run(more=True)
        at += machine.at
        return value

    version, system = run(), run()
    if version != 1001 or type(system) is not dict or system.get("little_endian") is not True:
        raise _Refused("a legacy torch file of another version, or of a big-endian machine, which is not supported")
    begin, sizes, storages = at, {}, {}

    def blank(key, size):
        sizes[key] = size
        if sum(sizes.values()) > len(data):
            raise ValueError("its storages are larger than the file")
        return bytes(size)

    run(blank)
    for key in run():
        if at + 8 + sizes[key] > len(data):
            raise ValueError("a storage breaks off")
        storages[key] = data[at + 8 : at + 8 + sizes[key]]  # the number of elements is known from the first run
        at += 8 + sizes[key]
    if at != len(data):
        raise ValueError("more bytes than its storages")
    at = begin
    return _named_arrays(run(lambda key, size: storages[key]))


def _read_paddle(data):
    """What paddle.save makes of a state dict: one pickle of {name: array}, or of {name: (parameter's name, array)}."""
    return _named_arrays(_Pickle(data, len(data)).run())


def _named_arrays(value):
    if type(value) is dict:
        inner = [value[name] for name in _WRAPPERS if type(value.get(name)) is dict]
        value = inner[0] if len(inner) == 1 else value
    if type(value) is not dict:
        raise _Refused("holds no dictionary of arrays: save the model's state dict")
    arrays = {}
    for name, entry in value.items():
        if name == "StructuredToParameterName@@":
            continue
        if type(entry) is tuple and len(entry) == 2:
            entry = entry[1]
        if type(entry) is _Array:
            entry = entry.value
        if type(name) is not str or not isinstance(entry, np.ndarray):
            raise _Refused(f"its entry {show(str(name))} is not an array: save the model's state dict alone")
        arrays[name] = entry
    if not arrays:
        raise _Refused("holds no arrays")
    return arrays


def _array(buffer, dtype, shape, strides=None, offset=0):
    """A read-only view of `buffer`; strides and offset count elements, and without strides the buffer is just full."""
    half = dtype == "bf16"
    dtype = np.dtype("<u2" if half else dtype)
    shape = _naturals(shape)
    if strides is None:
        if math.prod(shape) * dtype.itemsize != len(buffer):
            raise ValueError(f"a shape of {list(shape)[:8]} for {len(buffer)} bytes")
        array = np.ndarray(shape, dtype, buffer)
    else:
        strides = _naturals(strides)
        count = len(buffer) // dtype.itemsize
        last = _naturals([offset])[0] + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
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


def _naturals(values):
    if type(values) not in (tuple, list) or len(values) > 32 or any(type(v) is not int or v < 0 for v in values):
        raise ValueError("a shape, stride or offset is not of natural numbers")
    return tuple(values)


class _Name(str):
    """A thing that a pickle imports, by name."""


class _DType:
    """numpy.dtype(code), which a pickle completes by a state that holds the byte order."""

    def __init__(self, code):
        if type(code) is not str or code not in _NUMPY:
            raise _Refused(f"holds an array of type {show(str(code))}, which weights never have")
        self.code = code

    def build(self, state, machine):
        if type(state) is not tuple or state[1] not in ("<", "|"):
            raise _Refused("holds a big-endian array, which is not supported")


class _Array:
    """numpy's _reconstruct(ndarray, (0,), b"b"), which a pickle completes by shape, type and bytes."""

    value = None

    def build(self, state, machine):
        _, shape, dtype, fortran, data = state
        if type(dtype) is not _DType:
            raise ValueError("an array without a type")
        machine.spend(2 * len(data))
        shape = _naturals(shape)
        array = _array(data, _NUMPY[dtype.code], shape[::-1] if fortran else shape)
        self.value = array.T if fortran else array


class _Pickle:
    """A machine for the part of pickle, protocols 2 to 4, in which torch and Paddle write weights.

    data: the pickle. size: that of the whole file; the arrays may together be four times as large (weights that are
    tied, bfloat16 that becomes float32), which bounds the memory. storage: (key, size) -> bytes, for torch's tensors.
    """

    def __init__(self, data, size, storage=None):
        self.data, self.at = memoryview(data), 0
        self.left = 4 * size
        self.storage = storage
        self.stack, self.marks, self.memo = [], [], {}
        self.calls = {
            "collections.OrderedDict": lambda: {},
            "_codecs.encode": self.encode,
            "builtins.tuple": self.tuple,
            "__builtin__.tuple": self.tuple,
            "numpy.dtype": lambda code, align, copy: _DType(code),
            "numpy.core.multiarray._reconstruct": lambda kind, shape, code: _Array(),
            "numpy._core.multiarray._reconstruct": lambda kind, shape, code: _Array(),
            "torch._utils._rebuild_tensor_v2": self.tensor,
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
        """The pickle's value. more: whether the data may go on after its end, which `at` then is."""
        for _ in range(_STEPS):
            code = bytes(self.take(1))
            if code == pickle.STOP:
                if (self.at != len(self.data) and not more) or len(self.stack) != 1:
                    raise ValueError("its pickle ends too early")
                return self.stack.pop()
            if code not in self.steps:
                raise _Refused(f"refuses to load: its pickle uses {code!r}, which a weight file never needs")
            self.steps[code]()
        raise _Refused(f"refuses to load: its pickle has more than {_STEPS} steps, which a weight file never needs")

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
            raise _Refused("refuses to load: a pickle of protocol 5, which torch and Paddle do not write")

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
            if type(key) not in (str, int):
                raise ValueError("a key that is neither text nor a number")
            self.stack[-1][key] = value

    def name(self, module, name):
        if type(module) is not str or type(name) is not str:
            raise ValueError("an import without a name")
        full = _Name(f"{module}.{name}")
        if full not in self.names:
            raise _Refused(f"refuses to load: its pickle calls {show(full)}, which a weight file never needs")
        return full

    def call(self, function, arguments):
        if type(function) is not _Name or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        if function not in self.calls:
            raise _Refused(f"refuses to load: its pickle calls {function}, which a weight file never needs")
        return self.calls[function](*arguments)

    def build(self, state):
        built = self.stack[-1]
        if type(built) in (_Array, _DType):
            built.build(state, self)
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
        word, kind, key, _, count, *view = reference
        if self.storage is None or word != "storage" or type(kind) is not _Name or type(key) is not str:
            raise ValueError("a reference to what is no storage")
        if kind not in _TORCH or view not in ([], [None]):
            raise ValueError(f"a storage of type {kind}, or a view of one")
        if type(count) is not int or count < 0:
            raise ValueError("a storage without a size")
        dtype = _TORCH[kind]
        size = count * (2 if dtype == "bf16" else np.dtype(dtype).itemsize)
        data = self.storage(key, size)
        if len(data) != size:
            raise ValueError(f"storage {show(key)} has {len(data)} bytes, not what its tensor says")
        return _Storage(dtype, data)

    def tensor(self, storage, offset, shape, strides, *_):
        if type(storage) is not _Storage:
            raise ValueError("a tensor without a storage")
        self.spend(math.prod(_naturals(shape)) * (4 if storage.dtype == "bf16" else np.dtype(storage.dtype).itemsize))
        return _array(storage.data, storage.dtype, shape, strides, offset)


class _Storage:
    def __init__(self, dtype, data):
        self.dtype, self.data = dtype, data


def from_torch(arrays):
    """torch's names and layout as Paddle's: Linear weights [out, in] -> [in, out], running_mean and running_var ->
    _mean and _variance, no num_batches_tracked, and no `module.` in front of all names (torch's DataParallel)."""
    prefix = "module." if all(name.startswith("module.") for name in arrays) else ""
    converted = {}
    for name, array in arrays.items():
        name = name.removeprefix(prefix)
        stem, dot, last = name.rpartition(".")
        if last == "num_batches_tracked":
            continue
        last = {"running_mean": "_mean", "running_var": "_variance"}.get(last, last)
        converted[stem + dot + last] = array.T if array.ndim == 2 and last == "weight" else array
    return converted


def match(arrays, expected, path, head=()):
    """UserError unless `arrays` has the names and shapes of `expected` ({name: shape}) and no others.

    `head`: names that may be missing or of another shape, because their layer is replaced. The error lists the first
    five of each kind; `path` is where the arrays are from.
    """
    wanted = {name: tuple(shape) for name, shape in expected.items()}
    wrong = {
        "missing": [name for name in wanted if name not in arrays and name not in head],
        "unexpected": [show(name) for name in arrays if name not in wanted],
        "of another shape": [
            f"{name} {list(arrays[name].shape)} instead of {list(shape)}"
            for name, shape in wanted.items()
            if name in arrays and arrays[name].shape != shape and name not in head
        ],
    }
    clauses = [
        f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in wrong.items()
        if names
    ]
    if clauses:
        raise UserError(f"{path}: weights of another architecture: {'; '.join(clauses)}")


def write(path, arrays, meta=None):
    """Write a safetensors file: {name: array} and metadata of text. Equal input makes equal bytes.

    (The safetensors library puts the metadata in another order each time, so that a checksum would not be stable.)
    """
    codes = {code: name for name, code in _SAFETENSORS.items()}
    # The widest first, as the library does: then each array is aligned.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header, end = {}, 0
    if meta:
        if any(type(text) is not str for item in meta.items() for text in item):
            raise TypeError("the metadata of a safetensors file is text")
        header["__metadata__"] = dict(sorted(meta.items()))
    for name in names:
        array = arrays[name]
        start, end = end, end + array.nbytes
        code = codes[array.dtype.newbyteorder("<").str]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            array = arrays[name]
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())


def cache_dir():
    """Where converted weights lie: $PADDLETAG_HOME, or ~/.cache/paddletag."""
    return Path(os.environ.get("PADDLETAG_HOME") or Path.home() / ".cache" / "paddletag")


def installed(name):
    """The path of the weights `name` in the cache, after a check that they are what was installed (sha256).

    UserError: they are not there, or damaged; it says which command gets them.
    """
    path, record = cache_dir() / f"{name}.safetensors", cache_dir() / f"{name}.json"
    get = f"run tools/fetch_weights.py {name}"
    if not path.is_file():
        raise UserError(f"{path}: the weights {name} are not installed: {get}")
    known = read_json(record, get)
    sha256 = known.get("sha256") if isinstance(known, dict) else None
    if wrong := mismatch(path, sha256) if sha256 else f"{record} does not hold its sha256":
        raise UserError(f"{path}: damaged: {wrong}: {get}")
    return path


def install(name, url, sha256="", md5="", source=None, convert=from_torch, expected=None):
    """Put the weights `name` into the cache as `<name>.safetensors`, with `<name>.json` beside. Returns the path.

    The original comes from `url` (see `download.fetch`), or from the local file `source`; its checksum must agree, and
    only a local file may come without one. `convert`: {name: array} -> {name: array}, None for as they are;
    `expected`: {name: shape} of the model, for `match`. What is installed already is left alone. A failure leaves
    nothing in the cache but a part that the next download resumes.
    """
    path = cache_dir() / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    if source is not None:
        source = Path(source)
        if not source.is_file():
            raise UserError(f"{source}: no such file")
        if wrong := mismatch(source, sha256, md5):
            raise UserError(f"{source}: not the weights {name} of {url}: {wrong}")
    with locked(path):
        if _has(name, sha256 or (source and not md5 and checksum(source)), md5):
            log.info("%s is installed already: %s", name, path)
            return path
        original = source
        try:
            if source is None:
                hint = f"run it again, or get the file elsewhere and use tools/fetch_weights.py {name} --from FILE"
                original = fetch(url, path.with_name(f".{name}.original"), sha256, md5, hint)
            _convert(original, source or url, path, name, url, convert, expected)
        finally:
            if source is None and original:
                original.unlink(missing_ok=True)
        log.info("installed %s: %s", name, path)
    return path


def convert_file(source, path, name, convert, expected):
    """Write the weights in the file `source`, converted, to `path` (*.safetensors), with a .json beside.

    name: of their model, to be told in both. convert, expected: as for `install`. UserError, and nothing written, for
    weights that do not match.
    """
    source, path = Path(source), Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: the name of what is written must end in .safetensors")
    if path.exists() and source.exists() and path.samefile(source):
        raise UserError(f"{path}: is the file to read: choose another name for what is written")
    _convert(source, source, path, name, source.name, convert, expected)


def _convert(original, shown, path, name, source, convert, expected):
    """Read `original` (in errors: `shown`), convert, compare, and write `path` and the record beside it, or neither."""
    record = path.with_suffix(".json")
    arrays = read(original)
    arrays = convert(arrays) if convert else arrays
    if expected is not None:
        match(arrays, expected, shown)
    sums = {"sha256": checksum(original), "md5": checksum(original, "md5")}
    record.unlink(missing_ok=True)
    write(path, arrays, {"name": name, "source": source, "source_sha256": sums["sha256"]})
    try:
        write_json(record, {"name": name, "source": source, "original": sums, "sha256": checksum(path)})
    except BaseException:
        path.unlink()
        raise


def _has(name, sha256, md5):
    """Whether the weights in the cache are whole and come from a file with these checksums."""
    try:
        installed(name)
    except UserError:
        return False
    sums = read_json(cache_dir() / f"{name}.json", "").get("original", {})
    return all(not known or sums.get(kind) == known.lower() for kind, known in (("sha256", sha256), ("md5", md5)))
