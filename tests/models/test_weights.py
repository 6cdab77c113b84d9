import collections
import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
import types
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import safetensors.numpy
from paddletag.data import download
from paddletag.models import pretrained_weights
from paddletag.runtime import UserError
from test_download import CONTENT, files, one_line, server  # noqa: F401 (server is a fixture)

MN04_SHA256 = "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c"


def arrays_like_a_model(seed=0):
    random = np.random.default_rng(seed)
    return {
        "conv.weight": random.normal(size=(4, 3, 2, 2)).astype("f4"),
        "bn.weight": random.normal(size=4).astype("f4"),
        "bn.running_mean": random.normal(size=4).astype("f4"),
        "bn.running_var": random.uniform(1, 2, size=4).astype("f4"),
        "bn.num_batches_tracked": np.array(7, "i8"),
        "fc.weight": random.normal(size=(5, 4)).astype("f4"),
        "fc.bias": random.normal(size=5).astype("f4"),
    }


def same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype, name
        assert np.array_equal(found[name], array), name


# Torch's files without torch: modules of its name, for as long as a pickle is written.


def _rebuild_tensor_v2(*_):
    pass


def _rebuild_parameter(*_):
    pass


class Tensor:
    """A view of a storage (a 1-D array, or (storage type, bytes)), as torch saves one."""

    def __init__(self, storage, offset, shape, strides, parameter=False):
        self.storage, self.view, self.parameter = storage, (offset, tuple(shape), tuple(strides)), parameter

    @classmethod
    def of(cls, array):
        array = np.ascontiguousarray(array).reshape(array.shape)
        return cls(array.ravel(), 0, array.shape, [s // array.itemsize for s in array.strides])

    def __reduce__(self):
        function, arguments = _rebuild_tensor_v2, (_Storage(self.storage), *self.view, False, collections.OrderedDict())
        if self.parameter:
            function, arguments = (
                _rebuild_parameter,
                (Tensor(self.storage, *self.view), True, collections.OrderedDict()),
            )
        return function, arguments


class _Storage:
    def __init__(self, content):
        self.content = content


def torch_members(value, protocol=2):
    """{member: bytes} of torch.save's zip file."""
    data, storages = torch_pickle(value, protocol)
    return {
        "archive/data.pkl": data,
        **{f"archive/data/{key}": data for key, (_, data) in storages.items()},
        "archive/version": b"3\n",
    }


def torch_legacy(value, version=1001, little_endian=True, view=(None,)):
    """The bytes of torch.save before 1.6: pickles, then the storages."""
    system = {"protocol_version": version, "little_endian": little_endian, "type_sizes": {"int": 4}}
    data, storages = torch_pickle(value, 2, view)
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, version, system)]
    parts += [data, pickle.dumps(list(storages), 2)]
    parts += [struct.pack("<q", count) + data for count, data in storages.values()]
    return b"".join(parts)


