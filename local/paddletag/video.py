"""A sound, its film if it has one, and its tags as a video: spectrogram and lanes under a cursor, bars of the moment.

What stands still is drawn once a page; a frame is a copy of it with the cursor, encoded while the next one is drawn.
"""

import contextlib
import functools
import itertools
import os
import re
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np
from PIL import Image  # matplotlib brings it

from paddletag import audio, parsing, runtime
from paddletag.runtime import UserError
from paddletag.screen import ACCENT, FRONT_END, WARM, Screen, clock
from paddletag.tagging import LogMelStream

PAGE_SECONDS = 30  # of a long sound: about as much is shown at a time
GLIDE = 0.16  # seconds in which a bar reaches its length
BT709 = (0.1826, 0.6142, 0.0620, 16, -0.1006, -0.3386, 0.4392, 128, 0.4392, -0.3989, -0.0403, 128)  # RGB -> limited YUV
COLOURS = "-color_range tv -colorspace bt709 -color_primaries bt709 -color_trc bt709".split()
ENCODING = "-map 1:a -c:v libx264 -pix_fmt yuv420p".split() + COLOURS
FLAT = "-preset veryfast -crf 20".split()
MOVING = "-preset superfast -crf 23 -tune zerolatency".split()  # a film costs more to encode
ENCODING += "-c:a aac -b:a 160k -map_metadata -1 -movflags +faststart -f mp4".split()


def render(path, arrays, output, size=(1280, 720), fps=25.0, top_k=5):
    """Write the MP4 file `output` of the sound or film `path` and its tagging `arrays` (as `parsing.read` gives them).

    size: width and height in pixels, even. The video has as many frames of 1 / fps seconds as the sound begins, and its
    sound is what was tagged, at its own rate, in mono or stereo. Returns the seconds of sound. AudioError for a sound
    that cannot be read or without ffmpeg; UserError for a tagging of another length, and where ffmpeg fails.
    """
    program = audio.ffmpeg_program(output)
    seconds, low, high = measure(path)
    parsing.check_length(arrays, path, seconds)
    film = Path(path).suffix.lower() in audio.VIDEO and has_picture(program, path)
    screen = Screen(size, Path(path).name, arrays["labels"], top_k, film)
    count = max(1, int(np.ceil(round(seconds * fps, 6))))
    edges = np.linspace(0, seconds, max(1, round(seconds / PAGE_SECONDS)) + 1)
    pictures = (picture(log_mel, low, high) for log_mel in spectrograms(path, edges))
    with (
        runtime.atomic(output) as temporary,
        encoder(program, temporary, path, screen.film, size, fps, count) as write,
        contextlib.closing(pictures),
    ):
        for frame in runtime.progress(frames(screen, arrays, pictures, edges, fps, count), desc="video", total=count):
            write(frame)
    return seconds


def measure(path):
    """(seconds, low, high): the length of a sound, and the range of its log-mel that the colours stand for."""
    stream, ranges = LogMelStream(FRONT_END), []

    def add(log_mel):
        if len(log_mel):
            ranges.append((np.quantile(log_mel, 0.02), log_mel.max()))

    with audio.opened(path) as source:
        for wave in source.at(FRONT_END.sample_rate):
            add(stream.feed(wave))
    seconds = stream.samples / FRONT_END.sample_rate
    add(stream.finish())
    low, high = np.array(ranges).T
    return seconds, float(np.median(low)), float(high.max())


def spectrograms(path, edges):
    """The log-mel of a sound between `edges` [P + 1] (seconds), part after part: yields float32 [T, n_mels]."""
    stream, kept, begun = LogMelStream(FRONT_END), [], 0
    ends = np.round(edges[1:-1] * FRONT_END.sample_rate / FRONT_END.hop_length).astype(int).tolist()
    with audio.opened(path) as source:
        for wave in source.at(FRONT_END.sample_rate):
            kept.append(stream.feed(wave))
            while ends and begun + sum(map(len, kept)) >= ends[0]:
                log_mel, end = np.concatenate(kept), ends.pop(0)
                yield log_mel[: end - begun]
                kept, begun = [log_mel[end - begun :]], end
    yield np.concatenate([*kept, stream.finish()])


