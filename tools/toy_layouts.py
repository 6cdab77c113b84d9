"""Toy data sets as they are to lie on the disk: which files, and what is in each. Nothing is written here.

A layout is a function (clips per class, seconds, seed) -> (clips, {path: text}).
"""

import csv
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.io.wavfile
import scipy.signal
import toy_music
import toy_sounds
import toy_speech

FOLDS = 5
TESS_RATE = 24414  # Hz
SOUNDS = tuple(toy_sounds.SOUNDS)
MIXED = ("alarm_beep", "bell", "bird", "clock", "dog", "engine", "helicopter", "rain", "siren")  # easily told apart


class Clip(NamedTuple):
    """A sound file: its path, its rate in Hz, and what makes its samples, int16 [N] or [N, channels], or its bytes."""

    path: str
    rate: int
    sound: Callable[[], np.ndarray | bytes]


Files = tuple[list[Clip], dict[str, str]]  # sounds, and {path: text}


def generator(seed: int, *names: object) -> np.random.Generator:
    """The random numbers of one file, that of no other."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Dictionaries as the text of a CSV file."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def esc50(clips_per_class: int, seconds: float, seed: int) -> Files:
    """ESC-50's own: meta/esc50.csv and audio/, fold by fold."""
    clips, rows = [], []
    for index in sorted(range(clips_per_class), key=lambda i: (i % FOLDS, i)):
        for target, category in enumerate(toy_sounds.SOUNDS):
            fold, source = index % FOLDS + 1, 100000 * (target + 1) + index
            filename = f"{fold}-{source}-A-{target}.wav"
            row = {
                "filename": filename, "fold": fold, "target": target, "category": category,
                "esc10": False, "src_file": source, "take": "A",
            }  # fmt: skip
            rows.append(row)
            sound = partial(toy_sounds.clip, category, index, seconds, seed)
            clips.append(Clip(f"audio/{filename}", toy_sounds.RATE, sound))
    return clips, {"meta/esc50.csv": table(rows)}


def draw_mixtures(clips_per_class: int, seed: int) -> Iterator[tuple[int, list[tuple[str, int]]]]:
    """Yield (fold, [(name, index)]): one to three sounds of different classes for each mixture.

    Every class begins `clips_per_class` mixtures, equally many in each fold; no (name, index) occurs twice.
    """
    rng = generator(seed, "mixtures")
    used = dict.fromkeys(MIXED, 0)
    for index in range(clips_per_class):
        for first in MIXED:
            others = [name for name in MIXED if name != first]
            more = rng.choice(3, p=(0.4, 0.4, 0.2))
            names = [first, *rng.choice(others, more, replace=False).tolist()]
            sources = []
            for name in names:
                sources.append((name, used[name]))
                used[name] += 1
            yield index % FOLDS + 1, sources


def multi_label(clips_per_class: int, seconds: float, seed: int) -> Files:
    """meta/mixtures.csv and audio/: mixtures of one to three sounds, their names separated by `;`."""
    clips, rows = [], []
    for number, (fold, sources) in enumerate(draw_mixtures(clips_per_class, seed)):
        filename = f"{fold}-{number:05d}.wav"
        rows.append({
            "filename": filename, "fold": fold, "labels": ";".join(name for name, _ in sources),
            "sources": ";".join(f"{name}-{index}" for name, index in sources),
        })  # fmt: skip
        clips.append(Clip(f"audio/{filename}", toy_sounds.RATE, partial(toy_sounds.mixture, sources, seconds, seed)))
    return clips, {"meta/mixtures.csv": table(rows)}


