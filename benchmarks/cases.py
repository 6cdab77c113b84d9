"""The benchmarks: which programs each of them measures."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import front_end
import numpy as np
from measure import Program, run
from paddletag import runtime
from paddletag.data import audio
from sounds import CLIP, Sounds

HERE = Path(__file__).resolve().parent
PEERS = {
    "torch": "torch",
    "librosa": "librosa.core.audio",
    "panns_inference": "panns_inference.models",
}  # package: its test
INSTALL = "bash tools/install.sh --parity"
BATCH = 8  # windows or files that PyTorch takes at a time
LAYOUTS = {"contiguous": "PyTorch", "channels_last": "PyTorch, channels_last"}


@dataclass(frozen=True)
class Benchmark:
    """Programs to compare with the first of them.

    title: heads the first column. seconds: of the sound that the first program goes through, 0: it does not matter.
    absent: programs that cannot run here, for rows without figures. notes: sentences below the table. after: more of
    them, known after the runs.
    """

    title: str
    programs: list[Program]
    seconds: float = 0.0
    absent: list[Program] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    after: Callable[[], list[str]] = list


class Cases:
    """All benchmarks, for these sounds. peers: whether others are measured too; `missing` are those not installed."""

    def __init__(self, sounds: Sounds, cache: Path, peers: bool) -> None:
        self.sounds, self.cache = sounds, cache.resolve()
        self.out = self.cache / "out"
        self.environment = {"PYTHONPATH": str(HERE.parent / "local"), "PYTHONWARNINGS": "ignore"}
        self.peers = {name for name in PEERS if self._works(name)} if peers else set()
        self.missing = [name for name in PEERS if peers and name not in self.peers]

    def _works(self, package: str) -> bool:
        """Whether a peer is installed, with what it needs. It also comes into the system's file cache by this."""
        if importlib.util.find_spec(package) is None:
            return False
        command, environment = [sys.executable, "-c", f"import {PEERS[package]}"], self.environment
        if package == "panns_inference":
            environment = self.cnn14_environment
            if not self.checkpoint.exists():
                command = [*self.python("peer_cnn14.py"), "make"]
        try:  # in another process: here it would take memory
            run(Program(package, command, environment))
        except runtime.UserError:
            return False
        return True

    @property
    def home(self) -> Path:
        """HOME of CNN14, which reads files from there."""
        return self.cache / "home"

    @property
    def checkpoint(self) -> Path:
        """CNN14's weights."""
        return self.home / "panns_data" / "Cnn14_mAP=0.431.pth"

    @property
    def cnn14_environment(self) -> dict[str, str]:
        self.home.mkdir(parents=True, exist_ok=True)
        return {**self.environment, "HOME": str(self.home)}

    def python(self, script: str) -> list[str]:
        """The beginning of a command that runs a script of this folder."""
        return [sys.executable, str(HERE / script)]

    def ours(self, name: str, *words: object, **options: object) -> Program:
        """`paddletag WORDS`."""
        command = [sys.executable, "-m", "paddletag", *map(str, words)]
        return Program(name, command, self.environment, **options)  # type: ignore[arg-type]

    def tag(self, name: str, sound: Path, window: float, hop: float, *words: object, **options: object) -> Program:
        """`paddletag tag`, into npz files."""
        out = self.out / "ours"
        words = ("tag", sound, "--window", window, "--hop", hop, "--output_dir", out, *words)
        return self.ours(name, *words, fresh=out, **options)

    def torch_mn(self, window: float, hop: float, sounds: Sequence[Path]) -> list[Program]:
        """mn04 in PyTorch, in both memory formats."""
        if not {"torch", "librosa"} <= self.peers:
            return []
        return [
            Program(
                f"mn04, {name}",
                [*self.python("peer_mn.py"), *map(str, (self.out / layout, window, hop, BATCH, layout, *sounds))],
                self.environment,
                fresh=self.out / layout,
            )
            for layout, name in LAYOUTS.items()
        ]

    def cnn14(self, title: str, sound: Path, window: float, seconds: float) -> Benchmark:
        """CNN14 of panns_inference, once, beside mn04."""
        programs = [self.tag("paddletag tag, mn04", sound, window or CLIP, window or CLIP)]
        notes = []
        if {"torch", "librosa", "panns_inference"} <= self.peers:
            paths = [sound] if sound.is_file() else sorted(sound.glob("*.wav"))
            out = self.out / "cnn14"
            command = [*self.python("peer_cnn14.py"), *map(str, (out, window, BATCH, *paths))]
            programs.append(Program("CNN14, panns_inference", command, self.cnn14_environment, fresh=out, most=1))
            notes = ["CNN14 is a larger network of about the same quality (published mAP 0.431; mn04: 0.432)."]
        return Benchmark(title, programs, seconds, notes=notes)

    def cnn14_long(self) -> Benchmark:
        """One sound."""
        sounds = self.sounds
        title = f"{length(sounds.short_seconds)} of FLAC, windows of 10 s"
        return self.cnn14(title, sounds.ten_minutes, 10, sounds.short_seconds)

    def cnn14_files(self) -> Benchmark:
        """Many short files, but fewer than of mn04: CNN14 takes its time."""
        files = len(list(self.sounds.few.glob("*.wav")))
        return self.cnn14(f"{files} WAV files of {CLIP} s, an npz file each", self.sounds.few, 0, files * CLIP)

    def tag_hour(self) -> Benchmark:
        """An hour of FLAC, windows of 10 s."""
        sounds, notes = self.sounds, []
        programs = [self.tag("paddletag tag", sounds.hour, 10, 10), *self.torch_mn(10, 10, [sounds.hour])]
        if len(programs) > 1:
            notes = [
                f"PyTorch: the same network and weights written in it, batch {BATCH}, its default number of threads;"
                " librosa decodes and resamples. It makes the log-mel of each window by itself, with the sound"
                " reflected at the window's edges; ours is cut from that of the whole sound, and scores differ by that."
            ]
        title = f"{length(sounds.seconds)} of FLAC, windows of 10 s"
        return Benchmark(title, programs, sounds.seconds, notes=notes, after=lambda: self.differences(sounds.hour.stem))

    def tag_windows(self) -> Benchmark:
        """Windows of 2 s that overlap."""
        sounds = self.sounds
        notes = ["Ours and PyTorch compute each frame of the log-mel once, though windows overlap."]
        return Benchmark(
            f"{length(sounds.short_seconds)} of WAV, windows of 2 s every 0.3 s",
            [self.tag("paddletag tag", sounds.windows, 2, 0.3), *self.torch_mn(2, 0.3, [sounds.windows])],
            sounds.short_seconds,
            notes=notes if {"torch", "librosa"} <= self.peers else [],
            after=lambda: self.differences(sounds.windows.stem),
        )

    def tag_files(self) -> Benchmark:
        """Many short files."""
        sounds, paths = self.sounds, sorted(self.sounds.many.glob("*.wav"))
        return Benchmark(
            f"{sounds.count} WAV files of {CLIP} s, an npz file each",
            [self.tag("paddletag tag", sounds.many, CLIP, CLIP), *self.torch_mn(0, 0, paths)],
            sounds.count * CLIP,
            after=lambda: self.differences(sounds.one.stem),
        )

    def start(self) -> Benchmark:
        """A command for a short sound."""
        programs = [self.ours("paddletag tag one.wav", "tag", self.sounds.one), *self.torch_mn(0, 0, [self.sounds.one])]
        return Benchmark(f"One WAV file of {CLIP} s", programs)

    def workers(self) -> Benchmark:
        """More and more cores."""
        programs, absent, cores = [], [], runtime.cores()
        words = [sys.executable, "-m", "paddletag", "tag", "--help"]
        done = subprocess.run(words, env={**os.environ, **self.environment}, capture_output=True, text=True)
        with_option = "--workers" in done.stdout
        for count in sorted({1, 2, 4, 8, cores}):
            options = {} if with_option else {"cores": count}
            words = ("--workers", count) if with_option else ()
            name = f"--workers {count}" if with_option else "1 core" if count == 1 else f"{count} cores"
            program = self.tag(name, self.sounds.hour, 10, 10, *words, **options)
            (programs if count <= cores else absent).append(program)
        return Benchmark(
            f"{length(self.sounds.seconds)} of FLAC, windows of 10 s", programs, self.sounds.seconds, absent
        )

    def features(self) -> Benchmark:
        """Stage 1."""
        sounds, programs, absent = self.sounds, [], []
        words = ("features", "--config", sounds.config, "--data", sounds.prepared, "--workers")
        for count in sorted({1, 2, 4, 8, runtime.cores()}):
            program = self.ours(f"--workers {count}", *words, count, fresh=sounds.prepared / "features")
            (programs if count <= runtime.cores() else absent).append(program)
        return Benchmark(f"Features of {sounds.count} WAV files of {CLIP} s", programs, sounds.count * CLIP, absent)

    def memory(self) -> Benchmark:
        """Short and long, few and many."""
        sounds, files = self.sounds, len(list(self.sounds.few.glob("*.wav")))
        inputs = {
            length(sounds.short_seconds): (sounds.ten_minutes, 10),
            length(sounds.seconds): (sounds.hour, 10),
            f"{files} files of {CLIP} s": (sounds.few, CLIP),
            f"{sounds.count} files of {CLIP} s": (sounds.many, CLIP),
        }
        programs = [
            self.tag(name, path, window, window, whole_memory=True, most=1) for name, (path, window) in inputs.items()
        ]
        notes = ["The memory is that of all processes together; what they share counts once."]
        return Benchmark("`paddletag tag` of", programs, notes=notes)

    def training_step(self) -> Benchmark:
        """One step of mn04."""
        environment = {**self.environment, "OMP_NUM_THREADS": "1"}
        names = {"paddletag": "paddletag (Paddle)", **(LAYOUTS if "torch" in self.peers else {})}
        programs = [
            Program(name, [*self.python("training_step.py"), kind], environment, own_clock=True)
            for kind, name in names.items()
        ]
        return Benchmark("A step of mn04: batch 16 of 5 s, one thread", programs)

    def log_mel(self, name: str) -> Benchmark:
        """One front end, with each library."""
        settings, seconds = front_end.FRONT_ENDS[name], min(60, self.sounds.short_seconds)
        wave, out = self.out / f"{name}.npy", self.out / "log_mel"
        out.mkdir(parents=True, exist_ok=True)
        np.save(wave, audio.load(self.sounds.windows, settings.sample_rate, 0.0, seconds))
        programs = [
            Program(
                f"{library}",
                [*self.python("front_end.py"), name, library, str(wave), str(out / f"{name}-{library}.npy")],
                self.environment,
                own_clock=True,
            )
            for library, has in front_end.LIBRARIES.items()
            if name in has and library in ("paddletag", *(["paddle"] if self.peers else []), *self.peers)
        ]
        unit = "dB" if settings.log == "db" else "normalised log-mel"

        def differences() -> list[str]:
            ours = np.load(out / f"{name}-paddletag.npy")
            texts = []
            for program in programs[1:]:
                other = np.load(out / f"{name}-{program.name}.npy")
                texts.append(f"{program.name} {np.abs(other - ours).max():.1g}")
            return [f"Largest difference from ours ({unit}): {', '.join(texts)}."] if texts else []

        return Benchmark(f"{settings.name.upper()}: {length(seconds)} of sound", programs, seconds, after=differences)

    def front_end_mn(self) -> Benchmark:
        return self.log_mel("mn")

    def front_end_panns(self) -> Benchmark:
        return self.log_mel("panns")

    def front_end_ast(self) -> Benchmark:
        return self.log_mel("ast")

    def differences(self, stem: str) -> list[str]:
        """How far PyTorch's scores of a sound are from ours, over the windows that both have."""
        path = self.out / "contiguous" / f"{stem}.npz"
        if not {"torch", "librosa"} <= self.peers or not path.exists():
            return []
        with np.load(path) as theirs, np.load(self.out / "ours" / f"{stem}.npz") as ours:
            count = min(len(theirs["scores"]), len(ours["scores"]))
            largest = np.abs(theirs["scores"][:count] - ours["scores"][:count]).max()
        return [f"PyTorch's scores differ from ours by {largest:.1g} at most."]


def length(seconds: int) -> str:
    """As `1 hour`, `10 minutes` or `20 s`."""
    if seconds % 3600 == 0:
        return f"{seconds // 3600} hour{'s' * (seconds > 3600)}"
    return f"{seconds // 60} minute{'s' * (seconds > 60)}" if seconds % 60 == 0 else f"{seconds} s"


NAMES = (
    "start", "front_end_mn", "front_end_panns", "front_end_ast", "tag_hour", "tag_windows", "tag_files", "cnn14_long",
    "cnn14_files", "workers", "memory", "features", "training_step",
)  # fmt: skip
