"""One HTML file with everything in it: a browser shows it offline, and it needs no other file.

A page is templates/report.html with the shared style and scripts, those of its kind, and its data as JSON.
"""

import html
import json
import re
from pathlib import Path
from typing import Any

from paddletag.reports.look import css_colours

TEMPLATES = Path(__file__).parent / "templates"
PARTS = {  # of templates/: styles and scripts of each kind of page, in their order
    "tagging": (
        "report.css", "tagging.css",
        "report.js", "tagging_events.js", "tagging_files.js", "tagging_player.js", "tagging_editor.js", "tagging.js",
    ),
    "evaluation": (
        "report.css", "evaluation.css", "report.js", "evaluation_clips.js", "evaluation_charts.js", "evaluation.js",
    ),
    "comparison": ("report.css", "comparison.css", "report.js", "comparison.js"),
}  # fmt: skip


def build_page(kind: str, title: str, data: Any) -> str:
    """HTML from the templates: nothing in `title` and `data` is taken for markup, whatever it holds.

    kind: a key of PARTS, whose scripts read `data`, which must be fit for JSON.
    """
    styles, scripts = ([name for name in PARTS[kind] if name.endswith(end)] for end in (".css", ".js"))
    parts = {
        "title": html.escape(_printable(title)),
        "data": embedded_json(data),
        "style": "\n".join([css_colours(), *map(_template, styles)]),
        "script": "\n".join(map(_template, scripts)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _template("report.html"))


def embedded_json(value: Any) -> str:
    """JSON in ASCII that may stand in a <script>: no `</script>` or `<!--` can end it or open a comment.

    ValueError for numbers that are not finite, which JSON does not know.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()  # a file's name may hold bytes that are no text
