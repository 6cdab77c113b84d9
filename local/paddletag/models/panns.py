"""PANNs: CNN14, CNN10, CNN6 (Kong et al., arXiv 1912.10211), of PaddleSpeech's layers and with its names."""

import math

from paddle import nn
from paddle.nn import functional as F

from paddletag import frontend, weights
from paddletag.runtime import UserError

try:
    from paddlespeech.cls import models
except ImportError as error:
    raise UserError(f"PANNs' backbones need paddlespeech ({error}): run tools/install.sh") from None

SILENCE = 10 * math.log10(frontend.PANNS.floor)  # dB
EXTRACTORS = ("spectrogram_extractor.", "logmel_extractor.")  # in PANNs' files


class PANN:
    """Log-mel [B, 1, T, 64] in dB -> logits [B, num_classes]; `embed` gives [B, D], after fc1 and ReLU.

    PaddleSpeech's own forward is not used: it ends in a sigmoid, and asks for the gradient of its caller's input even
    where layers are frozen. Clips too short for all poolings in time are padded with silence.
    """

    head = ("fc_audioset.weight", "fc_audioset.bias")
    blocks: int
    poolings: int  # by 2 in time and frequency, after each of the first blocks

    def __init__(self, num_classes):
        super().__init__()
        self.fc_audioset = nn.Linear(self.emb_size, num_classes)

    @property
    def stages(self):
        return ["bn0.", *(f"conv_block{n}." for n in range(1, self.blocks + 1)), "fc1."]

    def forward(self, x):
        return self.classify(self.embed(x))

    def classify(self, embedding):
        return self.fc_audioset(F.dropout(embedding, 0.5, training=self.training))

    def embed(self, x):
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
    blocks, poolings = 6, 5


class CNN10(PANN, models.CNN10):
    blocks, poolings = 4, 4


class CNN6(PANN, models.CNN6):
    blocks, poolings = 4, 4


def convert(arrays):
    """{name: array} of PANNs' .pth as this model's; PaddleSpeech's .pdparams have its names and layout already.

    Left out are the STFT and the mel bank, which those hold as weights.
    """
    if not any(name.endswith("running_mean") for name in arrays):
        return arrays
    arrays = weights.from_torch(arrays)
    return {name: array for name, array in arrays.items() if not name.startswith(EXTRACTORS)}
