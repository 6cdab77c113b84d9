"""Work ahead: on other processes or in a thread, with results in their order and a bounded number of them waiting."""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from paddletag import runtime
from paddletag.runtime import UserError

LAST_JOBS = 1.0  # seconds that jobs under way may take, when a program ends
WAITING = 8  # results for each process that may wait to be fetched


def in_order(function: Callable, jobs: Iterable, workers: int, waiting: int = WAITING) -> Generator[Any, None, None]:
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
    under_way: deque[Future] = deque()
    finished = False
    try:
        for job in jobs:
            with _starting(workers):
                under_way.append(pool.submit(_call, job))
            if len(under_way) >= waiting * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
        finished = True
    except BrokenProcessPool:
        raise UserError("a worker process was killed (out of memory?): try fewer of them") from None
    finally:
        pool.shutdown(wait=finished, cancel_futures=True)
        if not finished:  # the pool itself may have broken, and would wait for its processes for ever
            own = [worker for worker in multiprocessing.active_children() if worker not in others]
            for worker in own:
                worker.kill()
            for worker in own:
                worker.join()


@contextlib.contextmanager
def _starting(workers: int) -> Iterator[None]:
    """UserError where the system has no room for the processes: for their locks in /dev/shm, or for their pipes."""
    try:
        yield
    except OSError as error:
        reason = f"{workers} worker processes cannot be started ({(error.strerror or str(error)).lower()})"
        raise UserError(f"{reason}: try fewer, or none; look at /dev/shm and ulimit -n") from None


class Threads:
    """Threads that work off functions in the order in which they are submitted.

    They end with the program, whatever they wait for: one of them may read from a pipe that nobody writes to.
    """

    def __init__(self, workers: int) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future, Callable, tuple] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable, *arguments: Any) -> Future:
        """The future result of function(*arguments), or its exception."""
        future: Future = Future()
        self._jobs.put((future, function, arguments))
        return future

    def close(self) -> None:
        """Begin no more jobs, and end the threads after those that are under way; wait for these, but not for a pipe.

        (A thread in the middle of a library's C++ code would abort a program that ends.)
        """
        with contextlib.suppress(queue.Empty):
            while job := self._jobs.get_nowait():
                job[0].cancel()
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + LAST_JOBS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while job := self._jobs.get():
            future, function, arguments = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
            del job, future, function, arguments  # not to be kept while the next one is awaited


def prefetch(items: Generator, size: int = 3) -> Generator[Any, None, None]:
    """Yields the items of a generator that runs in a thread, up to `size` items ahead. Closing it ends the thread."""
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(size)
    closed = threading.Event()

    def put(item: object, error: BaseException | None = None) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put((item, error), timeout=0.1)

    def work() -> None:
        try:
            with contextlib.closing(items):
                for item in items:
                    put(item)
                    if closed.is_set():
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
        closed.set()
        thread.join(timeout=1)


_function: Callable[[Any], Any] | None = None  # in a worker process: what it is for


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    # Ctrl-C is for the parent to handle: a worker that it meets in the queue's lock would keep that lock for ever.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    runtime.die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:  # it has died already
        os._exit(1)


def _call(job: Any) -> Any:
    assert _function is not None
    return _function(job)
