"""Where Paddle computes: on the CPU, or on one of the GPUs."""

import os

from paddletag.runtime import UserError


def use_device(device: str = "cpu") -> int:
    """Let Paddle compute on `device` (cpu, gpu, gpu:0, gpu:1 ...); return how many GPUs it sees.

    UserError for a GPU that is not there.
    """
    import paddle

    kind, _, number = device.partition(":")
    count = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if kind == "gpu" and not count:
        asked = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        of = f" of {asked}" * bool(asked)
        raise UserError(
            f"--device gpu: Paddle sees no GPU{of}: use the CPU (without --gpus), or see tools/install.sh --gpu"
        )
    if number and int(number) >= count:
        raise UserError(f"--device {device}: Paddle sees {count} GPUs, numbered from 0")
    paddle.disable_signal_handler()  # it answers SIGTERM with a C++ stack
    paddle.set_device(device)
    return count
