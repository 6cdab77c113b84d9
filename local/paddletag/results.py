"""What stage 3 leaves: files whose names say how a model was evaluated, where that is not the plain way."""

from pathlib import Path

from paddletag import checkpoint, runtime
from paddletag.runtime import UserError


def named(name: str, tta: int = 1) -> str:
    """The name of a result: `metrics.json` is `metrics.tta5.json` where 5 rolled copies of each clip were scored."""
    path = Path(name)
    return f"{path.stem}.tta{tta}{path.suffix}" if tta > 1 else name


def read_metrics(folder: str | Path, tta: int = 1, model: str = "the model") -> tuple[dict, dict]:
    """(metrics, meta data) of the trained model in `folder`, which errors call `model`.

    UserError where it was not evaluated in this way, or has been trained again since.
    """
    path = Path(folder) / named("metrics.json", tta)
    stage = f"(stage 3, --tta {tta})" if tta > 1 else "(stage 3)"
    metrics, meta = runtime.read_json(path, f"evaluate {model} first {stage}"), checkpoint.read_meta(folder)
    if metrics.get("model") != meta["sha256"]:
        raise UserError(f"{path}: is of an earlier model: evaluate {model} again {stage}")
    if metrics.get("tta", 1) != tta:  # before their names said so
        raise UserError(f"{path}: is of --tta {metrics['tta']}: evaluate {model} again {stage}")
    return metrics, meta
