"""ONNX Runtime in the place of Paddle for scores, on CPUs: `predictor` stands in for `pipeline.predictor`.

The graph takes log-mels, so that the front end computes every frame of a sound once. It is exported when it is first
needed and kept in the cache, in the name of all that it depends on; from then on paddle is not imported for it. That of
mn04_as comes with the package.
"""

import hashlib
import importlib.util
import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paddletag import runtime
from paddletag.data import download
from paddletag.files import locked
from paddletag.models import model_folder, pretrained_weights
from paddletag.models.ast_frames import target_frames
from paddletag.runtime import UserError
from paddletag.tagging.onnx_session import (
    EXPORT,
    fixed_length,
    missing_packages,
    refuse_classic,
    require_packages,
    session,
)
from paddletag.tagging.pipeline import ParallelPredict
from paddletag.type_aliases import Arrays, File, Meta

if TYPE_CHECKING:
    import onnxruntime

REVISION = 1  # of what `export.save_onnx` writes: another number, and graphs in the cache are made anew


def predictor(source: File, embeddings: bool = False, threads: int = 1) -> ParallelPredict:
    """A function: log-mel float32 [B, T, M] -> {"scores": [B, C]}, with "embeddings": [B, D] too if asked for.

    source: as for `model_folder.describe_model`. threads: that one call computes with; several calls may run at once.
    UserError if packages are missing, or the weights or a graph in the cache are damaged.
    """
    require_packages("onnxruntime")
    source = model_folder.find_model(source)
    meta = model_folder.describe_model(source)
    refuse_classic(meta)
    path = Path(source) / model_folder.MODEL
    if model_folder.is_folder(source) and (wrong := download.mismatch(path, meta["sha256"])):
        raise UserError(f"{path}: damaged or half copied: {wrong}")
    lock = threading.Lock()
    sessions: dict[int | None, onnxruntime.InferenceSession] = {}  # by the frames that their graph is for

    def predict(log_mel: np.ndarray) -> Arrays:
        frames, log_mel = fit_to_graph(meta, log_mel)
        with lock:
            if frames not in sessions:
                graph = _graph(source, meta, frames)
                try:
                    sessions[frames] = session(str(graph), threads)
                except Exception as error:  # onnxruntime has many kinds, with no common name
                    raise UserError(f"{graph}: damaged: remove it, then run the same command again ({error})") from None
        names = ["scores", "embedding"] if embeddings else ["scores"]
        outputs = sessions[frames].run(names, {"log_mel": log_mel})
        return dict(zip(["scores", "embeddings"], outputs, strict=False))

    return ParallelPredict(predict)


def has_graph(source: File, make: bool = False) -> bool:
    """Whether ONNX Runtime is installed, and the graph of a model is in the package or in the cache.

    make: also if it can be made and put there, which takes a while. AST's graphs are made for each length: those are
    never there before. UserError as `model_folder.describe_model`.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    source = model_folder.find_model(source)
    if not model_folder.is_folder(source) and pretrained_weights.bundled_graph(str(source)):
        return True
    meta = model_folder.describe_model(source)
    if "classic" in meta or fixed_length(meta["backbone"]):
        return False
    return _cached_graph(meta, None).exists() or (make and not missing_packages(*EXPORT))


def fit_to_graph(meta: Meta, log_mel: np.ndarray) -> tuple[int | None, np.ndarray]:
    """(frames that the graph must be for, None: any; the log-mel [B, T, M], padded to them as the model would)."""
    if not fixed_length(meta["backbone"]):
        return None, log_mel
    frames, front_end = target_frames(log_mel.shape[1]), meta["front_end"]
    padding = [(0, 0), (0, frames - log_mel.shape[1]), (0, 0)]
    return frames, np.pad(log_mel, padding, constant_values=np.float32(-front_end["mean"] / front_end["scale"]))


def _graph(source: File, meta: Meta, frames: int | None) -> Path:
    """The path of the graph for log-mels of `frames` frames (None: any): in the package, or in the cache.

    It is exported into the cache if it is in neither.
    """
    if not model_folder.is_folder(source) and (graph := pretrained_weights.bundled_graph(str(source))):
        return graph
    path = _cached_graph(meta, frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return path
    require_packages(*EXPORT)
    with locked(path):
        if not path.exists():
            from paddletag.tagging import export  # imports paddle

            doing = f"exporting {source} to ONNX, once: takes {export.DURATION}"
            runtime.say(f"{runtime.program()}: {doing}", file=sys.stderr)
            model, _ = model_folder.load_model(source)
            export.save_onnx(model, meta, path, waveform=False, frames=frames)
            runtime.say(f"{runtime.program()}: wrote {path}", file=sys.stderr)
    return path


def _cached_graph(meta: Meta, frames: int | None) -> Path:
    """Where the cache has the graph of a model for log-mels of `frames` frames (None: any), if it does."""
    depends = [REVISION, meta["sha256"], meta["backbone"], meta["task"], len(meta["labels"]), meta["front_end"], frames]
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    return pretrained_weights.cache_dir() / "onnx" / f"{meta['backbone']}-{key}.onnx"
