"""The backbones: size, cost of a 10 s clip, published mAP on AudioSet, front end, and where their weights are.

MACs are multiplications with addition, without the front end.
"""

from paddletag import runtime
from paddletag.commands.options import Parser
from paddletag.models import pretrained_weights, registry
from paddletag.runtime import UserError

HEADER = ("name", "parameters", "MACs/10 s", "mAP", "front end", "labels", "embedding", "licence", "weights")


def main() -> None:
    """`paddletag models`."""
    parser = Parser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="a part of the names, or as in a shell: 'mn?0*'")
    args = parser.parse_args()
    names = registry.list_models(args.pattern if set(args.pattern) & set("*?[") else f"*{args.pattern}*")
    if not names:
        raise UserError(f"no backbone matches {args.pattern!r}; there are: {', '.join(registry.ENTRIES)}")
    rows = [HEADER, *map(row, names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for columns in rows:
        print("  ".join(text.ljust(width) for text, width in zip(columns, widths, strict=True)).rstrip())
    print(f"download: {runtime.own_command('weights NAME')}; by hand: the same command says from where; --from FILE")


def row(name: str) -> tuple[str, ...]:
    """The columns of HEADER for a backbone."""
    entry = registry.entry(name)
    front_end, (parameters, macs) = entry.front_end, entry.counts
    return (
        name,
        f"{parameters / 1e6:.2f} M",
        f"{macs / 1e9:.2f} G",
        f"{entry.map:.3f}",
        f"{front_end.name}: {front_end.sample_rate / 1000:g} kHz, {front_end.n_mels} mels,"
        f" {1000 * front_end.hop_length / front_end.sample_rate:g} ms",
        str(len(registry.audioset_labels(entry.labels))),
        str(entry.embedding),
        entry.licence,
        state(entry),
    )


def state(entry: registry.Entry) -> str:
    """Whether the weights are installed, or else how they get there."""
    if pretrained_weights.is_bundled(entry.name):
        return "installed"
    if (pretrained_weights.cache_dir() / f"{entry.name}.safetensors").is_file():
        return "in the cache"
    if not entry.checksum:
        return "by hand"
    return f"download, {entry.size / 1e6:.0f} MB" if entry.size else "download"
