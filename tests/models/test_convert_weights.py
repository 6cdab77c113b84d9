"""`paddletag convert`: one command for every kind of file, and nothing written where something is wrong."""

import json

import numpy as np
import paddle
import pytest
import safetensors.numpy
from paddletag.data import download
from paddletag.models import pretrained_weights, registry
from test_weights import Tensor, state_dict, write_legacy, write_torch

NAME = "mn01_as"


@pytest.fixture(scope="module")
def model():
    return registry.create_model(NAME, seed=1)


def as_torch(model):
    """The model's weights as its authors would have saved them: torch's names and layout."""
    arrays = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        arrays[name.replace("._mean", ".running_mean").replace("._variance", ".running_var")] = (
            np.ascontiguousarray(array.T) if array.ndim == 2 else array
        )
    return arrays | {"features.0.1.num_batches_tracked": np.array(1, "i8")}


def write(kind, folder, model):
    path = folder / f"original.{kind}"
    if kind == "pdparams":
        paddle.save(model.state_dict(), str(path))
    elif kind == "safetensors":
        safetensors.numpy.save_file(as_torch(model), path)
    else:
        value = {"model": state_dict(as_torch(model)), "epoch": 3}
        (write_torch if kind == "pt" else write_legacy)(path, value)
    return path


@pytest.mark.parametrize("kind", ["pt", "pth", "pdparams", "safetensors"])
def test_convert(kind, model, tmp_path, script):
    """The same arrays from every kind of file, with a record of where they are from; and create_model takes them."""
    source, out = write(kind, tmp_path, model), tmp_path / "new" / "out.safetensors"
    result = script("tools/convert_weights.py", source, "--model", NAME, "--out", out)
    assert result.returncode == 0, result.stderr
    expected = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    found = safetensors.numpy.load_file(out)
    assert set(found) == set(expected) and all(np.array_equal(found[name], expected[name]) for name in found)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["sha256"] == download.checksum(out) and record["name"] == NAME
    assert record["original"]["sha256"] == download.checksum(source) and record["source"] == source.name
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.json", "out.safetensors"]
    for path in (source, out):  # the original and the converted file, in a model of other random weights
        loaded = registry.create_model(NAME, pretrained=path, seed=2).state_dict()
        assert all(np.array_equal(loaded[name].numpy(), expected[name]) for name in expected)


def failed(result, *words):
    assert result.returncode == 2 and result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert all(word in result.stderr for word in words), result.stderr


def test_wrong_files(model, tmp_path, script):
    """One line that names what is wrong, and nothing written."""
    source, out = write("pt", tmp_path, model), tmp_path / "out.safetensors"
    arrays = as_torch(model)
    other = {**arrays, "extra.weight": np.zeros(3, "f4"), "classifier.5.bias": np.zeros(50, "f4")}
    del other["features.0.0.weight"]
    wrong = write_torch(tmp_path / "wrong.pt", {name: Tensor.of(array) for name, array in other.items()})
    cut = tmp_path / "cut.pt"
    cut.write_bytes(source.read_bytes()[:-100])

    def convert(path, name=NAME, to=out):
        return script("tools/convert_weights.py", path, "--model", name, "--out", to)

    failed(
        convert(wrong),
        *("1 missing", "features.0.0.weight"),
        *("1 unexpected", "extra.weight"),
        *("1 of another shape", "classifier.5.bias", "[50]", "[527]"),
    )
    failed(convert(source, "mn02_as"), "features.2.block.2.0.weight")
    failed(convert(source, "mn03_as"), "mn03_as", "mn02_as")
    failed(convert(cut), "cut.pt", "damaged")
    failed(convert(tmp_path / "absent.pt"), "absent.pt", "no such file")
    failed(convert(source, to=tmp_path / "out.pt"), "out.pt", ".safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.pt", "original.pt", "wrong.pt"]


def test_a_file_is_not_written_over_itself(model, tmp_path):
    source = write("safetensors", tmp_path, model)
    before = source.read_bytes()
    with pytest.raises(pretrained_weights.UserError, match=r"original\.(safetensors|json): exists"):
        pretrained_weights.convert_file(source, source, NAME, None, None)
    assert source.read_bytes() == before


def test_panns_file(tmp_path):
    """PANNs' .pth holds its STFT and its mel bank as weights: they are left out, anything else unknown is not."""
    model = registry.create_model("panns_cnn6")
    extras = {"spectrogram_extractor.stft.conv_real.weight": np.zeros((3, 1, 4), "f4")}
    extras["logmel_extractor.melW"] = np.zeros((3, 2), "f4")
    path = write_legacy(tmp_path / "x.pth", {"model": state_dict(as_torch(model) | extras), "iteration": 1})
    expected = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    found = registry.convert("panns_cnn6", pretrained_weights.read(path))
    assert set(found) == set(expected) and all(np.array_equal(found[name], expected[name]) for name in found)
    path = write_torch(tmp_path / "y.pth", state_dict(as_torch(model) | {"att_block.weight": np.zeros(3, "f4")}))
    with pytest.raises(pretrained_weights.UserError, match="att_block.weight"):
        registry.create_model("panns_cnn6", pretrained=path)


def test_a_trained_model_is_not_written_over(model, tmp_path):
    """Its folder's model.json would become the record of a conversion."""
    source, out = write("pt", tmp_path, model), tmp_path / "model.safetensors"
    out.with_suffix(".json").write_text("{}")
    with pytest.raises(pretrained_weights.UserError, match=r"model\.json: exists"):
        pretrained_weights.convert_file(source, out, NAME, None, None)
    assert not out.exists() and out.with_suffix(".json").read_text() == "{}"
