"""Tagging results as text: against the format of PaddleAudio's parse_result.py, byte for byte, and damaged files."""

import numpy as np
import pytest
from paddletag import parsing, runtime
from prepared import call, refusal

SCORES = np.array([[0.1, 0.7, 0.2], [0.25, 0.25, 0.5]], np.float32)
ARRAYS = {"time": np.array([0.0, 1 / 3]), "scores": SCORES, "labels": np.array(["Dog", "Speech", "Bell, ringing"])}
TEXT = """0.0
Speech: 0.699999988079071
Bell, ringing: 0.20000000298023224

0.3333333333333333
Bell, ringing: 0.5
Dog: 0.25

"""


@pytest.fixture
def result(tmp_path):
    np.savez(tmp_path / "scene.npz", **ARRAYS)
    return tmp_path / "scene.npz"


def refused(path):
    with pytest.raises(runtime.UserError) as caught:
        parsing.read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_text_is_paddleaudios_format(result):
    assert parsing.text(parsing.read(result), 2) == TEXT


def test_top_k_is_in_order_and_no_longer_than_the_labels():
    found = parsing.top_k(np.array([0.2, 0.9, 0.2, 0.5], np.float32), ["a", "b", "c", "d"], 9)
    assert [label for label, _ in found] == ["b", "d", "a", "c"]
    assert [score for _, score in found] == pytest.approx([0.9, 0.5, 0.2, 0.2])
    assert len(parsing.top_k(SCORES[0], ARRAYS["labels"], 1)) == 1


def test_missing_and_not_a_result(tmp_path):
    assert "no such file" in refused(tmp_path / "none.npz")
    refused(tmp_path)
    for name, data in {"empty": b"", "text": b"0.0\nSpeech: 0.7\n", "zip": b"PK\x03\x04" + b"x" * 90}.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name)
    np.save(tmp_path / "one.npy", SCORES)
    refused(tmp_path / "one.npy")


@pytest.mark.parametrize("key", ARRAYS)
def test_arrays_that_lack_or_do_not_fit(tmp_path, key):
    path = tmp_path / "odd.npz"
    np.savez(path, **{k: v for k, v in ARRAYS.items() if k != key})
    assert key in refused(path)
    for wrong in (ARRAYS[key][:1], np.array(1.0)):
        np.savez(path, **{**ARRAYS, key: wrong})
        refused(path)


def test_a_pickle_is_refused(tmp_path):
    path = tmp_path / "trap.npz"
    np.savez(path, **{**ARRAYS, "labels": np.array(["Dog", None, {}], object)}, allow_pickle=True)
    assert "not a tagging result" in refused(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_damage_is_one_line_or_harmless(tmp_path, save):
    path = tmp_path / "damaged.npz"
    save(path, **ARRAYS)
    whole = path.read_bytes()
    refusals = 0
    for position in range(0, len(whole), 5):
        for data in (whole[:position], whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :]):
            path.write_bytes(data)
            try:
                assert parsing.read(path)["scores"].shape[0] == 2
            except runtime.UserError as error:
                refusals += 1
                assert str(path) in str(error)
    assert refusals > len(whole) / 10


def test_script_writes_a_text_for_each_result(tmp_path, result, capsys):
    np.savez(tmp_path / "other.npz", **ARRAYS)
    call("parse_result", "--tagging-file", tmp_path, "--top-k", 2, "--output_dir", tmp_path / "out")
    texts = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert texts == {"scene.txt": TEXT, "other.txt": TEXT}
    assert "0.475  Speech" in capsys.readouterr().out  # the mean over the windows
    call("parse_result", "--tagging_file", result, "--top_k", 2, "--output_dir", tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["scene.txt"]


def test_script_refuses(tmp_path):
    assert "--top_k 0" in refusal("parse_result", "--tagging_file", tmp_path, "--top_k", 0)
    assert "stage 4" in refusal("parse_result", "--tagging_file", tmp_path)
    assert "stage 4" in refusal("parse_result", "--tagging_file", tmp_path / "none.npz")
