"""Test-time augmentation: rolled copies of clips, whose scores are averaged."""

from collections.abc import Iterable, Iterator

import numpy as np


def rolled_copies(clips: Iterable[tuple[str, np.ndarray]], count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields `count` copies of each (id, log-mel [T, M]), rolled circularly in time by equal parts of its length.

    The first is the clip itself. They have one id, so that `scoring.clip_scores` averages over them.
    """
    for clip_id, log_mel in clips:
        for k in range(count):
            yield clip_id, np.roll(log_mel, k * len(log_mel) // count, 0)
