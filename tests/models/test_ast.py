"""AST: transformers' outputs from waveform to logits, the positions, the padding, and the names of weight files."""

import numpy as np
import paddle
import pytest
from paddletag.features import frontend
from paddletag.models import ast, pretrained_weights
from test_frontend import golden_signal

PAD = 4.2677393 / (2 * 4.5689974)  # a log-mel of zero, normalised


@pytest.fixture(scope="module")
def model():
    """Random weights with positions large enough to see; 2 blocks."""
    paddle.seed(5)
    model = ast.AST(7, depth=2).eval()
    model.v.pos_embed.set_value(paddle.randn(model.v.pos_embed.shape))
    return model


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A function: (blocks, frames) -> (transformers' model for so many frames, the path of its weights for 1024).

    All its weights are random, also those of the norms, and the scales are such that each epsilon shows: the variance
    is about 1e-5 before the first norm, and 1e-4 before the head's.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def build(blocks, frames):
        settings = dict(num_hidden_layers=blocks, num_labels=527, layer_norm_eps=1e-6, attn_implementation="eager")
        whole = transformers.ASTForAudioClassification(transformers.ASTConfig(max_length=1024, **settings))
        generator = torch.Generator().manual_seed(blocks)
        state = whole.state_dict()
        for name, tensor in state.items():
            noise = torch.randn(tensor.shape, generator=generator)
            if "layernorm" in name:
                small = 0.01 if "transformer.layernorm" in name else 1.0
                state[name] = small * (0.3 * noise + (1 if name.endswith("weight") else 0))
            elif "embeddings" in name:
                state[name] = 0.0003 * noise if "patch" in name else 0.003 * noise
            else:
                state[name] = (0.1 if name.endswith("bias") else 0.05) * noise
        whole.load_state_dict(state)
        folder = tmp_path_factory.mktemp("reference")
        whole.save_pretrained(folder)

        model = transformers.ASTForAudioClassification(transformers.ASTConfig(max_length=frames, **settings))
        (positions,) = (name for name in state if name.endswith("position_embeddings"))
        time = (frames - 16) // 10 + 1
        table = state[positions][:, 2:].reshape(1, 12, 101, 768)[:, :, 50 - time // 2 :][:, :, :time]
        state[positions] = torch.cat([state[positions][:, :2], table.reshape(1, -1, 768)], 1)
        model.load_state_dict(state)
        model.classifier.layernorm.eps = 1e-5  # as the original has it; transformers takes one epsilon for all
        return model.eval(), folder / "model.safetensors"

    return build


@pytest.mark.parametrize("seconds", [pytest.param(10, marks=pytest.mark.full), 5])
@pytest.mark.parametrize("blocks", [2, pytest.param(12, marks=pytest.mark.full)])
def test_outputs_of_transformers(blocks, seconds, reference):
    """Waveform to logits and embedding, each through its own front end, closer than an approximated GELU comes."""
    import torch
    import transformers

    frames = {10: 1024, 5: 512}[seconds]
    theirs, path = reference(blocks, frames)
    ours = ast.AST(527, depth=blocks).eval()
    arrays = ast.convert(pretrained_weights.read(path))
    state = ours.state_dict()
    pretrained_weights.require_match(arrays, {name: tensor.shape for name, tensor in state.items()}, path)
    for name, tensor in state.items():
        tensor.set_value(arrays[name])

    waves = [golden_signal(16000)[start:][: seconds * 16000] for start in (0, 8000)]
    waves[1] = np.pad(waves[1], (0, seconds * 16000 - len(waves[1])))
    extractor = transformers.ASTFeatureExtractor(max_length=frames)
    with torch.no_grad():
        output = theirs.audio_spectrogram_transformer(
            extractor(waves, sampling_rate=16000, return_tensors="pt")["input_values"]
        )
        logits = theirs.classifier(output.pooler_output).numpy()
    with paddle.no_grad():
        x = paddle.to_tensor(np.stack([frontend.AST.log_mel(wave) for wave in waves])).unsqueeze(1)
        assert x.shape == [2, 1, 998 if seconds == 10 else 498, 128]
        assert logits.std() > 0.5 and np.abs(logits[0] - logits[1]).max() > 0.05
        assert np.abs(ours(x).numpy() - logits).max() < 1e-4
        assert np.abs(ours.embed(x).numpy() - output.pooler_output.numpy()).max() < 1e-6


@pytest.mark.parametrize(("frames", "target"), [(28, 128), (128, 128), (130, 256), (498, 512), (1064, 1064)])
def test_padding(frames, target, model):
    """The model's own padding is that of the log-mel before its normalisation."""
    x = paddle.randn([1, 1, frames, 128])
    padded = paddle.concat([x, paddle.full([1, 1, target - frames, 128], PAD)], axis=2) if target > frames else x
    with paddle.no_grad():
        tokens = model.v(padded.transpose([0, 1, 3, 2]))
        assert tokens.shape == [1, 2 + 12 * ((target - 16) // 10 + 1), 768]
        np.testing.assert_allclose(model.embed(x).numpy(), tokens[:, :2].mean(1).numpy(), atol=1e-5)


def test_padding_follows_the_front_end(model):
    x = paddle.randn([1, 1, 100, 128])
    with paddle.no_grad():
        other = ast.AST(7, frontend.AST.replace(mean=0.0), depth=2).eval()
        other.set_state_dict(model.state_dict())
        zeros = model(paddle.concat([x, paddle.zeros([1, 1, 28, 128])], axis=2))
        assert np.abs(other(x).numpy() - zeros.numpy()).max() < 1e-5
        assert np.abs(other(x).numpy() - model(x).numpy()).max() > 1e-3
    assert model.front_end == frontend.AST


@pytest.mark.parametrize("time", [12, 25, 50, 101, 109, 205])
def test_positions(time, model):
    """Cut from the middle, or interpolated linearly between the centres of the old ones; both tokens untouched."""
    table = model.v.pos_embed.numpy()[0]
    grid = table[2:].reshape(12, 101, 768)
    if time <= 101:
        expected = grid[:, 50 - time // 2 :][:, :time]
    else:
        at = (np.arange(time) + 0.5) * 101 / time - 0.5
        rows = grid.transpose(0, 2, 1).reshape(-1, 101)
        expected = np.stack([np.interp(at, np.arange(101), row) for row in rows])
        expected = expected.reshape(12, 768, time).transpose(0, 2, 1)
    found = model.v.positions(time).numpy()[0]
    np.testing.assert_array_equal(found[:2], table[:2])
    np.testing.assert_allclose(found[2:].reshape(12, time, 768), expected, atol=1e-4)


def test_gradients_reach_every_weight(model):
    x = paddle.randn([2, 1, 98, 128])
    model(x).square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in model.parameters())
    positions = model.v.pos_embed.grad[0, 2:].reshape([12, 101, 768]).abs().sum([0, 2]).numpy() > 0
    np.testing.assert_array_equal(np.flatnonzero(positions), np.arange(44, 56))
    model.clear_gradients()


def test_original_names(model):
    """The .pth of the original: torch's layout, `module.` in front, and ImageNet's two heads."""
    own = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    original = {f"module.{name}": array.T if array.ndim == 2 else array for name, array in own.items()}
    for head in ("head", "head_dist"):
        original |= {f"module.v.{head}.weight": np.zeros((1000, 768)), f"module.v.{head}.bias": np.zeros(1000)}
    for arrays in (original, own):
        converted = ast.convert(arrays)
        assert converted.keys() == own.keys()
        assert all(np.array_equal(converted[name], own[name]) for name in own)


def test_names_of_another_file():
    """What the converter does not know is kept, for the comparison of names to list."""
    prefix = "audio_spectrogram_transformer.encoder.layer.0."
    arrays = {prefix + "attention.attention.query.weight": np.zeros((768, 768)), prefix + "adapter.bias": np.zeros(1)}
    assert ast.convert(arrays).keys() == {"v.blocks.0.attn.q.weight", "v.blocks.0.adapter.bias"}


def test_size():
    """87 M parameters in the paper, with the two ImageNet heads of 1000 classes that are not used."""
    assert sum(p.size for p in ast.AST(527).parameters()) == 86_594_063
