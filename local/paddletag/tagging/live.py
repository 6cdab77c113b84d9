"""Tags of a sound while it is heard: the newest window at every hop, and an event when a label comes or goes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from paddletag.features.frontend import FrontEnd
from paddletag.runtime import UserError
from paddletag.tagging.events import active_windows
from paddletag.tagging.pipeline import Predict
from paddletag.tagging.windows import LogMelStream, Windows, hop_frames
from paddletag.typed_values import LONGEST


@dataclass(frozen=True)
class Event:
    """A label that comes ("onset") or goes ("offset"); times are the ends of the windows that showed it, in seconds."""

    kind: str
    label: str
    time: float
    score: float  # of the onset; with the offset, the highest since
    onset: float


def check_windows(
    front_end: FrontEnd, window: float, hop: float, names: tuple[str, str] = ("--window", "--hop")
) -> None:
    """UserError for a hop (seconds) that is longer than the window, or shorter than a frame; for a long window too,
    whose first scores would come after it. names: what messages call the two."""
    if window > LONGEST:
        raise UserError(f"{names[0]} {window}: must be at most {LONGEST} s")
    if hop > window:
        raise UserError(f"{names[1]} {hop}: must not be longer than the window of {window} s")
    hop_frames(front_end, hop, names[1])


class Live:
    """Samples in, events out.

    predict: as `tagger.open_predictor` gives. Every `hop` seconds the last `window` seconds are scored (silence before
    the beginning); only their log-mel is kept. A label comes when its score reaches `threshold`, and goes when it falls
    below `low` (numbers, or arrays [C]): between the two nothing happens (`active_windows`, as for files). UserError of
    `check_windows`.
    """

    def __init__(
        self,
        predict: Predict,
        front_end: FrontEnd,
        labels: Sequence[str],
        window: float,
        hop: float,
        threshold: float | np.ndarray,
        low: float | np.ndarray,
    ) -> None:
        check_windows(front_end, window, hop)
        self.predict, self.labels, self.threshold, self.low = predict, labels, threshold, low
        front_end = front_end.replace(pad="zero")
        self.rate, self.windows, self.log_mel = (
            front_end.sample_rate,
            Windows(front_end, window, hop),
            LogMelStream(front_end),
        )
        self.samples, self.scored = 0, 0  # heard; at the end of the newest window that was scored
        self.onsets = np.full(len(labels), np.nan)  # of the labels that are active, in seconds
        self.peaks: np.ndarray = np.zeros(len(labels), np.float32)
        self._windows_of(np.zeros(max(0, self.windows.window - self.windows.stride), np.float32))

    def feed(self, wave: np.ndarray) -> list[Event]:
        """float32 [n] at the front end's rate -> the events of the windows that have become complete, in order."""
        self.samples += len(wave)
        return self._events(self._windows_of(wave))

    def flush(self) -> list[Event]:
        """The events of what came after the last hop; then the labels that are still active go."""
        events: list[Event] = []
        if self.scored < self.samples:
            # Up to a whole hop, and what the last frame sees of the sound after it: silence.
            missing = -self.samples % self.windows.stride + self.log_mel.half_fft + 1
            events = self._events(self._windows_of(np.zeros(missing, np.float32)))
        return events + self._offsets(np.flatnonzero(~np.isnan(self.onsets)), self.samples / self.rate)

    def _windows_of(self, wave: np.ndarray) -> list[np.ndarray]:
        return self.windows.feed(self.log_mel.feed(wave))

    def _events(self, log_mels: Sequence[np.ndarray]) -> list[Event]:
        if not log_mels:
            return []
        events: list[Event] = []
        before = ~np.isnan(self.onsets)
        window_scores = self.predict(np.stack(log_mels))["scores"]
        window_active = active_windows(window_scores, self.threshold, self.low, before)
        for scores, active in zip(window_scores, window_active, strict=True):
            self.scored += self.windows.stride
            time = min(self.scored, self.samples) / self.rate
            self.peaks = np.where(before, np.maximum(self.peaks, scores), scores)
            starting = np.flatnonzero(active & ~before)
            events += self._offsets(np.flatnonzero(before & ~active), time)
            self.onsets[starting] = time
            events += [Event("onset", self.labels[i], time, float(scores[i]), time) for i in self._loudest(starting)]
            before = active
        return events

    def _offsets(self, ending: np.ndarray, time: float) -> list[Event]:
        """The labels of these indices go."""
        events = [
            Event("offset", self.labels[i], time, float(self.peaks[i]), float(self.onsets[i]))
            for i in self._loudest(ending)
        ]
        self.onsets[ending] = np.nan
        return events

    def _loudest(self, indices: Iterable[int]) -> list[int]:
        """Indices of labels, those with the highest peak first."""
        return sorted(indices, key=lambda i: -self.peaks[i])
