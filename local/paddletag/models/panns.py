"""PANNs: CNN14, CNN10, CNN6 (Kong et al., arXiv 1912.10211), of PaddleSpeech's layers and with its names."""

import math

import paddle
from paddle import nn
from paddle.nn import functional as F

from paddletag.features import frontend
from paddletag.models import pretrained_weights
from paddletag.models.backbone import Backbone
from paddletag.runtime import UserError
from paddletag.type_aliases import Arrays

try:
    from paddlespeech.cls import models
except ImportError as error:
    raise UserError(f"PANNs' backbones need paddlespeech ({error}): run tools/install.sh") from None

SILENCE = 10 * math.log10(frontend.PANNS.floor)  # dB
EXTRACTORS = ("spectrogram_extractor.", "logmel_extractor.")  # in PANNs' files


class PANN(Backbone):
    """Log-mel [B, 1, T, 64] in dB -> logits [B, num_classes]; `embed` gives [B, D], after fc1 and ReLU.

    PaddleSpeech's own forward is not used: it ends in a sigmoid, and asks for the gradient of its caller's input even
    where layers are frozen. Clips too short for all poolings in time are padded with silence.
    """

    layout = "TF"
    head = ("fc_audioset.weight", "fc_audioset.bias")
    emb_size: int  # D, as PaddleSpeech's classes say
    blocks: int
    poolings: int  # by 2 in time and frequency, after each of the first blocks

    def __init__(self, num_classes: int, front_end: frontend.FrontEnd = frontend.PANNS) -> None:
        super().__init__(front_end)  # which goes on to PaddleSpeech's class
        self.fc_audioset = nn.Linear(self.emb_size, num_classes)

    @property
    def stages(self) -> list[str | tuple[str, ...]]:
        """The first BatchNorm, the blocks, and the layer before the head."""
        return ["bn0.", *(f"conv_block{n}." for n in range(1, self.blocks + 1)), "fc1."]

    def classify(self, embedding: paddle.Tensor) -> paddle.Tensor:
        """[B, D] -> logits [B, num_classes]."""
        return self.fc_audioset(F.dropout(embedding, 0.5, training=self.training))

    def embed(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, 1, T, 64] -> [B, D]."""
        missing = 2**self.poolings - x.shape[2]
        if missing > 0:
            x = F.pad(x, [0, 0, 0, missing], value=SILENCE)
        x = self.bn0(x.transpose([0, 3, 2, 1])).transpose([0, 3, 2, 1])
        for n in range(1, self.blocks + 1):
            size = 2 if n <= self.poolings else 1
            x = getattr(self, f"conv_block{n}")(x, pool_size=(size, size))
            x = F.dropout(x, 0.2, training=self.training)
        x = x.mean(3)
        x = x.max(2) + x.mean(2)
        return F.relu(self.fc1(F.dropout(x, 0.5, training=self.training)))


class CNN14(PANN, models.CNN14):
    """PANNs' largest: D is 2048."""

    blocks, poolings = 6, 5


class CNN10(PANN, models.CNN10):
    """Four blocks of two convolutions: D is 512."""

    blocks, poolings = 4, 4


class CNN6(PANN, models.CNN6):
    """Four blocks of one convolution: D is 512."""

    blocks, poolings = 4, 4


def convert(arrays: Arrays) -> Arrays:
    """{name: array} of PANNs' .pth as this model's; PaddleSpeech's .pdparams have its names and layout already.

    Left out are the STFT and the mel bank, which those hold as weights.
    """
    if not any(name.endswith("running_mean") for name in arrays):
        return arrays
    arrays = pretrained_weights.from_torch(arrays)
    return {name: array for name, array in arrays.items() if not name.startswith(EXTRACTORS)}
