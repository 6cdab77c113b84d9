"""`paddletag find` against what a loop over the rows finds, in results of the highest labels and of all scores."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from paddletag.archives import hits
from prepared import call, refusal

LABELS = ["Dog", "Male speech, man speaking", "Speech", "Vögel 鸟"]
COMMA = LABELS[1]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two parts of 40 windows each in top/ and all/, with the same random scores: [(file, start, end, scores)]."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hits, "BATCH", 7)
    generator, rows = np.random.default_rng(0), []
    for part in range(2):
        scores = generator.random((40, 4)).astype(np.float16)
        files = [f"{part}-{n // 10}, \t.wav" for n in range(40)]
        starts = [float(n % 10) for n in range(40)]
        rows += [(file, start, start + 1, row) for file, start, row in zip(files, starts, scores, strict=True)]
        common = {"file": files, "start": starts, "end": [start + 1 for start in starts]}
        order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
        top = {
            "labels": [[LABELS[i] for i in row] for row in order],
            "scores": pa.array(
                np.take_along_axis(scores, order, 1).astype(np.float32).tolist(), pa.list_(pa.float32())
            ),
        }
        flat = {"scores": pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), 4)}
        for name, columns in (("top", top), ("all", flat)):
            (tmp_path / name / "tags").mkdir(parents=True, exist_ok=True)
            table = pa.table({**common, **columns}).replace_schema_metadata({"labels": json.dumps(LABELS)})
            pq.write_table(table, tmp_path / name / "tags" / f"part-{part:06d}.parquet", row_group_size=9)
    return rows


def found_by_hand(rows, labels, least, k):
    """[(file, start, end, label, score)] in the order of the rows, then by score."""
    found = []
    for file, start, end, scores in rows:
        for i in np.argsort(-scores, kind="stable")[:k]:
            if LABELS[i] in labels and np.float32(scores[i]) >= np.float32(least):
                found.append((file, start, end, LABELS[i], float(scores[i])))
    return found


def exported(folder, *words, path="hits.csv"):
    call("find", folder, *words, "--output", path)
    if path.endswith(".parquet"):
        return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "start", "end", "label", "score"]
    return [(file, float(start), float(end), label, float(score)) for file, start, end, label, score in rows]


@pytest.mark.parametrize("folder, k", [("top", 3), ("all", 4)])
@pytest.mark.parametrize("path", ["hits.csv", "hits.parquet"])
def test_hits(results, folder, k, path):
    for words, labels in {("--label", "dog"): ["Dog"], ("--label", COMMA): [COMMA], (): LABELS,
                          ("--label", "*peech*", "--label", "Vög*"): LABELS[1:]}.items():  # fmt: skip
        for least in (0.0, 0.6, 1.0):
            expected = found_by_hand(results, labels, least, k)
            rows = exported(folder, *words, "--min-score", least, path=path)
            assert [row[:4] for row in rows] == [row[:4] for row in expected]
            assert [row[4] for row in rows] == pytest.approx([row[4] for row in expected])
            assert len(rows) > 10 or least == 1


def test_the_best(results):
    rows = sorted(found_by_hand(results, LABELS[2:], 0.1, 4), key=lambda row: -row[4])
    found = exported("all", "--label", "Speech,Vögel 鸟", "--min_score", 0.1, "--best", 12, path="b.parquet")
    assert found == rows[:12]


def test_printed(results, capsys):
    call("find", "top", "--label", "Dog", "--min-score", 0.9)
    lines = capsys.readouterr().out.splitlines()
    rows = found_by_hand(results, ["Dog"], 0.9, 3)
    assert lines == [f"{a}\t{b:.2f}\t{c:.2f}\t{d}\t{e:.3f}".replace(", \t", ", \\t") for a, b, c, d, e in rows]


def test_mistakes(results, tmp_path):
    assert "no label has this name" in refusal("find", "top", "--label", "Cat")
    assert "names no label" in refusal("find", "top", "--label", ",")
    assert "holds no tags" in refusal("find", tmp_path / "nowhere")
    assert ".csv or .parquet" in refusal("find", "top", "--output", "hits.txt")
    assert "must lie between" in refusal("find", "top", "--min-score", 2)
    assert "--best" in refusal("find", "top", "--best", 0)
    path = tmp_path / "top/tags/part-000001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    assert "damaged" in refusal("find", "top", "--output", "hits.csv") and not (tmp_path / "hits.csv").exists()
    table = pq.read_table(tmp_path / "top/tags/part-000000.parquet")
    pq.write_table(table.replace_schema_metadata({"labels": json.dumps(LABELS[::-1])}), path)
    assert "other labels" in refusal("find", "top", "--output", "hits.csv")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "top/tags/part-000000.parquet")
    assert "other Parquet files" in refusal("find", "top")
