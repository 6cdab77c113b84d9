"""Folders of trained models and checkpoints: what is written comes back in the same bits, and damage is one line."""

import hashlib
import json
import pickle
import re
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddletag import config, runtime
from paddletag.features import frontend
from paddletag.models import model_folder, registry
from paddletag.training import checkpoint, run_record
from paddletag.training.optimizer import create_optimizer
from safetensors.numpy import load_file

pytestmark = pytest.mark.filterwarnings("ignore:When training, we now always track")
LABELS = ["a", "b", "c"]


@pytest.fixture
def model():
    model = registry.create_model("mn01_as", len(LABELS), seed=3)
    generator = np.random.default_rng(0)
    for tensor in model.state_dict().values():  # as training would, the head and the statistics too
        tensor.set_value(tensor.numpy() + generator.uniform(0, 0.1, tensor.shape).astype(np.float32))
    model.eval()
    return model


@pytest.fixture
def folder(model, tmp_path):
    run = {"config": config.to_dict(config.defaults()), "fold": 1}
    meta = {"backbone": "mn01_as", "labels": LABELS, "task": "single_label", "clip_seconds": 0.5, "run": run}
    model_folder.save_model(tmp_path / "model", model, meta)
    return tmp_path / "model"


def logits(model):
    x = paddle.to_tensor(np.random.default_rng(1).standard_normal((2, 1, 128, 40)).astype(np.float32))
    with paddle.no_grad():
        return model(x).numpy()


def refusal(folder):
    with pytest.raises(runtime.UserError) as caught:
        model_folder.load_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_gives_the_model_back_bit_for_bit(model, folder):
    paddle.nn.Linear(3, 3)  # paddle's automatic names move on
    loaded, meta = model_folder.load_model(folder)
    np.testing.assert_array_equal(logits(loaded), logits(model))
    assert not loaded.training and loaded.front_end == frontend.MN
    assert meta["labels"] == LABELS and meta["run"]["fold"] == 1


def test_the_weights_are_readable_by_the_safetensors_library(model, folder):
    arrays = load_file(folder / "model.safetensors")
    assert {name: array.tolist() for name, array in arrays.items()} == {
        name: tensor.numpy().tolist() for name, tensor in model.state_dict().items()
    }


def test_the_model_keeps_a_front_end_of_its_own(tmp_path, folder):
    model = registry.create_model("mn01_as", len(LABELS), front_end=frontend.MN.replace(f_max=12000.0))
    meta = json.loads((folder / "model.json").read_text())
    model_folder.save_model(tmp_path / "other", model, meta)
    loaded, _ = model_folder.load_model(tmp_path / "other")
    assert loaded.front_end.f_max == 12000.0