def torch_pickle(value, protocol=2, view=()):
    """(pickle, {key: (number of elements, bytes)}) of what torch.save is given."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    storages = {}
    kinds = {
        "f8": "Double",
        "f4": "Float",
        "f2": "Half",
        "i8": "Long",
        "i4": "Int",
        "i2": "Short",
        "i1": "Char",
        "u1": "Byte",
        "b1": "Bool",
        "bf16": "BFloat16",
        "c8": "ComplexFloat",
    }
    for kind in kinds.values():
        setattr(torch, f"{kind}Storage", type(f"{kind}Storage", (), {"__module__": "torch"}))
    for function in (_rebuild_tensor_v2, _rebuild_parameter):
        setattr(utils, function.__name__, function)

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if not isinstance(item, _Storage):
                return None
            if isinstance(item.content, tuple):
                kind, data, size = item.content
            else:
                kind, data, size = item.content.dtype.str[1:], item.content.tobytes(), len(item.content)
            known = [key for key, (content, _, _) in storages.items() if content is item.content]
            key = known[0] if known else str(len(storages))
            storages[key] = item.content, size, data
            return "storage", getattr(torch, f"{kinds[kind]}Storage"), key, "cpu", size, *view

    out = io.BytesIO()
    with (
        mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}),
        mock.patch.object(_rebuild_tensor_v2, "__module__", "torch._utils"),
        mock.patch.object(_rebuild_parameter, "__module__", "torch._utils"),
    ):
        Pickler(out, protocol, fix_imports=False).dump(value)
    return out.getvalue(), {key: (size, data) for key, (_, size, data) in storages.items()}


def write_zip(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def write_torch(path, value):
    return write_zip(path, torch_members(value))


def write_legacy(path, value):
    path.write_bytes(torch_legacy(value))
    return path


def write_pickle(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def state_dict(arrays):
    return collections.OrderedDict((name, Tensor.of(array)) for name, array in arrays.items())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLETAG_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(path, *words):
    """`read` refuses the file in one line, quickly and without much memory."""
    start = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            pretrained_weights.read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 10 and peak < 100 * path.stat().st_size + 10_000_000
    return one_line(caught, str(path), *words)


# Reading


def test_read_torch(tmp_path):
    arrays = arrays_like_a_model()
    same(pretrained_weights.read(write_torch(tmp_path / "no.suffix", state_dict(arrays))), arrays)


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?"])
def test_read_torch_types(tmp_path, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    same(pretrained_weights.read(write_torch(tmp_path / "x.pt", {"x": Tensor.of(array)})), {"x": array})


def test_read_torch_views(tmp_path):
    storage = np.arange(24, dtype="f4")
    views = {
        "transposed": (Tensor(storage, 0, (4, 6), (1, 4)), storage.reshape(6, 4).T),
        "slice": (Tensor(storage, 5, (2, 3), (8, 2)), np.array([[5, 7, 9], [13, 15, 17]], "f4")),
        "shared": (Tensor(storage, 4, (4,), (1,)), storage[4:8]),
        "scalar": (Tensor(storage, 3, (), ()), storage[3]),
        "empty": (Tensor(storage, 24, (0, 3), (3, 1)), np.zeros((0, 3), "f4")),
        "one": (Tensor(storage, 23, (1, 1), (99, 1 << 62)), storage[23:].reshape(1, 1)),
        "parameter": (Tensor(storage, 0, (24,), (1,), parameter=True), storage),
    }
    found = pretrained_weights.read(write_torch(tmp_path / "x.pt", {name: view for name, (view, _) in views.items()}))
    same(found, {name: np.asarray(array) for name, (_, array) in views.items()})
    assert not found["shared"].flags.writeable


def test_read_bfloat16(tmp_path):
    values = np.array([1.0, -2.5, 3.140625, np.inf], "f4")  # exact in bfloat16
    half = (values.view("u4") >> 16).astype("u2").tobytes()
    tensors = {"x": Tensor(("bf16", half, 4), 1, (3,), (1,)), "scalar": Tensor(("bf16", half, 4), 1, (), ())}
    same(
        pretrained_weights.read(write_torch(tmp_path / "x.pt", tensors)),
        {"x": values[1:], "scalar": np.array(-2.5, "f4")},
    )
    header = json.dumps({"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + half)
    same(pretrained_weights.read(tmp_path / "x.safetensors"), {"x": values})


def test_real_weights():
    """Those in the package."""
    arrays = pretrained_weights.read(pretrained_weights.installed("mn04_as"))
    assert len(arrays) == 266 and arrays["classifier.5.weight"].shape == (512, 527)
    trained = [a for n, a in arrays.items() if not n.endswith(("_mean", "_variance"))]
    assert round(sum(a.size for a in trained) / 1e6, 2) == 0.98  # published
    assert all(np.isfinite(a).all() for a in arrays.values())
    assert all((arrays[n] > 0).all() for n in arrays if n.endswith("_variance"))


def test_the_package_has_what_the_authors_file_has(shared):
    path = shared("weights/mn04_as_mAP_432.pt")
    assert download.checksum(path) == MN04_SHA256
    arrays = pretrained_weights.read(path)
    assert len(arrays) == 312 and arrays["classifier.5.weight"].shape == (527, 512)
    same(pretrained_weights.read(pretrained_weights.installed("mn04_as")), pretrained_weights.from_torch(arrays))


def test_read_agrees_with_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed (only the parity tests need it)")
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 4))
    values = {**model.state_dict(), "view": torch.randn(6, 8)[1:5, ::3].t(), "half": torch.randn(5).bfloat16()}
    torch.save({"model": values, "epoch": 3, "lr": 0.1}, tmp_path / "x.pt")
    expected = {name: (t.float() if name == "half" else t).numpy() for name, t in values.items()}
    same(pretrained_weights.read(tmp_path / "x.pt"), expected)
    torch.save({"model": values, "epoch": 3}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    same(pretrained_weights.read(tmp_path / "old.pt"), expected)


def test_read_legacy(tmp_path):
    """As PANNs' .pth are: the weights beside other things, tied tensors, views, several types."""
    arrays = arrays_like_a_model()
    storage = np.arange(24, dtype="f4")
    half = (np.array([1.5, -2.0], "f4").view("u4") >> 16).astype("u2").tobytes()
    tensors = {
        **state_dict(arrays),
        "view": Tensor(storage, 5, (2, 3), (8, 2)),
        "tied": Tensor(storage, 0, (24,), (1,), parameter=True),
        "half": Tensor(("bf16", half, 2), 0, (2,), (1,)),
        "bytes": Tensor.of(np.arange(3, dtype="u1")),  # what follows is not aligned
        "after": Tensor.of(np.arange(3, dtype="f8")),
    }
    expected = {**arrays, "view": np.array([[5, 7, 9], [13, 15, 17]], "f4"), "tied": storage}
    expected |= {"half": np.array([1.5, -2], "f4"), "bytes": np.arange(3, dtype="u1"), "after": np.arange(3.0)}
    (tmp_path / "x.pth").write_bytes(torch_legacy({"iteration": 600000, "model": tensors}))
    same(pretrained_weights.read(tmp_path / "x.pth"), expected)


