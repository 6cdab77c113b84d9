"""Log-mels computed from the sound whenever they are asked for: what stage 1 would store, without the disk space."""

import hashlib

import numpy as np

from paddletag import augment, manifest, shards
from paddletag.frontend import clip_log_mel, clip_wave, padded_log_mel


def open_features(data, front_end, clip_seconds, records, online):
    """What gives the log-mels of `records`: those stored in the prepared folder `data` or, if `online`, their sound."""
    if online:
        return OnlineFeatures(records, front_end, clip_seconds)
    return shards.open_features(data, front_end, clip_seconds, records)


class OnlineFeatures:
    """The features of `records` by clip id: bit for bit those of `shards.Features`. None is kept.

    A file that cannot be used is an AudioError when its clip is asked for.
    """

    dtype = np.float16

    def __init__(self, records, front_end, clip_seconds):
        self.front_end, self.clip_seconds = front_end, clip_seconds
        self._records = {record["id"]: record for record in records}

    def digest(self, records):
        """A short name of what the clips of `records` sound like, from their files' sizes and times of change."""
        rows = sorted(f"{record['id']} {manifest.fingerprint(record)}" for record in records)
        text = "\n".join([self.front_end.folder(self.clip_seconds), *rows])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def sounds(self, records: list[dict]) -> dict[str, str]:
        """{id: what tells a clip's sound from another}, of the clips of `records`."""
        return {record["id"]: manifest.fingerprint(record) for record in records}

    def __getitem__(self, id):
        """The log-mel of the whole clip: float16 [frames, n_mels]."""
        return clip_log_mel(self._records[id], self.front_end, self.clip_seconds).astype(np.float16)

    def clip(self, records, row, generator, settings):
        """The log-mel of `records[row]` with what the config section `augment` asks for that needs its waveform.

        With probability `wavmix`, another of `records`, which must all be training clips, is laid under it
        (`augment.wavmix`). Else it is as with [id]. The change of level is not made here: `augment.gain` makes it of a
        log-mel as exactly.
        """
        id = records[row]["id"]
        if len(records) < 2 or generator.random() >= settings.wavmix:
            return self[id]
        other = records[(row + 1 + int(generator.integers(len(records) - 1))) % len(records)]["id"]
        waves = (clip_wave(self._records[name], self.front_end) for name in (id, other))
        wave = augment.wavmix(*waves, settings.wavmix_snr, generator)
        return padded_log_mel(wave, self.front_end, self.clip_seconds).astype(np.float16)
