"""Time a training step of mn04: python training_step.py paddletag|contiguous|channels_last

A head of 10 classes, batch 16 of 5 s, AdamW, float32, one thread. The last line is the median of STEPS steps after
WARM to warm up, as JSON. contiguous and channels_last are PyTorch, in these memory formats.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "local"))

import json
import statistics
import time
from collections.abc import Callable

import numpy as np

BATCH, MELS, FRAMES, CLASSES = 16, 128, 500, 10
WARM, STEPS = 3, 9


def of_paddletag(log_mel: np.ndarray, targets: np.ndarray) -> Callable[[], object]:
    """This project's network."""
    import paddle
    from paddletag.models.mobilenet import MN

    paddle.seed(0)
    model = MN(CLASSES, width=0.4)
    model.train()
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters(), weight_decay=0.01)
    x, y = paddle.to_tensor(log_mel), paddle.to_tensor(targets)

    def step() -> None:
        paddle.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.clear_grad()

    return step


def of_torch(log_mel: np.ndarray, targets: np.ndarray, channels_last: bool) -> Callable[[], object]:
    """The same network in PyTorch."""
    import torch
    from torch_mn import TorchMN

    torch.manual_seed(0)
    torch.set_num_threads(1)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = TorchMN(CLASSES).train().to(memory_format=memory_format)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    x, y = torch.from_numpy(log_mel).contiguous(memory_format=memory_format), torch.from_numpy(targets)

    def step() -> None:
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main(kind: str) -> None:
    """Time the steps."""
    rng = np.random.default_rng(0)
    log_mel = rng.standard_normal((BATCH, 1, MELS, FRAMES)).astype(np.float32)
    targets = rng.integers(0, CLASSES, BATCH)
    paddletag = kind == "paddletag"
    step = of_paddletag(log_mel, targets) if paddletag else of_torch(log_mel, targets, kind == "channels_last")
    walls, cpus = [], []
    for _ in range(WARM + STEPS):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    print(json.dumps({"wall": statistics.median(walls[WARM:]), "cpu": statistics.median(cpus[WARM:])}))


if __name__ == "__main__":
    main(sys.argv[1])