def test_one_flipped_bit_is_found(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    assert str(path) in refusal(folder) and "checksum" in refusal(folder)


def test_a_half_copied_folder(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    assert str(path) in refusal(folder) and "half copied" in refusal(folder)
    path.unlink()
    assert str(path) in refusal(folder) and "no such file" in refusal(folder)


def test_no_model_at_all(tmp_path):
    assert str(tmp_path / "model.json") in refusal(tmp_path)
    with pytest.raises(runtime.UserError, match="nowhere"):
        model_folder.load_model("nowhere")


@pytest.mark.parametrize("text", ["", "{", "\x00\xff", "[]", "7", '"text"', "null"])
def test_a_description_that_is_none(folder, text):
    (folder / "model.json").write_text(text, encoding="latin1")
    assert "model.json" in refusal(folder)


@pytest.mark.parametrize("key", ["backbone", "labels", "task", "clip_seconds", "front_end", "run", "sha256"])
def test_a_description_that_lacks_something(folder, key):
    path = folder / "model.json"
    meta = json.loads(path.read_text())
    for wrong in ({k: v for k, v in meta.items() if k != key}, {**meta, key: None}):
        path.write_text(json.dumps(wrong))
        assert str(path) in refusal(folder) and key in refusal(folder)


def test_a_description_of_what_this_version_does_not_know(folder):
    path = folder / "model.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "backbone": "cnn99"}))
    assert "cnn99" in refusal(folder)
    path.write_text(json.dumps({**meta, "front_end": {**meta["front_end"], "liftering": 22}}))
    assert "liftering" in refusal(folder)
    path.write_text(json.dumps({**meta, "labels": LABELS[:2]}))
    assert "classifier.5" in refusal(folder)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_folder_is_executed(folder, tmp_path):
    trap = tmp_path / "sprung"
    data = pickle.dumps({"classifier.5.weight": Trap(trap)}, protocol=2)
    (folder / "model.safetensors").write_bytes(data)
    refusal(folder)
    meta = json.loads((folder / "model.json").read_text())
    meta["sha256"] = hashlib.sha256(data).hexdigest()  # who writes the weights can write the checksum
    (folder / "model.json").write_text(json.dumps(meta))
    refusal(folder)
    last = tmp_path / "last.safetensors"
    last.write_bytes(data)
    model = registry.create_model("mn01_as", 3)
    with pytest.raises(runtime.UserError, match="last.safetensors"):
        checkpoint.load_state(last, model)
    assert not trap.exists()
    pickle.loads(data)  # the trap would have worked
    assert trap.exists()


def adamw(model):
    settings = SimpleNamespace(optimizer="adamw", lr=1e-2, weight_decay=0.1, clip_norm=0.0, layer_decay=1.0)
    return create_optimizer(model, settings)


def step(model, optimizer, seed):
    x = np.random.default_rng(seed).standard_normal((3, 1, 128, 30)).astype(np.float32)
    model.train()
    paddle.seed(seed)
    model(paddle.to_tensor(x)).square().sum().backward()
    optimizer.step()
    optimizer.clear_grad()


def test_a_checkpoint_goes_on_in_the_same_bits_under_other_automatic_names(tmp_path):
    model = registry.create_model("mn01_as", 3)
    optimizer = adamw(model)
    for seed in (1, 2):
        step(model, optimizer, seed)
    progress = {"epoch": 2, "seconds": 1.5, "history": [{"loss": 0.1}]}
    checkpoint.save_state(tmp_path / "last.safetensors", model, optimizer, progress)

    paddle.nn.Sequential(paddle.nn.Conv2D(1, 1, 3), paddle.nn.BatchNorm2D(1), paddle.nn.Linear(2, 2))
    other = registry.create_model("mn01_as", 3, seed=9)
    assert not {p.name for p in model.parameters()} & {p.name for p in other.parameters()}
    restored = adamw(other)
    saved = checkpoint.load_state(tmp_path / "last.safetensors", other)
    saved.restore_optimizer(other, restored)
    assert saved.progress == progress
    without = registry.create_model("mn01_as", 3, seed=9)
    checkpoint.load_state(tmp_path / "last.safetensors", without)
    for one, its in ((model, optimizer), (other, restored), (without, adamw(without))):
        step(one, its, 3)
        step(one, its, 4)
    state = model.state_dict()
    for name, tensor in other.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), state[name].numpy(), err_msg=name)
    # and it is the moments that make the difference
    assert any((t.numpy() != state[name].numpy()).any() for name, t in without.state_dict().items())


@pytest.mark.parametrize("damage", ["empty", "short", "another file"])
def test_a_damaged_checkpoint_is_one_line_that_says_what_to_do(tmp_path, model, folder, damage):
    path = tmp_path / "last.safetensors"
    checkpoint.save_state(path, model, adamw(model), {"epoch": 1})
    data = {"empty": b"", "short": path.read_bytes()[:-10], "another file": (folder / "model.safetensors").read_bytes()}
    path.write_bytes(data[damage])
    with pytest.raises(runtime.UserError, match="last.safetensors") as caught:
        checkpoint.load_state(path, model)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_differences_name_the_key_and_leave_out_what_does_not_matter():
    def run(**train):
        return {"config": {"task": "single_label", "train": {"lr": 1e-3, "log_freq": 1, **train}}, "fold": 1}

    assert list(run_record.differences(run(), run(log_freq=7, workers=3))) == []
    changes = [(run(lr=0.1), "train.lr .*0.001.* 0.1"), ({**run(), "fold": 2}, "fold .*1.* 2")]
    for other, words in [*changes, (run(new=4), "train.new .*None.* 4")]:
        (text,) = run_record.differences(run(), other)
        assert re.fullmatch(words, text)
