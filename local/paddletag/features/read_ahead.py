"""Whole shards asked for before their clips are: a network's disk is fast where it reads one file from end to end."""

from collections.abc import Callable

import numpy as np


class ReadAhead:
    """Asks for the shards of a stream of clips in time, as a buffer of `size` clips moves along it.

    shards: of each clip of the stream, int [N]. ask: is told the number of a shard. Each process that reads clips asks
    for what is new since the positions before its own; the first time, for all that the buffer holds then.
    """

    def __init__(self, shards: np.ndarray, size: int, ask: Callable[[int], None]) -> None:
        self.firsts = np.flatnonzero(np.diff(shards, prepend=-1))  # where in the stream another shard begins
        self.numbers, self.size, self.ask = shards[self.firsts], size, ask
        self.begun = False

    def reach(self, first: int, last: int) -> None:
        """The clips of the positions from `first` to before `last` are about to be taken from the buffer."""
        begin = int(np.searchsorted(self.firsts, first + self.size))
        if not self.begun:
            begin = int(np.searchsorted(self.firsts, first, "right")) - 1  # the shard in which that position lies
        end = int(np.searchsorted(self.firsts, last + self.size))
        for shard in self.numbers[begin:end].tolist():
            self.ask(shard)
        self.begun = True
