"""ONNX Runtime in the place of Paddle for scores, on CPUs: `predictor` stands in for `tagging.predictor`.

The graph takes log-mels, so that the front end computes every frame of a sound once. It is exported when it is first
needed and kept in the cache, in the name of all that it depends on; from then on paddle is not imported for it.
"""

import hashlib
import importlib.util
import json
import os
from pathlib import Path

import numpy as np

from paddletag import checkpoint, download, models, runtime, weights
from paddletag.runtime import UserError, log

os.environ.setdefault("GLOG_minloglevel", "2")  # before paddle is imported: it warns while it traces a model
EXPORT = ("paddle2onnx", "onnx", "onnxruntime")  # what making a graph needs
REVISION = 1  # of what `export.save_onnx` writes: another number, and graphs in the cache are made anew


def predictor(source, embeddings=False):
    """A function: log-mel float32 [B, T, M] -> {"scores": [B, C]}, with "embeddings": [B, D] too if asked for.

    source: the folder of a trained model or a backbone's name. It computes on all cores that the process may use.
    UserError if packages are missing, or the weights or a graph in the cache are damaged.
    """
    need("onnxruntime")
    meta = checkpoint.describe(source)
    refuse_classic(meta)
    path = Path(source) / checkpoint.MODEL
    if Path(source).is_dir() and (wrong := download.mismatch(path, meta["sha256"])):
        raise UserError(f"{path}: damaged or half copied: {wrong}")
    sessions = {}

    def predict(log_mel):
        frames, log_mel = _fitted(meta, log_mel)
        if frames not in sessions:
            graph = _cached(source, meta, frames)
            try:
                sessions[frames] = session(str(graph))
            except Exception as error:  # onnxruntime has many kinds, with no common name
                raise UserError(f"{graph}: damaged: remove it, then run the same command again ({error})") from None
        names = ["scores", "embedding"] if embeddings else ["scores"]
        found = sessions[frames].run(names, {"log_mel": log_mel})
        return dict(zip(["scores", "embeddings"], found, strict=False))

    return predict


def need(*packages):
    """UserError that names those of `packages` that are not installed."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UserError(f"{', '.join(missing)}: not installed here: run bash tools/install.sh")


def refuse_classic(meta):
    """UserError for a classic model, which has no graph."""
    if "classic" in meta:
        raise UserError(f"{meta['backbone']}: a classic model is no network: it has no graph to export")


def fixed_length(backbone):
    """Whether a graph of this backbone takes one length only: AST's positions depend on it."""
    return models.entry(backbone).module == "ast"


def session(model):
    """An onnxruntime session on the CPU for a file, or for the bytes of one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = runtime.cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others decode on the same cores
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _fitted(meta, log_mel):
    """(frames that the graph must be for, None: any; the log-mel, padded to them as the model itself would)."""
    if not fixed_length(meta["backbone"]):
        return None, log_mel
    from paddletag.models.ast import target_frames

    frames, front_end = target_frames(log_mel.shape[1]), meta["front_end"]
    padding = [(0, 0), (0, frames - log_mel.shape[1]), (0, 0)]
    return frames, np.pad(log_mel, padding, constant_values=np.float32(-front_end["mean"] / front_end["scale"]))


def _cached(source, meta, frames):
    """The path of the graph for log-mels of `frames` frames (None: any) in the cache, exported if it is not there."""
    depends = [REVISION, meta["sha256"], meta["backbone"], meta["task"], len(meta["labels"]), meta["front_end"], frames]
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    path = weights.cache_dir() / "onnx" / f"{meta['backbone']}-{key}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return path
    need(*EXPORT)
    with runtime.locked(path):
        if not path.exists():
            from paddletag import export  # imports paddle

            log.info("exporting %s to ONNX, once: %s", source, path)
            model, _ = checkpoint.load_model(source)
            export.save_onnx(model, meta, path, waveform=False, frames=frames)
    return path
