"""A prepared folder with as many clips as AudioSet has, without their sound: manifest, labels and tiny features."""

import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from paddletag.features import frontend, shards
from paddletag.features.clip_index import FIELDS

LABELS, TESTED = 527, 100  # of so many clips one is in test
SHARD, BATCH = 512, 16  # clips of a file, and of a batch in it: as clips of 10 s lie there


def line(n):
    """The record of clip n, as AudioSet's look."""
    labels = [f"label {n % LABELS:03d}", f"label {n * 7919 % (LABELS - 1):03d}"]
    split = "test" if n % TESTED == 0 else "train"
    audio = f"/data/audioset/audio/unbalanced_train_segments/{n % 41:02d}/Y{n * 2654435761 % 2**40:011x}.flac"
    return {
        "id": Path(audio).stem,
        "audio": audio,
        "labels": list(dict.fromkeys(labels)),
        "split": split,
        "seconds": 10.0,
    }


def write(data, clips, clip_seconds=10.0):
    """Prepare the folder `data` with so many clips, whose log-mels are one frame each: of clip n, all n % 1000."""
    data.mkdir(parents=True)
    (data / "labels.txt").write_text("".join(f"label {n:03d}\n" for n in range(LABELS)))
    (data / "rejected.jsonl").write_text("")
    with open(data / "manifest.jsonl", "w") as file:
        file.writelines(json.dumps(line(n)) + "\n" for n in range(clips))
    folder = shards.folder(data, frontend.MN, clip_seconds)
    folder.mkdir(parents=True)
    metadata = {"front_end": json.dumps(frontend.MN.to_dict()), "clip_seconds": str(clip_seconds)}
    schema = pa.schema(FIELDS, metadata=metadata)
    contents = [np.full(frontend.MN.n_mels, value, np.float16).tobytes() for value in range(1000)]
    crcs = [zlib.crc32(content) for content in contents]
    for number, first in enumerate(range(0, clips, SHARD)):
        with pa.OSFile(str(folder / f"{number:06d}.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for begin in range(first, min(first + SHARD, clips), BATCH):
                rows = range(begin, min(begin + BATCH, first + SHARD, clips))
                records = [line(n) for n in rows]
                sources = [json.dumps([record["audio"], 654321, 1234567890123456789, 0, None]) for record in records]
                columns = [
                    [record["id"] for record in records],
                    [1] * len(rows),
                    sources,
                    [crcs[n % 1000] for n in rows],
                    [contents[n % 1000] for n in rows],
                ]
                arrays = [pa.array(column, kind) for column, (_, kind) in zip(columns, FIELDS, strict=True)]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
