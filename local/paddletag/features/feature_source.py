"""The features of a prepared folder: those that stage 1 has stored, or computed from the sound when asked for."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from paddletag.features.frontend import FrontEnd
from paddletag.features.online import OnlineFeatures
from paddletag.features.shards import open_shards
from paddletag.type_aliases import File, Record


class FeatureSource(Protocol):
    """Log-mels by clip id: what `shards.Features` (stored) and `online.OnlineFeatures` (computed) have in common."""

    dtype: type[np.floating]  # of the log-mels

    def __contains__(self, clip_id: str) -> bool:
        """Whether there are features of the clip."""

    def __getitem__(self, clip_id: str) -> np.ndarray:
        """The log-mel of the whole clip: [frames, n_mels] of type `dtype`."""

    def digest(self, records: Sequence[Record]) -> str:
        """A short name of what the clips of `records` sound like."""

    def sounds(self, records: Sequence[Record]) -> Iterator[str | None]:
        """What tells each clip's sound from another, in the order of `records`; None for clips without features."""


def open_features(
    data: File, front_end: FrontEnd, clip_seconds: float, records: Sequence[Record], online: bool
) -> FeatureSource:
    """What gives the log-mels of `records`: those stored in the prepared folder `data` or, if `online`, their sound.

    UserError if some are to be stored there and are not.
    """
    if online:
        return OnlineFeatures(records, front_end, clip_seconds)
    return open_shards(data, front_end, clip_seconds, records)
