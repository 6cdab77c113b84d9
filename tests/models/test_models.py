"""Backbones: the original's outputs, shapes, heads, the registry."""

import numpy as np
import paddle
import pytest
from conftest import ROOT
from paddle.nn import functional as F
from paddletag import config
from paddletag.data import audio
from paddletag.models import backbone, depthwise, mobilenet, pretrained_weights, registry
from paddletag.runtime import UserError
from paddletag.tagging import scoring


def test_original_outputs(reference):
    """Waveform to logits and embedding as EfficientAT's PyTorch code computes them, to 1e-3."""
    model = registry.create_model("mn04_as", pretrained=True).eval()
    for clip, arrays in reference.items():
        log_mel = model.front_end.log_mel(audio.load(clip, 32000))
        with paddle.no_grad():
            x = scoring.to_input(model, paddle.to_tensor(log_mel[None]))
            logits, embedding = model(x).numpy()[0], model.embed(x).numpy()[0]
        assert np.abs(logits - arrays["logits"]).max() < 1e-3
        assert np.abs(embedding - arrays["embedding"]).max() < 1e-3
        assert (np.argsort(-logits)[:10] == np.argsort(-arrays["logits"])[:10]).all()


def test_new_head_keeps_the_body():
    old = registry.create_model("mn04_as", pretrained=True).state_dict()
    new = registry.create_model("mn04_as", num_classes=10, pretrained=True).state_dict()
    assert new["classifier.5.weight"].shape == [512, 10]
    different = {name for name in old if not np.array_equal(old[name].numpy(), new[name].numpy())}
    assert different == {"classifier.5.weight", "classifier.5.bias"}


def test_weights_of_another_architecture():
    with pytest.raises(UserError, match=r"another shape: features\.0\.0\.weight"):
        registry.create_model("mn10_as", pretrained=pretrained_weights.installed("mn04_as"))


def test_weights_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLETAG_HOME", str(tmp_path))
    for name in ("mn10_as", "mn02_as"):
        with pytest.raises(UserError, match=f"weights {name}"):
            registry.create_model(name, pretrained=True)


@pytest.fixture(scope="module", params=registry.list_models())
def built(request):
    """(name, model with a head of 7): built once for the tests below, which run name by name."""
    return request.param, registry.create_model(request.param, num_classes=7, seed=3).eval()


def features(model, seconds):
    front_end = model.front_end
    return scoring.to_input(model, paddle.randn([2, front_end.frames(front_end.samples(seconds)), front_end.n_mels]))


def test_shapes_and_lengths(built):
    """Any input from 0.3 s up gives logits of the head's size, and embeddings of the entry's."""
    name, model = built
    for seconds in (0.3, 1.01):
        x = features(model, seconds)
        with paddle.no_grad():
            logits, embedding = model(x), model.embed(x)
            np.testing.assert_array_equal(model.classify(embedding), logits)
        assert logits.shape == [2, 7] and embedding.shape == [2, registry.entry(name).embedding]
        assert np.isfinite(logits.numpy()).all() and x.stop_gradient
    assert model.layout in ("TF", "FT")


def test_head(built):
    """The head's names are all that depends on the number of classes."""
    name, model = built
    state, other = model.state_dict(), registry.create_model(name, num_classes=8).state_dict()
    assert set(state) == set(other)
    assert {key for key in state if state[key].shape != other[key].shape} == set(model.head)


