"""One run on several processes: which rank this is, and what the others have.

`launch` in utils/recipe.sh starts launch/worker.py once per rank. Alone, every function
here is the identity, so that no caller asks how many processes there are. Paddle is imported where it is used.
"""

import contextlib
import io
import os
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from paddletag.models.device import use_device
from paddletag.runtime import UserError, die_with_parent

if TYPE_CHECKING:
    import paddle

T = TypeVar("T")
START_SECONDS = 300  # that rank 0 may take to listen; then Paddle may say what is wrong


def rank() -> int:
    """The number of this process among all of them, on all nodes: 0 .. world_size() - 1."""
    return int(os.environ.get("PADDLE_TRAINER_ID", 0))


def world_size() -> int:
    """How many processes run this script together."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", 1))


def local_rank() -> int:
    """The number of this process on its node: 0 .. local_world_size() - 1."""
    return int(os.environ.get("PADDLE_LOCAL_RANK", 0))


def local_world_size() -> int:
    """How many of the processes run on this node."""
    return int(os.environ.get("PADDLE_LOCAL_SIZE", 1))


def launch_name() -> str:
    """What the processes of this launch have in common, and nobody else has; empty for a process that runs alone."""
    return f"the launch at {os.environ['PADDLE_MASTER']}" if world_size() > 1 else ""


def init(device: str = "cpu") -> None:
    """Compute on `device` ("cpu" or "gpu") and meet the other ranks: gloo on CPUs, NCCL on GPUs. To be called first.

    UserError for fewer GPUs than processes on this node.
    """
    count = use_device(device)
    if device == "gpu":
        refuse_too_few_gpus(count)
    if world_size() < 2:
        return
    import paddle

    die_with_parent()
    if rank() > 0:
        _await_master()
    with contextlib.redirect_stderr(io.StringIO()):  # Paddle prints a banner of its modified flags
        paddle.distributed.init_parallel_env()


def refuse_too_few_gpus(count: int) -> None:
    """UserError for fewer GPUs than processes on this node. CUDA leaves out those that are not there."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if count < max(local_world_size(), len(asked.split(","))):
        raise UserError(f"--gpus {asked}: Paddle sees only {count} of them on {socket.gethostname()}: see nvidia-smi")


def gather(value: T) -> list[T]:
    """[the `value` of rank 0, of rank 1, ...] on every rank; numpy arrays, dicts, anything that can be pickled."""
    if world_size() < 2:
        return [value]
    from paddle import distributed

    values: list[T] = []
    distributed.all_gather_object(values, value)
    return values


def average_(tensors: "Iterable[paddle.Tensor | None]") -> None:
    """Replace each of `tensors` (gradients, BatchNorm statistics; None is left out) by its mean over the ranks.

    All ranks end with the same bits. The sum is taken in float32 (float64 for float64): gloo's sum of float16 is
    wrong (1 + 2 = inf in Paddle 3.3.1), it has no mean, and it wants contiguous tensors. All tensors travel as one.
    """
    present = [tensor for tensor in tensors if tensor is not None]
    if world_size() < 2 or not present:
        return
    import paddle
    from paddle import distributed

    with paddle.no_grad():
        for dtype in ("float32", "float64"):
            group = [t for t in present if (t.dtype == paddle.float64) == (dtype == "float64")]
            if not group:
                continue
            flat = paddle.concat([tensor.reshape([-1]).astype(dtype) for tensor in group])
            distributed.all_reduce(flat)
            flat /= world_size()
            for tensor, mean in zip(group, flat.split([tensor.size for tensor in group]), strict=True):
                paddle.assign(mean.reshape(tensor.shape).astype(tensor.dtype), output=tensor)


def broadcast_(tensors: "Iterable[paddle.Tensor]") -> None:
    """Replace each of `tensors` by what rank 0 has in its place."""
    if world_size() < 2:
        return
    from paddle import distributed

    for tensor in tensors:
        distributed.broadcast(tensor, src=0)


def _await_master() -> None:
    """Wait until rank 0 listens: Paddle's own client, when it comes first, sleeps for three seconds."""
    host, port = os.environ["PADDLE_MASTER"].rsplit(":", 1)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        time.sleep(0.05)
