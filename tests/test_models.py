"""Backbones: the original's outputs, shapes, heads, the registry."""

import numpy as np
import paddle
import pytest
from paddletag import engine, models, weights
from paddletag.runtime import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch, shared):
    """A cache with mn04_as's real weights."""
    source = shared("weights/mn04_as_mAP_432.pt")
    monkeypatch.setenv("PADDLETAG_HOME", str(tmp_path))
    entry = models.entry("mn04_as")
    weights.install(entry.name, entry.url, entry.sha256, source=source, expected=models.shapes(entry.name))
    return tmp_path


@pytest.mark.parametrize("name", ["dog", "rooster", "clock_tick", "speech_and_telephone"])
def test_original_outputs(name, cache, shared):
    """Waveform to logits and embedding as EfficientAT's PyTorch code computes them, to 1e-3."""
    model = models.create_model("mn04_as", pretrained=True).eval()
    with np.load(shared(f"reference/mn04_as_{name}.npz")) as arrays, paddle.no_grad():
        x = engine.to_input(model, paddle.to_tensor(model.front_end.log_mel(arrays["waveform"])[None]))
        logits, embedding = model(x).numpy()[0], model.embed(x).numpy()[0]
        assert np.abs(logits - arrays["logits"]).max() < 1e-3
        assert np.abs(embedding - arrays["embedding"]).max() < 1e-3
        assert (np.argsort(-logits)[:10] == np.argsort(-arrays["logits"])[:10]).all()


def test_new_head_keeps_the_body(cache):
    old = models.create_model("mn04_as", pretrained=True).state_dict()
    new = models.create_model("mn04_as", num_classes=10, pretrained=True).state_dict()
    assert new["classifier.5.weight"].shape == [512, 10]
    different = {name for name in old if not np.array_equal(old[name].numpy(), new[name].numpy())}
    assert different == {"classifier.5.weight", "classifier.5.bias"}


def test_weights_of_another_architecture(cache):
    with pytest.raises(UserError, match=r"another architecture.*of another shape: features\.0\.0\.weight"):
        models.create_model("mn10_as", pretrained=weights.installed("mn04_as"))


def test_weights_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLETAG_HOME", str(tmp_path))
    with pytest.raises(UserError, match="tools/fetch_weights.py mn04_as"):
        models.create_model("mn04_as", pretrained=True)
    with pytest.raises(UserError, match="no pretrained weights"):
        models.create_model("mn02_as", pretrained=True)


@pytest.mark.parametrize("name", models.list_models())
def test_shapes_and_lengths(name):
    """Any input from 0.3 s up gives logits and embeddings; a head of any size; the same seed the same weights."""
    model = models.create_model(name, num_classes=7, seed=3).eval()
    for frames in (30, 101):
        x = paddle.randn([2, frames, model.front_end.n_mels])
        with paddle.no_grad():
            x = engine.to_input(model, x)
            assert model(x).shape == [2, 7]
            assert model.embed(x).shape[0] == 2 and model.embed(x).ndim == 2
    again = models.create_model(name, num_classes=7, seed=3).state_dict()
    assert all(paddle.equal_all(tensor, again[key]) for key, tensor in model.state_dict().items())
    assert set(model.head) <= set(again)


@pytest.mark.parametrize(("name", "millions"), [("mn04_as", 0.98), ("mn10_as", 4.88), ("mn40_as", 68.43)])
def test_published_sizes(name, millions):
    parameters = sum(p.size for p in models.create_model(name).parameters() if not p.stop_gradient)
    assert parameters / 1e6 == pytest.approx(millions, abs=0.01)


def test_registry():
    assert models.list_models("mn0*") == ["mn01_as", "mn02_as", "mn04_as", "mn05_as"]
    with pytest.raises(UserError, match=r"no backbone is called 'mn99'.*mn04_as"):
        models.entry("mn99")


def test_audioset_labels(shared):
    """In the order of AudioSet's own table."""
    import csv

    labels = models.audioset_labels()
    assert len(labels) == 527 and labels[0] == "Speech" and labels[74] == "Dog"
    with open(shared("data/audioset/class_labels_indices.csv"), newline="") as file:
        assert [row["display_name"] for row in csv.DictReader(file)] == labels
