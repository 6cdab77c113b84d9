"""PANNs' backbones against independent PyTorch ones (panns_inference), and against PaddleSpeech's own forward."""

import csv
import importlib
import sys

import numpy as np
import paddle
import pytest
from paddletag.models import registry
from paddletag.runtime import UserError
from paddletag.tagging import scoring

NAMES = registry.list_models("panns_*")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A function: name -> PyTorch model of waveforms, with random weights and BatchNorm statistics."""
    why = "the parity tests need torch, panns_inference and torchlibrosa: tools/install.sh --parity"
    torch = pytest.importorskip("torch", reason=why, exc_type=ImportError)
    stft = pytest.importorskip("torchlibrosa.stft", reason=why, exc_type=ImportError)
    home = tmp_path_factory.mktemp("home")
    (home / "panns_data").mkdir()
    rows = [(n, n, label) for n, label in enumerate(registry.audioset_labels())]
    with open(home / "panns_data" / "class_labels_indices.csv", "w", newline="") as file:  # else it is downloaded
        csv.writer(file).writerows([("index", "mid", "display_name"), *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        panns = pytest.importorskip("panns_inference.models", reason=why, exc_type=ImportError)
    nn = torch.nn

    class Block5x5(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 5, padding=2, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)

        def forward(self, x):
            return nn.functional.avg_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)

    class Small(nn.Module):
        """CNN10 and CNN6 by table 1 of the paper: four blocks, each followed by a 2 x 2 average; fc of 512; 527."""

        def __init__(self, block):
            super().__init__()
            self.spectrogram_extractor = stft.Spectrogram(n_fft=1024, hop_length=320)
            self.logmel_extractor = stft.LogmelFilterBank(32000, 1024, 64, 50, 14000, top_db=None)
            self.bn0 = nn.BatchNorm2d(64)
            for n, (inputs, outputs) in enumerate([(1, 64), (64, 128), (128, 256), (256, 512)]):
                self.add_module(f"conv_block{n + 1}", block(inputs, outputs))
            self.fc1, self.fc_audioset = nn.Linear(512, 512), nn.Linear(512, 527)

        def forward(self, wave):
            x = self.logmel_extractor(self.spectrogram_extractor(wave))
            x = self.bn0(x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)
            for n in range(4):
                x = getattr(self, f"conv_block{n + 1}")(x)
            x = x.mean(3)
            return {"embedding": torch.relu(self.fc1(x.amax(2) + x.mean(2)))}

    def build(name):
        torch.manual_seed(5)
        model = {
            "panns_cnn14": lambda: panns.Cnn14(32000, 1024, 320, 64, 50, 14000, 527),
            "panns_cnn10": lambda: Small(panns.ConvBlock),
            "panns_cnn6": lambda: Small(Block5x5),
        }[name]()
        norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        for layer in norms:  # other than 1 and 0, and learnt from the clips: else these hardly move the logits
            nn.init.uniform_(layer.weight, 0.7, 1.3)
            nn.init.normal_(layer.bias, 0.0, 0.2)
            layer.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.from_numpy(waves()))
            for layer in norms:
                layer.running_mean += 0.2 * layer.running_var.sqrt() * torch.randn(len(layer.running_var))
                layer.running_var *= 0.7 + 0.6 * torch.rand(len(layer.running_var))
            model.fc_audioset.weight *= 5
        return model.eval()

    return build


def waves():
    """Two clips of 2 s at 32 kHz: a rising tone in noise, and clicks in noise."""
    random, t = np.random.default_rng(6), np.arange(64000) / 32000
    noise = random.normal(0, 0.01, (2, 64000))
    clicks = np.where(np.arange(64000) % 6400 < 40, 0.7, 0.0)
    return (noise + [0.5 * np.sin(2 * np.pi * (200 * t + 2000 * t**2)), clicks]).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_parity(name, reference, tmp_path):
    """Waveform to embedding and logits, by weights that went through a .pth file as PANNs publish theirs."""
    import torch

    original = reference(name)
    checkpoint = {"iteration": 1, "model": original.state_dict()}
    torch.save(checkpoint, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    with torch.no_grad():
        result = original(torch.from_numpy(waves()))
        embedding = result["embedding"]
        logits = original.fc_audioset(embedding)
        if name == "panns_cnn14":  # which gives a sigmoid of its own
            assert torch.allclose(torch.sigmoid(logits), result["clipwise_output"])
    model = registry.create_model(name, pretrained=tmp_path / "x.pth").eval()
    x = np.stack([model.front_end.log_mel(wave) for wave in waves()])
    with paddle.no_grad():
        x = scoring.to_input(model, paddle.to_tensor(x))
        found = model(x).numpy()
        assert np.abs(model.embed(x).numpy() - embedding.numpy()).max() < 1e-3
    logits = logits.numpy()
    assert np.abs(logits[0] - logits[1]).max() > 1  # else the next line could hardly fail
    difference = np.abs(found - logits).max()
    print(f"{name}: logits from {logits.min():.2f} to {logits.max():.2f}, differ by {difference:.1e} at most")
    assert difference < 1e-3


@pytest.fixture
def theirs():
    """PaddleSpeech's own CNN6, with statistics that differ from channel to channel."""
    from paddlespeech.cls.models import CNN6

    paddle.seed(7)
    model = CNN6(extract_embedding=False)
    for name, tensor in model.state_dict().items():
        if name.endswith(("_mean", "_variance")):
            tensor.set_value(paddle.rand(tensor.shape) + 0.5)
    return model.eval()


def test_agrees_with_paddlespeech(theirs, tmp_path):
    """The same scores from its .pdparams: our logits through its sigmoid."""
    paddle.save(theirs.state_dict(), str(tmp_path / "cnn6.pdparams"))
    ours = registry.create_model("panns_cnn6", pretrained=tmp_path / "cnn6.pdparams").eval()
    x = paddle.randn([2, 1, 50, 64])
    with paddle.no_grad():
        logits = ours(x)
        assert x.stop_gradient  # theirs would ask for the gradient of its caller's tensor
        assert np.abs(paddle.nn.functional.sigmoid(logits).numpy() - theirs(x).numpy()).max() < 1e-6


def test_short_clips_are_padded_with_silence():
    """As if the waveform went on with zeros: the floor of the dB scale, not 0 dB."""
    ours = registry.create_model("panns_cnn14").eval()
    x = paddle.randn([1, 1, 20, 64]) * 10 - 40
    silence = ours.front_end.log_mel(np.zeros(4000, np.float32))[:12]
    padded = paddle.concat([x, paddle.to_tensor(silence)[None, None]], axis=2)
    with paddle.no_grad():
        assert np.allclose(ours(x).numpy(), ours(padded).numpy(), rtol=0, atol=1e-4)


def test_without_paddlespeech(monkeypatch):
    monkeypatch.setitem(sys.modules, "paddlespeech.cls", None)
    monkeypatch.delitem(sys.modules, "paddletag.models.panns", raising=False)
    monkeypatch.delattr(registry, "panns", raising=False)
    with pytest.raises(UserError, match="paddlespeech"):
        registry.create_model("panns_cnn6")
    assert importlib.import_module("paddletag.models.mobilenet")  # the others do not need it
