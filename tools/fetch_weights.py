"""Put a backbone's weights into the cache: download them from their authors, or take a file that you have.

The cache is $PADDLETAG_HOME, by default ~/.cache/paddletag.
"""

from paddletag import models, runtime, weights
from paddletag.runtime import UserError

KNOWN = [name for name in models.list_models() if models.entry(name).url]


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("name", help=f"one of: {', '.join(KNOWN)}")
    parser.add_argument("--from", dest="source", default=None, metavar="FILE", help="a copy of the original file")
    args = parser.parse_args()
    runtime.start_log()
    entry = models.entry(args.name)
    if not entry.url:
        raise UserError(f"{args.name}: only its architecture is known here; there are weights of: {', '.join(KNOWN)}")
    weights.install(entry.name, entry.url, sha256=entry.sha256, source=args.source, expected=models.shapes(entry.name))


if __name__ == "__main__":
    runtime.run(main)
