"""Scores of sounds of any length, over time: windows of one streamed log-mel, decoded while the model computes.

A window is a slice of the whole sound's log-mel. Its two first and last frames see the sound around the window, where
a window that is cut out as a waveform sees its own reflection: elsewhere the two are equal, and scores differ by up to
0.1 (mn04_as, windows of 2 s of speech beside an alarm). AST's front end frees each frame of its own mean, so that no
mean of a clip or window is needed. Paddle is imported where it is used, so that arguments can be checked before.
"""

import contextlib
import tempfile

import numpy as np

from paddletag import audio, pool
from paddletag.frontend import window_starts
from paddletag.runtime import UserError, progress

REST = 0.05  # of a hop: so much of a sound's end may be without a window of its own
IN_MEMORY = 2**24  # bytes of rows that are kept there; what is more goes to a temporary file


def predictor(model, task, embeddings=False):
    """A function: log-mel float32 [B, T, M] -> {"scores": [B, C]}, with "embeddings": [B, D] too if asked for.

    It is all that tagging needs of a model: another engine is another such function.
    """
    from paddletag import engine  # imports paddle

    def predict(log_mel):
        scores, embedding = engine.score(model, log_mel, task)
        return {"scores": scores, **({"embeddings": embedding} if embeddings else {})}

    return predict


def tag(predict, meta, front_end, sounds, window=0.0, hop=0.0, batch_size=8):
    """Tag each of `sounds` (paths, or `audio.Source`s): yields (sound, arrays), or (sound, its AudioError).

    window: seconds, every `hop` seconds (default: `window`); 0: the whole sound as one row, as evaluation computes it.
    The arrays:
    time [N]: a window's start as a fraction of the sound; start, end [N]: in seconds; scores [N, C]; labels [C]; model
    (its checksum); backbone; embeddings [N, D] if `predict` gives them.
    """

    def pieces():
        """(sound, batch of log-mels, None) as often as needed, then (sound, None, how it ended)."""
        for sound in sounds:
            try:
                given = isinstance(sound, audio.Source)
                with contextlib.nullcontext(sound) if given else audio.opened(sound) as source:
                    cut = Windows(front_end, window, hop, meta) if window else Clip(front_end, meta)
                    for batch in _batches(_log_mels(source, cut), batch_size):
                        yield sound, batch, None
                yield sound, None, cut
            except audio.AudioError as error:
                yield sound, None, error
            except MemoryError:
                yield sound, None, too_large(sound)

    def too_large(sound):
        name = sound.name if isinstance(sound, audio.Source) else sound
        return audio.AudioError(f"{name}: does not fit into memory: try shorter windows, or fewer at a time")

    rows, fault = {}, None
    with contextlib.closing(pool.ahead(pieces())) as items:
        for sound, batch, state in items:
            try:
                if batch is None:
                    found = fault or (state if isinstance(state, UserError) else _arrays(meta, state, rows))
                elif not fault:
                    for name, values in predict(batch).items():
                        rows.setdefault(name, Rows()).append(values)
            except MemoryError:
                found = fault = too_large(sound)
            if batch is None:
                yield sound, found
                rows, fault = {}, None


def tag_clip(model, meta, path, batch_size=8):
    """The scores of the whole file, as evaluation computes them: arrays as those of `tag`, with one row.

    Clips that are shorter than those a model was fine-tuned on are padded to their length, as they were in training; a
    backbone straight from the registry takes them as they are.
    """
    return _one(tag(predictor(model, meta["task"]), meta, model.front_end, [path], batch_size=batch_size))


def tag_windows(model, meta, path, window, hop, batch_size=8):
    """Scores of windows of `window` seconds every `hop` seconds: arrays as those of `tag`.

    A window begins at every hop (rounded to whole frames), and the last one ends with the sound: see `Windows`.
    """
    predict = predictor(model, meta["task"])
    return _one(tag(predict, meta, model.front_end, [path], window, hop, batch_size=batch_size))


def _one(results):
    ((_, found),) = results
    if isinstance(found, UserError):
        raise found
    return found


