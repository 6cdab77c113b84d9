"""Frames and a sound to an MP4 file, by the ffmpeg program."""

import contextlib
import itertools
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np

from paddletag import runtime
from paddletag.data import audio, ffmpeg
from paddletag.reports.video_layout import Box
from paddletag.runtime import UserError
from paddletag.type_aliases import File

COLOURS = "-color_range tv -colorspace bt709 -color_primaries bt709 -color_trc bt709".split()
ENCODING = "-map 1:a -c:v libx264 -pix_fmt yuv420p".split() + COLOURS
FLAT = "-preset veryfast -crf 20".split()
MOVING = "-preset superfast -crf 23 -tune zerolatency".split()  # a film costs more to encode
ENCODING += "-c:a aac -b:a 160k -map_metadata -1 -movflags +faststart -f mp4".split()


def has_picture(program: str, path: File) -> bool:
    """Whether ffmpeg, the file `program`, can decode a picture of the file `path`."""
    command = [program, "-nostdin", "-v", "quiet", *ffmpeg.ffmpeg_input(path), "-map", "0:v:0", "-frames:v", "1"]
    return subprocess.run([*command, "-f", "null", "-"], stdin=subprocess.DEVNULL).returncode == 0


@contextlib.contextmanager
def encoder(
    program: str, output: File, path: File, film: Box | None, size: tuple[int, int], fps: float, count: int
) -> Iterator[Callable[[np.ndarray], object]]:
    """Yields a function that takes the `count` frames, one by one; after the block the MP4 file is whole.

    A frame is the buffer of a `Frame` of `size`. The sound is that of `path`; if there is a box `film` its picture goes
    there. program: ffmpeg. AudioError for a sound that cannot be read; UserError with ffmpeg's reason.
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
        faults: list[Exception] = []

        def send() -> None:
            """The sound, in a thread: ffmpeg takes it and the frames as it needs them."""
            try:
                with contextlib.suppress(BrokenPipeError), pipe:
                    for wave in itertools.chain([first], source.parts):
                        wave = wave if wave.shape[1] == channels else audio.mono(wave, path)
                        pipe.write(np.ascontiguousarray(wave, "<f4").data)
            except Exception as error:
                faults.append(error)

        sound = threading.Thread(target=send, daemon=True)
        sound.start()
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as frames:
                yield lambda frame: frames.write(frame.data)
            process.wait()
        finally:
            process.kill()  # where this is left by an error, or Ctrl-C
            process.wait()
            sound.join()
        if faults:
            raise faults[0]
        if process.returncode:
            raise UserError(f"ffmpeg cannot make the video: {runtime.show(_reason(errors, process.returncode))}")


def _reason(errors: IO[bytes], status: int) -> str:
    """The first line of what ffmpeg has written into the file `errors`, without the part that names a place in it."""
    errors.seek(0)
    lines = [re.sub(r"^(\[[^]]*\] )+", "", line) for line in errors.read().decode(errors="replace").split("\n")]
    return next((line for line in lines if line.strip()), f"exit status {status}").strip()


def film_options(path: File, box: Box, count: int) -> list[str]:
    """ffmpeg's options for a film in a box of the frames: all but its path are numbers.

    The film may go on after the last of the `count` frames. (-frames:v would end the sound too, in older ffmpegs.)
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    fit = f"w='max(2,min({width},{height}*dar))':h='max(2,min({height},{width}/dar))'"
    graph = f"[2:v:0]scale={fit}:flags=bilinear:out_color_matrix=bt709:out_range=tv,setsar=1,format=yuv420p[film];"
    graph += f"[0:v][film]overlay=x='{left}+({width}-w)/2':y='{top}+({height}-h)/2',trim=end_frame={count}[out]"
    return [*ffmpeg.ffmpeg_input(path), "-filter_complex", graph, "-map", "[out]"]
