"""The parts of a job as tasks of a Ray cluster. Ray places them, and runs those of lost workers and nodes again."""

import os
import signal
import socket
from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import Any

from paddletag import runtime
from paddletag.archives.parts import Done, tag_part
from paddletag.archives.plan import Job
from paddletag.runtime import UserError
from paddletag.tagging.pipeline import Predict
from paddletag.tagging.tagger import open_predictor

HERE, RUNNING = "local", "auto"  # addresses: Ray on this machine alone; the cluster that this machine belongs to
CONNECTING = 10  # seconds
RETRIES = 5  # of a part whose worker or node was lost
WAITING = 2  # parts handed to Ray for each that it can work on at once


def tag_parts(address: str, job: Job, parts: Sequence[int]) -> Generator[tuple[int, Done], None, None]:
    """Tag parts on the cluster at an address: yields (part, what it came to) as they are finished, in any order.

    The nodes must have paddletag, and see the source, the model and the results under the same paths. UserError where
    Ray is not installed or not there, and of a part that ends in one.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("--ray: needs the package ray, which is not installed: pip install 'paddletag[ray]'") from None
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        host, _, port = address.rpartition(":")
        if port.isdigit() and "//" not in host:  # Ray itself asks for minutes
            socket.create_connection((host, int(port)), CONNECTING).close()
        where = {} if address == HERE else {"address": address}
        ray.init(**where, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise UserError(f"--ray {address}: no such cluster, or it does not answer ({error})") from None
    signal.signal(signal.SIGTERM, terminated)  # Ray has put its own in the place
    try:
        yield from _as_tasks(ray, job, parts)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, (UserError, OSError)) else error) from None
    except ray.exceptions.RayError as error:
        words = str(error).split("\n")[0]
        raise UserError(f"--ray: a part was lost {RETRIES + 1} times, or the cluster ({words})") from None
    finally:
        ray.shutdown()


def _as_tasks(ray: Any, job: Job, parts: Sequence[int]) -> Generator[tuple[int, Done], None, None]:
    cpus, gpus, at_once = _share(ray, gpu=job.device != "cpu")
    task = ray.remote(_tag_part).options(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=False)
    waiting, under_way = list(reversed(parts)), dict[Any, int]()
    while waiting or under_way:
        while waiting and len(under_way) < WAITING * at_once:
            part = waiting.pop()
            under_way[task.remote(job, part, os.environ.get("PADDLETAG_HOME"))] = part
        (done,), _ = ray.wait(list(under_way))
        yield under_way.pop(done), ray.get(done)


def _share(ray: Any, gpu: bool) -> tuple[int, int, int]:
    """(CPU cores and GPUs that a task asks for, tasks that run at once): a part uses all cores of the smallest node, or
    its share of them beside one of the node's GPUs. UserError where no node can give that."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in nodes if node.get("CPU", 0) >= 1 and (not gpu or node.get("GPU", 0) >= 1)]
    if not nodes:
        raise UserError(f"--ray: no node of the cluster has {'a GPU' if gpu else 'a core'} to give")
    cpus = min(max(1, int(node["CPU"] // (node["GPU"] if gpu else 1))) for node in nodes)
    return cpus, int(gpu), sum(int(min(node["CPU"] // cpus, node["GPU"] if gpu else node["CPU"])) for node in nodes)


def _tag_part(job: Job, part: int, home: str | None) -> Done:
    """On a worker: tag a part. home: where the driver's weights lie."""
    if home:
        os.environ["PADDLETAG_HOME"] = home
    runtime.start_log(quiet=True)
    return tag_part(job, part, _scorer(job.model, job.engine, job.device, job.embeddings), bar=False)


@lru_cache(maxsize=1)
def _scorer(model: str, engine: str, device: str, embeddings: bool) -> Predict:
    """The function that scores with a model: a worker process loads it for its first part alone."""
    return open_predictor(model, engine, device, embeddings, much=True)
