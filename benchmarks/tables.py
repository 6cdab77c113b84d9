"""Measurements as Markdown tables, and their place between markers in a page."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from measure import Program, Sample, Series
from paddletag.files import write_text
from paddletag.runtime import UserError

BEGIN, END = "<!-- benchmark {} -->", "<!-- end -->"
SECONDS = ("Wall, s", "CPU, s")
NOT_MEASURED = "not measured"


def table(
    title: str, programs: Sequence[Program], samples: Mapping[str, list[Sample]], seconds: float = 0.0
) -> list[str]:
    """A row for each program, with its figures beside those of the first.

    seconds: of the sound that the first one goes through, for `Times real time`; 0: without that column. Those without
    samples are not measured.
    """
    head = [
        title,
        *(f"{name}: median (min to max)" for name in SECONDS),
        "Wall beside the first row",
        "CPU beside it",
    ]
    head += ["Peak memory, MB", *(["Times real time"] if seconds else [])]
    rows = [head, ["---"] * len(head)]
    first = samples[programs[0].name]
    for program in programs:
        runs = samples.get(program.name, [])
        if not runs:
            rows.append([program.name, NOT_MEASURED, *[""] * (len(head) - 2)])
            continue
        cells = [program.name, *(spread(series(runs, key)) for key in ("wall", "cpu"))]
        cells += [ratio(runs, first, key) for key in ("wall", "cpu")]
        cells.append(f"{series(runs, 'peak').middle / 1e6:.0f}")
        if seconds:
            cells.append(f"{seconds / series(runs, 'wall').middle:.0f}")
        rows.append(cells)
    return [f"| {' | '.join(row)} |" for row in rows]


def series(runs: Sequence[Sample], key: str) -> Series:
    """The smallest, middle and largest `wall`, `cpu` or `peak`."""
    return Series.of([getattr(run, key) for run in runs])


def ratio(runs: Sequence[Sample], first: Sequence[Sample], key: str) -> str:
    """The median beside the first program's."""
    return f"{series(runs, key).middle / max(series(first, key).middle, 1e-9):.2f}"


def spread(figures: Series) -> str:
    """As `1.23 (1.20 to 1.31)`; one figure alone where there is but one."""
    low, middle, high = (digits(figure) for figure in (figures.low, figures.middle, figures.high))
    return f"{middle} ({low} to {high})" if figures.low < figures.high else f"{middle} (once)"


def digits(seconds: float) -> str:
    """Seconds with three digits that count, as far as they are not hundreds."""
    return f"{seconds:.{3 if seconds < 1 else 2 if seconds < 10 else 1}f}"


def check_page(page: Path, names: Sequence[str]) -> None:
    """UserError for a page that is missing, or has no place for one of these benchmarks."""
    text = read(page)
    for name in names:
        if not pattern(name).search(text):
            raise UserError(f"{page}: has no lines {BEGIN.format(name)} and {END}: add them where the table belongs")


def put(page: Path, name: str, lines: Sequence[str]) -> None:
    """Write the lines between the markers of `name`; what else is in the page stays. UserError as `check_page`."""
    check_page(page, [name])
    content = "\n".join([BEGIN.format(name), *lines, END])
    write_text(page, pattern(name).sub(lambda _: content, read(page)))


def pattern(name: str) -> re.Pattern[str]:
    """What lies between the markers of a benchmark, with them."""
    return re.compile(f"{re.escape(BEGIN.format(name))}\n.*?{re.escape(END)}", re.S)


def read(page: Path) -> str:
    """The text of a page. UserError if there is none."""
    try:
        return page.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"--docs {page}: no such file") from None
