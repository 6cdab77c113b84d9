"""What of a model learns, and from what: all of it from log-mels, or its head alone from embeddings."""

import numpy as np
import paddle
from paddle import nn

from paddletag import checkpoint, engine, losses, models
from paddletag.steps import NORMS


class Network:
    """All of the model learns, from log-mels."""

    def __init__(self, model, config, records, features):
        self.net, self.config, self.features = model, config, features
        self.frames = model.front_end.frames(model.front_end.samples(config.data.clip_seconds))

    def inputs(self, log_mel: paddle.Tensor) -> paddle.Tensor:
        return engine.to_input(self.net, log_mel.astype("float32"))

    def scores(self, records: list[dict]) -> np.ndarray:
        """float32 [N, C] on every rank."""
        config = self.config
        return engine.evaluate(
            self.net, records, self.features, config.task, config.data.clip_seconds, config.evaluate.batch_size,
            workers=config.train.workers,
        )  # fmt: skip


class Probe:
    """The head alone learns, from what the rest of the model makes of each window: computed once, here.

    A clip's embeddings [windows, D] take the place of its log-mel [frames, mels], one window that of a crop.
    """

    frames = 1

    def __init__(self, model, config, records, features):
        self.net, self.config = engine.head(model), config.clone()
        self.config.defrost()
        for key in ("roll", "gain", "freq_mask", "time_mask", "wavmix"):
            self.config.augment[key] = type(config.augment[key])()  # they change sound, which is not heard again
        self.features = engine.embeddings(
            model, records, features, config.data.clip_seconds, config.evaluate.batch_size, config.train.workers
        )

    def inputs(self, embeddings: paddle.Tensor) -> paddle.Tensor:
        return embeddings[:, 0]

    def scores(self, records: list[dict]) -> np.ndarray:
        """float32 [N, C]."""
        with paddle.no_grad():
            logits = [self.net(paddle.to_tensor(self.features[record["id"]])) for record in records]
            scores = [losses.activation(self.config.task, rows.astype("float32")).mean(0).numpy() for rows in logits]
        return np.stack(scores)


def choose(model: nn.Layer, config) -> set[str]:
    """Do what `model.freeze`, `freeze_bn`, `bn_momentum` and `sync_bn` say; return the names of what is to learn."""
    if config.model.bn_momentum:
        models.set_bn_momentum(model, config.model.bn_momentum)
    freeze = config.model["freeze"]
    if freeze.isdecimal():
        models.freeze(model, int(freeze))
    if config.model.sync_bn:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    norms = {f"{name}." for name, layer in model.named_sublayers() if isinstance(layer, NORMS)}
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
        if not name.endswith(checkpoint.STATISTICS):
            parameter.stop_gradient = name not in learning
            parameter.clear_gradient(False)


def train_mode(model: nn.Layer) -> None:
    """Training mode, but for BatchNorms whose weights do not learn: they keep their statistics too."""
    model.train()
    for layer in model.sublayers():
        if isinstance(layer, NORMS) and layer.weight.stop_gradient:
            layer.eval()
