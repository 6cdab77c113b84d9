"""A model as a file that other programs run: ONNX, or Paddle Inference, compared with Paddle before it is written."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddletag import engine, losses, runtime, tagging
from paddletag.frontend_layer import LogMel
from paddletag.onnx_engine import fixed_length, refuse_classic, session
from paddletag.runtime import UserError

OPSET = 17
TOLERANCE = 1e-4  # of scores, and of embeddings as a part of the largest value (they have no fixed range)
# With "None" nothing is optimised: by default, paddle2onnx may install packages to do that.
CONVERT = f"""
import sys, paddle2onnx
model, weights, target = sys.argv[1:]
paddle2onnx.export(model, weights, target, opset_version={OPSET}, optimize_tool="None")
"""


class Exported(nn.Layer):
    """Waveforms [B, N] (with a `front_end`; without: log-mels [B, T, M]) -> scores [B, C], embeddings [B, D]."""

    def __init__(self, model, task, front_end=None):
        super().__init__()
        self.model, self.task = model, task
        self.log_mel = LogMel(front_end) if front_end else None

    def forward(self, x):
        if self.log_mel is not None:
            x = self.log_mel(x)
        embedding = self.model.embed(engine.to_input(self.model, x))
        return losses.activation(self.task, self.model.classify(embedding)), embedding


def save_onnx(model, meta, path, waveform=True, frames=None):
    """Write `model` as one ONNX file; return the largest differences from Paddle, {output: difference}.

    Its input is `waveform` [B, N] at the model's rate, or without `waveform` `log_mel` [B, T, M]; its outputs are
    `scores` [B, C] and `embedding` [B, D]. B, N and T are free; for backbones of a fixed length N is that of
    meta["clip_seconds"], and T `frames`. The metadata of the file are those of `information`. UserError, and no file,
    if it differs from Paddle by more than TOLERANCE.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        files = _trace(model, meta, Path(folder), waveform, frames)
        command = [sys.executable, "-c", CONVERT, *map(str, files), str(target)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)  # it prints much, and may crash
        if done.returncode or not target.exists() or not target.stat().st_size:
            reason = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
            raise UserError(f"paddle2onnx could not convert {meta['backbone']}: {' '.join(reason)}")
        graph = onnx.load(target)
        _mend_padding(graph.graph, set(_pad_values(json.loads(files[0].read_text()))))
    _tidy(graph.graph, "samples" if waveform else "frames")
    onnx.helper.set_model_props(graph, {key: _text(value) for key, value in information(model, meta).items()})
    onnx.checker.check_model(graph, full_check=True)
    content = graph.SerializeToString()
    run = session(content)
    name = run.get_inputs()[0].name
    found = _differences(lambda x: run.run(["scores", "embedding"], {name: x}), model, meta, waveform, frames)
    with runtime.atomic(path) as temporary:
        temporary.write_bytes(content)
    return found


def save_paddle(model, meta, folder):
    """Write `model` to `folder` for Paddle Inference; return the largest differences from Paddle as `save_onnx` does.

    inference.json and inference.pdiparams are the program and its weights, with the inputs and outputs of the ONNX
    file; information.json holds what is metadata there.
    """
    folder = Path(folder)
    with tempfile.TemporaryDirectory() as scratch:
        files = _trace(model, meta, Path(scratch), True, None)
        found = _differences(_paddle_inference(*files), model, meta, True, None)
        for file in reversed(files):
            with runtime.atomic(folder / file.name) as temporary:
                temporary.write_bytes(file.read_bytes())
    runtime.write_json(folder / "information.json", information(model, meta))
    return found


def information(model, meta):
    """What a program needs to know besides the inputs and outputs: labels, rate in Hz, the shortest waveform, ..."""
    return {
        "labels": meta["labels"],
        "task": meta["task"],
        "sample_rate": model.front_end.sample_rate,
        "min_samples": model.front_end.min_samples,
        "clip_seconds": meta["clip_seconds"],
        "backbone": meta["backbone"],
        "front_end": model.front_end.to_dict(),
        "weights_sha256": meta["sha256"],
    }


def _trace(model, meta, folder, waveform, frames):
    """The paths of the program and the weights that paddle writes of `model`. UserError for a classic one."""
    refuse_classic(meta)
    length, front_end = frames, model.front_end
    if waveform and fixed_length(meta["backbone"]):
        length = front_end.samples(meta["clip_seconds"])
    shape = [None, length] if waveform else [None, length, front_end.n_mels]
    given = paddle.static.InputSpec(shape, "float32", "waveform" if waveform else "log_mel")
    layer = Exported(model, meta["task"], front_end if waveform else None)
    layer.eval()
    paddle.jit.save(paddle.jit.to_static(layer, [given], full_graph=True), str(folder / "inference"))
    return folder / "inference.json", folder / "inference.pdiparams"


