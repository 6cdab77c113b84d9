"""Archives in object stores: a local server that speaks S3 (moto), and addresses of files, through the same code."""

# ruff: noqa: F811
import os
import shutil
import subprocess
import sys
import urllib.request

import pyarrow.parquet as pq
import pytest
from paddletag.archives import parts, stores
from paddletag.commands import tag_archive
from paddletag.runtime import UserError
from prepared import refusal
from test_tag_archive import archive, expected, files_of, place, predict, rows, sounds, wait_for  # noqa: F401

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server of S3 on this machine, and a client to fill it."""
    pytest.importorskip("moto.server", reason="moto is not installed (pip install 'moto[server]')")
    boto3 = pytest.importorskip("boto3")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        log = tmp_path_factory.mktemp("moto") / "log.txt"
        code = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"
        with open(log, "w") as file:
            process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=file, stderr=file)
        try:
            wait_for(log.parent, "log.txt")
            address = ""
            while not address:
                assert process.poll() is None, log.read_text()
                address = next((w for w in log.read_text().split() if w.startswith("http://127.0.0.1:")), "")
            urllib.request.urlopen(address, timeout=10).close()
            client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
            client.create_bucket(Bucket="archive")
            yield address.removeprefix("http://"), client
        finally:
            process.kill()
            process.wait()


def upload(client, folder, prefix):
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "archive", f"{prefix}/{path.relative_to(folder)}")


def test_a_bucket(server, sounds, monkeypatch, tmp_path):
    """The rows of a folder, under the names of its objects; copies are removed; one that is gone is refused."""
    host, client = server
    shutil.copy(sounds / "0.wav", sounds / "a name? with #, 鸟 %41.wav")
    upload(client, sounds, "one")
    client.put_object(Bucket="archive", Key="one/empty.wav", Body=b"")
    client.put_object(Bucket="archive", Key="one/gone.wav", Body=b"x")
    client.put_object(Bucket="archive", Key="one/notes.txt", Body=b"x")
    tag_part = parts.tag_part

    def lose(*args):
        client.delete_object(Bucket="archive", Key="one/gone.wav")
        return tag_part(*args)

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(parts, "tag_part", lose)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    archive(f"s3://key:secret@archive/one?scheme=http&endpoint_override={host}", "--part_files", 5)
    assert files_of() == expected(sounds) and len(expected(sounds)) == 7
    assert {row["file"].rpartition("/")[0] for row in rows()} == {"s3://archive/one", "s3://archive/one/b"}
    refused = {row["file"]: row["reason"] for row in rows(kind="refused")}
    assert refused == {"s3://archive/one/empty.wav": "is empty", "s3://archive/one/gone.wav": "no such file"}
    archive(sounds, out="local")
    assert sorted((os.path.basename(r["file"]), r["start"], r["scores"]) for r in rows()) == sorted(
        (os.path.basename(r["file"]), r["start"], r["scores"]) for r in rows("local")
    )
    assert not list((tmp_path / "tmp").iterdir())
    text = (tmp_path / "o/plan.json").read_text()
    assert "secret" not in text and '"s3://archive/one"' in text


def test_spans_of_objects(server, sounds, monkeypatch):
    """Rows of a table; neighbours of the same object share a copy."""
    import pyarrow as pa

    host, client = server
    upload(client, sounds, "two")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
    long, short = "s3://archive/two/4.wav", "s3://archive/two/0.wav"
    copied, copy = [], stores._copy
    monkeypatch.setattr(stores, "_copy", lambda *args: copied.append(args[1]) or copy(*args))
    pq.write_table(
        pa.table(
            {
                "path": [long] * 3 + [short, str(sounds / "0.wav")],
                "start": [0.0, 1.0, 9.0, None, None],
                "end": [1.0, None, 10.0, None, None],
            }
        ),
        "t.parquet",
    )
    archive("t.parquet")
    assert [(row["file"], row["start"]) for row in rows()] == [
        (long, 0), (long, 1), (long, 2), (short, 0), (str(sounds / "0.wav"), 0),
    ]  # fmt: skip
    assert [row["file"] for row in rows(kind="refused")] == [long] and sorted(copied) == [short, long]


def test_a_store_that_does_not_answer(sounds, monkeypatch):
    """It is no fault of the objects: the job ends in one line, and nothing is refused."""
    monkeypatch.setattr(stores, "PAUSE", 0.01)
    (sounds.parent / "list.txt").write_text("\n".join(f"file://{path}" for path in sorted(sounds.rglob("*.wav"))))
    archive("list.txt", "--part_files", 4, out="good")
    calls, copy = [], stores.fs.LocalFileSystem.open_input_stream

    class Broken:
        def open_input_stream(self, path):
            calls.append(path)
            if len(calls) > 3 and "b/" in path:
                raise OSError("When reading: AWS Error NETWORK_CONNECTION: curlCode 28, Timeout\nmore")
            return copy(stores.fs.LocalFileSystem(), path)

    monkeypatch.setattr(stores, "_file_system", lambda address: Broken())
    line = refusal("tag_archive", "list.txt", "--out", "o", "--window", 1, "--part_files", 4)
    assert "cannot be copied" in line and "Timeout" in line and "is the store reachable" in line
    assert max(calls.count(path) for path in calls) == stores.TRIES
    monkeypatch.undo()
    monkeypatch.chdir(sounds.parent)
    monkeypatch.setattr(tag_archive, "open_predictor", lambda *args, **options: predict)
    archive("list.txt", "--part_files", 4)
    assert files_of() == expected(sounds) == files_of("good") and not rows(kind="refused")


def test_one_error_is_tried_again(sounds, monkeypatch):
    monkeypatch.setattr(stores, "PAUSE", 0.01)
    failed, system = [], stores.fs.LocalFileSystem()

    class Unsteady:
        def open_input_stream(self, path):
            if path not in failed:
                failed.append(path)
                raise OSError("AWS Error SLOW_DOWN")
            return system.open_input_stream(path)

        get_file_info = staticmethod(system.get_file_info)

    monkeypatch.setattr(stores, "_file_system", lambda address: Unsteady())
    archive(f"file://{sounds}")
    assert files_of() == expected(sounds) and len(failed) == 6


def test_fsspec_where_pyarrow_has_none(sounds):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (pip install fsspec)")
    memory = fsspec.filesystem("memory")
    for path in sounds.rglob("*.wav"):
        memory.pipe_file(f"/bucket/{path.relative_to(sounds)}", path.read_bytes())
    archive("memory://bucket")
    assert files_of() == expected(sounds)
    assert rows()[0]["file"] == "memory://bucket/0.wav"


def test_addresses_that_cannot_be_listed(place):
    for address, words in {
        f"file://{place}/nowhere": "no such bucket or prefix",
        "s3://": "s3://",
        "nosuchstore://a/b": "nosuchstore://a/b",
    }.items():
        line = refusal("tag_archive", address, "--out", "o")
        assert words in line and "secret" not in line
    assert "must be a folder" in refusal("tag_archive", place, "--out", "s3://archive/o")
    (place / "a.wav").write_bytes(b"x")
    assert "is one object" in refusal("tag_archive", f"file://{place}/a.wav", "--out", "o")


def test_secrets_are_not_shown():
    assert stores.without_secrets("s3://key:sec/ret@archive/a?b=c") != "s3://archive/a"  # a / must be written as %2F
    assert stores.without_secrets("s3://key:se%2Fret@archive/a?endpoint_override=x") == "s3://archive/a"
    with pytest.raises(UserError) as caught:
        stores.Stores("s3://key:secret@bad bucket/x?scheme=http").find("s3://bad bucket/x")
    assert "secret" not in str(caught.value)
