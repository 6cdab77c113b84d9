"""Run `paddletag train` up to where its first batches are asked for, and print what that took, as JSON.

python start_of_training.py ARGUMENTS OF paddletag train
"""

import json
import sys
import time

started = time.perf_counter()
import paddle  # noqa: E402, F401

imported, imported_cpu = time.perf_counter(), time.process_time()
from paddletag.commands import train  # noqa: E402
from paddletag.features import batches  # noqa: E402

PASSES = 400  # of each process, before memory is looked at again


def anonymous(process="self"):
    """MB of memory of a process that is no file."""
    with open(f"/proc/{process}/status") as file:
        return next(int(row.split()[1]) / 1024 for row in file if row.startswith("RssAnon"))


def own(process="self"):
    """MB of memory that a process shares with no other."""
    with open(f"/proc/{process}/smaps_rollup") as file:
        return next(int(row.split()[1]) / 1024 for row in file if row.startswith("Private_Dirty"))


before = anonymous()
load = batches.load_batches


class Measured:
    """Batches that tell what their worker's memory is, in place of their arrays."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return min(len(self.items), PASSES)

    def __getitem__(self, k):
        import os

        import numpy as np

        self.items[k]
        return np.array([os.getpid(), own()]), np.zeros(1)


def measure(items, workers=0, first=0):
    """In place of `load_batches`."""
    with open("/proc/self/status") as file:
        peak = next(int(row.split()[1]) / 1024 for row in file if row.startswith("VmHWM"))
    result = {
        "seconds": time.perf_counter() - imported,
        "cpu_seconds": time.process_time() - imported_cpu,
        "importing_paddle": imported - started,
        "anonymous_MB": anonymous(),
        "anonymous_MB_of_paddle": before,
        "peak_resident_MB": peak,
        "passes": len(items),
    }
    if workers:
        seen: dict[int, list[float]] = {}
        for process, memory in (batch[0].numpy().tolist() for batch in load(Measured(items), workers)):
            seen.setdefault(int(process), []).append(memory)
        result["workers_MB"] = [[min(values[1:]), values[-1]] for values in seen.values()]
    print(json.dumps(result))
    sys.stdout.flush()
    raise SystemExit(0)


if __name__ == "__main__":
    batches.load_batches = measure
    import paddletag.training.loop as loop

    loop.load_batches = measure
    train.main()
