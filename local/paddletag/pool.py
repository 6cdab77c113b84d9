"""Work ahead: on other processes or in a thread, with results in their order and a bounded number of them waiting."""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from paddletag import distributed
from paddletag.runtime import UserError

WAITING = 8  # results for each process that may wait to be fetched


def in_order(function: Callable, jobs: Iterable, workers: int, waiting: int = WAITING) -> Iterator:
    """Yields function(job) for each job; `workers` processes compute ahead (with 0, this one does, when asked).

    The processes are forks: they know what `function` refers to as it is now, and only jobs and results travel.
    Exceptions of `function` are raised here. UserError for processes that cannot be started, and for one that was
    killed. Close it to end the processes.
    """
    if not workers:
        yield from map(function, jobs)
        return
    others = multiprocessing.active_children()
    with _starting(workers):
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _start_worker, (function,))
    under_way, whole = deque(), False
    try:
        for job in jobs:
            with _starting(workers):
                under_way.append(pool.submit(_call, job))
            if len(under_way) >= waiting * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
        whole = True
    except BrokenProcessPool:
        raise UserError("a worker process was killed (out of memory?): try fewer of them") from None
    finally:
        pool.shutdown(wait=whole, cancel_futures=True)
        if not whole:  # the pool itself may have broken, and would wait for its processes for ever
            mine = [worker for worker in multiprocessing.active_children() if worker not in others]
            for worker in mine:
                worker.kill()
            for worker in mine:
                worker.join()


@contextlib.contextmanager
def _starting(workers):
    """UserError where the system has no room for the processes: for their locks in /dev/shm, or for their pipes."""
    try:
        yield
    except OSError as error:
        reason = f"{workers} worker processes cannot be started ({(error.strerror or str(error)).lower()})"
        raise UserError(f"{reason}: try fewer, or none; look at /dev/shm and ulimit -n") from None


def ahead(items: Iterator, size: int = 3) -> Iterator:
    """Yields the items of a generator that runs in a thread, up to `size` items ahead. Closing it ends the thread."""
    ready, over = queue.Queue(size), threading.Event()

    def put(item, error=None):
        while not over.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put((item, error), timeout=0.1)

    def work():
        try:
            with contextlib.closing(items):
                for item in items:
                    put(item)
                    if over.is_set():
                        return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=work, daemon=True)  # which may wait for a pipe that nobody writes to
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error:
                raise error
            yield item
            del item  # not to be kept while the next one is awaited
    finally:
        over.set()
        thread.join(timeout=1)


_function: Callable[[Any], Any] | None = None  # in a worker process: what it is for


def _start_worker(function):
    global _function
    _function = function
    # Ctrl-C is for the parent to handle: a worker that it meets in the queue's lock would keep that lock for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    distributed.die_with_parent()
    if os.getppid() != multiprocessing.parent_process().pid:  # it has died already
        os._exit(1)


def _call(job):
    return _function(job)
