"""The state from which an interrupted training goes on, and the weights of its best epoch."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open

from paddletag.models import pretrained_weights
from paddletag.models.model_folder import model_arrays
from paddletag.runtime import UserError
from paddletag.type_aliases import Arrays, File

if TYPE_CHECKING:
    from paddle import nn
    from paddle.amp import GradScaler
    from paddle.optimizer import Optimizer

    from paddletag.training.weight_average import WeightAverage


def save_weights(path: File, model: "nn.Layer") -> None:
    """The weights alone, as one file that is whole or absent."""
    pretrained_weights.write(path, model_arrays(model), {})


def load_weights(path: File, model: "nn.Layer") -> None:
    """Restore what `save_weights` wrote. UserError for a damaged file."""
    _set_state(model, pretrained_weights.read(path))


def save_state(
    path: File,
    model: "nn.Layer",
    optimizer: "Optimizer",
    progress: dict[str, Any],
    scaler: "GradScaler | None" = None,
    average: "WeightAverage | None" = None,
) -> None:
    """Write all that training needs to go on, as one file that is whole or absent.

    progress: plain values such as the epoch. The optimizer's moments are kept by the structured names of their
    parameters: paddle's automatic ones (`conv2d_17.w_0`) depend on what else was built in the process.
    scaler: of the loss, where it is scaled. average: of the weights, where there is one.
    """
    state = optimizer.state_dict()
    arrays = {f"model/{name}": array for name, array in model_arrays(model).items()}
    for name, parameter in model.named_parameters():
        for key in [key for key in state if key.startswith(f"{parameter.name}_")]:
            moment = key[len(parameter.name) + 1 :].rpartition("_")[0] + "_0"  # 1, where another optimizer was before
            arrays[f"optimizer/{name}/{moment}"] = np.asarray(state[key])
    if average:
        arrays.update((f"average/{name}", tensor.numpy()) for name, tensor in average.state.items())
        progress = {**progress, "averaged": average.updates}
    if scaler is not None and scaler.is_enable():
        scale = {key: np.asarray(value).tolist() for key, value in scaler.state_dict().items()}
        progress = {**progress, "scaler": scale}
    pretrained_weights.write(path, arrays, {"progress": json.dumps(progress)})


class Checkpoint:
    """What `load_state` has read: `arrays` of the file, and `progress` as `save_state` was given it.

    The model has its weights already. The optimizer gets its moments by `restore_optimizer`, once there is one.
    """

    def __init__(self, arrays: Arrays, progress: dict[str, Any]) -> None:
        self.arrays, self.progress = arrays, progress

    def restore_optimizer(self, model: "nn.Layer", optimizer: "Optimizer") -> None:
        """Give the optimizer of the model's parameters its moments back."""
        import paddle

        automatic = {name: parameter.name for name, parameter in model.named_parameters()}
        state = {}
        for key, array in self.arrays.items():
            if key.startswith("optimizer/"):
                _, name, moment = key.split("/")
                state[f"{automatic[name]}_{moment}"] = paddle.to_tensor(array)
        optimizer.set_state_dict(state)


def load_state(
    path: File, model: "nn.Layer", scaler: "GradScaler | None" = None, average: "WeightAverage | None" = None
) -> Checkpoint:
    """Restore what `save_state` wrote of the model, the scaler and the average; the rest is in the `Checkpoint`.

    UserError for a damaged file.
    """
    try:
        arrays = pretrained_weights.read(path)
        with safe_open(path, "numpy") as file:
            progress = json.loads(file.metadata()["progress"])
        _set_state(model, {name: arrays[f"model/{name}"] for name in model.state_dict()})
        if average:
            average.load({name: arrays[f"average/{name}"] for name in average.state}, progress.pop("averaged"))
        if scaler is not None and scaler.is_enable():
            scale: Any = progress.pop("scaler")
            scale["scale"] = np.array(scale["scale"], np.float32)
            scaler.load_state_dict(scale)
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{error}; {path}: is no checkpoint to go on from: remove it to train from the start") from None
    return Checkpoint(arrays, progress)


def _set_state(model: "nn.Layer", arrays: Arrays) -> None:
    """Set the model's state from arrays, in its own precision."""
    import paddle

    for name, tensor in model.state_dict().items():
        tensor.set_value(paddle.to_tensor(arrays[name]).astype(tensor.dtype))