def hop_frames(front_end, hop):
    """A hop in seconds as whole frames. UserError if there is not one."""
    frames = round(hop * front_end.sample_rate / front_end.hop_length)
    if frames < 1:
        frame = front_end.hop_length / front_end.sample_rate
        raise UserError(f"--hop_duration {hop}: must be at least {frame:g} s, one frame")
    return frames


class LogMelStream:
    """The log-mel of a waveform that comes in parts: the parts' frames together are those of the whole.

    remember: the number of samples that `finish` may be asked for. A shorter sound is padded as the front end says.
    """

    def __init__(self, front_end, remember=0):
        self.front_end = front_end
        self.remember = max(remember, front_end.min_samples) if front_end.pad == "repeat" else 0
        self.samples = 0  # so far
        self.half = front_end.n_fft // 2 if front_end.framing == "centred" else 0
        # Frames to compute again for the sound before the next ones: the first see reflection instead. One more,
        # since the end has to be long enough for its own.
        self.context = -(-self.half // front_end.hop_length) + 1 if self.half else 0
        self.wave, self.done = np.empty(0, np.float32), 0  # what is still needed; its frames that were given already
        self.head = []

    def feed(self, wave):
        """float32 [n] -> the frames that have become known: float32 [T, n_mels]."""
        front_end = self.front_end
        if self.samples < self.remember:
            self.head.append(wave)
        self.samples += len(wave)
        self.wave = np.concatenate([self.wave, wave])
        if self.half:
            known = (len(self.wave) - (front_end.pre_emphasis > 0) - self.half) // front_end.hop_length + 1
        else:
            known = front_end.frames(len(self.wave))
        if known <= self.done or len(self.wave) < front_end.min_samples:
            return np.empty((0, front_end.n_mels), np.float32)
        frames = front_end.log_mel(self.wave)[self.done : known]
        dropped = max(0, known - self.context)
        self.wave, self.done = self.wave[dropped * front_end.hop_length :], known - dropped
        return frames

    def finish(self, least=0):
        """Pad the waveform to at least `least` samples (and one frame), and give the frames that are left."""
        front_end = self.front_end
        missing = max(least, front_end.min_samples) - self.samples
        frames = [np.empty((0, front_end.n_mels), np.float32)]
        if missing > 0:
            padding = np.zeros(missing, np.float32)
            if 0 < self.samples < self.remember:
                head = np.concatenate(self.head)
                padding = np.resize(head, len(head) + missing)[len(head) :]
            frames.append(self.feed(padding))
        if len(self.wave) >= front_end.min_samples:
            frames.append(front_end.log_mel(self.wave)[self.done :])
        return np.concatenate(frames)


class Windows:
    """Windows of a sound that comes in parts, as slices of its log-mel: no more of it is kept than they need.

    A window begins at every hop as long as it fits into the sound. If these do not reach its end, one more window
    follows that ends with the sound: padding beyond the end would change the scores. A sound that is shorter than a
    window is padded to one, as the front end says.
    """

    def __init__(self, front_end, window, hop=0.0, meta=None):
        self.front_end, self.known = front_end, front_end.samples(meta["clip_seconds"] if meta else 0)
        self.hop = hop_frames(front_end, hop or window)
        self.stride = self.hop * front_end.hop_length  # samples
        self.samples, self.window = 0, front_end.samples(window)
        self.log_mel = LogMelStream(front_end, min(self.window, self.known or self.window))
        self.frames, self.first = np.empty((0, front_end.n_mels), np.float32), 0  # the number of the first one kept
        self.begun, self.last = 0, None  # windows that began at a hop; the frame where the one at the end begins

    @property
    def length(self):
        """Frames of a window."""
        return self.front_end.frames(max(self.window, self.front_end.min_samples))

    def feed(self, wave):
        """float32 [n] -> the windows that are complete: a list of log-mels [length, n_mels]."""
        self.samples += len(wave)
        return self._cut(self.log_mel.feed(wave))

    def flush(self):
        """The windows that are left at the sound's end."""
        # A window beyond both the sound and what the model knows would be nothing but padding.
        self.window = min(self.window, max(self.samples, self.known))
        found = self._cut(self.log_mel.finish(max(self.window, self.front_end.min_samples)))
        count, covered = self.first + len(self.frames), (self.begun - 1) * self.hop + self.length
        if count - covered > REST * self.hop:
            self.last = count - self.length
            found.append(self.frames[self.last - self.first :])
        return found

    def spans(self):
        """After the end, in seconds: where the windows start, where they end, and the length of the sound."""
        samples, rate = max(1, self.samples), self.front_end.sample_rate
        starts = np.arange(self.begun) * self.stride
        if self.last is not None:
            starts = np.append(starts, self.last * self.front_end.hop_length)
        ends = np.minimum(starts + self.window, samples)
        ends[-1] = samples
        return starts / rate, ends / rate, samples / rate

    def reduce(self, rows):
        return rows

    def _cut(self, frames):
        self.frames = np.concatenate([self.frames, frames])
        found, count = [], self.first + len(self.frames)
        while self.begun * self.hop + self.length <= count:
            start = self.begun * self.hop - self.first
            found.append(self.frames[start : start + self.length])
            self.begun += 1
        kept = max(self.first, min(self.begun * self.hop, count - self.length))  # the last window may begin earlier
        self.frames, self.first = self.frames[kept - self.first :], kept
        return found


class Clip:
    """A sound that comes in parts, as the windows that evaluation cuts it into, whose scores make one row."""

    def __init__(self, front_end, meta):
        self.front_end, self.samples = front_end, 0
        self.least = max(front_end.samples(meta.get("min_seconds", meta["clip_seconds"])), front_end.min_samples)
        self.length = front_end.frames(front_end.samples(meta["clip_seconds"]))
        self.log_mel = LogMelStream(front_end, self.least)
        self.frames = Rows()

    def feed(self, wave):
        self.samples += len(wave)
        self.frames.append(self.log_mel.feed(wave))
        return ()

    def flush(self):
        self.frames.append(self.log_mel.finish(self.least))
        for start in window_starts(len(self.frames), self.length):
            yield self.frames[start : start + self.length]

    def spans(self):
        seconds = max(1, self.samples) / self.front_end.sample_rate
        return np.zeros(1), np.array([seconds]), seconds

    def reduce(self, rows):
        return rows.mean(0, dtype=np.float64, keepdims=True).astype(np.float32)


class Rows:
    """float32 [N, D] that grows: in memory at first, then in a temporary file. Slices of it are arrays."""

    def __init__(self):
        self.file, self.width, self.count = tempfile.SpooledTemporaryFile(IN_MEMORY), 0, 0

    def __len__(self):
        return self.count

    def append(self, rows):
        self.width = rows.shape[1]
        self.count += len(rows)
        self.file.write(np.ascontiguousarray(rows, np.float32).tobytes())

    def __getitem__(self, part):
        start, stop, _ = part.indices(self.count)
        self.file.seek(4 * start * self.width)
        rows = np.frombuffer(self.file.read(4 * (stop - start) * self.width), np.float32).reshape(-1, self.width)
        self.file.seek(0, 2)  # where the next ones go
        return rows


def _log_mels(source, cut):
    """The windows of a source, with a bar of its seconds."""
    rate = cut.front_end.sample_rate
    seconds = source.seconds and round(source.seconds)
    with progress(total=seconds, desc=source.name[-40:], unit="s") as bar:
        for wave in source.at(rate):
            yield from cut.feed(wave)
            bar.update(cut.samples // rate - bar.n)
        yield from cut.flush()


def _batches(log_mels, size):
    batch = []
    for log_mel in log_mels:
        batch.append(log_mel)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _arrays(meta, cut, rows):
    start, end, whole = cut.spans()
    arrays = {"time": start / whole, "start": start, "end": end}
    arrays.update({name: cut.reduce(values[:]) for name, values in rows.items()})
    arrays |= {"labels": np.array(meta["labels"]), "model": np.array(meta["sha256"])}
    return {**arrays, "backbone": np.array(meta["backbone"])}
