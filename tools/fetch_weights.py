"""Put a backbone's weights into the cache: download them from their authors, or take a file that you have.

The cache is $PADDLETAG_HOME, by default ~/.cache/paddletag. What is downloaded is compared with a checksum; of weights
without a known one the address is shown, and a copy taken with --from. tools/list_models.py lists them all.
"""

if __name__ == "__main__":  # before all else
    from paddletag import interrupt

    interrupt.begin()

from functools import partial

from paddletag import models, runtime, weights
from paddletag.runtime import UserError


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("name", help=f"one of: {', '.join(models.list_models())}")
    parser.add_argument("--from", dest="source", default=None, metavar="FILE", help="a copy of the original file")
    args = parser.parse_args()
    runtime.start_log()
    entry = models.entry(args.name)
    if not entry.checksum and args.source is None:
        raise UserError(
            f"{entry.name}: no checksum of its weights is known here, so they are not downloaded unseen:"
            f" get {entry.url} yourself, then run .venv/bin/python tools/fetch_weights.py {entry.name} --from FILE"
        )
    weights.install(
        entry.name,
        entry.url,
        sha256=entry.sha256,
        md5=entry.md5,
        source=args.source,
        convert=partial(models.convert, entry.name),
        expected=models.shapes(entry.name),
    )


if __name__ == "__main__":
    runtime.run(main)