def test_read_refuses_bad_legacy_files(tmp_path):
    path, value = tmp_path / "x.pth", state_dict(arrays_like_a_model())
    good = torch_legacy(value)
    for data, words in {
        torch_legacy(value, version=1000): "version",
        torch_legacy(value, little_endian=False): "big-endian",
        torch_legacy(value, view=(("0", 0, 4),)): "view",
        good[:-1]: "breaks off",
        good + b"x": "more bytes",
        good[: good.index(b"}", 17)]: "breaks off",
        good[:17]: "breaks off",
        torch_legacy({"x": Tensor(("f4", b"", 1 << 40), 0, (1,), (1,))}): "larger",
    }.items():
        path.write_bytes(data)
        refused(path, "x.pth", words)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_read_paddle(tmp_path, protocol):
    paddle = pytest.importorskip("paddle")
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(2, 3, 3), paddle.nn.BatchNorm2D(3), paddle.nn.Linear(3, 4))
    paddle.save(layer.state_dict(), str(tmp_path / "x.pdparams"), protocol=protocol)
    same(pretrained_weights.read(tmp_path / "x.pdparams"), {n: t.numpy() for n, t in layer.state_dict().items()})


def test_read_paddle_pairs_and_types(tmp_path):
    paddle = pytest.importorskip("paddle")
    tensor, half = paddle.to_tensor([[1.0, 2.0]]), paddle.to_tensor([1.5, -2.0]).astype("bfloat16")
    paddle.save({"model": {"x": tensor}, "epoch": 1}, str(tmp_path / "pair.pdparams"))  # nested: (name, array)
    same(pretrained_weights.read(tmp_path / "pair.pdparams"), {"x": tensor.numpy()})
    paddle.save({"x": half}, str(tmp_path / "half.pdparams"))  # bfloat16 goes as uint16
    same(pretrained_weights.read(tmp_path / "half.pdparams"), {"x": np.array([1.5, -2.0], "f4")})
    column = np.asfortranarray(np.arange(6, dtype="f4").reshape(2, 3))
    others = {"x": column, "none": np.zeros((0, 3), "f4"), "scalar": np.array(2.5)}
    same(pretrained_weights.read(write_pickle(tmp_path / "fortran.pdparams", others)), others)


@pytest.mark.parametrize("length", [0, 640])  # 640: begins like a pickle of protocol 2
def test_read_safetensors(tmp_path, length):
    arrays = {**arrays_like_a_model(), "none": np.zeros((0, 3), "f4")}
    data = safetensors.numpy.save(arrays, {"by": "the library"})
    if length:
        size = int.from_bytes(data[:8], "little")
        data = struct.pack("<Q", length) + data[8 : 8 + size].ljust(length) + data[8 + size :]
        assert data[:2] == b"\x80\x02"
    (tmp_path / "x").write_bytes(data)
    same(pretrained_weights.read(tmp_path / "x"), arrays)


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_read_unwraps(tmp_path, wrapper):
    arrays = arrays_like_a_model()
    others = {"iteration": 3, "sampler": {"pointers": [1, 2], "indexes": [np.arange(3)]}, "loss": 0.5, "best": None}
    same(pretrained_weights.read(write_torch(tmp_path / "x.pt", {wrapper: state_dict(arrays), **others})), arrays)


# Hostile files


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class State:
    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return collections.OrderedDict, (), self.state


def hostile(sentinel):
    touch = f"touch {sentinel}"
    system = Calls(os.system, touch)
    python = f"__import__('os').system({touch!r})"
    return {
        "os.system": ({"x": system}, "posix.system"),
        "eval": ({"x": Calls(eval, python)}, "builtins.eval"),
        "exec": (Calls(exec, python), "builtins.exec"),
        "as key": ({Calls(eval, python): 1}, "builtins.eval"),
        "nested": ({"x": [({"y": system},)]}, "posix.system"),
        "as argument": ({"x": Calls(tuple, [system])}, "posix.system"),
        "as state": ({"x": State(system)}, "posix.system"),
        "as bytes": ({"x": Calls(__import__("codecs").encode, system, "latin1")}, "posix.system"),
        "beside good": ({"model": {"x": np.zeros(2, "f4")}, "sampler": system}, "posix.system"),
        "subprocess": ({"x": Calls(subprocess.Popen, ["touch", str(sentinel)])}, "subprocess.Popen"),
    }


