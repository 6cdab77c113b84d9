"""Windows of a sound that comes in parts: slices of one streamed log-mel, of which no more is kept than they need.

A window is a slice of the whole sound's log-mel. Its two first and last frames see the sound around the window, where
a window that is cut out as a waveform sees its own reflection: elsewhere the two are equal, and scores differ by up to
0.1 (mn04_as, windows of 2 s of speech beside an alarm). AST's front end frees each frame of its own mean, so that no
mean of a clip or window is needed.
"""

import tempfile
from collections.abc import Iterator, Sequence

import numpy as np

from paddletag.features.clip_features import window_starts
from paddletag.features.frontend import FrontEnd
from paddletag.runtime import UserError
from paddletag.type_aliases import Meta

REST = 0.05  # of a hop: so much of a sound's end may be without a window of its own
LONGEST_WINDOW, LONGEST_HOP = 3600.0, 1e6  # seconds
IN_MEMORY = 2**24  # bytes of rows that are kept there; what is more goes to a temporary file


def check_seconds(
    window: float, hop: float, names: tuple[str, str] = ("--window", "--hop"), zero: bool = False
) -> None:
    """UserError, with the name of the one that is wrong, for a window or a hop (seconds) that no sound needs.

    zero: whether 0 is right, for what has a default.
    """
    for name, seconds, most in zip(names, (window, hop), (LONGEST_WINDOW, LONGEST_HOP), strict=True):
        if not (0 < seconds <= most or (zero and seconds == 0)):
            raise UserError(f"{name} {seconds}: must be a positive number of seconds, at most {most:g}")


def hop_frames(front_end: FrontEnd, hop: float, name: str = "--hop") -> int:
    """A hop in seconds as whole frames. UserError that begins with `name` if the hop is shorter than a frame."""
    frames = round(hop * front_end.sample_rate / front_end.hop_length)
    if frames < 1:
        frame = front_end.hop_length / front_end.sample_rate
        raise UserError(f"{name} {hop}: must be at least {frame:g} s, one frame")
    return frames


