"""The backbones: size, cost of a 10 s clip, published mAP on AudioSet, front end, and where their weights are.

Parameters and MACs (multiplications with addition, without the front end) are counted on the model itself.
"""

if __name__ == "__main__":  # before all else
    from paddletag import interrupt

    interrupt.begin()

from paddletag import models, runtime, weights
from paddletag.runtime import UserError

HEADER = ("name", "parameters", "MACs/10 s", "mAP", "front end", "labels", "embedding", "licence", "weights")


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="a part of the names, or as in a shell: 'mn?0*'")
    args = parser.parse_args()
    names = models.list_models(args.pattern if set(args.pattern) & set("*?[") else f"*{args.pattern}*")
    if not names:
        raise UserError(f"no backbone matches {args.pattern!r}; there are: {', '.join(models.ENTRIES)}")
    rows = [HEADER, *(row(name) for name in runtime.progress(names, desc="counting"))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    print("download: tools/fetch_weights.py NAME; by hand: the same command says from where, and takes --from FILE")


def row(name):
    entry, model = models.entry(name), models.create_model(name)
    front_end = entry.front_end
    return (
        name,
        f"{models.parameters(model) / 1e6:.2f} M",
        f"{models.macs(model) / 1e9:.2f} G",
        f"{entry.map:.3f}",
        f"{front_end.name}: {front_end.sample_rate / 1000:g} kHz, {front_end.n_mels} mels,"
        f" {1000 * front_end.hop_length / front_end.sample_rate:g} ms",
        str(len(models.audioset_labels(entry.labels))),
        str(entry.embedding),
        entry.licence,
        state(entry),
    )


def state(entry):
    """Whether the weights are in the cache, or else how they get there."""
    if (weights.cache_dir() / f"{entry.name}.safetensors").is_file():
        return "in the cache"
    if not entry.checksum:
        return "by hand"
    return f"download, {entry.size / 1e6:.0f} MB" if entry.size else "download"


if __name__ == "__main__":
    runtime.run(main)
