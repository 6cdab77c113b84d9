"""Stage 0: a raw data set -> data/manifest.jsonl and data/labels.txt, every file's header checked, and what it is.

Without --raw, the archive of the config's data.url is downloaded into the data folder and unpacked there.
"""

import argparse
import hashlib
import json
from pathlib import Path

from yacs.config import CfgNode

from paddletag import config as configs
from paddletag import runtime
from paddletag.commands.options import Parser
from paddletag.data import download, layouts, manifest, survey
from paddletag.data.archive import unpack
from paddletag.files import locked, read_json, write_json
from paddletag.models import registry
from paddletag.runtime import UserError, log
from paddletag.type_aliases import Record


def main() -> None:
    """`paddletag prepare`."""
    parser = Parser(description=__doc__)
    parser.add_argument("--config", required=True, help="the recipe's YAML file")
    parser.add_argument("--raw", default="", help="folder of the data set, or its table; empty: download it")
    parser.add_argument("--data", required=True, help="folder for the manifest and the features")
    parser.add_argument("--opts", nargs="*", default=[], help="settings that override the config: key value ...")
    args = parser.parse_args()
    config = configs.load(args.config, args.opts)
    runtime.start_log()
    registry.warn_of_missing_weights(config)  # before hours of work that would end in stage 2
    with locked(Path(args.data) / manifest.NAME):
        prepare(args, config, Path(args.data))


def prepare(args: argparse.Namespace, config: CfgNode, data: Path) -> None:
    """Make what the folder `data` does not hold yet of the data set. UserError for what is wrong with it."""
    state = data / "prepare.json"
    before = read_json(state, "") if state.exists() else {}
    again = before.get("raw") if not (data / "raw").exists() else None  # where it was given last time
    raw = Path(args.raw or again or fetch(config, data)).resolve()
    if not raw.exists():
        raise UserError(f"{raw}: no such file or folder ({'--raw' if args.raw else 'data.root'})")
    if before and before["raw"] != str(raw):
        raise UserError(f"{data}: was prepared from {before['raw']}: choose another --data for {raw}, or remove it")

    records, labels = layouts.read(config, raw, Path(args.config).parent)
    listed = bool(config.data.labels)
    manifest.check(records, labels, listed)  # before the files, which take longer
    digest = sources_digest(config, records, labels)
    made = (data / manifest.NAME).exists() and (data / manifest.LABELS).exists()
    if before.get("digest") == digest and made:
        log.info("%s is up to date: %d clips", data / manifest.NAME, before["clips"])
        return
    listen = len(records) <= config.data.check_sound
    log.info("checking %d files in %s", len(records), raw)
    if not listen:
        log.info("only their headers: for silence and copies, raise data.check_sound (%d now)", config.data.check_sound)
    records, sounds, rejected = survey.check_files(records, listen)
    manifest.check_limit(rejected, config.data.max_rejected)
    manifest.write(data, records, labels, rejected, listed)
    write_json(state, {"raw": str(raw), "digest": digest, "clips": len(records)})

    log.info("found in %s:%s", raw, runtime.Lines(survey.table(records, labels, sounds).split("\n")))
    for line in survey.warnings(records, labels, sounds, by_groups=config.data.folds > 0):
        log.warning("%s", line)
    if rejected:
        reasons = f"such as {rejected[0]['reason']}; see {data / manifest.REJECTED}"
        log.warning("%d files cannot be used and are left out, %s", len(rejected), reasons)
    log.info("wrote %s", data / manifest.NAME)


def fetch(config: CfgNode, data: Path) -> Path:
    """Download and unpack the data set, unless that has been done: the folder of its files.

    UserError where the config does not say what to download.
    """
    settings = config.data
    if not settings.url:
        raise UserError("no --raw given, and the config has no data.url to download from: give the data set's folder")
    if not settings.md5:
        raise UserError("data.url needs data.md5, the checksum of the archive")
    folder = data / "raw"
    if not folder.exists():
        archive = data / settings.url.rpartition("/")[2]
        hint = "get it in another way, and give its folder: --raw DIR"
        download.fetch(settings.url, archive, md5=settings.md5, hint=hint)
        unpack(archive, folder)
        archive.unlink()
    return folder / settings.root


def sources_digest(config: CfgNode, records: list[Record], labels: list[str]) -> str:
    """A text that changes when the table, a file of the data set, or how they are read changes."""
    settings = {
        key: value for key, value in configs.to_dict(config.data).items() if f"data.{key}" not in configs.FOR_CARDS
    }
    digest = hashlib.sha256(json.dumps([config.task, settings, labels]).encode())
    pairs = manifest.fingerprints(records, missing="")  # of a missing file, the check of its header will say so
    for pair in runtime.progress(pairs, total=len(records), desc="files", unit="clip"):
        digest.update(json.dumps(pair).encode())
    return digest.hexdigest()
