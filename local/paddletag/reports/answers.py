"""What is made of tagged sounds for a user: lines on the screen, tables, files, pages and films."""

import importlib
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paddletag import runtime
from paddletag.data import audio, ffmpeg
from paddletag.data.find_sounds import STDIN
from paddletag.files import write_text
from paddletag.runtime import UserError
from paddletag.tagging.events import find_events
from paddletag.tagging.labels import THRESHOLD, choose_labels, event_thresholds, top_k, unknown_result
from paddletag.tagging.printed_results import event_lines, label_lines, window_json, window_lines
from paddletag.tagging.result_formats import FORMATS, SoundEvents, model_name
from paddletag.tagging.saved_results import full_name, output_path
from paddletag.type_aliases import Arrays, File

LABELS = 5  # of a short sound, or of a window, where --top_k does not say how many
PAGE, FILM = ".html", ".tags.mp4"  # endings; NAME.mp4 may be the sound itself


@dataclass(frozen=True)
class Wanted:
    """What a user asks for."""

    prints: str  # events, windows, json, or "" for nothing
    formats: Sequence[str] = ()  # of FORMATS
    folder: str = ""  # for files; "": one table of all sounds, and other files where the user stands
    table: str = ""  # the file of that table; "": standard output
    report: bool = False
    video: bool = False
    labels: Sequence[str] | None = None  # these alone, names or globs
    top_k: int | None = None
    threshold: Sequence[str] = ()  # words as `label_thresholds` takes them
    low_threshold: Sequence[str] = ()
    with_times: bool = True  # of the windows that are printed


