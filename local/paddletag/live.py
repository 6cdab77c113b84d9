"""Tags of a sound while it is heard: the newest window at every hop, and an event when a label comes or goes."""

import queue
from dataclasses import dataclass

import numpy as np

from paddletag import parsing
from paddletag.runtime import UserError
from paddletag.tagging import Windows


@dataclass(frozen=True)
class Event:
    """A label that comes ("onset") or goes ("offset"); times are the ends of the windows that showed it, in seconds."""

    kind: str
    label: str
    time: float
    score: float  # of the onset; with the offset, the highest since
    onset: float


class Live:
    """Samples in, events out.

    predict: as `tagging.predictor` gives. Every `hop` seconds the last `window` seconds are scored (silence before the
    beginning); only their log-mel is kept. A label comes when its score reaches `threshold`, and goes when it falls
    below `low`: between the two nothing happens (`parsing.heard`, as for files).
    """

    def __init__(self, predict, front_end, labels, window, hop, threshold, low):
        if hop > window:
            raise UserError(f"--hop_duration {hop}: must not be longer than the window of {window} s")
        self.predict, self.labels, self.threshold, self.low = predict, labels, threshold, low
        self.rate, self.windows = front_end.sample_rate, Windows(front_end.replace(pad="zero"), window, hop)
        self.samples, self.scored = 0, 0  # heard; at the end of the newest window that was scored
        self.onsets = np.full(len(labels), np.nan)  # of the labels that are there, in seconds
        self.peaks = np.zeros(len(labels), np.float32)
        self.windows.feed(np.zeros(max(0, self.windows.window - self.windows.stride), np.float32))

    def feed(self, wave):
        """float32 [n] at the front end's rate -> the events of the windows that have become complete, in order."""
        self.samples += len(wave)
        return self._events(self.windows.feed(wave))

    def flush(self):
        """The events of what came after the last hop; then the labels that are still there go."""
        events = []
        if self.scored < self.samples:
            # Up to a whole hop, and what the last frame sees of the sound after it: silence.
            missing = -self.samples % self.windows.stride + self.windows.log_mel.half + 1
            events = self._events(self.windows.feed(np.zeros(missing, np.float32)))
        return events + self._offsets(np.flatnonzero(~np.isnan(self.onsets)), self.samples / self.rate)

    def _events(self, log_mels):
        if not log_mels:
            return []
        events, there = [], ~np.isnan(self.onsets)
        every = self.predict(np.stack(log_mels))["scores"]
        for scores, heard in zip(every, parsing.heard(every, self.threshold, self.low, there), strict=True):
            self.scored += self.windows.stride
            time = min(self.scored, self.samples) / self.rate
            self.peaks = np.where(there, np.maximum(self.peaks, scores), scores)
            come = np.flatnonzero(heard & ~there)
            events += self._offsets(np.flatnonzero(there & ~heard), time)
            self.onsets[come] = time
            events += [Event("onset", self.labels[i], time, float(scores[i]), time) for i in self._loudest(come)]
            there = heard
        return events

    def _offsets(self, gone, time):
        events = [
            Event("offset", self.labels[i], time, float(self.peaks[i]), float(self.onsets[i]))
            for i in self._loudest(gone)
        ]
        self.onsets[gone] = np.nan
        return events

    def _loudest(self, indices):
        """Those with the highest peak first."""
        return sorted(indices, key=lambda i: -self.peaks[i])


def microphone(rate):
    """Yields float32 [n] at `rate` Hz from the default microphone, for ever. UserError where there is none."""
    try:
        import sounddevice
    except ImportError:
        raise UserError("--stream mic needs the package sounddevice: run pip install sounddevice") from None
    except OSError as error:  # its library for the sound card is missing
        raise UserError(f"--stream mic: sounddevice does not work here ({error}): install PortAudio") from None

    parts = queue.Queue()
    try:
        # A copy, since the buffer is used again.
        with sounddevice.InputStream(
            samplerate=rate, channels=1, dtype="float32", callback=lambda data, *_: parts.put(data[:, 0].copy())
        ):
            while True:  # all that has gathered while its parts before were tagged
                yield np.concatenate([parts.get(), *(parts.get() for _ in range(parts.qsize()))])
    except sounddevice.PortAudioError as error:
        raise UserError(f"--stream mic: no sound from the microphone at {rate} Hz ({error})") from None
