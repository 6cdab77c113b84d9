"""Archives, tagging results and model folders of strangers: what they cost grows with their size and no faster."""

import bz2
import hashlib
import io
import json
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from hostile import cost
from paddletag.data.archive import unpack
from paddletag.features import frontend, mfcc
from paddletag.models import model_folder
from paddletag.runtime import UserError
from paddletag.tagging import result_files
from paddletag.training import run_record

# Tagging results

NAMES = ("time", "start", "end")


def npy(header, data=b""):
    """The bytes of a .npy file with this header."""
    text = (repr(header) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def described(dtype, *shape):
    return npy({"descr": dtype, "fortran_order": False, "shape": shape})


def npz(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)


def good(windows=1, classes=1):
    """The members of a small result."""
    arrays = {name: np.arange(windows) / windows for name in NAMES}
    arrays |= {"scores": np.zeros((windows, classes), "f4"), "labels": np.array(["a"] * classes)}
    members = {}
    for name, array in arrays.items():
        file = io.BytesIO()
        np.save(file, array)
        members[name] = file.getvalue()
    return members


def raw_zip(path, name, method, packed, size):
    """Add a member to the zip file whose packed bytes and size are as given, whatever they unpack to."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), packed)
        info = archive.getinfo(name)
        info.compress_type, info.file_size = method, size  # the table at the end says so
        where = info.header_offset
    with open(path, "r+b") as file:  # and so does the header before it
        file.seek(where + 8)
        file.write(struct.pack("<H", method))


def deflated(data, megabytes):
    """A deflate stream of `data` and so many million zeros."""
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = press.compress(data) + press.flush(zlib.Z_FULL_FLUSH)
    million = press.compress(bytes(1_000_000)) + press.flush(zlib.Z_FULL_FLUSH)
    return start + million * megabytes + press.flush()


def bomb(path):
    """3 GB of zeros in 3 MB."""
    npz(path, good())
    start = described("|u1", 3_000_000_000)
    raw_zip(path, "more.npy", zipfile.ZIP_DEFLATED, deflated(start, 3000), len(start) + 3_000_000_000)


def bzip2(path):
    """150 MB in 150 bytes, in a member that says that it has 1000."""
    npz(path, good())
    raw_zip(path, "more.npy", zipfile.ZIP_BZIP2, bz2.compress(described("|u1", 872) + bytes(150_000_000)), 1000)


def overlapping(path, count=200):
    """One member of 10 MB that the table of the file lists 200 times, under 200 names."""
    content = npy({"descr": "|u1", "fortran_order": False, "shape": (10_000_000,)}) + bytes(10_000_000)
    npz(path, {**good(), "x0000": content})
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    table, end = data[start : data.index(b"PK\x05\x06")], bytearray(data[data.index(b"PK\x05\x06") :])
    entry = table[table.rindex(b"PK\x01\x02") :]
    for _ in range(count):
        table += entry
    struct.pack_into("<HHL", end, 8, 6 + count, 6 + count, len(table))
    path.write_bytes(data[:start] + table + bytes(end))


NOTHING = {name: described("<U0", 10**12) for name in NAMES}
NOTHING |= {"scores": described("<f4", 10**12, 0), "labels": described("<U1", 0)}
TAGGINGS = {
    "bomb": bomb,
    "listed many times": overlapping,
    "bzip2": bzip2,
    # no bytes at all, and whoever goes through the windows does so for ever
    "windows of nothing": lambda path: npz(path, NOTHING),
    "header": lambda path: npz(path, {**good(), "scores": npy("(" * 60_000)}),
}


@pytest.mark.parametrize("case", TAGGINGS)
def test_tagging_results(tmp_path, case):
    TAGGINGS[case](tmp_path / "x.npz")
    found = cost("tagging", tmp_path / "x.npz")
    assert found["end"] == "UserError" and "x.npz" in found["text"], found


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_long_result_is_no_bomb(tmp_path, save):
    """Ten hours of silence."""
    windows = 36_000
    arrays = {name: np.arange(windows) / windows for name in NAMES}
    save(tmp_path / "x.npz", scores=np.full((windows, 100), 0.25, "f4"), labels=np.arange(100).astype(str), **arrays)
    assert result_files.read_result(tmp_path / "x.npz")["scores"].shape == (windows, 100)


# Archives


def tar_header(name, size=0, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def gzipped(path, *parts):
    """A gzip file of parts, each of them bytes, or (bytes, how many times); the checksum at its end is wrong then."""
    press = zlib.compressobj(9, zlib.DEFLATED, 31)
    with open(path, "wb") as file:
        for part in parts:
            data, count = part if isinstance(part, tuple) else (part, 1)
            file.write(press.compress(data) + press.flush(zlib.Z_FULL_FLUSH))
            if count > 1:
                again = press.compress(data) + press.flush(zlib.Z_FULL_FLUSH)
                file.write(again * (count - 1))
        file.write(press.flush())


MILLION = bytes(1_000_000)


def zip_bomb(path):
    """2 GB of zeros in 2 MB."""
    path.write_bytes(b"PK\x05\x06" + bytes(18))
    raw_zip(path, "x", zipfile.ZIP_DEFLATED, deflated(b"", 2000), 2_000_000_000)


def zip_bzip2(path):
    path.write_bytes(b"PK\x05\x06" + bytes(18))
    raw_zip(path, "x", zipfile.ZIP_BZIP2, bz2.compress(bytes(150_000_000)), 1000)


def many_hard_links(path):
    """2000 other names, each of which would be a copy, for a file of 10 MB."""
    links = b"".join(tar_header(f"x{n}", kind=tarfile.LNKTYPE, link="x") for n in range(2000))
    gzipped(path, links + tar_header("x", 10_000_000) + 10 * MILLION + bytes(1024))


def many_folders(path):
    """20,000 empty files, each in nineteen folders of its own."""
    gzipped(path, b"".join(tar_header(f"{n}/" + "x/" * 18) for n in range(20_000)) + bytes(1024))


ARCHIVES = {
    "zip": zip_bomb,
    "zip, bzip2": zip_bzip2,
    "tar": lambda path: gzipped(path, tar_header("x", 2_000_000_000), (MILLION, 2000), bytes(1024)),
    "tar, empty members": lambda path: gzipped(path, (tar_header("x/y") * 1000, 300), bytes(1024)),
    "tar, folders": many_folders,
    # the extended header of a member, which tarfile reads as a whole
    "tar, long header": lambda path: gzipped(path, tar_header("x", 1_000_000_000, b"x"), (MILLION, 1000), bytes(1024)),
    "tar, long name": lambda path: gzipped(path, tar_header("x", 1_000_000_000, b"L"), (MILLION, 1000), bytes(1024)),
    "tar, long path": lambda path: gzipped(
        path, tar_header("l", kind=tarfile.SYMTYPE, link="x"), tar_header("x", 400_000, b"L"), b"a/" * 200_000,
        bytes(-400_000 % 512), tar_header("x"), bytes(1024),
    ),
    "tar, hard links": many_hard_links,
}  # fmt: skip


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(tmp_path, case):
    ARCHIVES[case](tmp_path / "x")
    found = cost("archive", tmp_path / "x")
    assert found["end"] == "UserError" and "checksum" not in found["text"].lower() and "CRC" not in found["text"], found
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_an_honest_archive_may_be_packed_well(tmp_path):
    """Silence, a hundred folders, many small files, and a name for a file that comes later."""
    with tarfile.open(tmp_path / "x", "w:xz") as archive:
        archive.addfile(tarfile.TarInfo.frombuf(tar_header("z", kind=tarfile.LNKTYPE, link="0/0"), "utf-8", ""))
        for n in range(2000):
            info = tarfile.TarInfo(f"{n % 100}/{n}")
            info.size = 20_000
            archive.addfile(info, io.BytesIO(bytes(20_000)))
    folder = unpack(tmp_path / "x", tmp_path / "out")
    assert sum(path.is_file() for path in folder.rglob("*")) == 2001 and (folder / "z").stat().st_size == 20_000


# Model folders


def described_model(folder, **changes):
    """A folder with the description of a model, as far as `read_meta` looks."""
    folder.mkdir()
    meta = {"backbone": "mn01_as", "labels": ["a", "b"], "task": "single_label", "clip_seconds": 5.0, "run": {}}
    meta |= {"front_end": frontend.MN.to_dict(), "sha256": ""}
    (folder / "model.json").write_text(json.dumps({**meta, **changes}))
    return folder


def mn(**changes):
    return {"front_end": {**frontend.MN.to_dict(), **changes}}


MODELS = {
    "n_fft": mn(n_fft=10**9, win_length=10**9),
    "n_mels": mn(n_fft=65536, n_mels=32768, hop_length=32768),
    "hop_length": mn(n_fft=65536, win_length=65536, hop_length=1),
    "sample_rate": mn(sample_rate=10**10),
    "n_fft, mfcc": {"front_end": {**mfcc.MFCC.to_dict(), "n_fft": 10**8}},
    "a number as text": mn(n_fft="1024"),
    "a fraction": mn(n_fft=1024.5),
    "a list": mn(mean=[1.0]),
    "no name": {"front_end": {}},
    "nan": mn(mean=float("nan")),
    "clip_seconds": {"clip_seconds": 1e12},
    "clip_seconds, inf": {"clip_seconds": float("inf")},
    "clip_seconds, nan": {"clip_seconds": float("nan")},
    "min_seconds": {"min_seconds": 1e12},
    "min_seconds, text": {"min_seconds": "1"},
    "labels": {"labels": [1, 2]},
    "labels, nested": {"labels": [["a"]]},
    "task": {"task": "all"},
}


@pytest.mark.parametrize("case", MODELS)
def test_model_folders(tmp_path, case):
    found = cost("model", described_model(tmp_path / "model", **MODELS[case]))
    assert found["end"] == "UserError" and "model.json" in found["text"], found


@pytest.mark.parametrize("front_end", [frontend.MN, frontend.PANNS, frontend.AST, mfcc.MFCC])
def test_front_ends_in_use_are_read(tmp_path, front_end):
    folder = described_model(tmp_path / "model", front_end=front_end.to_dict())
    assert model_folder.saved_front_end(model_folder.read_meta(folder)) == front_end
    assert cost("model", folder)["end"] == "value"


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 100_000])
def test_deep_descriptions(tmp_path, text):
    (described_model(tmp_path / "model") / "model.json").write_text(text)
    with pytest.raises(UserError):
        model_folder.read_meta(tmp_path / "model")


@pytest.mark.parametrize(
    "run", [{"config": []}, {"config": {"train": 3}}, {"config": {"train": {"batch_size": "x" * 100}}},
            {"processes": 10**9}, {"config": {"train": {"accumulate": 1e300}}}]
)  # fmt: skip
def test_damaged_records_of_a_run(tmp_path, run):
    with pytest.raises(UserError, match="model.json"):
        model_folder.read_meta(described_model(tmp_path / "model", run=run))


@pytest.mark.parametrize("record", [[], {}, {"config": []}])
def test_damaged_records_of_an_unfinished_run(tmp_path, record):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "last.safetensors").write_bytes(b"x")
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=str(tmp_path)):
        run_record.refuse_another_run(tmp_path, {"config": {"train": {"epochs": 1}}, "weights": None})


def test_more_labels_than_the_weights_have_rows(tmp_path, monkeypatch):
    """No model is made."""
    folder = described_model(tmp_path / "model", labels=[f"{n}" for n in range(100_000)])
    (folder / "model.safetensors").write_bytes(b"x")
    meta = json.loads((folder / "model.json").read_text())
    meta["sha256"] = hashlib.sha256(b"x").hexdigest()
    (folder / "model.json").write_text(json.dumps(meta))
    monkeypatch.setattr(model_folder.registry, "create_model", lambda *_: pytest.fail("a model is made"))
    with pytest.raises(UserError, match="model.safetensors"):
        model_folder.load_model(folder)


def svm(classes, dimensions=1):
    pairs = classes * (classes - 1) // 2
    return {"coef": np.zeros((pairs, dimensions)), "intercept": np.zeros(pairs), "sigmoids": np.zeros((classes, 2))}


def deep_tree(nodes=60_000, trees=60_000):
    """A tree whose every node leads to the next one, and which stands there 60,000 times."""
    left = np.minimum(np.arange(nodes) + 1, nodes - 1)
    arrays = {"feature": np.zeros(nodes, int), "threshold": np.ones(nodes), "left": left, "right": left}
    arrays |= {"roots": np.zeros(trees, int), "row": np.zeros(nodes + 1, int), "column": np.zeros(0, int)}
    return {**arrays, "share": np.zeros(0)}


CLASSIC = {"svm": lambda: svm(700), "forest": deep_tree}


@pytest.mark.parametrize("case", CLASSIC)
def test_what_a_classic_model_costs_grows_with_its_size(tmp_path, case):
    arrays = CLASSIC[case]()
    columns = np.zeros((700 if case == "svm" else 20_000, 1))  # of one label
    np.savez(tmp_path / case, mean=np.zeros(1), scale=np.ones(1), columns=columns, **arrays)
    assert cost("classic", tmp_path / f"{case}.npz")["end"] == "value"
