"""Text for Markdown files, whatever it holds."""

import html
import re
from collections.abc import Sequence

from paddletag import runtime


def escape(text: str) -> str:
    """A name as text in Markdown, in a table too, whatever it holds."""
    text = html.escape(runtime.one_line(text), quote=False)
    text = re.sub(r"([\\`*~\[\]|]|\b_(?!\w)|(?<!\w)_)", r"\\\1", text)
    return re.sub(
        r"(?i)\b(https?:|ftp:|mailto:|www\.)", lambda match: f"{match[0][:-1]}&#{ord(match[0][-1])};", text
    )  # no links


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; the first row has the columns' names. Texts are escaped already."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]