@pytest.mark.parametrize("case", hostile(""))
@pytest.mark.parametrize("kind", ["torch", "legacy", "paddle"])
def test_read_never_runs_a_pickle(tmp_path, case, kind):
    sentinel = tmp_path / "sentinel"
    value, name = hostile(sentinel)[case]
    path = {"torch": write_torch, "legacy": write_legacy, "paddle": write_pickle}[kind](tmp_path / "x", value)
    refused(path, f"calls {name},")
    assert not sentinel.exists()


def test_hostile_pickles_are_hostile(tmp_path):
    """The proof that the test above could fail: the standard unpickler does run these."""
    for case in ("os.system", "eval", "nested", "as state"):
        with contextlib.suppress(pickle.UnpicklingError):  # "as state" is found to be none only after it has run
            pickle.loads(pickle.dumps(hostile(tmp_path / "sentinel")[case][0]))
        (tmp_path / "sentinel").unlink()


RAW = {
    "old instance": b"\x80\x02}X\x01\x00\x00\x00x(S'true'\nios\nsystem\ns.",
    "object": b"\x80\x02}X\x01\x00\x00\x00x(cos\nsystem\nX\x04\x00\x00\x00trueos.",
    "new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "extension": b"\x80\x02\x82\x01.",
    "attributes": b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.",
    "submodule": b"\x80\x02cnumpy\nload\n.",
    "escape codes": b"\x80\x02c\x1b[31m\nx\n.",
    "persistent": b"\x80\x02X\x01\x00\x00\x00xQ.",
    "call of text": b"\x80\x02X\x09\x00\x00\x00os.system)R.",
    "state of a number": b"\x80\x02K\x01}b.",
    "get before put": b"\x80\x02h\x05.",
    "memo bomb": b"\x80\x02}r\xff\xff\xff\xff.",
    "bytes bomb": b"\x80\x04\x8e" + b"\xff" * 8,
    "bytearray bomb": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40),
    "text bomb": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40),
    "long": b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".",
    "long bomb": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "deep": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    # a tuple of two of the tuple before, forty times: a key whose hash would take 2**40 steps
    "hash": b"\x80\x02}K\x01" + b"q\x01h\x01\x86" * 40 + b"K\x01s.",
    # one text of 100 kB, encoded anew a thousand times
    "encode": b"\x80\x02c_codecs\nencode\nq\x010X\x06\x00\x00\x00latin1q\x030]X"
    + struct.pack("<I", 100_000)
    + b"a" * 100_000
    + b"q\x020"
    + b"h\x01h\x02h\x03\x86Ra" * 1000
    + b".",
    "no end": b"\x80\x02}",
    "nothing": b"\x80\x02",
    "more after the end": b"\x80\x02}.}.",
    "empty": b"\x80\x02}.",
    "number": b"\x80\x02K\x01.",
    "unbuilt": b"\x80\x02}X\x01\x00\x00\x00xcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
    b"X\x01\x00\x00\x00b\x87Rs.",
}


@pytest.mark.parametrize("case", RAW)
def test_read_refuses_raw_pickles(tmp_path, case):
    (tmp_path / "x.pdparams").write_bytes(RAW[case])
    text = refused(tmp_path / "x.pdparams")
    assert text.isprintable()
    write_zip(tmp_path / "x.pt", {"archive/data.pkl": RAW[case]})
    refused(tmp_path / "x.pt")
    before, after = torch_legacy({}).split(pickle.dumps({}, 2))
    (tmp_path / "x.pth").write_bytes(before + RAW[case] + after)
    refused(tmp_path / "x.pth")


