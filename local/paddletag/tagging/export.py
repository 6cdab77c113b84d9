"""A model as a file that other programs run: ONNX, or Paddle Inference, compared with Paddle before it is written."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddle import nn

from paddletag.features.frontend import FrontEnd
from paddletag.features.frontend_layer import LogMel
from paddletag.files import atomic, write_json
from paddletag.models.backbone import Backbone
from paddletag.runtime import UserError
from paddletag.tagging import pipeline, scoring
from paddletag.tagging.onnx_session import fixed_length, refuse_classic, session
from paddletag.type_aliases import File, Meta

if TYPE_CHECKING:
    import onnx

    from paddletag.tagging.scoring import Model

OPSET = 17
DURATION = "10 seconds to a minute"  # of `save_onnx` and `save_paddle`, for messages
TOLERANCE = 1e-4  # of scores, and of embeddings as a part of the largest value (they have no fixed range)
# With "None" nothing is optimised: by default, paddle2onnx may install packages to do that.
CONVERT = f"""
import sys, paddle2onnx
model, weights, target = sys.argv[1:]
paddle2onnx.export(model, weights, target, opset_version={OPSET}, optimize_tool="None")
"""


class Exported(nn.Layer):
    """Waveforms [B, N] (with a `front_end`; without: log-mels [B, T, M]) -> scores [B, C], embeddings [B, D]."""

    def __init__(self, model: Backbone, task: str, front_end: FrontEnd | None = None) -> None:
        super().__init__()
        self.model, self.task = model, task
        self.log_mel = LogMel(front_end) if front_end else None

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """See the class."""
        if self.log_mel is not None:
            x = self.log_mel(x)
        embedding = self.model.embed(scoring.to_input(self.model, x))
        return scoring.activation(self.task, self.model.classify(embedding)), embedding


def save_onnx(
    model: "Model", meta: Meta, path: File, waveform: bool = True, frames: int | None = None
) -> dict[str, float]:
    """Write `model` as one ONNX file; return the largest differences from Paddle, {output: difference}.

    Its input is `waveform` [B, N] at the model's rate, or without `waveform` `log_mel` [B, T, M]; its outputs are
    `scores` [B, C] and `embedding` [B, D]. B, N and T are free; for backbones of a fixed length N is that of
    meta["clip_seconds"], and T `frames`. The metadata of the file are those of `information`. UserError, and no file,
    if it differs from Paddle by more than TOLERANCE.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        program, weights = _trace(model, meta, Path(folder), waveform, frames)
        command = [sys.executable, "-c", CONVERT, str(program), str(weights), str(target)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)  # it prints much, and may crash
        if done.returncode or not target.exists() or not target.stat().st_size:
            reason = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
            raise UserError(f"paddle2onnx could not convert {meta['backbone']}: {' '.join(reason)}")
        graph = onnx.load(target)
        _mend_padding(graph.graph, set(_pad_values(json.loads(program.read_text()))))
    _tidy(graph.graph, "samples" if waveform else "frames")
    onnx.helper.set_model_props(graph, {key: _text(value) for key, value in information(model, meta).items()})
    onnx.checker.check_model(graph, full_check=True)
    content = graph.SerializeToString()
    exported = session(content)
    name = exported.get_inputs()[0].name
    outputs = ["scores", "embedding"]
    differences = _differences(lambda x: exported.run(outputs, {name: x}), model, meta, waveform, frames)
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return differences


def save_paddle(model: "Model", meta: Meta, folder: File) -> dict[str, float]:
    """Write `model` to `folder` for Paddle Inference; return the largest differences from Paddle as `save_onnx` does.

    inference.json and inference.pdiparams are the program and its weights, with the inputs and outputs of the ONNX
    file; information.json holds what is metadata there.
    """
    folder = Path(folder)
    with tempfile.TemporaryDirectory() as scratch:
        program, weights = _trace(model, meta, Path(scratch), True, None)
        differences = _differences(_paddle_inference(program, weights), model, meta, True, None)
        for file in (weights, program):
            with atomic(folder / file.name) as temporary:
                temporary.write_bytes(file.read_bytes())
    write_json(folder / "information.json", information(model, meta))
    return differences


def information(model: "Model", meta: Meta) -> dict[str, Any]:
    """What a program needs to know besides the inputs and outputs: labels, rate in Hz, the shortest waveform, ...

    Of a calibrated model also temperature and thresholds {label: number}, which its scores must have applied.
    """
    calibrated = {}
    if "calibration" in meta:  # for who uses the file to apply, in this order: its own scores are without calibration
        calibrated = {key: meta["calibration"][key] for key in ("temperature", "thresholds")}
    return {
        **calibrated,
        "labels": meta["labels"],
        "task": meta["task"],
        "sample_rate": model.front_end.sample_rate,
        "min_samples": model.front_end.min_samples,
        "clip_seconds": meta["clip_seconds"],
        "backbone": meta["backbone"],
        "front_end": model.front_end.to_dict(),
        "weights_sha256": meta["sha256"],
    }


