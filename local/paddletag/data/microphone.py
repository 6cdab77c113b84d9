"""Sound from the microphone, as it comes."""

import queue
from collections.abc import Iterator

import numpy as np

from paddletag.runtime import UserError


def microphone(rate: int) -> Iterator[np.ndarray]:
    """Yields float32 [n] at `rate` Hz from the default microphone, for ever. UserError where there is none."""
    try:
        import sounddevice
    except ImportError:
        raise UserError("the microphone needs the package sounddevice: run pip install sounddevice") from None
    except OSError as error:  # its library for the sound card is missing
        raise UserError(f"microphone: sounddevice does not work here ({error}): install PortAudio") from None

    parts: queue.Queue[np.ndarray] = queue.Queue()
    try:
        # A copy, since the buffer is used again.
        with sounddevice.InputStream(
            samplerate=rate, channels=1, dtype="float32", callback=lambda data, *_: parts.put(data[:, 0].copy())
        ):
            while True:  # all that has gathered while its parts before were tagged
                yield np.concatenate([parts.get(), *(parts.get() for _ in range(parts.qsize()))])
    except sounddevice.PortAudioError as error:
        raise UserError(f"microphone: no sound at {rate} Hz ({error})") from None