@pytest.mark.parametrize("name", ["mn01_as", "panns_cnn6"])
def test_seed(name):
    first, again, other = (registry.create_model(name, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(np.array_equal(tensor.numpy(), again[key].numpy()) for key, tensor in first.items())
    assert not np.array_equal(first[HEAD[name]].numpy(), other[HEAD[name]].numpy())


HEAD = {"mn01_as": "classifier.5.weight", "panns_cnn6": "fc_audioset.weight"}


@pytest.mark.parametrize("name", ["mn01_as", "panns_cnn6"])
def test_freeze(name):
    """A training step changes what lies behind the frozen stages, and nothing in them."""
    model = registry.create_model(name, num_classes=7)
    depth = 3
    backbone.freeze(model, depth)
    frozen = {key for key in model.state_dict() if key.startswith(tuple(model.stages[:depth]))}
    kept = {key for key in model.state_dict() if key.startswith(tuple(model.stages[depth:]))}
    assert len(frozen) > 5 and kept and not frozen & kept
    before = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    optimizer = paddle.optimizer.SGD(1.0, parameters=[p for p in model.parameters() if not p.stop_gradient])
    model.train()
    model(features(model, 1.0)).square().sum().backward()
    optimizer.step()
    changed = {key for key, tensor in model.state_dict().items() if not np.array_equal(tensor.numpy(), before[key])}
    assert not changed & frozen and changed >= set(model.head)
    assert {key for key in kept if key.endswith("_mean")} <= changed  # the others' BatchNorm goes on


def test_frozen_stages_compute_as_in_evaluation():
    model = registry.create_model("mn01_as", num_classes=7)
    backbone.freeze(model, len(model.stages))  # all but the classifier
    x = features(model, 1.0)
    model.train()
    with paddle.no_grad():
        training = model.embed(x).numpy()
        model.eval()
        assert np.array_equal(training, model.embed(x).numpy())


def test_stages_cover_the_body(built):
    """Each parameter lies in one stage, but for the last ones: the head, and what stands directly before it."""
    _, model = built
    names = [name for name, _ in model.named_parameters()]
    where = [[n for n, stage in enumerate(model.stages) if name.startswith(stage)] for name in names]
    assert {n for found in where for n in found} == set(range(len(model.stages)))
    assert max(map(len, where)) == 1
    assert {name for name, found in zip(names, where, strict=True) if not found} - set(model.head) <= LAST


LAST = {
    f"{layer}.{kind}" for layer in ("classifier.2", "v.norm", "mlp_head.0") for kind in ("weight", "bias")
}  # of MN and AST


def test_freeze_too_deep():
    model = registry.create_model("mn01_as")
    with pytest.raises(UserError, match="18.* 17"):
        backbone.freeze(model, 18)


PUBLISHED = {  # millions of parameters and billions of MACs for 10 s (EfficientAT's README; PANNs' paper has no MACs)
    "mn04_as": (0.983, 0.11),
    "mn05_as": (1.43, 0.16),
    "mn10_as": (4.88, 0.54),
    "mn20_as": (17.91, 2.06),
    "mn30_as": (39.09, 4.55),
    "mn40_as_ext": (68.43, 8.03),
    "mn10_as_hop_15": (4.88, 0.36),
    "mn10_as_hop_20": (4.88, 0.27),
    "mn10_as_hop_25": (4.88, 0.22),
    "mn10_as_mels_40": (4.88, 0.21),
    "mn10_as_mels_64": (4.88, 0.27),
    "mn10_as_mels_256": (4.88, 1.08),
    "panns_cnn14": (80.75, None),
    "panns_cnn10": (5.22, None),
    "panns_cnn6": (4.84, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    """Counted here, to the last digit of what the authors publish."""
    millions, billions = PUBLISHED[name]
    model = registry.create_model(name)
    parameters, macs = backbone.parameters(model), backbone.macs(model)
    assert (parameters, macs) == registry.entry(name).counts  # which `paddletag models` shows
    assert parameters / 1e6 == pytest.approx(millions, abs=0.006)
    if billions:
        assert macs / 1e9 == pytest.approx(billions, abs=0.006)


def test_stored_sizes_that_nobody_published():
    for name in ("mn01_as", "mn02_as"):
        model = registry.create_model(name)
        assert (backbone.parameters(model), backbone.macs(model)) == registry.entry(name).counts


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in registry.list_models() if name not in PUBLISHED])
def test_all_other_stored_sizes(name):
    model = registry.create_model(name)
    assert (backbone.parameters(model), backbone.macs(model)) == registry.entry(name).counts


def test_macs_by_hand():
    """CNN6 on 1 s (101 x 64), layer by layer: each block is one 5 x 5 convolution, then halved both ways."""
    model = registry.create_model("panns_cnn6", num_classes=10)
    expected, frames, mels, channels = 0, 101, 64, 1
    for out in (64, 128, 256, 512):
        expected += frames * mels * 25 * channels * out
        frames, mels, channels = frames // 2, mels // 2, out
    assert backbone.macs(model, 1.0) == expected + 512 * 512 + 512 * 10
    assert model.training  # as it was


def test_registry():
    assert registry.list_models("mn0*") == ["mn01_as", "mn02_as", "mn04_as", "mn05_as"]
    with pytest.raises(UserError, match="mn99.*mn04_as"):
        registry.entry("mn99")


@pytest.mark.parametrize("name", registry.list_models())
def test_entry_is_complete(name):
    entry = registry.entry(name)
    assert entry.name == name and entry.url.startswith("https://") and " " not in entry.url
    assert entry.licence and entry.paper and 0.2 < entry.map < 0.5
    assert len(registry.audioset_labels(entry.labels)) == 527
    assert len(entry.sha256) in (0, 64) and len(entry.md5) in (0, 32)


def test_hop_variants():
    hops = {name: registry.entry(name).front_end.hop_length for name in registry.list_models("mn10_as*")}
    assert hops["mn10_as_hop_5"] == 160 and hops["mn10_as_hop_25"] == 800 and hops["mn10_as"] == 320
    assert registry.entry("mn10_as_mels_40").front_end.n_mels == 40
    assert registry.entry("mn10_as_hop_5").url.endswith("/mn10_as_hop_5_mAP_475.pt")


def test_list_models(script, tmp_path):
    (tmp_path / "mn01_as.safetensors").touch()
    result = script("tools/list_models.py", "mn0*", PADDLETAG_HOME=str(tmp_path))
    header, *rows, note = result.stdout.splitlines()
    assert result.returncode == 0 and len(rows) == 4 and "weights NAME" in note
    assert header.split()[:2] == ["name", "parameters"] and len({line.index("MIT") for line in rows}) == 1
    cells = [line.split() for line in rows]
    assert cells[2][:6] == ["mn04_as", "0.98", "M", "0.11", "G", "0.432"] and rows[2].endswith("installed")
    assert rows[0].endswith("in the cache") and rows[1].endswith("by hand")
    result = script("tools/list_models.py", "cnn6")  # a part of a name
    assert result.returncode == 0 and result.stdout.splitlines()[1].startswith("panns_cnn6 ")
    result = script("tools/list_models.py", "mn99")
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1 and "mn99" in result.stderr


def test_fetch_without_a_checksum_shows_the_address(script, tmp_path):
    """Nothing is downloaded that could not be told from another file."""
    result = script("tools/fetch_weights.py", "mn02_as", PADDLETAG_HOME=str(tmp_path))
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())
    assert registry.entry("mn02_as").url in result.stderr and "mn02_as --from mn02_as_mAP_378.pt" in result.stderr


def test_audioset_labels(shared):
    """In the order of AudioSet's own table."""
    import csv

    labels = registry.audioset_labels()
    assert len(labels) == 527 and labels[0] == "Speech" and labels[74] == "Dog"
    with open(shared("data/audioset/class_labels_indices.csv"), newline="") as file:
        assert [row["display_name"] for row in csv.DictReader(file)] == labels


def test_other_front_ends():
    """MN takes another number of mel bands; PANNs and AST would fail in the middle of their work."""

    def front_end(*opts):
        path = ROOT / "examples" / "esc50" / "conf" / "mn04.yaml"
        return registry.front_end(config.load(path, opts))

    assert front_end("features.front_end.n_mels", "64").n_mels == 64
    for name in ("panns_cnn6", "ast_base"):
        with pytest.raises(UserError, match=f"n_mels.*96.*{name}"):
            front_end("model.name", name, "features.front_end.n_mels", "96")


def test_front_end_of_a_model():
    """The entry's own, or the one that the model is made with, which changes none of its weights."""
    other = registry.entry("mn10_as_hop_15").front_end.replace(pad="zero")
    models = [registry.create_model("mn01_as", 2, front_end=front_end) for front_end in (None, other)]
    assert [model.front_end for model in models] == [registry.entry("mn01_as").front_end, other]
    one, two = (model.state_dict() for model in models)
    assert all(np.array_equal(one[name].numpy(), two[name].numpy()) for name in one)


def test_no_classes():
    with pytest.raises(UserError, match="num_classes"):
        registry.create_model("mn01_as", num_classes=0)


def test_bn_momentum():
    """The share of the old running mean that is kept at a step, on the first layer, whose input is known."""
    model = registry.create_model("mn01_as", num_classes=2).train()
    backbone.set_bn_momentum(model, 0.75)
    x = paddle.randn([4, 1, 128, 40])
    conv, norm = model.features[0][0], model.features[0][1]
    batch = conv(x).mean([0, 2, 3]).numpy()
    model(x)
    np.testing.assert_allclose(norm._mean.numpy(), 0.25 * batch, atol=1e-6)  # it began at zero


MAPS = [  # kernel, stride, height, width, and how the output is computed
    (5, 1, 4, 7, "by_matrix"),
    (5, 2, 8, 9, "by_matrix"),
    (3, 2, 7, 6, "by_matrix"),
    (3, 1, 16, 21, "by_convolution"),
    (5, 1, 16, 13, "by_convolution"),
    (3, 2, 24, 33, None),
]


@pytest.mark.parametrize("size, stride, height, width, way", MAPS)
def test_depthwise_gradients(size, stride, height, width, way, monkeypatch):
    """Output and both gradients are those of PyTorch."""
    torch = pytest.importorskip("torch")
    used = []
    for name in ("by_matrix", "by_convolution"):
        function = getattr(depthwise, name)
        monkeypatch.setattr(depthwise, name, lambda *args, n=name, f=function: (used.append(n), f(*args))[1])
    paddle.seed(size * width)
    layer, x = depthwise.DepthwiseConv2D(6, size, stride), paddle.randn([3, 6, height, width])
    x.stop_gradient = False
    y = layer(x)
    gradient = paddle.randn(y.shape)
    y.backward(gradient)
    theirs_x, kernel = (torch.tensor(t.numpy(), requires_grad=True) for t in (x, layer.weight))
    expected = torch.nn.functional.conv2d(theirs_x, kernel, stride=stride, padding=size // 2, groups=6)
    expected.backward(torch.tensor(gradient.numpy()))
    for ours, theirs in ((y, expected.detach()), (x.grad, theirs_x.grad), (layer.weight.grad, kernel.grad)):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5 * theirs.abs().max().item())
    assert used == ([way] if way else [])


@pytest.mark.parametrize("height", [4, 24])
@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_depthwise_frozen(frozen, height):
    """What needs no gradient gets none; the other's is that of the plain convolution."""
    layer, x = depthwise.DepthwiseConv2D(6, 5), paddle.randn([2, 6, height, 15])
    x.stop_gradient, layer.weight.stop_gradient = frozen == "input", frozen == "weight"
    gradients = []
    for compute in (layer, lambda x: F.conv2d(x, layer.weight, padding=2, groups=6)):
        compute(x).square().sum().backward()
        gradients.append([t.grad if t.grad is None else t.grad.numpy() for t in (x, layer.weight)])
        x.clear_gradient(False), layer.weight.clear_gradient(False)
    for ours, plain in zip(*gradients, strict=True):
        assert (ours is None) == (plain is None)
        assert ours is None or np.allclose(ours, plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())
    assert [g is None for g in gradients[0]] == [frozen == "input", frozen == "weight"]


def test_depthwise_without_gradients():
    """Inference and exported programs have the plain convolution."""
    layer, x = depthwise.DepthwiseConv2D(6, 5), paddle.randn([2, 6, 4, 15])
    plain = F.conv2d(x, layer.weight, padding=2, groups=6).numpy()
    with paddle.no_grad():
        assert np.array_equal(layer(x).numpy(), plain)
    spec = [paddle.static.InputSpec([None, 6, None, None], "float32")]
    exported = paddle.jit.to_static(layer, spec, full_graph=True)
    operations = {op.name() for op in exported.forward.main_program.global_block().ops}
    assert "pd_op.depthwise_conv2d" in operations and not operations & {"pd_op.matmul", "pd_op.concat"}
    assert np.array_equal(exported(x).numpy(), plain)


def test_global_mean():
    """The gradient of a mean is the same for all that it was taken over."""
    x = paddle.randn([2, 3, 4, 5])
    x.stop_gradient = False
    y, gradient = mobilenet.global_mean(x), np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    np.testing.assert_allclose(y.numpy(), x.numpy().mean((2, 3)), atol=1e-6)
    y.backward(paddle.to_tensor(gradient))
    np.testing.assert_allclose(x.grad.numpy(), np.broadcast_to(gradient[:, :, None, None] / 20, x.shape), rtol=1e-5)


def test_training_step_as_with_plain_convolutions(monkeypatch):
    """The gradients of a whole MN, on maps of all sizes."""
    model, found = registry.create_model("mn01_as", num_classes=5), []
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = 0.0
    x = paddle.randn([4, 1, 128, 200])
    for forward in (depthwise.DepthwiseConv2D.forward, paddle.nn.Conv2D.forward):
        monkeypatch.setattr(depthwise.DepthwiseConv2D, "forward", forward)
        model.train()
        model(x).square().sum().backward()
        found.append({n: p.grad.numpy() for n, p in model.named_parameters() if not p.stop_gradient})
        model.clear_gradients()
    assert len(found[0]) > 100
    largest = max(np.abs(gradient).max() for gradient in found[1].values())
    for name, gradient in found[0].items():
        assert np.abs(gradient - found[1][name]).max() < 1e-4 * largest, name
