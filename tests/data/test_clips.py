"""Clips as columns against the lists of records that they stand for."""

import json
import os

import numpy as np
import pytest
from paddletag.data import clip_list, clip_table, manifest
from paddletag.data.clips import by_id, ids_of, in_id_order, joined, labels_of, splits_of
from paddletag.data.splits import hold_out, records_of, validation_part
from paddletag.features.batches import TrainBatches, multi_hot
from paddletag.features.orders import balanced_order
from paddletag.runtime import UserError

LABELS = ["dog", "rain", "sea", "häh"]


def write(data, records, rejected=()):
    data.mkdir(exist_ok=True)
    (data / "labels.txt").write_text("".join(f"{name}\n" for name in LABELS))
    (data / "manifest.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in records))
    (data / "rejected.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rejected))


def records_of_all_kinds(key="split"):
    """60 records with odd ids, labels in any number, times, groups, and keys that nobody knows."""
    generator, records = np.random.default_rng(0), []
    for n in range(60):
        names = generator.permutation(LABELS)[: generator.integers(4)].tolist()
        clip_id = ["a", "b c", "ü", "a!", "🐕", "a "][n % 6] + str(n * 7 % 60)
        record = {"id": clip_id, "audio": f"/data/some folder/{n}.wav", "labels": names, "seconds": 1.5}
        record[key] = int(generator.integers(1, 4)) if key == "fold" else ["train", "train", "test", "valid"][n % 4]
        record |= {"group": f"g{n // 3}"} if n % 5 else {}
        record |= {"start": n, "end": n + 0.5} if n % 3 else {}  # an int stays an int
        record |= {"mine": {"x": [None, 1.25]}} if n % 7 == 0 else {}
        records.append(record)
    return records


@pytest.fixture(params=["split", "fold"])
def both(request, tmp_path):
    """(records, the clips of a folder with them and one that is rejected)."""
    records = records_of_all_kinds(request.param)
    write(tmp_path / "data", records, [{"id": records[5]["id"], "audio": "", "reason": "broken"}])
    clips, labels = clip_table.open_clips(tmp_path / "data")
    assert labels == LABELS
    return records[:5] + records[6:], clips


def test_clips_are_the_records(both):
    records, clips = both
    assert list(clips) == records and len(clips) == 59
    assert [clips[n] for n in range(59)] == records and clips[-1] == records[-1]
    assert json.dumps(clips[7]) == json.dumps(records[7])  # 7 and 7.0 are equal
    assert list(clips[3:40:2]) == records[3:40:2]
    assert list(ids_of(clips)) == ids_of(records) and ids_of(clips)[4:9] == ids_of(records)[4:9]
    assert list(joined(clips[:3], clips[10:12])) == records[:3] + records[10:12]
    with pytest.raises(IndexError):
        clips[59]


def test_the_digest_is_the_same(both):
    records, clips = both
    assert manifest.digest(clips) == manifest.digest(records) == clips.digest
    assert manifest.digest(clips[2:]) == manifest.digest(records[2:]) != clips.digest


def test_look_ups_are_the_same(both):
    records, clips = both
    assert list(in_id_order(clips)) == in_id_order(records) == sorted(records, key=lambda record: record["id"])
    found, expected = by_id(clips[5:50]), by_id(records[5:50])
    assert {clip_id: found[clip_id] for clip_id in found} == expected and len(found) == 45
    assert all((record["id"] in found) == (record["id"] in expected) for record in records)
    assert "never" not in found and "zzzz" not in found and "" not in found


def test_labels_and_their_counts_are_the_same(both):
    records, clips = both
    for some, columns in ((records, clips), (records[7:31], clips[7:31])):
        targets = multi_hot(some, LABELS)
        np.testing.assert_array_equal(multi_hot(columns, LABELS), targets)
        np.testing.assert_array_equal(labels_of(columns, LABELS).counts(4), targets.sum(0))
        np.testing.assert_array_equal(labels_of(some, LABELS).counts(4), targets.sum(0))
        orders = [balanced_order(each, np.random.default_rng(1)) for each in (some, columns)]
        np.testing.assert_array_equal(*orders)
    assert multi_hot(clips, LABELS[::-1])[:, ::-1].tolist() == multi_hot(records, LABELS).tolist()


def test_splits_are_the_same(both):
    records, clips = both
    codes, names = splits_of(clips)
    assert [names[code] for code in codes] == [record.get("fold", record.get("split")) for record in records]
    for name in ("train", "valid", "test"):
        assert list(records_of(clips, name)) == records_of(records, name)
    for fold in (1, 2, 3, 4, "test", "valid"):
        try:
            expected = [list(part) for part in hold_out(records, fold)]
        except UserError as error:
            with pytest.raises(UserError) as caught:
                hold_out(clips, fold)
            assert str(caught.value) == str(error)
            continue
        assert [list(part) for part in hold_out(clips, fold)] == expected
        parts = validation_part(hold_out(clips, fold)[0], 0.2, 3)
        assert [list(part) for part in parts] == [list(part) for part in validation_part(expected[0], 0.2, 3)]


def test_the_list_of_a_models_clips_is_the_same(both, tmp_path):
    records, clips = both
    sounds = [None if n % 4 == 0 else f'{n:08x} "ü"' for n in range(len(records))]
    for name, some in (("a", records), ("b", clips)):
        clip_list.write_clip_list(tmp_path / name, some, sounds)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    kept = clip_list.read_clip_list(tmp_path / "b")
    assert list(kept) == ids_of(records) and [row[3] for row in kept.values()] == sounds
    assert [row[0] for row in kept.values()] == [manifest.short_name(record) for record in records]


@pytest.mark.parametrize("path", ["/a/b/c.wav", "/c.wav", "//b/c.wav", "/a//c.wav", "/a/./c.wav", "b/c.wav", "c.wav"])
def test_short_names_are_those_of_paths(path):
    from pathlib import Path

    assert manifest.short_name({"audio": path}) == "/".join(Path(path).parts[-2:])


def test_the_file_is_made_once_and_again_when_the_manifest_changes(tmp_path):
    data, records = tmp_path / "data", records_of_all_kinds()
    write(data, records)
    path = data / clip_table.FOLDER / clip_table.NAME

    def opened():
        clips = clip_table.open_clips(data)[0]
        return list(clips), os.stat(path).st_mtime_ns

    first, made = opened()
    assert first == records and opened() == (first, made)
    write(data, records[:-1])
    assert opened()[0] == records[:-1]
    write(data, records, [{"id": records[0]["id"]}])
    assert opened()[0] == records[1:]
    path.write_bytes(path.read_bytes()[:-200])  # of a disk that was full
    assert opened()[0] == records[1:]
    path.write_bytes(b"")
    assert opened()[0] == records[1:]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    records = records_of_all_kinds()
    write(tmp_path / "data", records)
    (tmp_path / "data" / "cache").mkdir()

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "cache")

    monkeypatch.setattr("paddletag.data.arrow_files.locked", refuse)
    assert list(clip_table.open_clips(tmp_path / "data")[0]) == records
    assert not list((tmp_path / "data" / "cache").iterdir())


def test_what_is_no_manifest_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.jsonl: no such file: .*stage 0"):
        clip_table.open_clips(tmp_path)
    records = records_of_all_kinds()
    for content in (b"{", b"\xff\xfe{}\n", b"\n"):
        write(tmp_path, records)
        with open(tmp_path / "manifest.jsonl", "ab") as file:
            file.write(content)
        with pytest.raises(UserError, match=r"manifest\.jsonl: .*JSON lines"):
            clip_table.open_clips(tmp_path)
    for row in (7, {"id": "x"}, {"id": "x", "labels": [], "audio": "/x"}, {"id": 3, "labels": [], "fold": 1}):
        write(tmp_path, [*records, row])
        with pytest.raises(UserError, match=r"manifest\.jsonl: .*stage 0"):
            clip_table.open_clips(tmp_path)
    write(tmp_path, [*records, {**records[0], "id": "new", "labels": ["cow"]}])
    with pytest.raises(UserError, match=r"manifest\.jsonl: .*'cow' is not in labels\.txt"):
        clip_table.open_clips(tmp_path)
    write(tmp_path, [])
    assert len(clip_table.open_clips(tmp_path)[0]) == 0


def test_batches_of_columns_are_those_of_lists(both):
    from paddletag import config
    from paddletag.features import frontend

    records, clips = both
    features = {record["id"]: np.full((6, 3), n, np.float16) for n, record in enumerate(records)}
    for sampler in ("shuffle", "balanced"):
        tree = config.defaults()
        tree.train.update(batch_size=8, sampler=sampler)
        lists, columns = (TrainBatches(some, LABELS, features, frontend.MN, 6, tree, 2) for some in (records, clips))
        for k in range(len(lists)):
            for one, other in zip(lists[k], columns[k], strict=True):
                np.testing.assert_array_equal(one, other)