def picture(log_mel, low, high):
    """A log-mel [T, n_mels] in shades of grey: an image of T x n_mels pixels, low frequencies at the bottom."""
    shades = ((log_mel - low) / max(high - low, 1e-3)).clip(0, 1)
    return Image.fromarray(np.ascontiguousarray((255 * shades).astype(np.uint8).T[::-1]))


def frames(screen, arrays, pictures, edges, fps, count):
    """Yield the `count` frames: the bytes of their planes, which are good until the next one."""
    _, offsets = parsing.cells(arrays["start"], arrays["end"])
    scores, page, shown, rows = arrays["scores"].clip(0, 1), -1, None, None
    still = Frame(screen.size)
    frame, seconds = Frame(screen.size), edges[-1]
    for number in range(count):
        now = min(number / fps, seconds)
        if page + 2 < len(edges) and (page < 0 or now >= edges[page + 1]):
            page, shown = page + 1, {}
            span = edges[page : page + 2]
            at = window_at(offsets, np.linspace(*span, screen.track[2] - screen.track[0]))
            lanes = np.argsort(-scores[at[0] : at[-1] + 1].max(0), kind="stable")[: screen.lanes]
            still.paste(screen.page(next(pictures), span, lanes, scores[at][:, lanes].T), (0, 0))
        i = int(window_at(offsets, now))
        best = np.argsort(-scores[i], kind="stable")[: screen.top_k].tolist()
        rows = place(rows, best) if rows else best
        before, since = scores[max(0, i - 1)], offsets[max(0, i - 1)]
        glide = min(GLIDE, (offsets[i] - since) / 2)
        part = min(1, (now - since) / glide) if glide > 0 else 1
        bars = [(k, float(before[k] + part * (scores[i, k] - before[k]))) for k in rows]
        for name, content in (("bars", bars), ("clock", f"{clock(now)} / {clock(seconds)}")):
            if shown.get(name) != content:
                shown[name] = content
                image, place_of = getattr(screen, name)(content)
                still.paste(image, place_of)
        frame.bytes[:] = still.bytes
        left, top, right, bottom = screen.track
        x = left + (right - left) * (now - edges[page]) / (edges[page + 1] - edges[page])
        frame.fill((x - screen.px(1), top, x + screen.px(1), bottom), WARM)
        if len(edges) > 2:
            width, height = screen.size
            frame.fill((0, height - screen.px(4), width * now / seconds, height), ACCENT)
        yield frame.bytes


def window_at(offsets, seconds):
    """The index of the window that speaks for a time, or for times: offsets are where the windows cease to speak."""
    return np.searchsorted(offsets, seconds, side="right").clip(max=len(offsets) - 1)


def place(rows, best):
    """The classes of `best` in rows: those that `rows` has stay in theirs, the others take what becomes free."""
    new = iter([k for k in best if k not in rows])
    return [k if k in best else next(new) for k in rows]


