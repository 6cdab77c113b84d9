"""One HTML file with everything in it: a browser shows it offline, and it needs no other file.

A page is templates/report.html with the shared style and script, those of its kind, and its data as JSON.
"""

import html
import json
import re
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
_LICENCE = "/*\n{}*/"  # it asks to be in all that is made of the player


def build_page(kind: str, title: str, data: Any) -> str:
    """HTML from the templates: nothing in `title` and `data` is taken for markup, whatever it holds.

    kind: "tagging", "evaluation" or "comparison", whose script reads `data`, which must be fit for JSON.
    """
    scripts = ["report.js", f"{kind}.js"]
    player = [_LICENCE.format(_template("wavesurfer.LICENSE.txt")), _template("wavesurfer.min.js")]
    parts = {
        "title": html.escape(_printable(title)),
        "data": embedded_json(data),
        "style": _template("report.css"),
        "script": "\n".join([*(player if kind == "tagging" else ()), *map(_template, scripts)]),
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