def _pad_values(program):
    """The values of all paddings by a constant in a program of paddle's (inference.json), within branches too."""
    if isinstance(program, list):
        for part in program:
            yield from _pad_values(part)
    elif isinstance(program, dict):
        if program.get("#") == "1.pad3d":
            attributes = {attribute["N"]: attribute["AT"].get("D") for attribute in program["A"]}
            if attributes["mode"] == "constant":
                yield attributes["pad_value"]
        yield from _pad_values(list(program.values()))


def _mend_padding(graph, values):
    """Put back the value of paddings by a constant: paddle2onnx 2.1.0 writes 0 for any."""
    import onnx

    if not values:
        return
    (value,) = values  # the log-mel of silence
    array = onnx.numpy_helper.from_array(np.array(value, np.float32), "silence")
    graph.initializer.append(array)
    for pad in [node for part in _graphs(graph) for node in part.node if node.op_type == "Pad"]:
        if any(attribute.name == "mode" and attribute.s == b"constant" for attribute in pad.attribute):
            pad.input[2] = array.name


def _tidy(graph, length):
    """Give outputs and free dimensions of an ONNX graph their names, and drop what no node uses."""
    names = dict(zip([output.name for output in graph.output], ["scores", "embedding"], strict=True))
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for output in graph.output:
        output.name = names[output.name]
    for value in [*graph.input, *graph.output]:
        for free, dim in zip(["batch", length], value.type.tensor_type.shape.dim, strict=False):
            if dim.dim_param:
                dim.dim_param = free
    used = {name for part in _graphs(graph) for node in part.node for name in node.input}
    used.update(output.name for part in _graphs(graph) for output in part.output)
    for part in list(_graphs(graph)):
        for unused in [node for node in part.node if used.isdisjoint(node.output)]:
            part.node.remove(unused)


def _graphs(graph):
    """A graph, and those of its branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _text(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _paddle_inference(program, weights):
    from paddle import inference

    config = inference.Config(str(program), str(weights))
    config.disable_glog_info()
    config.disable_mkldnn()  # whose passes print
    predictor = inference.create_predictor(config)
    return lambda waveform: [tensor.numpy() for tensor in predictor.run([paddle.to_tensor(waveform)])]


def _differences(run, model, meta, waveform, frames):
    """The largest differences between `run` and Paddle with the front end of tagging, over lengths and batch sizes."""
    front_end = model.front_end
    reference = tagging.predictor(model, meta["task"], embeddings=True)
    clip = front_end.samples(meta["clip_seconds"])
    lengths = [clip, clip // 3, front_end.min_samples]
    if fixed_length(meta["backbone"]):
        lengths = [clip] if waveform else [front_end.win_length + (frames - 1) * front_end.hop_length]
    found = {"scores": 0.0, "embedding": 0.0}
    for batch, length in enumerate(lengths, start=1):
        waves = signals(batch, max(length, front_end.min_samples), front_end.sample_rate)
        log_mels = np.stack([front_end.log_mel(wave) for wave in waves])
        wanted = reference(log_mels)
        scores, embedding = run(waves if waveform else log_mels)
        scale = max(1.0, float(np.abs(wanted["embeddings"]).max()))
        found["scores"] = max(found["scores"], float(np.abs(scores - wanted["scores"]).max()))
        found["embedding"] = max(found["embedding"], float(np.abs(embedding - wanted["embeddings"]).max()) / scale)
    if not max(found.values()) <= TOLERANCE:
        text = ", ".join(f"{name} by {value:.1e}" for name, value in found.items())
        raise UserError(f"the exported {meta['backbone']} differs from Paddle ({text}; {TOLERANCE:g} is allowed)")
    return found


def signals(batch, samples, rate):
    """Test signals, float32 [batch, samples]: a rising tone in noise, each with more silence at its end."""
    time = np.arange(samples) / rate
    waves = 0.3 * np.sin(2 * np.pi * (100 * time + 345 * time**2))
    waves = waves + 0.02 * np.random.default_rng(0).standard_normal((batch, samples))
    for n, wave in enumerate(waves):
        wave[samples - n * samples // (2 * batch) :] = 0
    return waves.astype(np.float32)
