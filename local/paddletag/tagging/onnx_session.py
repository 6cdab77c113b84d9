"""What exporting and running ONNX graphs have in common: the packages, what has a graph, and a session on the CPU."""

import importlib.util
from typing import TYPE_CHECKING

from paddletag import runtime
from paddletag.models import registry
from paddletag.runtime import UserError
from paddletag.type_aliases import Meta

if TYPE_CHECKING:
    import onnxruntime

EXPORT = ("paddle2onnx", "onnx", "onnxruntime")  # what making a graph needs


def missing_packages(*packages: str) -> list[str]:
    """Those of `packages` that are not installed."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def require_packages(*packages: str) -> None:
    """UserError that names those of `packages` that are not installed."""
    if missing := missing_packages(*packages):
        raise UserError(f"{', '.join(missing)}: not installed here: run bash tools/install.sh")


def refuse_classic(meta: Meta) -> None:
    """UserError for a classic model, which has no graph."""
    if "classic" in meta:
        raise UserError(f"{meta['backbone']}: a classic model is no network: it has no graph to export")


def fixed_length(backbone: str) -> bool:
    """Whether a graph of this backbone takes one length only: AST's positions depend on it."""
    return registry.entry(backbone).module == "ast"


def session(model: str | bytes, threads: int = 0) -> "onnxruntime.InferenceSession":
    """An onnxruntime session on the CPU for a file or for the bytes of one.

    threads: that one call computes with; 0: as many as cores.
    onnxruntime's errors for what is no ONNX graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or runtime.cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others decode on the same cores
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