def audioset(clips_per_class: int, seconds: float, seed: int) -> Files:
    """AudioSet's segments CSVs and label file, and a folder of clips in which one is missing and one cut short.

    Clips are named in three of the ways in which copies of AudioSet name them.
    """
    mids = {name: f"/t/toy{number:02d}" for number, name in enumerate(MIXED)}
    display = {**{name: name.replace("_", " ").capitalize() for name in mids}, "siren": "Siren, wailing"}
    labels = [{"index": n, "mid": mids[name], "display_name": display[name]} for n, name in enumerate(mids)]
    letters = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    rng, clips = generator(seed, "ids"), []
    segments: dict[str, list[str]] = {"balanced_train": [], "eval": []}
    for number, (fold, sources) in enumerate(draw_mixtures(clips_per_class, seed)):
        video = "".join(rng.choice(letters, 11))
        start = int(rng.integers(0, 30)) * 10
        marks = ",".join(mids[name] for name, _ in sources)
        rows = segments["eval" if fold == FOLDS else "balanced_train"]
        rows.append(f'{video}, {start:.3f}, {start + seconds:.3f}, "{marks}"\n')
        name = (f"{video}.wav", f"Y{video}.flac", f"{video}_{start}_{start + seconds:g}.wav")[number % 3]
        sound = partial(toy_sounds.mixture, sources, seconds, seed)
        if number == 3:
            clips.append(Clip(f"audio/{name}", toy_sounds.RATE, partial(cut_short, sound)))
        elif number != 4:  # that one is listed, but not there
            clips.append(Clip(f"audio/{name}", toy_sounds.RATE, sound))
    texts = {"class_labels_indices.csv": table(labels)}
    for name, rows in segments.items():
        head = f"# Segments csv\n# num_ytids={len(rows)}\n# YTID, start_seconds, end_seconds, positive_labels\n"
        texts[f"{name}_segments.csv"] = head + "".join(rows)
    return clips, texts


