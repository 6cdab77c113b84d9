"""Weights of torch (.pt, .pth), Paddle (.pdparams) or safetensors -> safetensors with this project's names and layout.

Nothing in the file is executed, and neither torch nor the authors' code is needed. A name that is missing, unexpected
or of another shape is an error. Beside the output stands a .json with checksums; a recipe takes `model.weights: OUT`.
"""

if __name__ == "__main__":  # before all else
    from paddletag import interrupt

    interrupt.begin()

from functools import partial

from paddletag import models, runtime, weights
from paddletag.runtime import log


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("input", metavar="IN", help="the file to read")
    parser.add_argument("--model", required=True, help="whose weights they are, such as panns_cnn14")
    parser.add_argument("--out", required=True, help="the file to write, *.safetensors")
    args = parser.parse_args()
    runtime.start_log()
    models.entry(args.model)
    weights.convert_file(
        args.input, args.out, args.model, partial(models.convert, args.model), models.shapes(args.model)
    )
    log.info("wrote %s", args.out)


if __name__ == "__main__":
    runtime.run(main)