def _trace(model: "Model", meta: Meta, folder: Path, waveform: bool, frames: int | None) -> tuple[Path, Path]:
    """The paths of the program and the weights that paddle writes of `model`. UserError for a classic one."""
    refuse_classic(meta)
    assert isinstance(model, Backbone)
    length, front_end = frames, model.front_end
    if waveform and fixed_length(meta["backbone"]):
        length = front_end.samples(meta["clip_seconds"])
    shape = [None, length] if waveform else [None, length, front_end.n_mels]
    spec = paddle.static.InputSpec(shape, "float32", "waveform" if waveform else "log_mel")
    layer = Exported(model, meta["task"], front_end if waveform else None)
    layer.eval()
    paddle.jit.save(paddle.jit.to_static(layer, [spec], full_graph=True), str(folder / "inference"))
    return folder / "inference.json", folder / "inference.pdiparams"


def _pad_values(program: Any) -> Iterator[float]:
    """The values of all paddings by a constant in a program of paddle's (inference.json), within branches too."""
    if isinstance(program, list):
        for item in program:
            yield from _pad_values(item)
    elif isinstance(program, dict):
        if program.get("#") == "1.pad3d":
            attributes = {attribute["N"]: attribute["AT"].get("D") for attribute in program["A"]}
            if attributes["mode"] == "constant":
                yield attributes["pad_value"]
        yield from _pad_values(list(program.values()))


def _mend_padding(graph: "onnx.GraphProto", values: set[float]) -> None:
    """Put back the value of paddings by a constant: paddle2onnx 2.1.0 writes 0 for any."""
    import onnx

    if not values:
        return
    (value,) = values  # the log-mel of silence
    array = onnx.numpy_helper.from_array(np.array(value, np.float32), "silence")
    graph.initializer.append(array)
    for pad in [node for each in _graphs(graph) for node in each.node if node.op_type == "Pad"]:
        if any(attribute.name == "mode" and attribute.s == b"constant" for attribute in pad.attribute):
            pad.input[2] = array.name


def _tidy(graph: "onnx.GraphProto", length: str) -> None:
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
    used = {name for each in _graphs(graph) for node in each.node for name in node.input}
    used.update(output.name for each in _graphs(graph) for output in each.output)
    for each in list(_graphs(graph)):
        for unused in [node for node in each.node if used.isdisjoint(node.output)]:
            each.node.remove(unused)


def _graphs(graph: "onnx.GraphProto") -> "Iterator[onnx.GraphProto]":
    """A graph, and those of its branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _paddle_inference(program: Path, weights: Path) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A function: waveforms -> [scores, embeddings], as Paddle Inference computes them with these two files."""
    from paddle import inference

    config = inference.Config(str(program), str(weights))
    config.disable_glog_info()
    config.disable_mkldnn()  # whose passes print
    predictor = inference.create_predictor(config)
    return lambda waveform: [tensor.numpy() for tensor in predictor.run([paddle.to_tensor(waveform)])]


def _differences(
    run: Callable[[np.ndarray], Iterable[np.ndarray]],
    model: "Model",
    meta: Meta,
    waveform: bool,
    frames: int | None,
) -> dict[str, float]:
    """The largest differences between `run` and Paddle with the front end of tagging, over lengths and batch sizes."""
    front_end = model.front_end
    reference = pipeline.predictor(model, meta["task"], embeddings=True)
    clip = front_end.samples(meta["clip_seconds"])
    lengths = [clip, clip // 3, front_end.min_samples]
    if fixed_length(meta["backbone"]):
        lengths = [clip] if frames is None else [front_end.win_length + (frames - 1) * front_end.hop_length]
    largest = {"scores": 0.0, "embedding": 0.0}
    for batch, length in enumerate(lengths, start=1):
        waves = signals(batch, max(length, front_end.min_samples), front_end.sample_rate)
        log_mels = np.stack([front_end.log_mel(wave) for wave in waves])
        wanted = reference(log_mels)
        scores, embedding = run(waves if waveform else log_mels)
        scale = max(1.0, float(np.abs(wanted["embeddings"]).max()))
        largest["scores"] = max(largest["scores"], float(np.abs(scores - wanted["scores"]).max()))
        largest["embedding"] = max(largest["embedding"], float(np.abs(embedding - wanted["embeddings"]).max()) / scale)
    if not max(largest.values()) <= TOLERANCE:
        text = ", ".join(f"{name} by {value:.1e}" for name, value in largest.items())
        raise UserError(f"the exported {meta['backbone']} differs from Paddle ({text}; {TOLERANCE:g} is allowed)")
    return largest


def signals(batch: int, samples: int, rate: int) -> np.ndarray:
    """Test signals, float32 [batch, samples]: a rising tone in noise, each with more silence at its end."""
    time = np.arange(samples) / rate
    waves = 0.3 * np.sin(2 * np.pi * (100 * time + 345 * time**2))
    waves = waves + 0.02 * np.random.default_rng(0).standard_normal((batch, samples))
    for n, wave in enumerate(waves):
        wave[samples - n * samples // (2 * batch) :] = 0
    return waves.astype(np.float32)