def cut_short(sound: Callable[[], np.ndarray]) -> bytes:
    """The sound, as bytes of a WAV file that ends in the middle of it."""
    file = io.BytesIO()
    scipy.io.wavfile.write(file, toy_sounds.RATE, sound())
    return file.getvalue()[: len(file.getvalue()) // 2]


def folders(clips_per_class: int, seconds: float, seed: int) -> Files:
    """<class>/<recording>-<half>.<format>: halves of recordings, in four formats and rates, mono and stereo."""
    kinds = (("wav", 16000), ("flac", 44100), ("ogg", 48000), ("mp3", 22050))
    clips = []
    for target, name in enumerate(toy_sounds.SOUNDS):
        for index in range(clips_per_class):
            recording, half = divmod(index, 2)
            suffix, rate = kinds[(recording + target) % 4]
            sound = partial(excerpt, name, recording, half, seconds, seed, rate, 1 + recording // 4 % 2)
            clips.append(Clip(f"{name}/rec{target:02d}{recording:03d}-{'ab'[half]}.{suffix}", rate, sound))
    return clips, {}


def excerpt(name: str, recording: int, half: int, seconds: float, seed: int, rate: int, channels: int) -> np.ndarray:
    """The first half (0) or the second one (1) of a recording of twice `seconds`: int16 [n, channels] at `rate` Hz."""
    length = int(seconds * toy_sounds.RATE)
    x = toy_sounds.clip(name, recording, 2 * seconds, seed)[half * length : (half + 1) * length]
    divisor = np.gcd(rate, toy_sounds.RATE)
    y = scipy.signal.resample_poly(x.astype(float), rate // divisor, toy_sounds.RATE // divisor)
    return np.repeat(np.clip(np.round(y), -32768, 32767).astype(np.int16)[:, None], channels, axis=1)


def gtzan(clips_per_class: int, seconds: float, seed: int) -> Files:
    """genres/<genre>/<genre>.000NN.wav, and lists of ids in splits/: half train, a quarter each valid and test."""
    clips: list[Clip] = []
    lists: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for genre in toy_music.STYLES:
        for index in range(clips_per_class):
            name = f"{genre}.{index:05d}"
            sound = partial(musical, seed, genre, index, seconds)
            clips.append(Clip(f"genres/{genre}/{name}.wav", toy_music.RATE, sound))
            lists[("train", "valid", "train", "test")[index % 4]].append(name)
    return clips, {f"splits/{split}.txt": "".join(f"{name}\n" for name in names) for split, names in lists.items()}


def music_speech(clips_per_class: int, seconds: float, seed: int) -> Files:
    """music_wav/*.wav and speech_wav/*.wav."""
    clips, styles = [], list(toy_music.STYLES)
    for index in range(clips_per_class):
        style = styles[index % len(styles)]
        sound = partial(musical, seed, style, 1000 + index, seconds)
        clips.append(Clip(f"music_wav/{style}{index:02d}.wav", toy_music.RATE, sound))
        clips.append(Clip(f"speech_wav/talk{index:02d}.wav", toy_music.RATE, partial(spoken, seed, index, seconds)))
    return clips, {}


def tess(clips_per_class: int, seconds: float, seed: int) -> Files:
    """<SPEAKER>_<word>_<emotion>.wav: each speaker says half of an emotion's clips, the same words."""
    clips = []
    for speaker in toy_speech.SPEAKERS:
        for word in toy_speech.WORDS[: clips_per_class // 2]:
            for emotion in toy_speech.EMOTIONS:
                sound = partial(acted, seed, speaker, word, emotion, seconds)
                clips.append(Clip(f"{speaker}_{word}_{emotion}.wav", TESS_RATE, sound))
    return clips, {}


def musical(seed: int, genre: str, index: int, seconds: float) -> np.ndarray:
    """A piece of music: int16 [seconds * toy_music.RATE]."""
    rng = generator(seed, genre, index)
    return toy_sounds.pcm(toy_music.music(rng, genre, seconds), rng.uniform(0.3, 0.95))


def spoken(seed: int, index: int, seconds: float) -> np.ndarray:
    """A person who talks, in some noise: int16 [seconds * toy_music.RATE]."""
    rng = generator(seed, "speech", index)
    x = toy_speech.speech(rng, seconds, toy_music.RATE)
    noise = 10 ** (rng.uniform(-60, -35) / 20) * x.std() * rng.standard_normal(len(x))
    return toy_sounds.pcm(x + noise, rng.uniform(0.3, 0.95))


def acted(seed: int, speaker: str, word: str, emotion: str, seconds: float) -> np.ndarray:
    """A word said with an emotion: int16 [seconds * TESS_RATE], not normalised: its level is part of the emotion."""
    x = toy_speech.word(generator(seed, speaker, word, emotion), speaker, word, emotion, seconds, TESS_RATE)
    return np.round(np.clip(0.6 * x, -1, 1) * 32767).astype(np.int16)


class Layout(NamedTuple):
    """A kind of data set, and how large it may be."""

    files: Callable[[int, float, int], Files]  # clips per class, seconds, seed
    classes: tuple[str, ...]
    fewest: int  # clips per class
    clips_per_class: int  # unless the user says another number
    most: int
    seconds: float  # unless the user says otherwise


LAYOUTS = {
    "csv": Layout(esc50, SOUNDS, FOLDS, 40, 99999, 2.0),
    "folders": Layout(folders, SOUNDS, 2 * FOLDS, 40, 1998, 2.0),
    "gtzan": Layout(gtzan, tuple(toy_music.STYLES), 4, 8, 100, 30.0),
    "music_speech": Layout(music_speech, ("music_wav", "speech_wav"), FOLDS, 20, 100, 30.0),
    "tess": Layout(tess, tuple(toy_speech.EMOTIONS), 2 * FOLDS, 20, 2 * len(toy_speech.WORDS), 1.5),
    "audioset": Layout(audioset, MIXED, FOLDS, 80, 7999, 2.0),
}
MULTI_LABEL = Layout(multi_label, MIXED, FOLDS, 80, 7999, 2.0)
