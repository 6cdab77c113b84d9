"""Exported models against Paddle with the front end of tagging: any length and batch, metadata, refusals, the cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import ROOT
from paddletag import runtime
from paddletag.data import audio
from paddletag.features import frontend
from paddletag.models import model_folder, pretrained_weights, registry
from paddletag.tagging import onnx_engine, onnx_session, pipeline, scoring, tagger
from paddletag.tagging.tagger import open_predictor
from prepared import call, refusal
from small_models import LABELS, SECONDS, lively, save, waves

for package in onnx_session.EXPORT:
    pytest.importorskip(package, reason=f"{package} is not installed (tools/install.sh installs it)")

import onnx  # noqa: E402
from paddletag.tagging import export  # noqa: E402


@pytest.fixture(scope="module")
def mn(tmp_path_factory):
    return save(tmp_path_factory.mktemp("mn"), "mn01_as", "multi_label")


@pytest.fixture(scope="module")
def panns(tmp_path_factory):
    return save(tmp_path_factory.mktemp("panns"), "panns_cnn6", "single_label")


@pytest.fixture(scope="module")
def mn_onnx(mn, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "new" / "mn.onnx"
    call("export", "--model", mn, "--out", path)
    return path


def wanted(model, task, log_mels):
    """(scores, embeddings) of paddle, each window by itself."""
    scores, embeddings = [], []
    with paddle.no_grad():
        for log_mel in log_mels:
            x = scoring.to_input(model, paddle.to_tensor(log_mel[None]))
            logits = model(x).numpy()[0].astype(np.float64)
            exp = np.exp(logits - logits.max())
            scores.append(exp / exp.sum() if task == "single_label" else 1 / (1 + np.exp(-logits)))
            embeddings.append(model.embed(x).numpy()[0])
    return np.stack(scores), np.stack(embeddings)


def compare(found, model, task, log_mels):
    scores, embeddings = wanted(model, task, log_mels)
    assert len(scores) == 1 or np.ptp(scores, axis=0).max() > 0.01  # else they would say nothing
    np.testing.assert_allclose(found[0], scores, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found[1], embeddings, rtol=0, atol=1e-4 * max(1, np.abs(embeddings).max()))


def compare_waves(path, folder):
    """Several lengths in a row, through one session: the shortest that there is, odd ones, and longer than a clip."""
    model, meta = model_folder.load_model(folder)
    run = onnx_session.session(str(path))
    for batch, samples in ((1, model.front_end.min_samples), (3, 7001), (2, 32000), (4, 50123)):
        sound = waves(batch, samples)
        found = run.run(["scores", "embedding"], {"waveform": sound})
        compare(found, model, meta["task"], [model.front_end.log_mel(wave) for wave in sound])


def test_mn_takes_waveforms_of_any_length(mn_onnx, mn):
    compare_waves(mn_onnx, mn)


def test_panns_pads_short_sounds_with_silence(panns, tmp_path, capsys):
    """paddle2onnx 2.1.0 writes 0 dB for the -100 dB that the model asks for."""
    call("export", "--model", panns, "--out", tmp_path / "panns.onnx")
    compare_waves(tmp_path / "panns.onnx", panns)
    assert "largest difference from Paddle: scores" in capsys.readouterr().out


def test_metadata_says_what_a_program_needs(mn_onnx, mn):
    session = onnx_session.session(str(mn_onnx))
    found = session.get_modelmeta().custom_metadata_map
    assert json.loads(found["labels"]) == LABELS and found["task"] == "multi_label"
    assert (found["sample_rate"], float(found["clip_seconds"]), found["min_samples"]) == ("32000", SECONDS, "514")
    assert frontend.from_dict(json.loads(found["front_end"])) == frontend.MN
    assert found["weights_sha256"] == model_folder.read_meta(mn)["sha256"]
    shapes = {value.name: value.shape for value in [*session.get_inputs(), *session.get_outputs()]}
    assert shapes == {"waveform": ["batch", "samples"], "scores": ["batch", 3], "embedding": ["batch", 96]}


def test_the_graph_is_small_and_whole(mn_onnx, mn, capfd):
    """The backbone is computed once for both outputs, nothing is left over, and nothing lies beside the file."""
    model, _ = model_folder.load_model(mn)
    graph = onnx.load(mn_onnx).graph
    convolutions = sum(isinstance(layer, paddle.nn.Conv2D) for layer in model.sublayers())
    assert sum(node.op_type == "Conv" for node in graph.node) == convolutions + 1  # and the DFT
    onnx_session.session(str(mn_onnx))
    assert "Removing initializer" not in capfd.readouterr().err
    assert list(mn_onnx.parent.iterdir()) == [mn_onnx]


def test_paddle_inference_files(panns, tmp_path):
    folder = tmp_path / "inference"
    call("export", "--model", panns, "--out", folder, "--format", "paddle")
    assert sorted(path.name for path in folder.iterdir()) == [
        "inference.json", "inference.pdiparams", "information.json",
    ]  # fmt: skip
    assert json.loads((folder / "information.json").read_text())["labels"] == LABELS
    model, meta = model_folder.load_model(panns)
    layer = paddle.jit.load(str(folder / "inference"))
    sound = waves(3, 40321)
    found = [output.numpy() for output in layer(paddle.to_tensor(sound))]
    compare(found, model, meta["task"], [model.front_end.log_mel(wave) for wave in sound])


def test_ast_has_a_fixed_length(tmp_path):
    from paddletag.models.ast import AST

    paddle.seed(0)
    model = lively(AST(len(LABELS), depth=1))
    front_end = model.front_end.to_dict()
    meta = {"backbone": "ast_base", "labels": LABELS, "task": "multi_label", "clip_seconds": SECONDS, "sha256": ""}
    export.save_onnx(model, meta, tmp_path / "wave.onnx")
    session = onnx_session.session(str(tmp_path / "wave.onnx"))
    assert session.get_inputs()[0].shape == ["batch", 16000]
    sound = waves(3, 16000)
    found = session.run(["scores", "embedding"], {"waveform": sound})
    compare(found, model, "multi_label", [model.front_end.log_mel(wave) for wave in sound])

    export.save_onnx(model, meta, tmp_path / "mel.onnx", waveform=False, frames=128)
    session = onnx_session.session(str(tmp_path / "mel.onnx"))
    for samples in (3200, 16000):
        log_mels = np.stack([model.front_end.log_mel(wave) for wave in waves(2, samples)])
        frames, fitted = onnx_engine.fit_to_graph({**meta, "front_end": front_end}, log_mels)
        assert frames == 128 and fitted.dtype == np.float32
        compare(session.run(["scores", "embedding"], {"log_mel": fitted}), model, "multi_label", log_mels)


PREDICT = """
import sys, numpy as np
from paddletag.tagging import onnx_engine
found = onnx_engine.predictor(sys.argv[1], embeddings=True)(np.load(sys.argv[2]))
np.savez(sys.argv[3], **found, paddle="paddle" in sys.modules)
"""


def start(folder, tmp_path, name):
    command = [sys.executable, "-c", PREDICT, folder, tmp_path / "log_mel.npy", tmp_path / name]
    return subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)


def test_scores_of_log_mels_from_the_cache(mn, tmp_path, monkeypatch):
    """Of two processes at once one makes the graph; with it a third needs no paddle, and a fourth other lengths."""
    monkeypatch.setenv("PADDLETAG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(Path(runtime.__file__).parents[2]))
    model, meta = model_folder.load_model(mn)
    log_mels = np.stack([model.front_end.log_mel(wave) for wave in waves(3, 20000)])
    np.save(tmp_path / "log_mel.npy", log_mels)
    both = [start(mn, tmp_path, f"{n}.npz") for n in range(2)]
    assert [(process.communicate()[1][-2000:], process.returncode)[1] for process in both] == [0, 0]
    (graph,) = (tmp_path / "home" / "onnx").iterdir()
    before = graph.stat()
    third = start(mn, tmp_path, "2.npz")
    assert third.communicate() and third.returncode == 0
    assert (graph.stat().st_ino, graph.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    found = [np.load(tmp_path / f"{n}.npz") for n in range(3)]
    assert sorted(bool(result["paddle"]) for result in found[:2]) == [False, True] and not found[2]["paddle"]
    for result in found:
        compare([result["scores"], result["embeddings"]], model, meta["task"], log_mels)

    predict = onnx_engine.predictor(mn)
    for batch, samples in ((1, 514), (5, 3000), (2, 64000)):
        log_mels = np.stack([model.front_end.log_mel(wave) for wave in waves(batch, samples)])
        ((name, scores),) = predict(log_mels).items()
        assert name == "scores"
        np.testing.assert_allclose(scores, wanted(model, meta["task"], log_mels)[0], rtol=0, atol=1e-4)

    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(runtime.UserError, match=graph.name):
        onnx_engine.predictor(mn)(log_mels)


def test_other_weights_than_the_description_tells_are_refused(mn, tmp_path):
    (tmp_path / "model.json").write_bytes((mn / "model.json").read_bytes())
    weights = bytearray((mn / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(runtime.UserError, match="model.safetensors"):
        onnx_engine.predictor(tmp_path)


def test_reference_scores_of_the_original(reference, tmp_path):
    """The published weights, exported, against EfficientAT's own code: 1e-3 after the sigmoid."""
    call("export", "--model", "mn04_as", "--out", tmp_path / "mn04.onnx")
    session = onnx_session.session(str(tmp_path / "mn04.onnx"))
    for clip, arrays in reference.items():
        found = session.run(["scores"], {"waveform": audio.load(clip, 32000)[None]})[0][0]
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-arrays["logits"])), rtol=0, atol=1e-3)


