"""Files of weights, of torch, Paddle and safetensors, as numpy arrays; neither framework is needed to read them."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from paddletag.files import atomic
from paddletag.models.pickle_machine import Refused, StackMachine, is_short_text
from paddletag.models.pickled_arrays import BFLOAT16, Array, Buffer, Tensor, WeightNames, view
from paddletag.runtime import UserError, show
from paddletag.type_aliases import Arrays, File

_SAFETENSORS = {  # the types of the format that backbones use, as numpy's
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": BFLOAT16,
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
_WRAPPERS = ("model", "state_dict")  # PANNs and Lightning put the weights beside the state of the training
_HEADER = 10_000_000  # bytes of safetensors' description of its arrays, at most: some 100 for each
_MEMBERS = 50_000  # of a zip file, at most: one for each array
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6 begins with this number


def read(path: File) -> Arrays:
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
            reader = _reader(head)
            data = head + file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not a file of weights") from None
    except Refused as error:
        raise UserError(f"{path}: {error}") from None
    try:
        return reader(data)
    except Refused as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # the file may hold any bytes, in four nested formats: what goes wrong is its fault
        what = show(str(error) or type(error).__name__)
        raise UserError(f"{path}: a damaged file of weights ({what}): get it again") from None


def _reader(head: bytes) -> Callable[[bytes], Arrays]:
    """The function that reads a file which begins like this."""
    if not head:
        raise Refused("an empty file: get it again")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _HEADER:
        return _read_safetensors
    if head.startswith(b"PK\x03\x04"):
        return _read_torch
    if head.startswith(_LEGACY):
        return _read_legacy
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return _read_paddle
    raise Refused(f"not weights of torch, Paddle or safetensors: it starts with {head[:16]!r}")


def _read_safetensors(data: bytes) -> Arrays:
    arrays = {}
    import safetensors

    for name, entry in sorted(safetensors.deserialize(data), key=lambda item: item[0]):  # they come in any order
        if entry["dtype"] not in _SAFETENSORS:
            raise Refused(f"{show(name)} has the type {show(entry['dtype'])}, which no backbone here uses")
        arrays[name] = view(entry["data"], _SAFETENSORS[entry["dtype"]], entry["shape"])
    if not arrays:
        raise Refused("holds no arrays")
    return arrays


def _read_torch(data: bytes) -> Arrays:
    """The zip files of torch.save since 1.6: `<name>/data.pkl`, and each storage's bytes in `<name>/data/<key>`."""
    if data.count(b"PK\x01\x02") > _MEMBERS:  # each begins its entry in the table
        raise Refused(f"a zip file of more than {_MEMBERS} members, which torch.save never writes")
    archive = zipfile.ZipFile(io.BytesIO(data))
    members = {info.filename: info for info in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in members):
        raise Refused("a TorchScript program, not a state dict")
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise Refused("a compressed zip file, which torch.save never writes")
    # Stored as they are and not overlapping, all members together are no larger than the file.
    if len(members) < len(archive.infolist()) or sum(info.file_size for info in members.values()) > len(data):
        raise ValueError("members of the zip file overlap")
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused("a zip file, but not one that torch.save has written: no data.pkl in it")
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "byteorder" in members and archive.read(folder + "byteorder") != b"little":
        raise Refused("written on a big-endian machine, which is not supported")
    storages: dict[str, bytes] = {}

    def storage(key: str) -> bytes:
        if key not in storages:
            if f"{folder}data/{key}" not in members:
                raise ValueError(f"storage {show(key)} is missing")
            storages[key] = archive.read(f"{folder}data/{key}")  # checks the CRC
        return storages[key]

    names = WeightNames(len(data))
    return _named_arrays(StackMachine(archive.read(pickles[0]), names).run(), names, storage)


def _read_legacy(data: bytes) -> Arrays:
    """torch.save before 1.6: pickles of a number, a version, the machine, the weights and the storages' keys, in whose
    order the storages follow, each as its number of elements (8 bytes) and its bytes.
    """
    names = WeightNames(len(data))
    machine = StackMachine(data, names, len(_LEGACY))
    version, system, value, keys = (machine.run(more=True) for _ in range(4))
    if version != 1001 or type(system) is not dict or system.get("little_endian") is not True:
        raise Refused("a legacy torch file of another version, or of a big-endian machine, which is not supported")
    if sum(names.storages.values()) > len(data):
        raise ValueError("its storages are larger than the file")
    if type(keys) is not list or not all(map(is_short_text, keys)):
        raise ValueError("no list of storages")
    at, storages = machine.at, {}
    for key in keys:
        at += 8  # the number of elements, which the weights' pickle has told
        storages[key] = machine.data[at : at + names.storages[key]]
        at += names.storages[key]
    if at > len(data):
        raise ValueError("a storage breaks off")
    if at < len(data):
        raise ValueError("more bytes than its storages")
    return _named_arrays(value, names, storages.__getitem__)


def _read_paddle(data: bytes) -> Arrays:
    """What paddle.save makes of a state dict: one pickle of {name: array}, or of {name: (parameter's name, array)}."""
    names, storages = WeightNames(len(data)), dict[str, bytes]()
    return _named_arrays(StackMachine(data, names).run(), names, storages.__getitem__)


def _named_arrays(value: Any, names: WeightNames, storage: Callable[[str], Buffer]) -> Arrays:
    """{name: array} of the dictionary that a pickle holds; storage: key -> the bytes of a torch storage."""
    if type(value) is dict:
        inner = [value[name] for name in _WRAPPERS if type(value.get(name)) is dict]
        value = inner[0] if len(inner) == 1 else value
    if type(value) is not dict:
        raise Refused("holds no dictionary of arrays: save the model's state dict")
    arrays = {}
    for name, entry in value.items():
        if name == "StructuredToParameterName@@":
            continue
        if type(entry) is tuple and len(entry) == 2:
            entry = entry[1]
        if type(name) is not str or type(entry) not in (Array, Tensor):
            raise Refused(f"its entry {show(str(name))} is not an array: save the model's state dict alone")
        arrays[name] = entry.to_numpy(names, storage)
    if not arrays:
        raise Refused("holds no arrays")
    return arrays


def write(path: File, arrays: Arrays, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all: {name: array}, and one text of metadata. Equal input makes equal
    bytes.

    ValueError for more texts: the library writes them in another order each time, so that no checksum would be stable.
    """
    if len(metadata or {}) > 1:
        raise ValueError("the metadata of a safetensors file is one text")
    dense = {name: np.asarray(array, order="C") for name, array in arrays.items()}  # the library looks at no strides
    import safetensors.numpy

    data = safetensors.numpy.save(dense, metadata or None)
    # Not by the library's `save_file`, whose error for a full disk has no number that tells.
    with atomic(path) as temporary:
        temporary.write_bytes(data)
