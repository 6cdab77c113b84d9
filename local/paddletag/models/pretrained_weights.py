"""The weights of backbones: from the authors' layout to Paddle's, compared with the model, and kept in the cache."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from paddletag.data.download import checksum, fetch, mismatch
from paddletag.files import locked, read_json, write_json
from paddletag.models.weight_files import read, write
from paddletag.runtime import UserError, log, own_command, show
from paddletag.type_aliases import Arrays, File

Convert = Callable[[Arrays], Arrays]  # from names and layout of one kind to another
Shapes = Mapping[str, Sequence[int]]  # by the array's name
BUNDLED = Path(__file__).parents[1] / "assets"  # weights that come with the package: <name>/<name>.safetensors


def from_torch(arrays: Arrays) -> Arrays:
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


def require_match(arrays: Arrays, expected: Shapes, path: File, head: Sequence[str] = ()) -> None:
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


def cache_dir() -> Path:
    """Where converted weights lie: $PADDLETAG_HOME, or ~/.cache/paddletag."""
    return Path(os.environ.get("PADDLETAG_HOME") or Path.home() / ".cache" / "paddletag")


def is_bundled(name: str) -> bool:
    """Whether the weights `name` come with the package: they need no installation."""
    return (BUNDLED / name / f"{name}.safetensors").is_file()


def installed(name: str) -> Path:
    """The path of the weights `name`, in the package or in the cache, after a check of their sha256.

    UserError: they are not there, or damaged; it says what to do.
    """
    folder, get = cache_dir(), f"run {own_command(f'weights {name}')}"
    if is_bundled(name):
        folder, get = BUNDLED / name, "install paddletag again"
    path, record = folder / f"{name}.safetensors", folder / f"{name}.json"
    if not path.is_file():
        raise UserError(f"{path}: the weights {name} are not installed: {get}")
    sha256 = read_json(record, get).get("sha256")
    if wrong := mismatch(path, sha256) if isinstance(sha256, str) else f"{record} does not hold its sha256":
        raise UserError(f"{path}: damaged: {wrong}: {get}")
    return path


def bundled_graph(name: str) -> Path | None:
    """The path of the ONNX graph (log-mels to scores) that comes with the package (checked); None: no graph does.

    UserError if it is damaged.
    """
    path = BUNDLED / name / f"{name}.onnx"
    if not path.is_file():
        return None
    get = "install paddletag again"
    if wrong := mismatch(path, read_json(path.with_suffix(".json"), get)["onnx_sha256"]):
        raise UserError(f"{path}: damaged: {wrong}: {get}")
    return path


def install(
    name: str,
    url: str,
    sha256: str = "",
    md5: str = "",
    source: File | None = None,
    convert: Convert | None = from_torch,
    expected: Shapes | None = None,
) -> Path:
    """Put the weights `name` into the cache as `<name>.safetensors`, with `<name>.json` beside. Returns the path.

    The original comes from `url` (see `download.fetch`), or from the local file `source`; its checksum must agree, and
    only a local file may come without one. `convert`: {name: array} -> {name: array}, None for as they are;
    `expected`: {name: shape} of the model, which they must match. What is installed already is left alone. A failure
    leaves nothing in the cache but a part that the next download resumes.
    """
    path = cache_dir() / f"{name}.safetensors"
    copy = None if source is None else Path(source)
    if copy is not None:
        if not copy.is_file():
            raise UserError(f"{copy}: no such file")
        if wrong := mismatch(copy, sha256, md5):
            raise UserError(f"{copy}: not the weights {name} of {url}: {wrong}")
    if is_bundled(name):
        path = installed(name)
        log.info("%s comes with paddletag: %s", name, path)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if _has(name, checksum(copy) if copy and not (sha256 or md5) else sha256, md5):
            log.info("%s is installed already: %s", name, path)
            return path
        original = copy
        try:
            if original is None:
                again = own_command(f"weights {name} --from FILE")
                hint = f"run it again, or get the file elsewhere and use {again}"
                original = fetch(url, path.with_name(f".{name}.original"), sha256, md5, hint)
            _convert(original, copy or url, path, name, url, convert, expected)
        finally:
            if copy is None and original:
                original.unlink(missing_ok=True)
        log.info("installed %s: %s", name, path)
    return path


def convert_file(source: File, path: File, name: str, convert: Convert | None, expected: Shapes | None) -> None:
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


def _convert(
    original: Path,
    shown: File,
    path: Path,
    name: str,
    source: str,
    convert: Convert | None,
    expected: Shapes | None,
) -> None:
    """Read `original` (in errors: `shown`), convert, compare, and write `path` and the record beside it, or neither."""
    record = path.with_suffix(".json")
    arrays = read(original)
    arrays = convert(arrays) if convert else arrays
    if expected is not None:
        require_match(arrays, expected, shown)
    sums = {"sha256": checksum(original), "md5": checksum(original, "md5")}
    record.unlink(missing_ok=True)
    origin = {"name": name, "source": source, "source_sha256": sums["sha256"]}
    write(path, arrays, {"origin": json.dumps(origin)})
    try:
        write_json(record, {"name": name, "source": source, "original": sums, "sha256": checksum(path)})
    except BaseException:
        path.unlink()
        raise


def _has(name: str, sha256: str, md5: str) -> bool:
    """Whether the weights in the cache are whole and come from a file with these checksums."""
    try:
        installed(name)
    except UserError:
        return False
    sums = read_json(cache_dir() / f"{name}.json", "").get("original", {})
    return all(not value or sums.get(kind) == value.lower() for kind, value in (("sha256", sha256), ("md5", md5)))