class LogMelStream:
    """The log-mel of a waveform that comes in parts: the parts' frames together are those of the whole.

    remember: the number of samples that `finish` may be asked for. A shorter sound is padded as the front end says.
    """

    def __init__(self, front_end: FrontEnd, remember: int = 0) -> None:
        self.front_end = front_end
        self.remember = max(remember, front_end.min_samples) if front_end.pad == "repeat" else 0
        self.samples = 0  # so far
        self.half_fft = front_end.n_fft // 2 if front_end.framing == "centred" else 0  # samples around a frame's centre
        # Frames to compute again for the sound before the next ones: the first see reflection instead. One more,
        # since the end has to be long enough for its own.
        self.context = -(-self.half_fft // front_end.hop_length) + 1 if self.half_fft else 0
        self.wave: np.ndarray = np.empty(0, np.float32)  # what is still needed
        self.emitted = 0  # its frames that were given already
        self.head: list[np.ndarray] = []  # the sound's beginning, to repeat

    def feed(self, wave: np.ndarray) -> np.ndarray:
        """float32 [n] -> the frames that need no more of the sound: float32 [T, n_mels]."""
        front_end = self.front_end
        if self.samples < self.remember:
            self.head.append(wave)
        self.samples += len(wave)
        self.wave = np.concatenate([self.wave, wave])
        if self.half_fft:
            complete = (len(self.wave) - (front_end.pre_emphasis > 0) - self.half_fft) // front_end.hop_length + 1
        else:
            complete = front_end.frames(len(self.wave))
        if complete <= self.emitted or len(self.wave) < front_end.min_samples:
            return np.empty((0, front_end.n_mels), np.float32)
        frames = front_end.log_mel(self.wave)[self.emitted : complete]
        dropped = max(0, complete - self.context)
        self.wave, self.emitted = self.wave[dropped * front_end.hop_length :], complete - dropped
        return frames

    def finish(self, min_samples: int = 0) -> np.ndarray:
        """Pad the waveform to at least `min_samples` samples (and one frame), and give the frames that are left."""
        front_end = self.front_end
        missing = max(min_samples, front_end.min_samples) - self.samples
        frames: list[np.ndarray] = [np.empty((0, front_end.n_mels), np.float32)]
        if missing > 0:
            padding: np.ndarray = np.zeros(missing, np.float32)
            if 0 < self.samples < self.remember:
                head = np.concatenate(self.head)
                padding = np.resize(head, len(head) + missing)[len(head) :]
            frames.append(self.feed(padding))
        if len(self.wave) >= front_end.min_samples:
            frames.append(front_end.log_mel(self.wave)[self.emitted :])
        return np.concatenate(frames)


class Windows:
    """Windows of `window` seconds, every `hop` seconds (0: `window`), as slices of the log-mel.

    A window begins at every hop as long as it fits into the sound. If these do not reach its end, one more window
    follows that ends with the sound: padding beyond the end would change the scores. A sound that is shorter than a
    window is padded to one, as the front end says. `meta`: of the model, whose clips tell how much padding has a use.
    """

    def __init__(self, front_end: FrontEnd, window: float, hop: float = 0.0, meta: Meta | None = None) -> None:
        self.front_end = front_end
        self.clip_samples = front_end.samples(meta["clip_seconds"] if meta else 0)
        self.hop = hop_frames(front_end, hop or window)
        self.stride = self.hop * front_end.hop_length  # samples
        self.window = front_end.samples(window)  # samples
        self.samples = 0  # of the sound, at its end
        self.frames: np.ndarray = np.empty((0, front_end.n_mels), np.float32)  # of the log-mel, those still needed
        self.first_frame = 0  # the number of the first of them
        self.begun = 0  # windows that began at a hop
        self.last_start: int | None = None  # the frame where the one at the end begins

    @property
    def length(self) -> int:
        """Frames of a window."""
        return self.front_end.frames(max(self.window, self.front_end.min_samples))

    @property
    def longest_padding(self) -> int:
        """A sound of so many samples or more is not padded."""
        return max(min(self.window, self.clip_samples or self.window), self.front_end.min_samples)

    def padded(self, samples: int) -> int:
        """The samples that a sound of `samples` must have, for its log-mel to be that of a window at least."""
        # A window beyond both the sound and the model's clips would be nothing but padding.
        return max(min(self.window, max(samples, self.clip_samples)), self.front_end.min_samples)

    def feed(self, frames: np.ndarray) -> list[np.ndarray]:
        """The next frames [T, n_mels] of the log-mel -> the windows that are complete: log-mels [length, n_mels]."""
        self.frames = np.concatenate([self.frames, frames])
        windows, count = [], self.first_frame + len(self.frames)
        while self.begun * self.hop + self.length <= count:
            start = self.begun * self.hop - self.first_frame
            windows.append(self.frames[start : start + self.length])
            self.begun += 1
        needed = min(self.begun * self.hop, count - self.length)  # the last window may begin earlier than the next one
        first_frame = max(self.first_frame, needed)
        self.frames, self.first_frame = self.frames[first_frame - self.first_frame :], first_frame
        return windows

    def flush(self, samples: int) -> list[np.ndarray]:
        """The windows that are left at the end of a sound of `samples` samples, whose frames were all given."""
        self.samples = samples
        self.window = min(self.window, max(samples, self.clip_samples))
        windows = self.feed(self.frames[:0])
        count, covered = self.first_frame + len(self.frames), (self.begun - 1) * self.hop + self.length
        if count - covered > REST * self.hop:
            self.last_start = count - self.length
            windows.append(self.frames[self.last_start - self.first_frame :])
        return windows

    def spans(self) -> tuple[np.ndarray, np.ndarray, float]:
        """After the end, in seconds: where the windows start [N], where they end [N], and the length of the sound."""
        samples, rate = max(1, self.samples), self.front_end.sample_rate
        starts: np.ndarray = np.arange(self.begun) * self.stride
        if self.last_start is not None:
            starts = np.append(starts, self.last_start * self.front_end.hop_length)
        ends = np.minimum(starts + self.window, samples)
        ends[-1] = samples
        return starts / rate, ends / rate, samples / rate

    def reduce(self, rows: np.ndarray) -> np.ndarray:
        """The rows of the result from those of the windows, [N, D]: each window has its own."""
        return rows


class Clip:
    """A sound as the windows that evaluation cuts it into, whose scores make one row."""

    def __init__(self, front_end: FrontEnd, meta: Meta) -> None:
        self.front_end, self.samples = front_end, 0
        min_seconds = meta["min_seconds"] if "min_seconds" in meta else meta["clip_seconds"]
        self.longest_padding = max(front_end.samples(min_seconds), front_end.min_samples)
        self.length = front_end.frames(front_end.samples(meta["clip_seconds"]))
        self.frames = Rows()

    def padded(self, samples: int) -> int:
        """The samples that a sound of `samples` must have at least."""
        return self.longest_padding

    def feed(self, frames: np.ndarray) -> Sequence[np.ndarray]:
        """The next frames [T, n_mels] -> no windows yet: how they lie depends on the sound's length."""
        self.frames.append(frames)
        return ()

    def flush(self, samples: int) -> Iterator[np.ndarray]:
        """The windows, at the end of a sound of `samples` samples: yields log-mels [T, n_mels]."""
        self.samples = samples
        for start in window_starts(len(self.frames), self.length):
            yield self.frames[start : start + self.length]

    def spans(self) -> tuple[np.ndarray, np.ndarray, float]:
        """After the end, in seconds: the start [1] and end [1] of the one row, and the length of the sound."""
        seconds = max(1, self.samples) / self.front_end.sample_rate
        return np.zeros(1), np.array([seconds]), seconds

    def reduce(self, rows: np.ndarray) -> np.ndarray:
        """The mean of the windows' rows: [W, D] -> float32 [1, D]."""
        return rows.mean(0, dtype=np.float64, keepdims=True).astype(np.float32)


class Rows:
    """float32 [N, D] that grows: in memory at first, then in a temporary file. Slices of it are arrays."""

    def __init__(self) -> None:
        self.file, self.width, self.count = tempfile.SpooledTemporaryFile(IN_MEMORY), 0, 0

    def __len__(self) -> int:
        """N, so far."""
        return self.count

    def append(self, rows: np.ndarray) -> None:
        """Add rows [n, D]."""
        self.width = rows.shape[1]
        self.count += len(rows)
        self.file.write(np.ascontiguousarray(rows, np.float32).tobytes())

    def __getitem__(self, rows: slice) -> np.ndarray:
        """A slice of step 1: float32 [n, D]."""
        start, stop, _ = rows.indices(self.count)
        self.file.seek(4 * start * self.width)
        array = np.frombuffer(self.file.read(4 * (stop - start) * self.width), np.float32).reshape(-1, self.width)
        self.file.seek(0, 2)  # where the next ones go
        return array