def test_the_graph_in_the_package(reference, no_paddle, tmp_path):
    """It is that of the weights beside it, gives the original's scores, and is what tags on a CPU: without Paddle."""
    graph = pretrained_weights.bundled_graph("mn04_as")
    metadata = onnx_session.session(str(graph)).get_modelmeta().custom_metadata_map
    assert metadata["weights_sha256"] == model_folder.describe_model("mn04_as")["sha256"]
    predict = open_predictor("mn04_as", embeddings=True)
    for clip, arrays in reference.items():
        found = predict(registry.entry("mn04_as").front_end.log_mel(audio.load(clip, 32000))[None])
        np.testing.assert_allclose(found["scores"][0], 1 / (1 + np.exp(-arrays["logits"])), rtol=0, atol=1e-4)
        np.testing.assert_allclose(found["embeddings"][0], arrays["embedding"], rtol=0, atol=1e-3)
    command = [sys.executable, "-m", "paddletag", "tag", next(iter(reference))]
    environment = {"PYTHONPATH": f"{no_paddle}:{ROOT / 'local'}", "PADDLETAG_HOME": str(tmp_path / "none")}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0 and not (tmp_path / "none").exists(), done.stderr


def test_engines_agree_on_all_real_clips():
    """On the 150 clips that come with the project: 1e-4."""
    clips = sorted((ROOT / "examples/esc10/clips/audio").glob("*.ogg"))
    meta = model_folder.describe_model("mn04_as")
    front_end = model_folder.saved_front_end(meta)
    engines = [open_predictor("mn04_as", engine) for engine in ("onnxruntime", "paddle")]
    ours, theirs = (list(pipeline.tag_sounds(predict, meta, front_end, clips)) for predict in engines)
    assert len(ours) == 150 and [sound for sound, _ in ours] == clips
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-4)


