"""One rank of a launch: the program that Paddle's launcher starts once per process, around the script of a stage.

`launch` in utils/recipe.sh starts `python worker.py SCRIPT ARGUMENTS` once per rank.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # `local`

from paddletag.runtime import die_with_parent  # noqa: E402
from paddletag.training.distributed import local_rank, rank  # noqa: E402


def run_rank(command: Sequence[str]) -> NoReturn:
    """Run `command` (a script and its arguments) as this rank; if it fails, be the first to say so, or keep quiet.

    When one rank dies, the others fail in their next collective, within milliseconds, and Paddle's launcher, which
    looks once a second, may blame any of them and answers 1 whatever the script's status was. So each rank has a
    parent that sees it end, killed or not, and the first writes "rank local_rank status time" to `failed` beside the
    logs, where local_command.py finds it.
    """
    die_with_parent()
    worker = subprocess.Popen([sys.executable, "-u", *command], preexec_fn=die_with_parent)
    for number in (signal.SIGTERM, signal.SIGINT):  # the worker got it too: stay to see what it does
        signal.signal(number, signal.SIG_IGN)
    status = worker.wait()
    status = 128 - status if status < 0 else status
    if status:
        record = os.path.join(os.environ["PADDLE_LOG_DIR"], "failed")
        with contextlib.suppress(FileExistsError), open(record, "x") as file:
            file.write(f"{rank()} {local_rank()} {status} {time.time()}\n")
    sys.exit(status)


if __name__ == "__main__":
    run_rank(sys.argv[1:])
