"""Weights of torch (.pt, .pth), Paddle (.pdparams) or safetensors -> safetensors with this project's names and layout.

Nothing in the file is executed, and neither torch nor the authors' code is needed. A name that is missing, unexpected
or of another shape is an error. Beside the output stands a .json with checksums; a recipe takes `model.weights: OUT`.
"""

from functools import partial

from paddletag import runtime
from paddletag.commands.options import Parser
from paddletag.models import pretrained_weights, registry
from paddletag.runtime import log


def main() -> None:
    """`paddletag convert`."""
    parser = Parser(description=__doc__)
    parser.add_argument("input", metavar="IN", help="the file to read")
    parser.add_argument("--model", required=True, help="whose weights they are, such as panns_cnn14")
    parser.add_argument("--out", required=True, help="the file to write, *.safetensors")
    args = parser.parse_args()
    runtime.start_log()
    registry.entry(args.model)
    pretrained_weights.convert_file(
        args.input, args.out, args.model, partial(registry.convert, args.model), registry.shapes(args.model)
    )
    log.info("wrote %s", args.out)
