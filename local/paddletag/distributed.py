"""One run on several processes: who am I, what do the others have, and a death that nobody survives.

`launch` in utils/recipe.sh starts `python distributed.py SCRIPT ARGUMENTS` once per rank. Alone, every function
here is the identity, so that no caller asks how many processes there are. Paddle is imported where it is used.
"""

import contextlib
import ctypes
import io
import os
import signal
import socket
import subprocess
import sys
import time


def rank():
    """The number of this process among all of them, on all nodes: 0 .. world_size() - 1."""
    return int(os.environ.get("PADDLE_TRAINER_ID", 0))


def world_size():
    """How many processes run this script together."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", 1))


def local_rank():
    """The number of this process on its node: 0 .. local_world_size() - 1."""
    return int(os.environ.get("PADDLE_LOCAL_RANK", 0))


def local_world_size():
    return int(os.environ.get("PADDLE_LOCAL_SIZE", 1))


def launch_name() -> str:
    """What the processes of this launch have in common, and nobody else has; empty for a process that runs alone."""
    return f"the launch at {os.environ['PADDLE_MASTER']}" if world_size() > 1 else ""


def init(device="cpu"):
    """Compute on `device` ("cpu" or "gpu") and meet the other ranks: gloo on CPUs, NCCL on GPUs. To be called first."""
    import paddle

    if device == "gpu":
        _check_gpus(paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0)
    paddle.disable_signal_handler()  # it answers SIGTERM with a C++ stack
    paddle.set_device(device)
    if world_size() < 2:
        return
    die_with_parent()
    if rank() > 0:
        _await_master()
    with contextlib.redirect_stderr(io.StringIO()):  # Paddle prints a banner of its modified flags
        paddle.distributed.init_parallel_env()


def _check_gpus(found):
    """Refuse to go on with fewer GPUs than processes on this node. CUDA leaves out those that are not there."""
    from paddletag.runtime import UserError

    asked = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not found:
        of = f" of {asked}" * bool(asked)
        raise UserError(
            f"--device gpu: Paddle sees no GPU{of}: use the CPU (without --gpus), or see tools/install.sh --gpu"
        )
    if found < max(local_world_size(), len(asked.split(","))):
        raise UserError(f"--gpus {asked}: Paddle sees only {found} of them on {socket.gethostname()}: see nvidia-smi")


def gather(value):
    """[the `value` of rank 0, of rank 1, ...] on every rank; numpy arrays, dicts, anything that can be pickled."""
    if world_size() < 2:
        return [value]
    from paddle import distributed

    values = []
    distributed.all_gather_object(values, value)
    return values


def average_(tensors):
    """Replace each of `tensors` (gradients, BatchNorm statistics; None is left out) by its mean over the ranks.

    All ranks end with the same bits. The sum is taken in float32 (float64 for float64): gloo's sum of float16 is
    wrong (1 + 2 = inf in Paddle 3.3.1), it has no mean, and it wants contiguous tensors. All tensors travel as one.
    """
    tensors = [tensor for tensor in tensors if tensor is not None]
    if world_size() < 2 or not tensors:
        return
    import paddle
    from paddle import distributed

    with paddle.no_grad():
        for dtype in ("float32", "float64"):
            group = [t for t in tensors if (t.dtype == paddle.float64) == (dtype == "float64")]
            if not group:
                continue
            flat = paddle.concat([tensor.reshape([-1]).astype(dtype) for tensor in group])
            distributed.all_reduce(flat)
            flat /= world_size()
            for tensor, mean in zip(group, flat.split([tensor.size for tensor in group]), strict=True):
                paddle.assign(mean.reshape(tensor.shape).astype(tensor.dtype), output=tensor)


def broadcast_(tensors):
    """Replace each of `tensors` by what rank 0 has in its place."""
    if world_size() < 2:
        return
    from paddle import distributed

    for tensor in tensors:
        distributed.broadcast(tensor, src=0)


def _await_master():
    """Wait until rank 0 listens: Paddle's own client, when it comes first, sleeps for three seconds."""
    host, port = os.environ["PADDLE_MASTER"].rsplit(":", 1)
    end = time.monotonic() + 300  # then Paddle may say what is wrong
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        time.sleep(0.05)


def die_with_parent():
    """Ask Linux to kill this process when its parent dies: otherwise a worker outlives a killed launcher."""
    with contextlib.suppress(OSError, AttributeError):  # no such thing on other systems
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def _work(command):
    """Run `command` (a script and its arguments) as this rank; if it fails, be the first to say so, or keep quiet.

    When one rank dies, the others fail in their next collective, within milliseconds, and Paddle's launcher, which
    looks once a second, may blame any of them and answers 1 whatever the script's status was. So each rank has a
    parent that sees it end, killed or not, and the first writes "rank local_rank status time" to `failed` beside the
    logs, where cluster.py finds it.
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
    _work(sys.argv[1:])
