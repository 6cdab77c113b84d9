"""Stage 1: the manifest's clips -> data/features/<front end>/*.arrow, log-mels of whole clips."""

from paddletag import config as configs
from paddletag import runtime
from paddletag.commands.options import Parser, refuse
from paddletag.data import clip_table, manifest
from paddletag.features import shards
from paddletag.files import locked
from paddletag.models import registry
from paddletag.runtime import UserError, log
from paddletag.training import distributed


def main() -> None:
    """`paddletag features`."""
    parser = Parser(description=__doc__)
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

    front_end = registry.front_end(config)
    if config.features.online:
        refuse(args, ["workers"], "with features.online there is nothing to extract")
        log.info("nothing to extract: with features.online, log-mels are computed from the sound during training")
        return
    records, _ = manifest.read(args.data, with_rejected=True)
    workers = args.workers or max(1, runtime.cores() // distributed.local_world_size())
    settings = (config.data.clip_seconds, config.features.shard_size, config.data.max_rejected)
    folder = shards.folder(args.data, front_end, config.data.clip_seconds)
    log.info("log-mels of %d clips: making those that %s does not hold yet", len(records), folder)
    with locked(folder, owner=distributed.launch_name()):
        _, counts = shards.extract(args.data, records, front_end, *settings, workers, rank, ranks)
    if ranks == 1:  # else other ranks may still be at work, and training makes it
        shards.open_shards(args.data, front_end, config.data.clip_seconds, clip_table.open_clips(args.data)[0])
    if counts["rejected"]:
        log.warning("%d clips cannot be used: see %s/%s", counts["rejected"], args.data, manifest.REJECTED)
    if counts["made"]:
        kept = f" ({counts['kept']} were there)" if counts["kept"] else ""
        log.info("wrote the log-mels of %d clips to %s%s", counts["made"], folder, kept)
    else:
        log.info("%s is up to date: %d clips", folder, counts["kept"])
