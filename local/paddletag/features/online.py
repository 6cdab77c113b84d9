"""Log-mels computed from the sound whenever they are asked for: what stage 1 would store, without the disk space."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from yacs.config import CfgNode

from paddletag.data import manifest
from paddletag.data.clips import by_id, in_id_order, no_blanks_in_ids
from paddletag.features import augment
from paddletag.features.clip_features import clip_log_mel, clip_wave, padded_log_mel
from paddletag.features.frontend import FrontEnd
from paddletag.type_aliases import Record


class OnlineFeatures:
    """The features of `records` by clip id: bit for bit those of `shards.Features`. None is kept.

    A file that cannot be used is an AudioError when its clip is asked for.
    """

    dtype: type[np.floating] = np.float16

    def __init__(self, records: Sequence[Record], front_end: FrontEnd, clip_seconds: float) -> None:
        self.front_end, self.clip_seconds = front_end, clip_seconds
        self._records = by_id(records)

    def __contains__(self, clip_id: str) -> bool:
        """Whether there are features of the clip."""
        return clip_id in self._records

    def digest(self, records: Sequence[Record]) -> str:
        """A short name of what the clips of `records` sound like, from their files' sizes and times of change."""
        digest = hashlib.sha256(self.front_end.folder(self.clip_seconds).encode())
        lines = (f"{record['id']} {text}" for record, text in manifest.fingerprints(in_id_order(records)))
        for line in lines if no_blanks_in_ids(records) else sorted(lines):  # without blanks, they are sorted
            digest.update(f"\n{line}".encode())
        return digest.hexdigest()[:16]

    def sounds(self, records: Sequence[Record]) -> Iterator[str | None]:
        """What tells each clip's sound from another, in the order of `records`; None for clips without features."""
        pairs = manifest.fingerprints(records, missing="")  # of other clips, the files may be elsewhere
        return (text if text and record["id"] in self else None for record, text in pairs)

    def __getitem__(self, clip_id: str) -> np.ndarray:
        """The log-mel of the whole clip: float16 [frames, n_mels]."""
        return clip_log_mel(self._records[clip_id], self.front_end, self.clip_seconds).astype(np.float16)

    def clip(
        self, records: Sequence[Record], row: int, generator: np.random.Generator, settings: CfgNode
    ) -> np.ndarray:
        """The log-mel of `records[row]`, float16 [frames, n_mels], with what is to be done to its waveform.

        settings: the config section `augment`. With probability `wavmix`, another of `records`, which must all be
        training clips, is laid under it (`augment.wavmix`). Else it is as `self[clip_id]`. The change of level is not
        made here: `augment.gain` makes it of a log-mel as exactly.
        """
        clip_id = records[row]["id"]
        if len(records) < 2 or generator.random() >= settings.wavmix:
            return self[clip_id]
        other = records[(row + 1 + int(generator.integers(len(records) - 1))) % len(records)]["id"]
        wave, background = (clip_wave(self._records[name], self.front_end) for name in (clip_id, other))
        wave = augment.wavmix(wave, background, settings.wavmix_snr, generator)
        return padded_log_mel(wave, self.front_end, self.clip_seconds).astype(np.float16)