class Answers:
    """Makes what is wanted of each sound that is added; a table of all is written by `finish`.

    names: {path of a sound: name of its files}. pipe_rate: Hz, of the sound from standard input.
    """

    def __init__(self, wanted: Wanted, names: dict[File, str], pipe_rate: int = 0) -> None:
        self.wanted, self.names, self.pipe_rate = wanted, names, pipe_rate
        self.several = len(names) > 1
        self.tables: list[SoundEvents] = []

    def add(self, path: File, arrays: Arrays) -> None:
        """Make what is wanted of a sound and its result `arrays`. UserError for what cannot be made of it."""
        wanted = self.wanted
        if wanted.report:
            self._write_page(path, arrays)
        if wanted.video:
            self._write_film(path, arrays)
        if wanted.formats:
            sound = self._events(path, arrays)
            if not wanted.folder:
                self.tables.append(sound)
            for name in wanted.formats if wanted.folder else ():
                output = output_path(wanted.folder, self.names[path], FORMATS[name].ending)
                write_text(output, FORMATS[name].write([sound], False))
                _tell(output, "the events")
        if wanted.prints:
            heading = [f"{path}:"] if self.several and wanted.prints != "json" else []
            runtime.say(*heading, *self._lines(path, arrays))

    def finish(self) -> None:
        """Write the table of all sounds, if one is wanted."""
        if not self.wanted.formats or self.wanted.folder:
            return
        text = FORMATS[self.wanted.formats[0]].write(self.tables, self.several)
        if self.wanted.table:
            write_text(self.wanted.table, text)
            _tell(Path(self.wanted.table), "the table of all sounds" if self.several else "the events")
            return
        if sys.stdout.isatty():  # which must obey nothing that is in labels and names
            text = "\n".join("\t".join(map(runtime.escaped, line.split("\t"))) for line in text.split("\n"))
        sys.stdout.write(text)

    @property
    def makes_something(self) -> bool:
        """Whether anything at all is wanted of a sound."""
        wanted = self.wanted
        return bool(wanted.prints or wanted.formats or wanted.report or wanted.video)

    def check_outputs(self, others: Iterable[Path] = ()) -> None:
        """UserError if a file that will be written is one of the sounds or a folder, or needs ffmpeg, which is absent.

        others: files that will be written too. ModuleNotFoundError where a page or a film lacks a package.
        """
        if self.wanted.report:
            importlib.import_module("paddletag.reports.tagging_page")
        if self.wanted.video:
            importlib.import_module("paddletag.reports.video")
            ffmpeg.ffmpeg_program("--video")
        sounds = {identity for path in self.names if (identity := _identity(path))}
        for output in (*self._outputs(), *others):
            if _identity(output) in sounds:
                raise UserError(f"{output}: is one of the sounds, and would be overwritten: choose another place")
            if output.is_dir():
                raise UserError(f"{output}: is a folder: name a file")

    def _outputs(self) -> list[Path]:
        endings = [PAGE] * self.wanted.report + [FILM] * self.wanted.video
        endings += [FORMATS[name].ending for name in self.wanted.formats] if self.wanted.folder else []
        files = [output_path(self.wanted.folder, name, ending) for name in self.names.values() for ending in endings]
        return [*files, *([Path(self.wanted.table)] if self.wanted.table else [])]

    def _lines(self, path: File, arrays: Arrays) -> list[str]:
        """What is printed of a sound, besides its name."""
        wanted, k = self.wanted, self.wanted.top_k or LABELS
        if wanted.prints in ("json", "windows"):
            chosen = _columns(arrays, choose_labels(arrays["labels"], wanted.labels))
            return (
                window_json(path, chosen, k) if wanted.prints == "json" else window_lines(chosen, k, wanted.with_times)
            )
        arrays, high, low = self._chosen(arrays)
        if len(arrays["scores"]) == 1:
            return label_lines(arrays, k, high if wanted.threshold else None, arrays.get("thresholds"))
        events = find_events(arrays, high, low)
        if not events:
            ((label, score),) = top_k(arrays["scores"].max(0), arrays["labels"], 1)
            highest = f"the highest is {label}, {score:.3f}"
            runtime.say(f"{path}: no label reaches its threshold: {highest} (see --threshold)", file=sys.stderr)
        return event_lines(events, shutil.get_terminal_size().lines if sys.stdout.isatty() else None)

    def _events(self, path: File, arrays: Arrays) -> SoundEvents:
        """The events of a sound, for the formats."""
        chosen, high, low = self._chosen(arrays)
        rate = self.pipe_rate
        if "raven" in self.wanted.formats and path != STDIN:
            with audio.opened(path) as source:
                rate = source.rate
        seconds = float(arrays["end"].max())
        all_labels = not (self.wanted.labels or self.wanted.top_k)
        unknown = unknown_result(arrays, high) if "thresholds" in arrays and all_labels else None
        events = find_events(unknown, 0) if unknown else find_events(chosen, high, low)
        return SoundEvents(str(path), full_name(path), seconds, rate, model_name(arrays), events)

    def _chosen(self, arrays: Arrays) -> tuple[Arrays, np.ndarray, np.ndarray]:
        """(the result of the labels that are wanted alone, their thresholds, their low thresholds).

        With `top_k`, these are the labels with the highest peaks; those that reach their threshold come first.
        """
        wanted, default = self.wanted, arrays.get("thresholds", THRESHOLD)
        high, low = event_thresholds(arrays["labels"], wanted.threshold, wanted.low_threshold, default)
        columns = choose_labels(arrays["labels"], wanted.labels)
        if wanted.top_k:
            peaks = arrays["scores"][:, columns].max(0)
            order = np.lexsort((-peaks, peaks < high[columns].astype(np.float32)))
            columns = np.sort(columns[order[: wanted.top_k]])
        return _columns(arrays, columns), high[columns], low[columns]

    def _write_page(self, path: File, arrays: Arrays) -> None:
        from paddletag.reports.tagging_page import tagging_page  # it takes longer to import than the rest

        arrays, high, low = self._chosen(arrays)
        output = output_path(self.wanted.folder, self.names[path], PAGE)
        write_text(output, tagging_page(arrays, path, output.parent, high, low))
        _tell(output, "the page")

    def _write_film(self, path: File, arrays: Arrays) -> None:
        from paddletag.reports import video  # brings matplotlib

        arrays, high, _ = self._chosen(arrays)
        output = output_path(self.wanted.folder, self.names[path], FILM)
        video.render(path, {**arrays, "thresholds": high}, output, top_k=self.wanted.top_k or LABELS)
        _tell(output, "the film")


def _identity(path: File) -> tuple[int, int] | None:
    """What two names of the same file have in common; None where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _columns(arrays: Arrays, columns: np.ndarray) -> Arrays:
    """A result with some of its labels alone."""
    own: Arrays = {name: arrays[name][columns] for name in ("labels", "thresholds") if name in arrays}
    return {**arrays, **own, "scores": arrays["scores"][:, columns]}


def _tell(output: Path, what: str) -> None:
    """Say where a file is."""
    runtime.say(f"Saved {what} to {output}", file=sys.stderr)