FLOATS = np.arange(8, dtype="f4")
BAD_TENSORS = {
    "beyond the end": Tensor(FLOATS, 1, (8,), (1,)),
    "beyond by stride": Tensor(FLOATS, 0, (2, 2), (8, 1)),
    "negative offset": Tensor(FLOATS, -1, (2,), (1,)),
    "negative shape": Tensor(FLOATS, 0, (-2, -2), (1, 1)),
    "negative stride": Tensor(FLOATS, 7, (8,), (-1,)),
    "repeated by stride 0": Tensor(FLOATS, 0, (1 << 40,), (0,)),
    "huge": Tensor(FLOATS, 0, (1 << 31, 1 << 31, 1 << 31), (1, 1, 1)),
    "fraction": Tensor(FLOATS, 0, (2.0,), (1,)),
    "truth": Tensor(FLOATS, 0, (True,), (1,)),
    "ranks differ": Tensor(FLOATS, 0, (2, 2), (2,)),
    "many axes": Tensor(FLOATS, 0, (1,) * 40, (1,) * 40),
    "storage too short": Tensor(("f4", b"\0" * 8, 8), 0, (8,), (1,)),
    "storage too long": Tensor(("f4", b"\0" * 64, 8), 0, (8,), (1,)),
    "complex": Tensor(("c8", b"\0" * 64, 8), 0, (8,), (1,)),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_read_refuses_bad_tensors(tmp_path, case):
    refused(write_torch(tmp_path / "x.pt", {"x": BAD_TENSORS[case]}))
    refused(write_legacy(tmp_path / "x.pth", {"x": BAD_TENSORS[case]}))


def test_read_bounds_shared_storage(tmp_path):
    whole = np.zeros(10_000, "f4")
    tensors = {str(n): Tensor(whole, 0, (100, 100), (100, 1)) for n in range(100)}
    refused(write_torch(tmp_path / "x.pt", tensors), "larger")


def test_read_refuses_bad_zip_files(tmp_path):
    members = torch_members(state_dict(arrays_like_a_model()))
    write_zip(tmp_path / "a.pt", members, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "a.pt", "compressed")
    write_zip(tmp_path / "b.pt", {**members, "archive/byteorder": b"big"})
    refused(tmp_path / "b.pt", "big-endian")
    write_zip(tmp_path / "c.pt", {n: d for n, d in members.items() if n != "archive/data/1"})
    refused(tmp_path / "c.pt", "storage 1")
    np.savez(tmp_path / "d.npz", x=np.zeros(3))
    refused(tmp_path / "d.npz", "torch.save")
    write_zip(tmp_path / "e.pt", {**members, "archive/constants.pkl": b""})
    refused(tmp_path / "e.pt", "TorchScript")
    write_zip(tmp_path / "f.pt", {**members, "archive/byteorder": b"little"})
    same(pretrained_weights.read(tmp_path / "f.pt"), arrays_like_a_model())


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 60]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]},
        [1, 2],
        None,
    ],
)
def test_read_refuses_bad_safetensors(tmp_path, entry):
    header = json.dumps({"x": entry}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    refused(tmp_path / "x")


def test_read_refuses_deep_json(tmp_path):
    header = b'{"x":' + b"[" * 100_000
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header)
    refused(tmp_path / "x")


@pytest.mark.parametrize("dtype", ["O", "U3", "c8", ">f4", "M8[s]", [("a", "f4")]])
def test_read_refuses_other_arrays(tmp_path, dtype):
    refused(write_pickle(tmp_path / "x.pdparams", {"x": np.zeros(2, dtype)}))


def test_read_refuses_what_is_no_file_of_weights(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    refused(tmp_path / "empty", "empty")
    (tmp_path / "cut").write_bytes(safetensors.numpy.save({"x": np.zeros(3)})[:40])
    refused(tmp_path / "cut", "damaged")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html>\n<html>")
    refused(tmp_path / "page.pt", "not weights", "<!DOCTYPE html>")
    refused(write_pickle(tmp_path / "five", {"x": 1}, 5), "protocol 5")
    refused(write_pickle(tmp_path / "x", {"x": np.zeros(2), "epoch": 3}), "epoch")
    for path, words in ((tmp_path, "folder"), (tmp_path / "absent", "no such file")):
        with pytest.raises(UserError) as caught:
            pretrained_weights.read(path)
        one_line(caught, str(path), words)


# Mutations


def mutate(data, random):
    """A damaged copy: cut, bits flipped, bytes overwritten, removed, inserted, or a stretch repeated."""
    data = bytearray(data)
    at = int(random.integers(len(data)))
    size = int(random.integers(1, 9))
    match random.integers(6):
        case 0:
            del data[at:]
        case 1:
            for _ in range(size):
                data[random.integers(len(data))] ^= 1 << int(random.integers(8))
        case 2:
            data[at : at + size] = b"\xff" * len(data[at : at + size])
        case 3:
            del data[at : at + size]
        case 4:
            data[at:at] = random.bytes(size)
        case 5:
            data[at:at] = data[at : at + 8 * size]
    return bytes(data)


COUNT = pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.full)])


