"""What of a model learns, and from what: all of it from log-mels, or its head alone from embeddings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import paddle
from paddle import nn
from yacs.config import CfgNode

from paddletag.models import backbone
from paddletag.runtime import log
from paddletag.tagging import scoring
from paddletag.training import batch_norm_statistics, evaluation
from paddletag.training.stopwatch import Stopwatch
from paddletag.type_aliases import Record

if TYPE_CHECKING:
    from paddletag.features.feature_source import FeatureSource


class Network:
    """All of the model learns, from log-mels.

    net: what learns. config, features, frames: what `TrainBatches` is given for it. seconds: that making it has taken.
    """

    seconds = 0.0

    def __init__(
        self, model: backbone.Backbone, config: CfgNode, records: Sequence[Record], features: "FeatureSource"
    ) -> None:
        self.net, self.config, self.features = model, config, features
        self.frames: int = model.front_end.frames(model.front_end.samples(config.data.clip_seconds))

    def inputs(self, log_mel: paddle.Tensor) -> paddle.Tensor:
        """Log-mels [B, T, M] -> what `net` takes."""
        return scoring.to_input(self.net, log_mel.astype("float32"))

    def scores(self, records: Sequence[Record]) -> np.ndarray:
        """The scores of whole clips: float32 [N, C] on every rank."""
        config = self.config
        return evaluation.evaluate(
            self.net, records, self.features, config.task, config.data.clip_seconds, config.evaluate.batch_size,
            workers=config.train.workers,
        )  # fmt: skip


class Probe:
    """The head alone learns, from what the rest of the model makes of each window: computed once, when it is made.

    A clip's embeddings [windows, D] take the place of its log-mel [frames, mels], one window that of a crop.
    net: what learns. config, features, frames: what `TrainBatches` is given for it. seconds: that making it has taken.
    """

    frames = 1

    def __init__(
        self, model: backbone.Backbone, config: CfgNode, records: Sequence[Record], features: "FeatureSource"
    ) -> None:
        self.net, self.config = evaluation.head_layer(model), config.clone()
        self.config.defrost()
        for key in ("roll", "gain", "freq_mask", "time_mask", "wavmix"):
            self.config.augment[key] = type(config.augment[key])()  # they change sound, which is not heard again
        log.info("computing the embeddings of %d clips, once", len(records))
        stopwatch = Stopwatch()
        self.features = evaluation.embeddings(
            model, records, features, config.data.clip_seconds, config.evaluate.batch_size, config.train.workers
        )
        self.seconds = stopwatch.seconds()
        log.info("computed them in %.0f s", self.seconds)

    def inputs(self, embeddings: paddle.Tensor) -> paddle.Tensor:
        """Embeddings [B, 1, D] -> what `net` takes: [B, D]."""
        return embeddings[:, 0]

    def scores(self, records: Sequence[Record]) -> np.ndarray:
        """The scores of whole clips: float32 [N, C]."""
        with paddle.no_grad():
            logits = [self.net(paddle.to_tensor(self.features[record["id"]])) for record in records]
            scores = [scoring.activation(self.config.task, rows.astype("float32")).mean(0).numpy() for rows in logits]
        return np.stack(scores)


def prepare_model(model: backbone.Backbone, config: CfgNode) -> set[str]:
    """Do what `model.freeze`, `freeze_bn`, `bn_momentum` and `sync_bn` say.

    Returns the names of the parameters that are to learn; they are the only ones that may do so.
    """
    if config.model.bn_momentum:
        backbone.set_bn_momentum(model, config.model.bn_momentum)
    freeze = config.model["freeze"]
    if freeze.isdecimal():
        backbone.freeze(model, int(freeze))
    if config.model.sync_bn:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    norms = {f"{name}." for name, layer in model.named_sublayers() if isinstance(layer, batch_norm_statistics.LAYERS)}
    learning = {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    if freeze == "all":
        learning &= {*model.head}
    if config.model.freeze_bn:
        learning = {name for name in learning if name.rpartition(".")[0] + "." not in norms}
    let_learn(model, learning)
    return learning


def let_learn(model: nn.Layer, learning: set[str]) -> None:
    """Let the parameters of those names learn, and no others."""
    for name, parameter in model.named_parameters():
        if not batch_norm_statistics.is_statistic(name):
            parameter.stop_gradient = name not in learning
            parameter.clear_gradient(False)


def train_mode(model: nn.Layer) -> None:
    """Training mode, but for BatchNorms whose weights do not learn: they keep their statistics too."""
    model.train()
    for layer in model.sublayers():
        if isinstance(layer, batch_norm_statistics.LAYERS) and layer.weight is not None and layer.weight.stop_gradient:
            layer.eval()
