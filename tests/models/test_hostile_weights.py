"""Weight files of strangers: what they cost grows with their size and no faster, and nothing in them runs."""

import io
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hostile import check, cost, costs
from test_weights import (
    RAW,
    arrays_like_a_model,
    hostile,
    mutate,
    original,
    state_dict,
    torch_legacy,
    torch_pickle,
    write_zip,
)

STORAGE = b"ctorch\nFloatStorage\n"


def text(value):
    """The opcode that puts a text on the stack."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def put(place):
    return b"q" + bytes([place])


def get(place):
    return b"h" + bytes([place])


def nested(depth, inner=b"K\x01"):
    """A tuple of twice the tuple before, and so on: its text, its hash and its copy are 2 ** depth times the first."""
    return inner + b"q\x01h\x01\x86" * depth


def reference(key="0", count=1):
    """What torch writes for a storage of so many float32."""
    return b"(" + text("storage") + STORAGE + text(key) + text("cpu") + b"J" + struct.pack("<i", count) + b"tQ"


def zipped(data, key="0", content=b"\0" * 4):
    """The bytes of a torch file with this pickle and one storage."""
    file = io.BytesIO()
    write_zip(file, {"archive/data.pkl": data, f"archive/data/{key}": content})
    return file.getvalue()


def legacy(data, keys=b"]."):
    """The bytes of a legacy torch file with this pickle, and this one of its storages' keys."""
    before, after = torch_legacy({}).split(pickle.dumps({}, 2))
    assert after == pickle.dumps([], 2)
    return before + data + keys


def safetensors(header, payload=b""):
    return struct.pack("<Q", len(header)) + header + payload


def long_key(size=10_000_000, count=200_000):
    """One long text twice, and a dictionary that is given both again and again: each time they are compared."""
    key = text("k" * size)
    start = b"\x80\x02" + key + put(1) + key + put(2) + b"}" + get(1) + b"Ns"
    return start + (get(2) + b"Ns") * count + b"\x87."


def many_arguments(count=300_000):
    """A call with 300,000 arguments, a hundred thousand times. Memo: 1 the storage, 2 the function, 3 the arguments."""
    arguments = b"(" + get(1) + b"K\x00K\x01\x85K\x01\x85" + b"N" * count + b"t" + put(3)
    call = b"ctorch._utils\n_rebuild_tensor_v2\n" + put(2)
    return b"\x80\x02(" + reference() + put(1) + call + arguments + (get(2) + get(3) + b"R") * 100_000 + b"t."


def many_storages(count=110_000):
    """A legacy file that names 110,000 empty storages."""
    return legacy(b"\x80\x02(" + b"".join(reference(str(n), 0) for n in range(count)) + b"t.")


def one_storage(count=300, size=3_000_000):
    """A legacy file of many tensors that share a storage of 12 MB."""
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    tensor = function + b"(" + reference("0", size) + b"K\x00K\x01\x85K\x01\x85\x89NtR"
    entries = b"".join(text(f"x{n}") + tensor for n in range(count))
    storages = struct.pack("<q", size) + bytes(4 * size)
    return legacy(b"\x80\x02}(" + entries + b"u.", b"\x80\x02]" + text("0") + b"a.") + storages


def many_names(count=50_000):
    """One array of 4 MB under many names: whoever writes them writes 200 GB."""
    array = pickle.dumps({"x": np.zeros(1_000_000, "f4")}, 4)
    assert array.endswith(b"bs.")
    array = array[:-2] + b"r\xff\xff\x00\x00"
    return array + b"s(" + b"".join(text(f"x{n}") + b"j\xff\xff\x00\x00" for n in range(count)) + b"u."


def many_members(count=300_000):
    """A zip file of 300,000 members without content."""
    names = [b"%x" % n for n in range(count)]
    entries = b"".join(b"PK\x01\x02" + bytes(24) + struct.pack("<H", len(n)) + bytes(16) + n for n in names)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count % 65536, count % 65536, len(entries), 30, 0)
    return b"PK\x03\x04" + bytes(26) + entries + end


