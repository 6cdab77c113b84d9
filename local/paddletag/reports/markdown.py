"""Text for Markdown files, whatever it holds."""

import html
import re
from collections.abc import Sequence

from paddletag import runtime


def escape(text: str) -> str:
    """A name as text in Markdown, in a table too, whatever it holds."""
    text = html.escape(runtime.one_line(text), quote=False)
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; the first row has the columns' names. Texts are escaped already."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]
