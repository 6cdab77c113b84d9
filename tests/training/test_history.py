"""What a run leaves to look at: the log's format, the table, and scalars as VisualDL itself reads them."""

import csv
import os
import re
import sys

import pytest
from paddletag import runtime
from paddletag.training import history, visualdl_curves


def test_the_line_is_the_ecosystems():
    text, values = history.log_line((1, 50), (10, 100), 2.30258, 0.125, 3e-4, 0.00012, 0.25, 63.996, 3725.6)
    assert text == (
        "Epoch=1/50, Step=10/100 loss=2.3026 acc=0.1250 lr=3.000e-04 reader_cost=0.00012 batch_cost=0.2500"
        " ips=64.00 samples/s | ETA 01:02:06"
    )
    assert values == {"loss": 2.30258, "accuracy": 0.125, "lr": 3e-4, "ips": 63.996}


def test_the_line_in_the_log(capsys, tmp_path):
    runtime.start_log(tmp_path / "train.log")
    text, _ = history.log_line((1, 1), (2, 2), 1.0, None, 1e-3, 0.0, 0.1, 10.0, 0.0)
    runtime.log.log(runtime.TRAIN, text)
    pattern = (
        r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\] \[   TRAIN\] - Epoch=1/1, Step=2/2 loss=1\.0000 lr=1\.000e-03 .*\n"
    )
    assert re.fullmatch(pattern, (tmp_path / "train.log").read_text())
    assert re.fullmatch(pattern, capsys.readouterr().out)


def test_without_an_accuracy_there_is_none():
    text, values = history.log_line((1, 1), (1, 1), float("nan"), None, 1e-3, 0.0, 0.1, 10.0, 86_400 * 5)
    assert "acc" not in text and "loss=nan" in text and text.endswith("ETA 120:00:00")
    assert list(values) == ["loss", "lr", "ips"]


def test_a_column_that_only_some_rows_have_is_empty_in_the_others(tmp_path):
    path = tmp_path / "exp" / "history.csv"
    rows = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "valid_loss": 0.75}]
    history.write(path, rows[:1])
    history.write(path, rows)
    with open(path, newline="") as file:
        assert list(csv.reader(file)) == [["epoch", "loss", "valid_loss"], ["1", "0.5", ""], ["2", "0.25", "0.75"]]
    assert [p.name for p in path.parent.iterdir()] == ["history.csv"]


@pytest.fixture
def visualdl(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    return pytest.importorskip("visualdl")


def read(visualdl, folder):
    """{name: [(step, value)]} of the only file in a folder."""
    (path,) = folder.iterdir()
    reader = visualdl.LogReader(file_path=str(path))
    return {tag: [(p.id, p.value) for p in reader.get_data("scalar", tag)] for tag in reader.get_tags()["scalar"]}


def test_visualdl_reads_the_scalars(visualdl, tmp_path):
    scalars = visualdl_curves.Scalars(tmp_path / "vdl")
    scalars.add(10, {"loss": 0.5, "lr": 0.25})
    scalars.add(20, {"loss": 0.25, "lr": 0.125})
    scalars.add(20, {"valid_accuracy": 0.75})
    scalars.add(20, {})
    scalars.close()
    expected = {"loss": [(10, 0.5), (20, 0.25)], "lr": [(10, 0.25), (20, 0.125)], "valid_accuracy": [(20, 0.75)]}
    assert read(visualdl, tmp_path / "vdl") == expected


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_that_goes_on_has_no_double_points(visualdl, tmp_path, killed):
    folder = tmp_path / "vdl"
    first = visualdl_curves.Scalars(folder)
    for step in (10, 20, 30):
        first.add(step, {"loss": 1 / step})
    first.add(20, {"valid_loss": 2.0})
    first.close()
    (path,) = folder.iterdir()
    stamps = [p.timestamp for p in visualdl.LogReader(file_path=str(path)).get_data("scalar", "loss")]
    if killed:  # in the middle of writing the last one
        os.truncate(path, path.stat().st_size - 3)
    second = visualdl_curves.Scalars(folder)
    second.add(20, {"loss": 5.0})
    second.add(30, {"loss": 6.0})
    second.close()
    assert read(visualdl, folder) == {"loss": [(10, pytest.approx(0.1)), (20, 5.0), (30, 6.0)]}
    (path,) = folder.iterdir()
    assert visualdl.LogReader(file_path=str(path)).get_data("scalar", "loss")[0].timestamp == stamps[0]


def test_going_on_within_the_same_second(visualdl, tmp_path):
    for step in (1, 2, 3):
        scalars = visualdl_curves.Scalars(tmp_path / "vdl")
        scalars.add(step, {"loss": float(step)})
        scalars.close()
    assert read(visualdl, tmp_path / "vdl") == {"loss": [(1, 1.0), (2, 2.0), (3, 3.0)]}


def test_points_are_in_the_file_soon_after_they_were_added(visualdl, tmp_path):
    scalars = visualdl_curves.Scalars(tmp_path / "vdl")
    scalars.add(1, {"loss": 1.0})
    scalars.writer._get_file_writer()._async_writer._bytes_queue.join()  # what a run killed a moment later leaves
    assert read(visualdl, tmp_path / "vdl") == {"loss": [(1, 1.0)]}
    scalars.close()


def test_without_visualdl_there_is_one_note(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "visualdl", None)
    runtime.start_log()
    scalars = visualdl_curves.Scalars(tmp_path / "vdl")
    scalars.add(1, {"loss": 1.0})
    scalars.add(2, {"loss": 1.0})
    scalars.close()
    out = capsys.readouterr().out
    assert out.count("VisualDL") == 1 and out.count("\n") == 1 and not (tmp_path / "vdl").exists()
