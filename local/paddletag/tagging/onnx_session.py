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


def require_packages(*packages: str) -> None:
    """UserError that names those of `packages` that are not installed."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UserError(f"{', '.join(missing)}: not installed here: run bash tools/install.sh")


def refuse_classic(meta: Meta) -> None:
    """UserError for a classic model, which has no graph."""
    if "classic" in meta:
        raise UserError(f"{meta['backbone']}: a classic model is no network: it has no graph to export")


def fixed_length(backbone: str) -> bool:
    """Whether a graph of this backbone takes one length only: AST's positions depend on it."""
    return registry.entry(backbone).module == "ast"


def session(model: str | bytes) -> "onnxruntime.InferenceSession":
    """An onnxruntime session on the CPU, with all cores that the process may use, for a file or for the bytes of one.

    onnxruntime's errors for what is no ONNX graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = runtime.cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others decode on the same cores
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
