"""A model -> one file for other programs, front end inside: waveforms in, scores and embeddings out.

`--format onnx` writes one .onnx file; `--format paddle` a folder with inference.json and inference.pdiparams for Paddle
Inference. Either is compared with Paddle, and not written where it differs. Waveforms are float32 [B, N] at the model's
sample rate, of any length from a few hundredths of a second up; AST takes clips of its own length only.
"""

if __name__ == "__main__":  # before all else
    from paddletag import interrupt

    interrupt.begin()

from pathlib import Path

from paddletag import checkpoint, onnx_engine, runtime
from paddletag.runtime import UserError


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a trained model, or the name of a backbone")
    parser.add_argument("--out", required=True, help="file ending in .onnx, or with --format paddle a folder")
    parser.add_argument("--format", default="onnx", choices=["onnx", "paddle"])
    args = parser.parse_args()
    out = Path(args.out)
    if args.format == "onnx":
        onnx_engine.need(*onnx_engine.EXPORT)
        if out.suffix != ".onnx" or out.is_dir():
            raise UserError(f"--out {out}: must be the name of a file that ends in .onnx")
    elif out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: must be a folder with --format paddle")
    meta = checkpoint.describe(args.model)

    model, _ = checkpoint.load_model(args.model)
    from paddletag import export  # imports paddle

    save = export.save_onnx if args.format == "onnx" else export.save_paddle
    found = save(model, meta, out)
    files = [out] if args.format == "onnx" else sorted(out.glob("inference*"))
    size = sum(file.stat().st_size for file in files) / 1e6
    rate, seconds = model.front_end.sample_rate, meta["clip_seconds"]
    length = f"{seconds:g} s" if onnx_engine.fixed_length(meta["backbone"]) else "any length"
    runtime.say(f"{out}: {size:.1f} MB, {len(meta['labels'])} labels; takes waveforms at {rate} Hz of {length}")
    differences = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    runtime.say(f"largest difference from Paddle: {differences} (allowed: {export.TOLERANCE:g})")


if __name__ == "__main__":
    runtime.run(main)
