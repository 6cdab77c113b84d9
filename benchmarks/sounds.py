"""The sound that is tagged: real clips, one after the other, written once into a folder."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from paddletag import runtime
from paddletag.data import audio, find_sounds, manifest
from paddletag.files import locked, write_json
from paddletag.runtime import UserError

RATE = 44100  # Hz
CLIP = 5  # seconds of each of the many files
VERSION = 1  # raise it when sounds come out otherwise
YAML = f"data: {{clip_seconds: {CLIP}}}\nmodel: {{name: mn04_as}}\n"


@dataclass(frozen=True)
class Sounds:
    """Mono, 44.1 kHz, 16 bits.

    hour and ten_minutes are FLAC, windows is WAV, long as `ten_minutes`; many: a folder of WAV files of CLIP seconds,
    few: an eighth of them. prepared: the many as a prepared folder for `paddletag features`, and config its settings.
    """

    folder: Path
    seconds: int  # of hour
    short_seconds: int  # of ten_minutes, and of windows
    count: int  # of the files in many

    @property
    def hour(self) -> Path:
        return self.folder / "hour.flac"

    @property
    def ten_minutes(self) -> Path:
        return self.folder / "ten_minutes.flac"

    @property
    def windows(self) -> Path:
        return self.folder / "windows.wav"

    @property
    def many(self) -> Path:
        return self.folder / "many"

    @property
    def few(self) -> Path:
        return self.folder / "few"

    @property
    def prepared(self) -> Path:
        return self.folder / "prepared"

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def one(self) -> Path:
        """A sound of CLIP seconds."""
        return self.many / "0000.wav"


def make(cache: Path, clips: Path, quick: bool) -> Sounds:
    """The sounds in the folder `cache`, made of the clips in the folder `clips` if they are not there yet.

    quick: short ones. UserError for a folder without clips.
    """
    paths = sorted(find_sounds.find([clips]))
    if not paths:
        raise UserError(f"--clips {clips}: there is no sound")
    lengths = (60, 20, 20) if quick else (3600, 600, 400)
    settings = [VERSION, *lengths, [[path.name, path.stat().st_size] for path in paths]]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    sounds = Sounds(cache.resolve() / f"sounds-{key}", *lengths)
    done = sounds.folder / "done.json"
    sounds.folder.mkdir(parents=True, exist_ok=True)
    with locked(sounds.folder / "sounds"):
        if not done.exists():
            _write(sounds, paths)
            write_json(done, settings)
    return sounds


def _write(sounds: Sounds, paths: list[Path]) -> None:
    for path, seconds in ((sounds.hour, sounds.seconds), (sounds.windows, sounds.short_seconds)):
        with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
            for wave in runtime.progress(_clips(paths, seconds), desc=path.name, unit="clip"):
                file.write(wave)
    with soundfile.SoundFile(sounds.ten_minutes, "w", RATE, 1, "PCM_16") as file:
        for block in soundfile.blocks(sounds.hour, RATE, frames=sounds.short_seconds * RATE):
            file.write(block)
    records = []
    for folder in (sounds.many, sounds.few):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for number, wave in enumerate(_equal(_clips(paths, sounds.count * CLIP), sounds.count)):
        path = sounds.many / f"{number:04}.wav"
        soundfile.write(path, wave, RATE, "PCM_16")
        if number < max(1, sounds.count // 8):
            shutil.copy(path, sounds.few)
        row = {"id": path.stem, "audio": str(path), "labels": [f"label {number % 2}"], "fold": number % 4 + 1}
        records.append({**row, "seconds": float(CLIP)})
    manifest.write(sounds.prepared, records, ["label 0", "label 1"], [])
    sounds.config.write_text(YAML)


def _clips(paths: list[Path], seconds: int) -> Iterator[np.ndarray]:
    """Clips in an order drawn by chance, each with a level of its own, of `seconds` together: float32 [N] at RATE."""
    rng, left = np.random.default_rng(0), seconds * RATE
    order: list[int] = []
    while left > 0:
        order = order or rng.permutation(len(paths)).tolist()
        wave = audio.load(paths[order.pop()], RATE)[:left] * np.float32(rng.uniform(0.3, 0.9))
        left -= len(wave)
        yield wave


def _equal(waves: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """The same sound in `count` pieces of CLIP seconds."""
    rest = np.zeros(0, np.float32)
    for wave in waves:
        rest = np.concatenate([rest, wave])
        while len(rest) >= CLIP * RATE and count:
            yield rest[: CLIP * RATE]
            rest, count = rest[CLIP * RATE :], count - 1