def original(kind, folder):
    arrays = arrays_like_a_model()
    if kind == "torch":
        return write_torch(folder / "good", state_dict(arrays))
    if kind == "legacy":
        return write_legacy(folder / "good", state_dict(arrays))
    if kind == "paddle":
        return write_pickle(folder / "good", {**arrays, "StructuredToParameterName@@": {n: n for n in arrays}})
    pretrained_weights.write(folder / "good", arrays)
    return folder / "good"


def read_or_refuse(path):
    try:
        return pretrained_weights.read(path)
    except UserError as error:
        assert str(error).isprintable() and str(path) in str(error)
        return None


@COUNT
@pytest.mark.parametrize("kind", ["torch", "legacy", "paddle", "safetensors"])
def test_mutated_files(tmp_path, cache, kind, count):
    """Refused in one line, or (torch: its zip file has a CRC) loaded as they were; installed only where unchanged."""
    good = original(kind, tmp_path)
    data, arrays, sha256 = good.read_bytes(), pretrained_weights.read(good), download.checksum(good)
    random, read, bad = np.random.default_rng(2), 0, tmp_path / "bad"
    for _ in range(count):
        bad.write_bytes(mutate(data, random))
        found = read_or_refuse(bad)
        read += found is not None
        if found is not None and kind == "torch":
            same(found, arrays)
        if bad.read_bytes() != data:
            with pytest.raises(UserError) as caught:
                pretrained_weights.install("net", "http://x", sha256=sha256, source=bad)
            one_line(caught, str(bad), sha256)
        assert not cache.exists() or files(cache) == []
    assert read < 0.7 * count
    assert pretrained_weights.install("net", "http://x", sha256=sha256, source=good).exists()


@COUNT
def test_mutated_pickles_in_torch_files(tmp_path, count):
    """The CRC repaired after the damage: all that is left is the unpickler."""
    members = torch_members(state_dict(arrays_like_a_model()))
    random, read = np.random.default_rng(3), 0
    for _ in range(count):
        changed = {**members, "archive/data.pkl": mutate(members["archive/data.pkl"], random)}
        read += read_or_refuse(write_zip(tmp_path / "bad.pt", changed)) is not None
    assert read < 0.7 * count


@COUNT
def test_mutated_installed_files(tmp_path, cache, count):
    path = pretrained_weights.install("net", "http://x", source=original("torch", tmp_path))
    data, random = path.read_bytes(), np.random.default_rng(4)
    for _ in range(count):
        path.write_bytes(mutate(data, random))
        if path.read_bytes() != data:
            with pytest.raises(UserError) as caught:
                pretrained_weights.installed("net")
            one_line(caught, str(path), "damaged", "paddletag weights net")
    path.write_bytes(data)
    assert pretrained_weights.installed("net") == path


# Converting


def test_from_torch():
    arrays = arrays_like_a_model()
    found = pretrained_weights.from_torch({f"module.{name}": array for name, array in arrays.items()})
    same(found, pretrained_weights.from_torch(arrays))
    expected = {name: arrays[name] for name in ("conv.weight", "bn.weight", "fc.bias")}
    expected |= {"bn._mean": arrays["bn.running_mean"], "bn._variance": arrays["bn.running_var"]}
    same(found, expected | {"fc.weight": arrays["fc.weight"].T})
    assert "module.x" in pretrained_weights.from_torch({"module.x": FLOATS, "y": FLOATS})


