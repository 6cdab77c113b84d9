"""A comparison of runs as text, Markdown, CSV and a page."""

import csv
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from paddletag.data.splits import describe_split
from paddletag.reports import markdown
from paddletag.reports.comparison import Comparison, Row
from paddletag.reports.evaluation_files import METRICS
from paddletag.reports.html_page import build_page
from paddletag.training.paired_tests import LEVEL


class Column(NamedTuple):
    """A column of the table of runs: its title, and of a row, the number that sorts it and its text."""

    title: str
    key: str  # in the CSV file
    value: Callable[[Row], float | str | None]
    text: Callable[[Row], str]


def columns(comparison: Comparison) -> list[Column]:
    """The columns that this comparison needs: those for seeds, tests and several tests only where there are some."""
    metric, title, factor, digits = METRICS[comparison.task]
    rows = comparison.rows

    def number(value: float | None, sign: str = "") -> str:
        return "" if value is None else f"{factor * value:{sign}.{digits}f}"

    found = [
        Column("Run", "run", lambda row: row.name, lambda row: row.name),
        Column(title, metric, lambda row: row.value, lambda row: number(row.value)),
        Column("95 % interval", "", lambda row: row.value, lambda row: " to ".join(map(number, row.interval))),
    ]
    if len(rows) > 1:
        text = partial(difference_text, number=number)
        found += [
            Column("Difference", "difference", lambda row: row.difference, text),
            Column("p", "p", lambda row: row.p, lambda row: p_text(row.p)),
        ]
    if len(rows) > 2:
        found.append(Column("p (Holm)", "p_holm", lambda row: row.p_corrected, lambda row: p_text(row.p_corrected)))
    if len(rows) > 1 and comparison.task == "single_label":
        found += [
            Column("Better on", "better_on", lambda row: row.better, lambda row: clips_text(row.better)),
            Column("Worse on", "worse_on", lambda row: row.worse, lambda row: clips_text(row.worse)),
        ]
    if any(len(row.by_seed) > 1 for row in rows):
        found.append(Column("Each seed", "", lambda row: len(row.by_seed), partial(seeds_text, number=number)))
    found += [
        Column("Models", "models", lambda row: row.models, lambda row: str(row.models)),
        Column(
            "Seconds",
            "seconds",
            lambda row: row.seconds,
            lambda row: "" if row.seconds is None else f"{row.seconds:.1f}",
        ),
    ]
    return found


def seeds_text(row: Row, number: Callable[[float], str]) -> str:
    """The figure of each seed, where there are several."""
    return ", ".join(map(number, row.by_seed)) if len(row.by_seed) > 1 else ""


def difference_text(row: Row, number: Callable[[float, str], str]) -> str:
    """The difference from the reference, or that it is the reference."""
    return "reference" if row.difference is None else number(row.difference, "+")


def clips_text(clips: float | None) -> str:
    """A number of clips, which has decimals where shares of seeds count."""
    return "" if clips is None else f"{clips:.0f}" if clips == round(clips) else f"{clips:.1f}"


def p_text(p: float | None) -> str:
    """A p value with as many digits as one reads."""
    return "" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def headline(comparison: Comparison) -> str:
    """One line: what is compared, and on what."""
    runs = len(comparison.rows)
    numbers = ", ".join(str(fold) for fold in comparison.folds)
    held_out = f"folds {numbers}" if len(comparison.folds) > 1 else describe_split(comparison.folds[0])
    clips = f"{comparison.clips} clip{'s' * (comparison.clips != 1)}"
    if runs == 1:
        return f"1 run on {clips} ({held_out})"
    return f"{runs} runs on the same {clips} ({held_out}); the reference is {comparison.reference}"


def tables(comparison: Comparison) -> list[list[list[str]]]:
    """The table of runs, then, if there are any, that of the settings that differ: rows of texts, first the titles."""
    found = columns(comparison)
    both = [[[column.title for column in found], *([c.text(row) for c in found] for row in comparison.rows)]]
    if comparison.settings:
        names = [row.name for row in comparison.rows]
        both.append([["Setting", *names], *([key, *texts] for key, texts in comparison.settings.items())])
    return both


def text_lines(comparison: Comparison) -> list[str]:
    """The comparison as aligned text."""
    lines = [headline(comparison)]
    for rows in tables(comparison):
        lines += ["", *aligned(rows)]
    return [*lines, "", *comparison.notes] if comparison.notes else lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines with straight columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown_text(comparison: Comparison, command: str) -> str:
    """The comparison as Markdown, with the command line that makes it again."""
    lines = ["# Comparison of runs", "", f"{markdown.escape(headline(comparison))}."]
    for rows in tables(comparison):
        lines += ["", *markdown.table([[markdown.escape(text) for text in row] for row in rows])]
    lines += ["", *(f"- {markdown.escape(note)}" for note in comparison.notes)] if comparison.notes else []
    return "\n".join([*lines, "", "```bash", command, "```"]) + "\n"


def csv_text(comparison: Comparison) -> str:
    """The comparison as CSV: a line for each run, with all digits, and a column for each setting that differs."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    found = [column for column in columns(comparison) if column.key]
    writer.writerow([*(column.key for column in found), "low", "high", "clips", "seeds", *comparison.settings])
    for n, row in enumerate(comparison.rows):
        own = [texts[n] for texts in comparison.settings.values()]
        numbers = [*row.interval, comparison.clips, len(row.by_seed)]
        writer.writerow([*(column.value(row) for column in found), *numbers, *own])
    return file.getvalue()


def page(comparison: Comparison, command: str) -> str:
    """The comparison as HTML: one file, offline."""
    found = columns(comparison)
    rows: list[dict[str, Any]] = [
        {
            "cells": [[column.value(row), column.text(row)] for column in found],
            "interval": [row.interval[0], row.value, row.interval[1]],
            "apart": (row.p_corrected if row.p_corrected is not None else row.p or 1.0) < LEVEL and row.p is not None,
        }
        for row in comparison.rows
    ]
    data = {
        "headline": headline(comparison),
        "columns": [{"title": column.title, "number": column.key not in ("run", "")} for column in found],
        "rows": rows,
        "names": [row.name for row in comparison.rows],
        "settings": [[key, *texts] for key, texts in comparison.settings.items()],
        "notes": comparison.notes,
        "level": LEVEL,
        "command": command,
    }
    return build_page("comparison", "Comparison of runs", data)
