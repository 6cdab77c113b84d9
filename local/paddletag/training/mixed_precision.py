"""Mixed precision, as `train.amp` and `train.amp_dtype` say: passes forward in half of the bits, and a scaled loss."""

import contextlib

import paddle
from yacs.config import CfgNode


class Precision:
    """`train.amp` and `train.amp_dtype`: O0 computes in float32; O1 in mixed precision, where Paddle's lists allow it.

    The weights stay float32. In float16 the loss is scaled, and the scaler lowers its scale whenever a step overflows:
    some overflow is a normal part of such a run.
    """

    def __init__(self, settings: CfgNode) -> None:
        self.mixed, self.dtype = settings.amp != "O0", settings.amp_dtype
        self.scaler = paddle.amp.GradScaler(enable=self.mixed and self.dtype == "float16")

    def cast(self) -> contextlib.AbstractContextManager[None]:
        """The context for passes forward, in training and in validation."""
        return paddle.amp.auto_cast(self.mixed, level="O1", dtype=self.dtype)

    @property
    def may_overflow(self) -> bool:
        """Whether the loss is scaled, so that the gradient of a good step may be infinite."""
        return self.scaler.is_enable()
