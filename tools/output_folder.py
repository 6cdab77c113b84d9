"""The folder that a tool makes: it is complete or absent, never replaces anybody else's, and is not made twice."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from paddletag import runtime


def check_made(out: Path, kind: str, settings_file: str, settings: dict[str, Any], paths: Iterable[str]) -> bool:
    """Whether `out` already holds what `settings` make; UserError if it holds anything else, or lacks some of it.

    kind: what that is, in words. settings_file: where its settings are, as JSON. paths: those of its other files.
    """
    out = Path(out).resolve()
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    advice = "name another --out or remove it"
    try:
        made_with = json.loads((out / settings_file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise runtime.UserError(f"{out}: exists and is not a {kind}: {advice}") from None
    if made_with != settings:
        raise runtime.UserError(f"{out}: holds a {kind} made with other settings (see its {settings_file}): {advice}")
    if not all((out / path).is_file() for path in paths):
        raise runtime.UserError(f"{out}: files of this {kind} are missing: remove it and run the command again")
    return True


@contextlib.contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`; rename it to `out` if the block succeeds, remove it if not.

    UserError if `out` has come into being, or cannot be replaced.
    """
    target = Path(out).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}."
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix, ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / target.name
        folder.mkdir()
        yield folder
        try:
            os.replace(folder, target)
        except OSError as error:  # a mount point, or filled by somebody else in the meantime
            raise runtime.UserError(f"{out}: {error.strerror}: name a folder that does not exist yet") from None
