"""Stage 1: the manifest's clips -> data/features/<front end>/*.arrow, log-mels of whole clips."""

if __name__ == "__main__":  # before all else
    from paddletag import interrupt

    interrupt.begin()

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process per core; a BLAS thread per core in each would only fight

from paddletag import classic, distributed, manifest, runtime, shards  # noqa: E402
from paddletag import config as configs  # noqa: E402
from paddletag.runtime import UserError, log  # noqa: E402


def main():
    parser = runtime.Parser(description=__doc__)
    parser.add_argument("--config", required=True, help="the recipe's YAML file")
    parser.add_argument("--data", required=True, help="the prepared folder")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: as many as cores")
    parser.add_argument("--opts", nargs="*", default=[], help="settings that override the config: key value ...")
    args = parser.parse_args()
    if args.workers < 0:
        raise UserError(f"--workers {args.workers}: must not be negative")
    config = configs.load(args.config, args.opts)
    rank, ranks = distributed.rank(), distributed.world_size()
    runtime.start_log(quiet=rank > 0)

    front_end = classic.front_end(config)
    if config.features.online:
        runtime.refuse(args, ["workers"], "with features.online there is nothing to extract")
        log.info("nothing to extract: with features.online, log-mels are computed from the sound during training")
        return
    records, _ = manifest.read(args.data, with_rejected=True)
    workers = args.workers or max(1, runtime.cores() // distributed.local_world_size())
    settings = (config.data.clip_seconds, config.features.shard_size, config.data.max_rejected)
    folder = shards.folder(args.data, front_end, config.data.clip_seconds)
    with runtime.locked(folder, owner=distributed.launch_name()):
        _, counts = shards.extract(args.data, records, front_end, *settings, workers, rank, ranks)
    if counts["rejected"]:
        log.warning("%d clips cannot be used: see %s/%s", counts["rejected"], args.data, manifest.REJECTED)
    if counts["made"]:
        kept = f" ({counts['kept']} were there)" if counts["kept"] else ""
        log.info("wrote the log-mels of %d clips to %s%s", counts["made"], folder, kept)
    else:
        log.info("%s is up to date: %d clips", folder, counts["kept"])


if __name__ == "__main__":
    runtime.run(main)
