"""Stage 5: tagging results (npz) -> text: per window its time, as a fraction of the file, and its top labels."""

from pathlib import Path

from paddletag import parsing, runtime
from paddletag.runtime import UserError, log


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("--tagging_file", required=True, help="npz file of stage 4, or a folder of them")
    parser.add_argument("--top_k", type=int, default=5, help="labels per window")
    parser.add_argument("--output_dir", default="output_dir", help="folder for the text")
    args = parser.parse_args()
    runtime.start_log()
    if args.top_k < 1:
        raise UserError(f"--top_k {args.top_k}: must be at least 1")
    source = Path(args.tagging_file)
    files = sorted(source.glob("*.npz")) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source}: holds no tagging results: run stage 4 first")
    for file in files:
        arrays = parsing.read(file)
        output = Path(args.output_dir) / f"{file.stem}.txt"
        runtime.write_text(output, parsing.text(arrays, args.top_k))
        log.info("%s: top %d of %d windows in %s", file.stem, args.top_k, len(arrays["time"]), output)
        for label, score in parsing.top_k(arrays["scores"].mean(0), arrays["labels"], args.top_k):
            print(f"  {score:6.3f}  {label}")


if __name__ == "__main__":
    runtime.run(main)
