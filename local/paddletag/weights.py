"""The weights of backbones: from the authors' layout to Paddle's, compared with the model, and kept in the cache."""

import os
from pathlib import Path

from paddletag.download import checksum, fetch, mismatch
from paddletag.runtime import UserError, locked, log, read_json, show, write_json
from paddletag.weight_files import read, write


def from_torch(arrays):
    """torch's names and layout as Paddle's: Linear weights [out, in] -> [in, out], running_mean and running_var ->
    _mean and _variance, no num_batches_tracked, and no `module.` in front of all names (torch's DataParallel)."""
    prefix = "module." if all(name.startswith("module.") for name in arrays) else ""
    converted = {}
    for name, array in arrays.items():
        name = name.removeprefix(prefix)
        stem, dot, last = name.rpartition(".")
        if last == "num_batches_tracked":
            continue
        last = {"running_mean": "_mean", "running_var": "_variance"}.get(last, last)
        converted[stem + dot + last] = array.T if array.ndim == 2 and last == "weight" else array
    return converted


def match(arrays, expected, path, head=()):
    """UserError unless `arrays` has the names and shapes of `expected` ({name: shape}) and no others.

    `head`: names that may be missing or of another shape, because their layer is replaced. The error lists the first
    five of each kind; `path` is where the arrays are from.
    """
    wanted = {name: tuple(shape) for name, shape in expected.items()}
    wrong = {
        "missing": [name for name in wanted if name not in arrays and name not in head],
        "unexpected": [show(name) for name in arrays if name not in wanted],
        "of another shape": [
            f"{name} {list(arrays[name].shape)} instead of {list(shape)}"
            for name, shape in wanted.items()
            if name in arrays and arrays[name].shape != shape and name not in head
        ],
    }
    clauses = [
        f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in wrong.items()
        if names
    ]
    if clauses:
        raise UserError(f"{path}: weights of another architecture: {'; '.join(clauses)}")


def cache_dir():
    """Where converted weights lie: $PADDLETAG_HOME, or ~/.cache/paddletag."""
    return Path(os.environ.get("PADDLETAG_HOME") or Path.home() / ".cache" / "paddletag")


def installed(name):
    """The path of the weights `name` in the cache, after a check that they are what was installed (sha256).

    UserError: they are not there, or damaged; it says which command gets them.
    """
    path, record = cache_dir() / f"{name}.safetensors", cache_dir() / f"{name}.json"
    get = f"run .venv/bin/python tools/fetch_weights.py {name}"
    if not path.is_file():
        raise UserError(f"{path}: the weights {name} are not installed: {get}")
    known = read_json(record, get)
    sha256 = known.get("sha256") if isinstance(known, dict) else None
    if wrong := mismatch(path, sha256) if sha256 else f"{record} does not hold its sha256":
        raise UserError(f"{path}: damaged: {wrong}: {get}")
    return path


def install(name, url, sha256="", md5="", source=None, convert=from_torch, expected=None):
    """Put the weights `name` into the cache as `<name>.safetensors`, with `<name>.json` beside. Returns the path.

    The original comes from `url` (see `download.fetch`), or from the local file `source`; its checksum must agree, and
    only a local file may come without one. `convert`: {name: array} -> {name: array}, None for as they are;
    `expected`: {name: shape} of the model, for `match`. What is installed already is left alone. A failure leaves
    nothing in the cache but a part that the next download resumes.
    """
    path = cache_dir() / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    if source is not None:
        source = Path(source)
        if not source.is_file():
            raise UserError(f"{source}: no such file")
        if wrong := mismatch(source, sha256, md5):
            raise UserError(f"{source}: not the weights {name} of {url}: {wrong}")
    with locked(path):
        if _has(name, sha256 or (source and not md5 and checksum(source)), md5):
            log.info("%s is installed already: %s", name, path)
            return path
        original = source
        try:
            if source is None:
                again = f".venv/bin/python tools/fetch_weights.py {name} --from FILE"
                hint = f"run it again, or get the file elsewhere and use {again}"
                original = fetch(url, path.with_name(f".{name}.original"), sha256, md5, hint)
            _convert(original, source or url, path, name, url, convert, expected)
        finally:
            if source is None and original:
                original.unlink(missing_ok=True)
        log.info("installed %s: %s", name, path)
    return path


def convert_file(source, path, name, convert, expected):
    """Write the weights in the file `source`, converted, to `path` (*.safetensors), with a .json beside.

    name: of their model, to be told in both. convert, expected: as for `install`. UserError, and nothing written, for
    weights that do not match.
    """
    source, path = Path(source), Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: the name of what is written must end in .safetensors")
    for existing in (path, path.with_suffix(".json")):
        if existing.exists():
            raise UserError(f"{existing}: exists already, and may be part of a trained model: choose another --out")
    _convert(source, source, path, name, source.name, convert, expected)


def _convert(original, shown, path, name, source, convert, expected):
    """Read `original` (in errors: `shown`), convert, compare, and write `path` and the record beside it, or neither."""
    record = path.with_suffix(".json")
    arrays = read(original)
    arrays = convert(arrays) if convert else arrays
    if expected is not None:
        match(arrays, expected, shown)
    sums = {"sha256": checksum(original), "md5": checksum(original, "md5")}
    record.unlink(missing_ok=True)
    write(path, arrays, {"name": name, "source": source, "source_sha256": sums["sha256"]})
    try:
        write_json(record, {"name": name, "source": source, "original": sums, "sha256": checksum(path)})
    except BaseException:
        path.unlink()
        raise


def _has(name, sha256, md5):
    """Whether the weights in the cache are whole and come from a file with these checksums."""
    try:
        installed(name)
    except UserError:
        return False
    sums = read_json(cache_dir() / f"{name}.json", "").get("original", {})
    return all(not known or sums.get(kind) == known.lower() for kind, known in (("sha256", sha256), ("md5", md5)))
