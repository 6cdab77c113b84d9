"""Put a backbone's weights into the cache: download them from their authors, or take a file that you have.

The cache is $PADDLETAG_HOME, by default ~/.cache/paddletag. What is downloaded is compared with a checksum; of weights
without a known one the address is shown, and a copy taken with --from. `paddletag models` lists them all.
"""

from functools import partial

from paddletag import runtime
from paddletag.commands.options import Parser
from paddletag.models import pretrained_weights, registry
from paddletag.runtime import UserError


def main() -> None:
    """`paddletag weights`."""
    parser = Parser(description=__doc__)
    parser.add_argument("name", help=f"one of: {', '.join(registry.list_models())}")
    parser.add_argument("--from", dest="source", default=None, metavar="FILE", help="a copy of the original file")
    args = parser.parse_args()
    runtime.start_log()
    entry = registry.entry(args.name)
    if not entry.checksum and args.source is None:
        take = runtime.own_command(f"weights {entry.name} --from {entry.url.rpartition('/')[2]}")
        raise UserError(
            f"{entry.name}: no checksum of its weights is known here, so they are not downloaded unseen:"
            f" run curl -LO {entry.url} yourself, then {take}"
        )
    pretrained_weights.install(
        entry.name,
        entry.url,
        sha256=entry.sha256,
        md5=entry.md5,
        source=args.source,
        convert=partial(registry.convert, entry.name),
        expected=registry.shapes(entry.name),
    )