def test_from_torch_agrees_with_paddle(tmp_path):
    """Paddle's own layers take the names and shapes, and compute what the formulas say."""
    paddle = pytest.importorskip("paddle")

    class Net(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = paddle.nn.Conv2D(3, 4, 2, bias_attr=False), paddle.nn.BatchNorm2D(4)
            self.fc = paddle.nn.Linear(4, 5)

    arrays = {**arrays_like_a_model(), "bn.bias": np.ones(4, "f4")}
    net = Net()
    net.eval()
    found = pretrained_weights.from_torch(arrays)
    pretrained_weights.require_match(found, {n: t.shape for n, t in net.state_dict().items()}, "net")
    net.set_state_dict({n: np.ascontiguousarray(a) for n, a in found.items()})
    x = np.random.default_rng(1).normal(size=(2, 4)).astype("f4")
    y = net.fc(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(y, x @ arrays["fc.weight"].T + arrays["fc.bias"], atol=1e-5)
    y = net.bn(paddle.to_tensor(x[:, :, None, None])).numpy()[:, :, 0, 0]
    scaled = (x - arrays["bn.running_mean"]) / np.sqrt(arrays["bn.running_var"] + 1e-5)
    np.testing.assert_allclose(y, scaled * arrays["bn.weight"] + 1, atol=1e-5)


def test_require_match():
    arrays = {"a": np.zeros((2, 3)), "head.weight": np.zeros((4, 5)), "head.bias": np.zeros(5)}
    shapes = {"a": [2, 3], "head.weight": [4, 7], "head.bias": [7]}
    pretrained_weights.require_match(arrays, {"a": (2, 3), "head.weight": (4, 5), "head.bias": (5,)}, "x.pt")
    pretrained_weights.require_match(arrays, shapes, "x.pt", head=("head.weight", "head.bias"))
    pretrained_weights.require_match({"a": arrays["a"]}, shapes, "x.pt", head=("head.weight", "head.bias"))
    with pytest.raises(UserError) as caught:
        pretrained_weights.require_match(arrays, shapes, "x.pt", head=("head.bias",))
    one_line(caught, "x.pt", "head.weight", "[4, 5]", "[4, 7]")
    many = {f"layer{n}": (1,) for n in range(9)}
    with pytest.raises(UserError) as caught:
        pretrained_weights.require_match(arrays, many, "x.pt")
    text = one_line(caught, "9 missing", "layer0", "layer4", "3 unexpected", "head.weight")
    assert "layer5" not in text


def test_write_is_read_by_the_library(tmp_path):
    arrays = {**arrays_like_a_model(), "t": FLOATS.reshape(2, 4).T, "flag": np.array([True]), "b": FLOATS.astype(">f4")}
    pretrained_weights.write(tmp_path / "x", arrays, {"a": "é"})
    found = safetensors.numpy.load_file(tmp_path / "x")
    assert sorted(found) == sorted(arrays) and all(np.array_equal(found[name], arrays[name]) for name in arrays)
    with safetensors.safe_open(tmp_path / "x", "numpy") as file:
        assert file.metadata() == {"a": "é"}
    again = dict(reversed(arrays.items()))
    pretrained_weights.write(tmp_path / "y", again, {"a": "é"})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes() and files(tmp_path) == ["x", "y"]
    same(pretrained_weights.read(tmp_path / "x"), {**arrays, "b": FLOATS})
    for metadata, error in (({"a": 1}, TypeError), ({"a": "1", "b": "é"}, ValueError)):
        with pytest.raises(error):
            pretrained_weights.write(tmp_path / "z", arrays, metadata)
    assert files(tmp_path) == ["x", "y"]


# The cache


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.delenv("PADDLETAG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pretrained_weights.cache_dir() == tmp_path / ".cache" / "paddletag"
    monkeypatch.setenv("PADDLETAG_HOME", "/some/where")
    assert pretrained_weights.cache_dir() == Path("/some/where")


def test_install_downloads(tmp_path, cache, server, caplog):  # noqa: F811
    good = original("torch", tmp_path)
    server.content, server.drops, server.drop_after = good.read_bytes(), 1, 500
    sha256 = hashlib.sha256(server.content).hexdigest()
    arrays = pretrained_weights.from_torch(arrays_like_a_model())
    shapes = {name: array.shape for name, array in arrays.items()}
    path = pretrained_weights.install("net", server.url("net.pt"), sha256=sha256, expected=shapes)
    assert path == pretrained_weights.installed("net") and files(cache) == ["net.json", "net.safetensors"]
    same(pretrained_weights.read(path), arrays)
    record = json.loads((cache / "net.json").read_text())
    assert record["source"] == server.url("net.pt") and record["original"]["sha256"] == sha256
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()

    requests = len(server.seen)
    with caplog.at_level("INFO", logger="paddletag"):
        pretrained_weights.install("net", server.url("net.pt"), sha256=sha256, expected=shapes)
    assert len(server.seen) == requests and "installed already" in caplog.text

    path.write_bytes(path.read_bytes()[:-1] + b"\x99")  # damaged: installed anew
    pretrained_weights.install("net", server.url("net.pt"), sha256=sha256, expected=shapes)
    same(pretrained_weights.read(pretrained_weights.installed("net")), arrays)


def test_install_from_a_file(tmp_path, cache):
    good = original("torch", tmp_path)
    md5 = download.checksum(good, "md5")
    pretrained_weights.install("net", "http://host/net.pt", md5=md5, source=good)
    first = pretrained_weights.installed("net").read_bytes()
    pretrained_weights.install("other", "http://host/net.pt", source=good)  # a local file may come without a checksum
    same(
        pretrained_weights.read(pretrained_weights.installed("other")),
        pretrained_weights.from_torch(arrays_like_a_model()),
    )
    assert str(tmp_path) not in (cache / "net.json").read_text()

    other = write_torch(tmp_path / "other.pt", state_dict(arrays_like_a_model(seed=1)))
    with pytest.raises(UserError) as caught:
        pretrained_weights.install("net", "http://host/net.pt", md5=md5, source=other)
    one_line(caught, str(other), md5, download.checksum(other, "md5"))
    assert pretrained_weights.installed("net").read_bytes() == first  # what was good stays
    pretrained_weights.install("net", "http://host/net.pt", source=other)
    assert pretrained_weights.installed("net").read_bytes() != first
    with pytest.raises(UserError) as caught:
        pretrained_weights.install("net", "http://host/net.pt", source=tmp_path / "absent")
    one_line(caught, "absent", "no such file")


def test_install_without_conversion(tmp_path, cache):
    good = original("paddle", tmp_path)
    pretrained_weights.install("net", "http://host/net.pdparams", source=good, convert=None)
    same(pretrained_weights.read(pretrained_weights.installed("net")), arrays_like_a_model())


def test_install_leaves_nothing_on_failure(tmp_path, cache, server):  # noqa: F811
    server.content = original("torch", tmp_path).read_bytes()
    sha256 = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(UserError) as caught:
        pretrained_weights.install("net", server.url(), sha256=sha256, expected={"fc.weight": (9, 9)})
    one_line(caught, server.url(), "fc.weight")
    assert files(cache) == []
    with pytest.raises(UserError) as caught:
        pretrained_weights.install("net", server.url(), sha256="0" * 64)
    one_line(caught, sha256, "0" * 64, "paddletag weights net --from FILE")
    assert files(cache) == []
    with pytest.raises(UserError) as caught:
        pretrained_weights.install("net", server.url("missing"), sha256=sha256)
    one_line(caught, "404", "paddletag weights net --from FILE")
    assert files(cache) == []
    server.content = CONTENT
    with pytest.raises(UserError) as caught:
        pretrained_weights.install("net", server.url(), sha256=hashlib.sha256(CONTENT).hexdigest())
    one_line(caught, "not weights")
    assert files(cache) == []
    server.drops = download.TRIES + 1
    with pytest.raises(UserError):
        server.ranges = False
        pretrained_weights.install("net", server.url(), sha256=sha256)
    assert all(".part" in name for name in files(cache)) and files(cache)
    with mock.patch.object(pretrained_weights, "write_json", side_effect=OSError(28, "full")), pytest.raises(OSError):
        pretrained_weights.install("full", "http://x", source=original("torch", tmp_path))
    assert not any("full" in name for name in files(cache))


def test_weights_in_the_package(monkeypatch, tmp_path, cache):
    """They need no cache; damage to either file is told."""
    shutil.copytree(pretrained_weights.BUNDLED, tmp_path / "assets")
    monkeypatch.setattr(pretrained_weights, "BUNDLED", tmp_path / "assets")
    path = pretrained_weights.installed("mn04_as")
    assert path == pretrained_weights.install("mn04_as", "http://x", MN04_SHA256) and not cache.exists()
    assert json.loads(path.with_suffix(".json").read_text())["original"]["sha256"] == MN04_SHA256
    for damaged, check in (("safetensors", pretrained_weights.installed), ("onnx", pretrained_weights.bundled_graph)):
        file = path.with_suffix(f".{damaged}")
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            check("mn04_as")
        one_line(caught, str(file), "damaged")


def test_installed_says_what_to_run(tmp_path, cache):
    with pytest.raises(UserError) as caught:
        pretrained_weights.installed("mn10_as")
    one_line(caught, "mn10_as", "not installed", "paddletag weights mn10_as")
    path = pretrained_weights.install("net", "http://x", source=original("torch", tmp_path))
    for text in ("", "[]", "{}"):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(UserError) as caught:
            pretrained_weights.installed("net")
        one_line(caught, str(path.with_suffix("")))
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError) as caught:
        pretrained_weights.installed("net")
    one_line(caught, "paddletag weights net")


def test_two_processes_install_once(tmp_path, cache, server):  # noqa: F811
    server.content, server.delay = original("torch", tmp_path).read_bytes(), 1.0
    code = "import sys; from paddletag.models.pretrained_weights import install\n"
    code += "install('net', sys.argv[1], sha256=sys.argv[2])"
    command = [sys.executable, "-c", code, server.url(), hashlib.sha256(server.content).hexdigest()]
    environment = {**os.environ, "PYTHONPATH": str(Path(download.__file__).parents[2])}
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert server.seen == [None] and files(cache) == ["net.json", "net.safetensors"]
    same(
        pretrained_weights.read(pretrained_weights.installed("net")),
        pretrained_weights.from_torch(arrays_like_a_model()),
    )


def test_no_framework_is_imported():
    code = (
        "import sys, paddletag.models.pretrained_weights; print([m for m in ('paddle', 'torch') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(download.__file__).parents[2])}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "[]"
