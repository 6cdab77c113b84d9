"""What the parts of the training loop share: what is trained on what, and how far it is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import paddle
from paddle import nn
from yacs.config import CfgNode

from paddletag.features.batches import TrainBatches
from paddletag.models.backbone import Backbone
from paddletag.training import checkpoint, distributed, learners
from paddletag.training.history import Row
from paddletag.training.mixed_precision import Precision
from paddletag.training.stopwatch import Stopwatch
from paddletag.training.visualdl_curves import Scalars
from paddletag.training.weight_average import WeightAverage
from paddletag.type_aliases import Record


@dataclass
class Progress:
    """How far a run is. Checkpoints keep it."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the epoch after them
    seconds: float = 0.0  # of training
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # of that epoch: loss, right clips, clips
    skipped: int = 0  # steps that were not finite
    in_a_row: int = 0  # of them, up to now
    best: list | None = None  # [epoch, score], with train.select best
    history: list[Row] = field(default_factory=list)  # a row for each finished epoch


@dataclass
class Run:
    """What the parts of the loop share. Rank 0 alone writes to `exp`."""

    model: Backbone
    config: CfgNode
    records: Sequence[Record]
    validation: Sequence[Record]
    labels: Sequence[str]
    exp: Path
    learner: learners.Network | learners.Probe
    learning: set[str]  # the names of the parameters that learn
    precision: Precision
    average: WeightAverage | None
    class_weights: paddle.Tensor | None
    scalars: Scalars | None  # of rank 0
    progress: Progress = field(default_factory=Progress)
    restart: checkpoint.Checkpoint | None = None  # the checkpoint to go on from
    steps: int = field(init=False)  # in an epoch: by `set_up`
    head_only: bool = field(init=False)  # in train.frozen_epochs: this and the next two by `choose_what_learns`
    net: nn.Layer = field(init=False)  # the learner's, made parallel where there are several ranks
    optimizer: paddle.optimizer.Optimizer = field(init=False)
    stopwatch: Stopwatch = field(init=False)  # of the epoch under way: by `train_epoch`

    @property
    def last(self) -> Path:
        """The file of the checkpoint to go on from."""
        return self.exp / "checkpoints" / "last.safetensors"

    @property
    def best(self) -> Path:
        """The file of the best epoch's weights."""
        return self.exp / "checkpoints" / "best.safetensors"

    def batches(self, epoch: int) -> TrainBatches:
        """The batches of an epoch that this rank trains on."""
        learner, ranks = self.learner, (distributed.rank(), distributed.world_size())
        features, front_end, frames = learner.features, self.model.front_end, learner.frames
        return TrainBatches(self.records, self.labels, features, front_end, frames, learner.config, epoch, *ranks)
