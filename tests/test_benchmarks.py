"""The benchmarks: the tables they write, how they measure, and that the network in PyTorch is the same one."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import CLIPS, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import cases
import measure
import tables
from paddletag.runtime import UserError


def python(code, name="program", **options):
    return measure.Program(name, [sys.executable, "-c", code], **options)


def test_a_program_is_measured():
    """By a small process, as run.py is: Linux counts the size of who starts a program as the program's own."""
    busy = "import time\nx = b'1' * 200_000_000\nwhile time.process_time() < 0.3: pass\ntime.sleep(0.3)"
    code = f"""import sys
sys.path[:0] = [{str(ROOT / "benchmarks")!r}, {str(ROOT / "local")!r}]
import measure
sample = measure.run(measure.Program("busy", [sys.executable, "-c", {busy!r}]))
print(sample.wall, sample.cpu, sample.peak)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wall, cpu, peak = map(float, done.stdout.split())
    assert 0.3 <= cpu < wall and wall >= 0.6
    assert 200e6 < peak < 400e6


def test_memory_of_all_processes_counts_and_so_does_their_time():
    child = "import time; x = bytearray(b'1') * 100_000_000\nwhile time.process_time() < 0.2: pass\ntime.sleep(0.8)"
    both = f"import sys, subprocess as s\nfor p in [s.Popen([sys.executable, '-c', {child!r}]) for _ in 'ab']: p.wait()"
    sample = measure.run(python(both, whole_memory=True))
    assert sample.peak > 200e6 and sample.cpu > 0.4


def test_programs_run_in_turn(tmp_path):
    log = tmp_path / "log"
    programs = [python(f"open({str(log)!r}, 'a').write({name!r})", name) for name in "ab"]
    programs.append(python(f"open({str(log)!r}, 'a').write('c')", "c", most=1))
    samples = measure.in_turn(programs, 3)
    assert log.read_text() == "abcabab"
    assert {name: len(runs) for name, runs in samples.items()} == {"a": 3, "b": 3, "c": 1}


def test_a_program_that_fails_is_named():
    with pytest.raises(UserError, match="^program: failed with status 1: ValueError: it broke$"):
        measure.run(python("raise ValueError('it broke')"))


def test_the_figures_of_a_table():
    programs = [python("", "ours"), python("", "other"), python("", "absent")]
    ours = [measure.Sample(wall, 1.0, 10e6) for wall in (3.0, 1.0, 2.0)]
    rows = tables.table("What", programs, {"ours": ours, "other": [measure.Sample(3.0, 0.25, 20e6)]}, seconds=60)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[2] == ["ours", "2.00 (1.00 to 3.00)", "1.00 (once)", "1.00", "1.00", "10", "30"]
    assert cells[3] == ["other", "3.00 (once)", "0.250 (once)", "1.50", "0.25", "20", "20"]
    assert cells[4][:2] == ["absent", "not measured"]
    assert len({len(row) for row in cells}) == 1


def test_only_what_is_between_the_markers_is_written(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- benchmark a -->\nold\n<!-- end -->\nbetween\n<!-- benchmark b -->\n<!-- end -->\nafter\n"
    )
    tables.put(page, "a", [r"new \1"])
    tables.put(page, "b", ["also"])
    assert page.read_text().split("\n") == [
        "before", "<!-- benchmark a -->", r"new \1", "<!-- end -->", "between", "<!-- benchmark b -->", "also",
        "<!-- end -->", "after", "",
    ]  # fmt: skip
    with pytest.raises(UserError, match="benchmark c"):
        tables.check_page(page, ["a", "c"])


def test_the_page_has_a_place_for_every_benchmark():
    tables.check_page(ROOT / "docs" / "performance.md", cases.NAMES)


def test_the_command_writes_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- benchmark {name} -->\n<!-- end -->\n" for name in ("start", "tag_files")))
    words = "--quick --ours --repeat 1 --only start tag_files --cache".split()
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *words, str(tmp_path), "--docs", str(page)]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ})
    seconds = time.perf_counter() - begin
    assert not done.returncode, done.stderr
    rows = [line.split("|") for line in page.read_text().splitlines() if line.startswith("| paddletag tag")]
    assert len(rows) == 2 and all(0 < float(row[2].split()[0]) < seconds for row in rows)
    assert len(list((tmp_path / "out" / "ours").glob("*.npz"))) == 20  # it was the work that was measured


@pytest.fixture
def torch():
    """PyTorch on one thread: several wait for each other where the cores are busy."""
    torch = pytest.importorskip("torch", reason="torch is not installed (tools/install.sh --parity)")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


def test_torch_gives_the_scores_of_the_original(torch, reference):
    """EfficientAT's own code made the reference."""
    import soundfile
    import torch_mn

    model, log_mel = torch_mn.pretrained(), torch_mn.LogMel()
    largest = 0.0
    with torch.inference_mode():
        for path, arrays in reference.items():
            wave, rate = soundfile.read(CLIPS / path.name, dtype="float32")
            assert rate == 32000
            mels = log_mel(torch.from_numpy(wave)[None])
            np.testing.assert_allclose(mels[0, 0].T[::25], arrays["log_mel"], atol=2e-3)
            for layout in (torch.contiguous_format, torch.channels_last):
                logits = model.to(memory_format=layout)(mels.contiguous(memory_format=layout))
                difference = logits.sigmoid()[0].numpy() - 1 / (1 + np.exp(-arrays["logits"]))
                largest = max(largest, float(np.abs(difference).max()))
    assert largest < 1e-4


def test_torch_gives_our_scores(torch):
    """The same log-mels through ONNX Runtime and through torch."""
    import torch_mn
    from paddletag.tagging import onnx_engine

    log_mels = np.random.default_rng(0).normal(0, 0.5, (3, 200, 128)).astype(np.float32)
    with torch.inference_mode():
        scores = torch_mn.pretrained()(torch.from_numpy(log_mels).transpose(1, 2)[:, None]).sigmoid().numpy()
    ours = onnx_engine.predictor("mn04_as")(log_mels)["scores"]
    assert ours.max() > 0.01
    np.testing.assert_allclose(scores, ours, atol=1e-5)