COSTLY = {
    # 183 bytes: a numpy.dtype whose code is such a tuple, and the error's text names the code
    "text of nested tuples": (lambda: b"\x80\x02cnumpy\ndtype\n" + nested(30) + b"K\x00K\x01\x87R."),
    # legacy: the list of the storages' keys holds one
    "hash of nested tuples": (lambda: legacy(b"\x80\x02}.", b"\x80\x02]" + nested(40) + b"a.")),
    "a storage's key": (lambda: zipped(b"\x80\x02(" + text("storage") + STORAGE + nested(40) + b"NNtQ.")),
    "kind of a storage": (lambda: zipped(b"\x80\x02(" + text("storage") + nested(40) + b"NNNtQ.")),
    "name of an import": (lambda: b"\x80\x04" + nested(40) + b"q\x02h\x02\x93."),
    "long keys": long_key,
    "arguments": lambda: zipped(many_arguments()),
    "references to one storage": one_storage,
    "many storages": many_storages,
    "names of one array": many_names,
    "members of a zip file": many_members,
    "lists": lambda: b"\x80\x02" + b"]" * 6_000_000 + b".",
    "empty header": lambda: safetensors(b"{" + b",".join(b'"%x":{}' % n for n in range(3_000_000)) + b"}"),
    "deep header": lambda: safetensors(b'{"x":' + b"[" * 900_000),
    "views of bytes": lambda: b"\x80\x03" + b"C\x02ab" * 4_000_000 + b".",
    "memo": lambda: b"\x80\x04N" + b"\x94" * 6_000_000 + b".",
}


@pytest.mark.parametrize("case", COSTLY)
def test_what_a_file_costs_grows_with_its_size(tmp_path, case):
    (tmp_path / "x").write_bytes(COSTLY[case]())
    found = cost("weights", tmp_path / "x", watch=True)
    assert found["events"] == []
    assert found["end"] == ("value" if case == "references to one storage" else "UserError"), found


# The campaign: many files, damaged and crafted, of all kinds. Each is made from its number alone.

OPCODES = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
SAFETENSORS = ["[", "{", "null", "-1", "1e999", "9" * 5000, '"BF16"', "[0, 99999999999]", "[[[[", "true", '"\\u0000"']


def calls(sentinel):
    """Pieces of pickles that leave a call's result on the stack, in every way that pickle knows."""
    touch, system = text(f"touch {sentinel}"), b"cposix\nsystem\n"
    python = text(f"__import__('os').system('touch {sentinel}')")
    return [
        system + touch + b"\x85R",
        b"cbuiltins\neval\n" + python + b"\x85R",
        b"cbuiltins\nexec\n" + python + b"\x85R",
        b"(" + touch + b"iposix\nsystem\n",  # INST
        b"(" + system + touch + b"o",  # OBJ
        system + touch + b"\x85\x81",  # NEWOBJ
        system + touch + b"\x85}\x92",  # NEWOBJ_EX
        text("posix") + text("system") + b"\x93" + touch + b"\x85R",  # STACK_GLOBAL
        b"\x82\x01" + touch + b"\x85R",  # EXT1
        b"\x83\x01\x00" + touch + b"\x85R",
        b"\x84\x01\x00\x00\x00" + touch + b"\x85R",
        b"P" + f"touch {sentinel}\n".encode(),  # PERSID
        touch + b"Q",
        b"ccollections\nOrderedDict\n)R" + system + touch + b"\x85R" + b"b",  # BUILD with a call's result
        b"cbuiltins\ngetattr\ncposix\nsystem\n" + text("__call__") + b"\x86R" + touch + b"\x85R",
        b"csubprocess\nPopen\n" + text("touch") + text(str(sentinel)) + b"\x86\x85R",
        b"cbuiltins\nopen\n" + text(str(sentinel)) + text("w") + b"\x86R",
        b"cnumpy\nload\n" + text(str(sentinel)) + b"\x85R",
        b"cnumpy.core.multiarray\n_reconstruct\ncposix\nsystem\nK\x00\x85C\x01b\x87R",
        b"c_codecs\nencode\n" + touch + text("../../x") + b"\x86R",
        b"cpaddletag.models.unpickle\nPickle\n)R",
        b"c__main__\nx\n)R",
    ]


def operations(data):
    """A pickle cut into its operations: [bytes]."""
    places = [place for _, _, place in pickletools.genops(data)] + [len(data)]
    return [data[start:stop] for start, stop in zip(places[:-1], places[1:], strict=True)]