class Frame:
    """A picture as the encoder takes it: YUV 4:2:0 of BT.709, three planes in one buffer of bytes."""

    def __init__(self, size):
        width, height = size
        self.bytes = np.zeros(width * height * 3 // 2, np.uint8)
        luma, chroma = np.split(self.bytes, [width * height])
        self.planes = luma.reshape(height, width), *chroma.reshape(2, height // 2, width // 2)

    def paste(self, image, corner):
        """Put an RGB image there; its corner and its size are even."""
        left, top = corner
        y, u, v = image.convert("RGB", BT709).split()
        for plane, part, step in zip(self.planes, (y, u.reduce(2), v.reduce(2)), (1, 2, 2), strict=True):
            part = np.asarray(part)
            plane[top // step : top // step + part.shape[0], left // step : left // step + part.shape[1]] = part

    def fill(self, box, colour):
        """Fill a box (left, top, right, bottom in pixels); columns that it covers in part take a part of the colour."""
        for plane, value, step in zip(self.planes, yuv(colour), (1, 2, 2), strict=True):
            left, right = max(0, box[0] / step), min(box[2] / step, plane.shape[1])
            columns = np.arange(int(left), int(np.ceil(right)))
            share = np.minimum(columns + 1, right) - np.maximum(columns, left)
            part = plane[round(box[1] / step) : round(box[3] / step), int(left) : int(left) + len(columns)]
            part[:] = part + share * (value - part.astype(np.float32)) + 0.5


@functools.cache
def yuv(colour):
    """(Y, U, V) of a colour."""
    return Image.new("RGB", (1, 1), colour).convert("RGB", BT709).getpixel((0, 0))


def has_picture(program, path):
    """Whether ffmpeg can decode a picture of the file."""
    command = [program, "-nostdin", "-v", "quiet", *audio.ffmpeg_input(path), "-map", "0:v:0", "-frames:v", "1"]
    return subprocess.run([*command, "-f", "null", "-"], stdin=subprocess.DEVNULL).returncode == 0


@contextlib.contextmanager
def encoder(program, output, path, film, size, fps, count):
    """Yields a function that takes the `count` frames, one by one; after the block the MP4 file is whole.

    The sound is that of `path`; if there is a box `film` its picture goes there. UserError with ffmpeg's reason.
    """
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(audio.opened(path))
        errors = stack.enter_context(tempfile.TemporaryFile())
        first = next(source.parts)
        channels = first.shape[1] if first.shape[1] <= 2 else 1
        read_end, write_end = os.pipe()
        pipe = stack.enter_context(open(write_end, "wb"))
        inputs = ["-f", "rawvideo", "-pix_fmt", "yuv420p", *COLOURS, "-video_size", f"{size[0]}x{size[1]}"]
        inputs += ["-framerate", f"{fps:g}", "-i", "pipe:0"]
        inputs += ["-f", "f32le", "-ar", str(source.rate), "-ac", str(channels), "-i", f"pipe:{read_end}"]
        inputs += film_options(path, film, count) if film else ["-map", "0:v"]
        command = [program, "-v", "error", *inputs, *ENCODING, *(MOVING if film else FLAT), "-y", f"file:{output}"]
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors, pass_fds=[read_end])
        finally:
            os.close(read_end)
        faults = []

        def send():
            """The sound, in a thread: ffmpeg takes it and the frames as it needs them."""
            try:
                with contextlib.suppress(BrokenPipeError), pipe:
                    for part in itertools.chain([first], source.parts):
                        part = part if part.shape[1] == channels else audio.mono(part, path)
                        pipe.write(np.ascontiguousarray(part, "<f4").data)
            except Exception as error:
                faults.append(error)

        sound = threading.Thread(target=send, daemon=True)
        sound.start()
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin:
                yield process.stdin.write
            process.wait()
        finally:
            process.kill()  # where this is left by an error, or Ctrl-C
            process.wait()
            sound.join()
        if faults:
            raise faults[0]
        if process.returncode:
            errors.seek(0)
            lines = [re.sub(r"^(\[[^]]*\] )+", "", line) for line in errors.read().decode(errors="replace").split("\n")]
            reason = next((line for line in lines if line.strip()), f"exit status {process.returncode}")
            raise UserError(f"ffmpeg cannot make the video: {runtime.show(reason.strip())}")


def film_options(path, box, count):
    """ffmpeg's options for a film in a box (left, top, right, bottom) of the frames: all but its path are numbers.

    The film may go on after the last of the `count` frames. (-frames:v would end the sound too, in older ffmpegs.)
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    fit = f"w='max(2,min({width},{height}*dar))':h='max(2,min({height},{width}/dar))'"
    graph = f"[2:v:0]scale={fit}:flags=bilinear:out_color_matrix=bt709:out_range=tv,setsar=1,format=yuv420p[film];"
    graph += f"[0:v][film]overlay=x='{left}+({width}-w)/2':y='{top}+({height}-h)/2',trim=end_frame={count}[out]"
    return [*audio.ffmpeg_input(path), "-filter_complex", graph, "-map", "[out]"]
