"""A model -> one file for other programs, front end inside: waveforms in, scores and embeddings out.

`--format onnx` writes one .onnx file; `--format paddle` a folder with inference.json and inference.pdiparams for Paddle
Inference. Either is compared with Paddle, and not written where it differs. Waveforms are float32 [B, N] at the model's
sample rate, of any length from a few hundredths of a second up; AST takes clips of its own length only.
"""

import sys
import time
from pathlib import Path

from paddletag import runtime
from paddletag.commands.options import Parser
from paddletag.models import model_folder
from paddletag.runtime import UserError
from paddletag.tagging import onnx_session


def main() -> None:
    """`paddletag export`."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a trained model, or of its run; or a backbone's name")
    parser.add_argument("--out", required=True, help="file ending in .onnx, or with --format paddle a folder")
    parser.add_argument("--format", default="onnx", choices=["onnx", "paddle"])
    args = parser.parse_args()
    out = Path(args.out)
    if args.format == "onnx":
        onnx_session.require_packages(*onnx_session.EXPORT)
        if out.suffix != ".onnx" or out.is_dir():
            raise UserError(f"--out {out}: must be the name of a file that ends in .onnx")
    elif out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: must be a folder with --format paddle")
    meta = model_folder.describe_model(args.model)

    model, _ = model_folder.load_model(args.model)
    from paddletag.tagging import export  # imports paddle

    doing = f"converting {args.model} and comparing it with Paddle"
    runtime.say(f"{runtime.program()}: {doing}: takes {export.DURATION}", file=sys.stderr)
    began = time.perf_counter()
    save = export.save_onnx if args.format == "onnx" else export.save_paddle
    differences = save(model, meta, out)
    files = [out] if args.format == "onnx" else sorted(out.glob("inference*"))
    size = sum(file.stat().st_size for file in files) / 1e6
    rate, seconds = model.front_end.sample_rate, meta["clip_seconds"]
    length = f"{seconds:g} s" if onnx_session.fixed_length(meta["backbone"]) else "any length"
    runtime.say(f"{runtime.program()}: done in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    runtime.say(f"{out}: {size:.1f} MB, {len(meta['labels'])} labels; takes waveforms at {rate} Hz of {length}")
    listed = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    runtime.say(f"largest difference from Paddle: {listed} (allowed: {export.TOLERANCE:g})")