def test_auto_makes_a_graph_where_there_is_much(mn, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLETAG_HOME", str(tmp_path))
    assert not isinstance(open_predictor(mn), pipeline.ParallelPredict)  # Paddle: there is no graph
    assert not list(tmp_path.rglob("*.onnx"))
    predict = open_predictor(mn, much=True)
    predict(np.zeros((1, 100, 128), np.float32))
    assert isinstance(predict, pipeline.ParallelPredict) and len(list(tmp_path.rglob("*.onnx"))) == 1
    assert isinstance(open_predictor(mn), pipeline.ParallelPredict)  # now it is at hand
    sounds = []
    for n in range(tagger.MANY_FILES):
        sounds.append(tmp_path / f"{n}.wav")
        sounds[-1].touch()
    assert tagger.is_much(sounds) and not tagger.is_much(sounds[1:])


@pytest.mark.parametrize("package", onnx_session.EXPORT)
def test_a_missing_package_is_one_line(mn, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("PADDLETAG_HOME", str(tmp_path))
    assert refusal("export", "--model", mn, "--out", tmp_path / "x.onnx").startswith(f"{package}: ")
    with pytest.raises(runtime.UserError, match=f"^{package}: "):
        onnx_engine.predictor(mn)(np.zeros((1, 10, 128), np.float32))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_wrong_outputs_are_refused_first(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "model.pb"):
        assert f"--out {out}: " in refusal("export", "--model", "none", "--out", out)
    assert "file: " in refusal("export", "--model", "none", "--out", tmp_path / "file", "--format", "paddle")
    assert "none: " in refusal("export", "--model", "none", "--out", tmp_path / "x.onnx")


@pytest.mark.parametrize("kind, out", [("onnx", "x.onnx"), ("paddle", "x")])
def test_what_differs_from_paddle_is_not_written(mn, tmp_path, monkeypatch, kind, out):
    right = pipeline.predictor

    def wrong(*args, **options):
        predict = right(*args, **options)
        return lambda log_mel: {name: values + 0.01 for name, values in predict(log_mel).items()}

    monkeypatch.setattr(pipeline, "predictor", wrong)
    line = refusal("export", "--model", mn, "--out", tmp_path / out, "--format", kind)
    assert "mn01_as" in line and "scores by 1.0e-02" in line
    assert not list(tmp_path.iterdir())


def test_a_failed_conversion_is_one_line(mn, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "CONVERT", "raise SystemExit('some noise\\nno such operator')")
    line = refusal("export", "--model", mn, "--out", tmp_path / "x.onnx")
    assert "mn01_as" in line and line.endswith(": no such operator") and "some noise" not in line
    assert not list(tmp_path.iterdir())
