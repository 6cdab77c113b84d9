"""Sound as plain numbers, from pipes: the header of a WAV stream, and PCM to waveforms."""

import struct
from collections.abc import Callable, Iterator

import numpy as np

from paddletag.runtime import UserError

Read = Callable[[int], bytes]  # as os.read of a pipe: up to so many bytes, b"" at the end

TRUNCATED = "truncated: its header promises more sound than the file holds"
WAV_KINDS = {  # by a WAV header's format code (1: integers, 3: floats) and bits
    (1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le", (3, 32): "f32le", (3, 64): "f64le",
}  # fmt: skip
PCM = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "f64le": 8}  # name as ffmpeg's: bytes
SKIPPED = 2**16  # bytes of a part of the header to read at a time


class AudioError(UserError):
    """A sound file that cannot be used; the text names the file and says what is wrong with it."""


def take(read: Read, size: int) -> bytes:
    """`size` bytes from `read(n)`, fewer at the end."""
    data = bytearray()
    while len(data) < size and (more := read(size - len(data))):
        data += more
    return bytes(data)


def wav_header(read: Read, name: str) -> tuple[int, str, int, int | None]:
    """Read a WAV stream from after its first 12 bytes to its sound: (rate, kind, channels, bytes of sound or None).

    kind: a key of PCM. AudioError with `name` for a stream without sound, or with sound of another kind.
    """
    sound = None
    while len(chunk := take(read, 8)) == 8:
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data" and sound:
            # Programs that write to a pipe leave 0 or the largest number: "unknown".
            return *sound, size if 0 < size < 0x7FFFF000 else None
        size += size % 2
        content = take(read, min(size, SKIPPED))
        for left in range(size - len(content), 0, -SKIPPED):
            if not take(read, min(left, SKIPPED)):
                break
        if chunk[:4] == b"fmt " and len(content) >= 16:
            code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if code == 0xFFFE and len(content) >= 26:  # extensible: the code is the beginning of a GUID
                code = int.from_bytes(content[24:26], "little")
            kind = WAV_KINDS.get((code, bits))
            if not kind or not channels or not rate:
                raise AudioError(f"{name}: a WAV stream of a kind that is not read (format {code}, {bits} bits)")
            sound = rate, kind, channels
    raise AudioError(f"{name}: a WAV stream without sound")


def parts(
    read: Read, name: str, kind: str, channels: int, size: int | None, rest: bytes, live: bool, block: int
) -> Iterator[np.ndarray]:
    """PCM in parts, from the bytes `rest` on, and as many as `size` if that is known: yields float32 [n, channels].

    kind: a key of PCM. block: the largest n. live: give each part as it comes, however small. AudioError with `name`
    for fewer bytes than `size`.
    """
    width = PCM[kind] * channels
    left = size
    while True:
        wanted = min(block * width if left is None else left, block * width)
        new = read(wanted) if live and wanted else take(read, wanted)
        left = None if left is None else left - len(new)
        data = rest + new
        complete = len(data) // width * width  # bytes of samples of which all channels are there
        rest = data[complete:]
        if complete:
            yield _to_float(data[:complete], kind).reshape(-1, channels)
        if not new:
            break
    if left:
        raise AudioError(f"{name}: {TRUNCATED}")


def _to_float(data: bytes, kind: str) -> np.ndarray:
    """PCM bytes -> float32 [n], 1 being full scale."""
    if kind == "s24le":
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return (wide.view("<i4")[:, 0] / 2**31).astype(np.float32)
    if kind == "u8":
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    samples = np.frombuffer(data, {"s": "<i", "f": "<f"}[kind[0]] + str(PCM[kind]))
    scale = np.float32(1 if kind[0] == "f" else 2 ** (8 * PCM[kind] - 1))
    with np.errstate(invalid="ignore", over="ignore"):  # of float64: `audio.mono` refuses what becomes infinite
        return (samples / scale).astype(np.float32)