def mutate_operations(data, random, pieces):
    """A pickle with operations cut out, repeated, exchanged, replaced or inserted: what is left is still operations."""
    steps = operations(data)
    for _ in range(int(random.integers(1, 4))):
        at, other = (int(n) for n in random.integers(1, len(steps), 2))
        match random.integers(6):
            case 0:
                del steps[at]
            case 1:
                steps[at:at] = steps[at : at + 9] * int(random.integers(1, 3000))
            case 2:
                steps[at], steps[other] = steps[other], steps[at]
            case 3:
                steps[at] = OPCODES[random.integers(len(OPCODES))] + steps[at][1:]
            case 4:
                steps[at:at] = [OPCODES[random.integers(len(OPCODES))] + random.bytes(int(random.integers(9)))]
            case 5:
                steps[at:at] = [pieces[random.integers(len(pieces))]]
    return b"".join(steps)


def files(folder, count, sentinel):
    """Write the files of the campaign: `count` mutations of each of eight kinds, and the crafted ones. Their paths."""
    arrays, made = arrays_like_a_model(), []
    weights_pickle, storages = torch_pickle(state_dict(arrays))
    whole = {kind: original(kind, folder).read_bytes() for kind in ("torch", "legacy", "paddle", "safetensors")}
    size = int.from_bytes(whole["safetensors"][:8], "little")
    header, payload = whole["safetensors"][8 : 8 + size], whole["safetensors"][8 + size :]
    names = legacy(weights_pickle, pickle.dumps(list(storages), 2))
    tail = b"".join(struct.pack("<q", number) + data for number, data in storages.values())
    pieces = calls(sentinel)

    def add(data):
        made.append(folder / f"{len(made):05d}")
        made[-1].write_bytes(data)

    def torch(data):
        made.append(folder / f"{len(made):05d}")
        members = {f"archive/data/{key}": content for key, (_, content) in storages.items()}
        write_zip(made[-1], {"archive/data.pkl": data, **members})

    for number in range(count):
        random = np.random.default_rng(number)
        for kind in whole:
            add(mutate(whole[kind], random))
        torch(mutate_operations(weights_pickle, random, pieces))
        protocol = int(random.integers(2, 5))
        add(mutate_operations(pickle.dumps(arrays, protocol), random, pieces))
        add(names.replace(weights_pickle, mutate_operations(weights_pickle, random, pieces)) + tail)
        at = int(random.integers(len(header)))
        add(safetensors(header[:at] + SAFETENSORS[number % len(SAFETENSORS)].encode() + header[at:], payload))
    crafted = [b"\x80\x02" + piece + b"." for piece in pieces] + [b"\x80\x02}" + text("x") + p + b"s." for p in pieces]
    crafted += [pickle.dumps(value, protocol) for value, _ in hostile(sentinel).values() for protocol in (2, 4)]
    for data in [*crafted, *RAW.values()]:
        add(data)
        torch(data)
        add(legacy(data))
    return made


def test_the_watch_sees_what_a_pickle_runs(tmp_path):
    """The proof that the next test could fail: Python's own unpickler runs these, and the watch tells."""
    found = {}
    for number, piece in enumerate(calls(tmp_path / "sentinel")[:8]):
        (tmp_path / str(number)).write_bytes(b"\x80\x04" + piece + b".")
    for number, each in enumerate(costs("pickle", [tmp_path / str(n) for n in range(8)], watch=True)):
        found[number] = " ".join(each["events"])
    assert all("os.system" in found[number] for number in range(5)), found
    assert (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("count", [5, pytest.param(250, marks=pytest.mark.full)])
def test_nothing_runs_and_nothing_costs_more(tmp_path, count):
    sentinel = tmp_path / "sentinel"
    made = files(tmp_path, count, sentinel)
    found = costs("weights", made, watch=True)
    assert len(found) == len(made), f"{made[len(found)]}: reading it took more than 20 s"
    for path, each in zip(made, found, strict=True):
        check(each, path)
        assert each["events"] == [] and (each["end"] == "value" or str(path) in each["text"]), (path, each)
    assert not sentinel.exists()
    read = sum(each["end"] == "value" for each in found)
    print(f"{len(made)} files, {read} of them read, {max(each['seconds'] for each in found):.1f} s at most")
    assert 0 < read < 0.7 * len(made)
