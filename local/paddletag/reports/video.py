"""A sound, its film if it has one, and its tags as a video: spectrogram and lanes under a cursor, bars of the moment.

What stands still is drawn once a page; a frame is a copy of it with the cursor, encoded while the next one is drawn.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image  # matplotlib brings it

from paddletag import runtime
from paddletag.data import audio, ffmpeg
from paddletag.files import atomic
from paddletag.reports.look import class_order
from paddletag.reports.spectrogram_image import DARKEST, FRONT_END, grey_image
from paddletag.reports.video_encoder import encoder, has_picture
from paddletag.reports.video_frame import Frame
from paddletag.reports.video_layout import ScreenLayout
from paddletag.reports.video_screen import ACCENT, WARM, Screen, clock_text
from paddletag.tagging import result_files
from paddletag.tagging.events import window_spans
from paddletag.tagging.labels import THRESHOLD
from paddletag.tagging.windows import LogMelStream
from paddletag.type_aliases import Arrays, File

PAGE_SECONDS = 30  # of a long sound: about as much is shown at a time
GLIDE = 0.16  # seconds in which a bar reaches its length


def render(
    path: File,
    arrays: Arrays,
    output: File,
    size: tuple[int, int] = (1280, 720),
    fps: float = 25.0,
    top_k: int = 5,
) -> float:
    """Write the MP4 file `output` of the sound or film `path` and its tagging `arrays` (as `read_result` gives them).

    size: width and height in pixels, even. The video has as many frames of 1 / fps seconds as the sound begins, and its
    sound is what was tagged, at its own rate, in mono or stereo. Returns the seconds of sound. AudioError for a sound
    that cannot be read or without ffmpeg; UserError for a tagging of another length, and where ffmpeg fails.
    """
    program = ffmpeg.ffmpeg_program(output)
    seconds, low, high = measure(path)
    result_files.check_length(arrays, path, seconds)
    film = Path(path).suffix.lower() in audio.VIDEO and has_picture(program, path)
    labels = [str(label) for label in arrays["labels"]]
    layout = ScreenLayout(size, len(labels), top_k, film)
    thresholds = np.broadcast_to(arrays.get("thresholds", THRESHOLD), len(labels))
    screen = Screen(layout, Path(path).name, labels, thresholds)
    count = max(1, int(np.ceil(round(seconds * fps, 6))))
    edges = np.linspace(0, seconds, max(1, round(seconds / PAGE_SECONDS)) + 1)
    pictures = (grey_image(log_mel, low, high) for log_mel in spectrograms(path, edges))
    with (
        atomic(output) as temporary,
        encoder(program, temporary, path, layout.film, size, fps, count) as write,
        contextlib.closing(pictures),
    ):
        for frame in runtime.progress(frames(screen, arrays, pictures, edges, fps, count), desc="video", total=count):
            write(frame)
    return seconds


def measure(path: File) -> tuple[float, float, float]:
    """(seconds, low, high): the length of a sound, and the range of its log-mel that the colours stand for."""
    stream, ranges = LogMelStream(FRONT_END), []

    def add(log_mel: np.ndarray) -> None:
        if len(log_mel):
            ranges.append((np.quantile(log_mel, DARKEST), log_mel.max()))

    with audio.opened(path) as source:
        for wave in source.at(FRONT_END.sample_rate):
            add(stream.feed(wave))
    seconds = stream.samples / FRONT_END.sample_rate
    add(stream.finish())
    low, high = np.array(ranges).T
    return seconds, float(np.median(low)), float(high.max())


def spectrograms(path: File, edges: np.ndarray) -> Iterator[np.ndarray]:
    """The log-mel of a sound between `edges` [P + 1] (seconds), page after page: yields float32 [T, n_mels]."""
    stream, begin = LogMelStream(FRONT_END), 0
    pending: list[np.ndarray] = []  # frames from `begin` on
    ends = np.round(edges[1:-1] * FRONT_END.sample_rate / FRONT_END.hop_length).astype(int).tolist()
    with audio.opened(path) as source:
        for wave in source.at(FRONT_END.sample_rate):
            pending.append(stream.feed(wave))
            while ends and begin + sum(map(len, pending)) >= ends[0]:
                log_mel, end = np.concatenate(pending), ends.pop(0)
                yield log_mel[: end - begin]
                pending, begin = [log_mel[end - begin :]], end
    yield np.concatenate([*pending, stream.finish()])


def frames(
    screen: Screen, arrays: Arrays, pictures: Iterator[Image.Image], edges: np.ndarray, fps: float, count: int
) -> Iterator[np.ndarray]:
    """Yield the `count` frames: their buffers, which are good until the next one.

    pictures: that of the log-mel of each page. edges [P + 1]: where pages begin and end, in seconds.
    """
    layout = screen.layout
    _, offsets = window_spans(arrays["start"], arrays["end"])
    scores, seconds = arrays["scores"].clip(0, 1), edges[-1]
    still, frame = Frame(layout.size), Frame(layout.size)
    rank = np.argsort(class_order(scores))  # of each class, among lanes and bars
    page = -1
    rows: list[int] = []  # the class of each bar
    drawn: dict[str, Any] = {}  # what the bars and the clock of the page show
    for number in range(count):
        now = min(number / fps, seconds)
        if page + 2 < len(edges) and (page < 0 or now >= edges[page + 1]):
            page, drawn = page + 1, {}
            begin, end = edges[page : page + 2].tolist()
            windows = window_at(offsets, np.linspace(begin, end, layout.track[2] - layout.track[0]))
            strongest = class_order(scores[windows[0] : windows[-1] + 1])
            lanes, rows = (sorted(strongest[:n].tolist(), key=rank.item) for n in (layout.lane_count, layout.top_k))
            still.paste(screen.page(next(pictures), (begin, end), lanes, scores[windows][:, lanes].T), (0, 0))
        rows = keep_rows(rows, scores[window_at(offsets, now)], screen.thresholds, rank)
        bars = list(zip(rows, bar_lengths(scores, offsets, rows, now), strict=True))
        clock = f"{clock_text(now)} / {clock_text(seconds)}"
        if drawn.get("bars") != bars:
            still.paste(*screen.bars(bars))
        if drawn.get("clock") != clock:
            still.paste(*screen.clock(clock))
        drawn = {"bars": bars, "clock": clock}
        frame.buffer[:] = still.buffer
        left, top, right, bottom = layout.track
        x = left + (right - left) * (now - edges[page]) / (edges[page + 1] - edges[page])
        frame.fill((x - layout.px(1), top, x + layout.px(1), bottom), WARM)
        if len(edges) > 2:
            width, height = layout.size
            frame.fill((0, height - layout.px(4), width * now / seconds, height), ACCENT)
        yield frame.buffer


def window_at(offsets: np.ndarray, seconds: float | np.ndarray) -> np.ndarray:
    """The index of the window that speaks for a time, or for times: offsets are where the windows cease to speak."""
    return np.searchsorted(offsets, seconds, side="right").clip(max=len(offsets) - 1)


def keep_rows(rows: Sequence[int], scores: np.ndarray, thresholds: np.ndarray, rank: np.ndarray) -> list[int]:
    """The classes of the bars at a moment, in the order of `rank` [C], from those before: `rows`.

    They stay, but for the lowest ones, which make room for others whose scores [C] reach their thresholds [C].
    """
    kept = list(rows)
    new = [k for k in np.argsort(-scores, kind="stable").tolist() if scores[k] >= thresholds[k] and k not in kept]
    for k in new:
        lowest = min(kept, key=lambda kept_class: scores[kept_class])
        if scores[k] > scores[lowest]:
            kept[kept.index(lowest)] = k
    return sorted(kept, key=rank.item)


def bar_lengths(scores: np.ndarray, offsets: np.ndarray, classes: Sequence[int], now: float) -> list[float]:
    """What the bars of some classes show at a time: scores [N, C], which glide from those of the window before."""
    i = int(window_at(offsets, now))
    before, since = scores[max(0, i - 1)], offsets[max(0, i - 1)]
    glide = min(GLIDE, (offsets[i] - since) / 2)
    share = min(1, (now - since) / glide) if glide > 0 else 1
    return [float(before[k] + share * (scores[i, k] - before[k])) for k in classes]
