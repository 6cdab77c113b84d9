"""A folder that a tool makes: whole or absent, never over anybody else's, and not made twice."""

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "local"))  # works from a clone, uninstalled
from paddletag import runtime  # noqa: E402


def is_made(out, kind, settings_file, settings, paths):
    """Whether `out` already holds what `settings` make, `kind` in words; UserError if it holds anything else."""
    out = Path(out).resolve()
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    advice = "name another --out or remove it"
    try:
        found = json.loads((out / settings_file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise runtime.UserError(f"{out}: exists and is not a {kind}: {advice}") from None
    if found != settings:
        raise runtime.UserError(f"{out}: holds a {kind} made with other settings (see its {settings_file}): {advice}")
    if not all((out / path).is_file() for path in paths):
        raise runtime.UserError(f"{out}: files of this {kind} are missing: remove it and run the command again")
    return True


@contextlib.contextmanager
def whole(out):
    """Yield a temporary folder beside `out`, and rename it to `out` if the block succeeds."""
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
