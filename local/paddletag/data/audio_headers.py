"""What libsndfile does not say of a damaged sound file: MP3 files without sound, and files that are cut short."""

import os
import re

from paddletag.data.pcm import TRUNCATED, AudioError
from paddletag.type_aliases import File

SIZES = {  # what libsndfile's log calls the number of bytes that a header promises
    "WAV": "data", "WAVEX": "data", "CAF": "data", "AIFF": "SSND", "AU": "Data Size", "W64": "riff",
    "RF64": "Riff size",
}  # fmt: skip


def check_mp3(path: File) -> None:
    """AudioError for what libsndfile's MP3 decoder would misreport, and comment on, on the standard error stream."""
    with open(path, "rb") as file:
        tag = file.read(10)  # ID3v2: its length is four bytes of seven bits
        start = 10 + int("".join(f"{byte:07b}" for byte in tag[6:]), 2) if tag[:3] == b"ID3" and len(tag) == 10 else 0
        file.seek(start)
        head = file.read(65536)
        size = file.seek(0, os.SEEK_END)
    frame = re.search(rb"\xff[\xe0-\xff]", head)
    if not frame:
        raise AudioError(f"{path}: not a sound file: it has no MP3 frame")
    # The Xing header, in the first frame: flags (2: the next but one field is there), frames, bytes.
    xing = re.compile(rb"(?:Xing|Info)\0\0\0(.)....(....)", re.S).search(head, frame.start(), frame.start() + 200)
    if xing and xing[1][0] & 3 == 3 and size - start - frame.start() < 0.99 * int.from_bytes(xing[2], "big"):
        raise AudioError(f"{path}: {TRUNCATED}")


def is_cut_short(path: File, kind: str, header: str) -> bool:
    """Whether a file is shorter than it says: libsndfile quietly reads what is left of it.

    kind: libsndfile's name of the format; header: its log of what it has read (soundfile's `extra_info`).
    """
    if kind in SIZES:
        sizes = re.findall(rf"^\s*{SIZES[kind]}\s*:\s*(\d+) \(should be (\d+)\)", header, re.M)
        # Programs that write to a pipe leave 0 or the largest number: "unknown", not a promise.
        return any(int(actual) < int(promised) < 0x7FFFF000 for promised, actual in sizes)
    if kind == "OGG":  # the last page of a whole stream carries the end-of-stream flag
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536 - 512))
            tail = file.read()
        page = tail[tail.rfind(b"OggS") :]  # 27 bytes, the number of segments last; their lengths; the segments
        lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
        return not lengths or not page[5] & 4 or len(page) < 27 + len(lengths) + sum(lengths)
    return False
