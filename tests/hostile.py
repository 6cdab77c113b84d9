"""What files of strangers cost and do: a child process reads them, and says so. `costs` starts it; no test is here.

Run as a script: python hostile.py READER, with a path on each line of its input and a line of JSON for each in return.
"""

import contextlib
import json
import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

LOCAL = Path(__file__).resolve().parents[1] / "local"
SECONDS = 20  # of the processor, for each file
WATCHED = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.remove", "os.rename",
    "subprocess.Popen", "socket.", "exec", "compile", "import", "ctypes.", "pickle.find_class", "shutil.", "urllib.",
)  # fmt: skip


def costs(reader, paths, watch=False):
    """[{"end", "text", "seconds" (of the processor), "events"}] of `paths`, read in a child.

    reader: one of `_readers`. end: "value", "UserError", or the name of another exception. watch: record what runs,
    opens or imports something. A file may take ten times its size and 200 MB of memory: asking for more fails. One that
    takes more than SECONDS ends the child, and the list.
    """
    command = [sys.executable, __file__, reader, *["watch"] * watch]
    environment = {**os.environ, "PYTHONPATH": str(LOCAL), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    lines = "".join(f"{path}\n" for path in paths)
    child = subprocess.run(command, input=lines, capture_output=True, text=True, env=environment)
    return [json.loads(line) for line in child.stdout.splitlines()]


def check(outcome, path):
    """Assert that reading a file ended as it should, and not for want of memory."""
    assert outcome["end"] in ("value", "UserError") and outcome["text"].isprintable(), (path, outcome)
    assert not any(words in outcome["text"] for words in ("MemoryError", "Unable to allocate")), (path, outcome)


def cost(reader, path, watch=False):
    """What one of `_readers` makes of a file, after `check`."""
    outcomes = costs(reader, [path], watch)
    assert outcomes, f"{path}: reading it took more than {SECONDS} s"
    check(outcomes[0], path)
    return outcomes[0]


def _readers():
    import safetensors.numpy  # noqa: F401  (weights import it when they are read, and what a file imports is watched)
    from paddletag.data import archive
    from paddletag.models import classic, model_folder, weight_files
    from paddletag.tagging import result_files

    def model(folder):
        front_end = model_folder.saved_front_end(model_folder.read_meta(folder))
        front_end.log_mel(np.zeros(max(front_end.sample_rate, front_end.min_samples), "f4"))

    def scores(path):
        with np.load(path) as file:
            return classic.scores(Path(path).stem, dict(file), np.zeros((1, 1)))

    return {
        "classic": scores,
        "weights": weight_files.read,
        "tagging": result_files.read_result,
        "archive": lambda path: archive.unpack(path, f"{path}.unpacked"),
        "model": model,
        "pickle": lambda path: pickle.loads(Path(path).read_bytes()),  # what no command does
    }


def _limit(path):
    """The memory, in bytes, that a file or the files in a folder may take."""
    path = Path(path)
    size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
    return 10 * size + 200_000_000


def _main():
    from paddletag.runtime import UserError

    read, events, recording = _readers()[sys.argv[1]], [], False
    with contextlib.suppress(UserError, pickle.UnpicklingError, ValueError, EOFError):
        read("/dev/null")  # what is imported at the first use is no event; nor is zipfile's encoding of names
    "".encode("cp437")

    def hook(event, arguments):
        if recording:
            writes = event == "open" and (
                set(str(arguments[1])) & set("wax+") or arguments[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if writes or event.startswith(WATCHED):
                events.append(f"{event} {arguments!r}"[:200])

    sys.addaudithook(hook)
    for line in sys.stdin:
        path = line[:-1]
        events.clear()
        before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (before + _limit(path), resource.RLIM_INFINITY))
        spent = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + SECONDS + 1, resource.RLIM_INFINITY))
        recording = "watch" in sys.argv
        try:
            value, end, text = read(path), "value", ""
        except UserError as error:
            value, end, text = None, "UserError", str(error)
        except BaseException as error:
            value, end, text = None, type(error).__name__, str(error)
        recording = False
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        outcome = {"end": end, "text": text[:1000], "seconds": time.process_time() - spent, "events": events}
        print(json.dumps(outcome), flush=True)
        del value


if __name__ == "__main__":
    _main()
