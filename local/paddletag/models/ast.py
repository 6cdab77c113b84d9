"""AST: the Audio Spectrogram Transformer (Gong, Chung, Glass, arXiv 2104.01778), base size, patches of 16 x 16."""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from paddletag.features import frontend
from paddletag.models import pretrained_weights
from paddletag.models.ast_frames import target_frames
from paddletag.models.backbone import Backbone
from paddletag.type_aliases import Arrays

WIDTH, HEADS, MLP_WIDTH, MELS = 768, 12, 3072, 128
PATCH, STRIDE = 16, 10


def patches(size: int) -> int:
    """The number of patches along an axis of `size` mels or frames."""
    return (size - PATCH) // STRIDE + 1


GRID = (patches(MELS), patches(1024))  # 12 x 101: the positions that the weights know, frequency and time


def layer_norm() -> nn.LayerNorm:
    """The norm of a transformer block's branches, over WIDTH."""
    return nn.LayerNorm(WIDTH, epsilon=1e-6)


class PatchEmbed(nn.Layer):
    """[B, 1, 128, T] -> [B, 12 t, WIDTH], the lowest frequency's t patches first."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2D(1, WIDTH, PATCH, STRIDE)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, 1, 128, T] -> [B, 12 t, WIDTH], with t = patches(T)."""
        return self.proj(x).flatten(2).transpose([0, 2, 1])


class Attention(nn.Layer):
    """Self-attention over the tokens [B, N, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def macs(self, shape: list[int]) -> int:
        """The multiplications of its two products for one input of `shape` [1, N, WIDTH]; not of its linear layers.

        Queries with keys, and shares with values: for each pair of tokens, over all heads, the width.
        """
        _, tokens, width = shape
        return 2 * tokens * tokens * width

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, WIDTH] -> the same."""
        tokens, size = x.shape[1], WIDTH // HEADS
        q, k, v = self.qkv(x).reshape([-1, tokens, 3, HEADS, size]).transpose([2, 0, 3, 1, 4])  # [B, HEADS, N, size]
        # Written out: paddle's own function takes float32 on a GPU only in its newest versions.
        share = F.softmax(paddle.matmul(q * size**-0.5, k, transpose_y=True), axis=-1)
        return self.proj(paddle.matmul(share, v).transpose([0, 2, 1, 3]).flatten(2))


class MLP(nn.Layer):
    """Two linear layers with GELU between them, on each token."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, MLP_WIDTH)
        self.fc2 = nn.Linear(MLP_WIDTH, WIDTH)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, WIDTH] -> the same."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Layer):
    """A transformer block with the norms before its two branches (Dosovitskiy et al., arXiv 2010.11929)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = layer_norm(), Attention()
        self.norm2, self.mlp = layer_norm(), MLP()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, WIDTH] -> the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Layer):
    """[B, 1, 128, T] -> tokens [B, 2 + 12 t, WIDTH]: class token, distillation token, patches."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        small = nn.initializer.TruncatedNormal(std=0.02)
        self.cls_token = self.create_parameter([1, 1, WIDTH], default_initializer=small)
        self.dist_token = self.create_parameter([1, 1, WIDTH], default_initializer=small)
        self.pos_embed = self.create_parameter([1, 2 + GRID[0] * GRID[1], WIDTH], default_initializer=small)
        self.patch_embed = PatchEmbed()
        self.blocks = nn.LayerList([Block() for _ in range(depth)])
        self.norm = layer_norm()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, 1, 128, T] -> [B, 2 + 12 t, WIDTH], with t = patches(T)."""
        positions = self.positions(patches(x.shape[3]))
        x = self.patch_embed(x)
        tokens = paddle.concat([self.cls_token, self.dist_token], axis=1).expand([x.shape[0], -1, -1])
        x = paddle.concat([tokens, x], axis=1) + positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def positions(self, t: int) -> paddle.Tensor:
        """`pos_embed` for `t` patches in time, [1, 2 + 12 t, WIDTH]: its middle, or stretched where it is too short."""
        f, longest = GRID
        if t == longest:
            return self.pos_embed
        table = self.pos_embed[:, 2:].transpose([0, 2, 1]).reshape([1, WIDTH, f, longest])
        if t < longest:
            start = longest // 2 - t // 2
            table = table[:, :, :, start : start + t]
        else:
            table = F.interpolate(table, size=[f, t], mode="bilinear", align_corners=False)
        return paddle.concat([self.pos_embed[:, :2], table.flatten(2).transpose([0, 2, 1])], axis=1)


class AST(Backbone):
    """Log-mel [B, 1, T, 128] -> logits [B, num_classes].

    T is the number of frames of the sound, from 16 up. The model itself pads them at the end (`target_frames`)
    with what a log-mel of zero becomes by the front end's normalisation, as the original's data loader does: 98 frames
    (1 s) to 128, 498 (5 s) to 512, 998 (10 s) to 1024. The positions are cut to these, and stretched for more than 1024
    frames, which are taken as they are.
    `depth`: the number of blocks; the published weights have 12.
    """

    layout = "TF"
    head = ("mlp_head.1.weight", "mlp_head.1.bias")

    def __init__(self, num_classes: int, front_end: frontend.FrontEnd = frontend.AST, depth: int = 12) -> None:
        super().__init__(front_end)
        self.v = VisionTransformer(depth)
        self.mlp_head = nn.Sequential(nn.LayerNorm(WIDTH, epsilon=1e-5), nn.Linear(WIDTH, num_classes))
        small = nn.initializer.TruncatedNormal(std=0.02)
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                small(layer.weight)

    @property
    def stages(self) -> list[str | tuple[str, ...]]:
        """What makes tokens of patches, then one for each block."""
        tokens = ("v.cls_token", "v.dist_token", "v.pos_embed", "v.patch_embed.")
        return [tokens, *(f"v.blocks.{n}." for n in range(len(self.v.blocks)))]

    def classify(self, embedding: paddle.Tensor) -> paddle.Tensor:
        """[B, 768] -> logits [B, num_classes]."""
        return self.mlp_head(embedding)

    def embed(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, 1, T, 128] -> [B, 768]: the mean of the two tokens after the last norm, before the head's own norm."""
        missing = target_frames(x.shape[2]) - x.shape[2]
        if missing:
            silence = -self.front_end.mean / self.front_end.scale
            x = F.pad(x, [0, 0, 0, missing], value=silence)
        x = self.v(x.transpose([0, 1, 3, 2]))
        return (x[:, 0] + x[:, 1]) / 2


_TRANSFORMERS = {  # the names of transformers' ASTForAudioClassification -> the original's
    "audio_spectrogram_transformer.embeddings.cls_token": "v.cls_token",
    "audio_spectrogram_transformer.embeddings.distillation_token": "v.dist_token",
    "audio_spectrogram_transformer.embeddings.position_embeddings": "v.pos_embed",
    "audio_spectrogram_transformer.embeddings.patch_embeddings.projection": "v.patch_embed.proj",
    "audio_spectrogram_transformer.encoder.layer": "v.blocks",
    "audio_spectrogram_transformer.layernorm": "v.norm",
    "classifier.layernorm": "mlp_head.0",
    "classifier.dense": "mlp_head.1",
}
_TRANSFORMERS_BLOCK = {
    "layernorm_before": "norm1",
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def convert(arrays: Arrays) -> Arrays:
    """{name: array} of AST's .pth, or of transformers' safetensors, as this model's: names and layout.

    Left out is `v.head*`, the ImageNet classifier that the original carries along unused. Names that belong to neither
    file are kept, for `pretrained_weights.require_match` to report. Arrays that are this model's already are
    returned as they are.
    """
    fc1 = arrays.get("v.blocks.0.mlp.fc1.weight")
    if fc1 is not None and fc1.shape == (WIDTH, MLP_WIDTH):
        return arrays
    if any(name.startswith("audio_spectrogram_transformer.") for name in arrays):
        arrays = _from_transformers(arrays)
    arrays = pretrained_weights.from_torch(arrays)
    return {name: array for name, array in arrays.items() if not name.startswith("v.head")}


def _from_transformers(arrays: Arrays) -> Arrays:
    renamed = {}
    for name, array in arrays.items():
        stem = next((old for old in _TRANSFORMERS if name == old or name.startswith(old + ".")), "")
        new, rest = _TRANSFORMERS.get(stem, ""), name[len(stem) :]
        if new == "v.blocks":
            _, number, rest = rest.split(".", 2)
            inner, _, last = rest.rpartition(".")
            rest = f".{number}.{_TRANSFORMERS_BLOCK.get(inner, inner)}.{last}"
        renamed[new + rest] = array
    for name in [name for name in renamed if name.rpartition(".")[0].endswith(".attn.q")]:
        names = [name.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
        if all(each in renamed for each in names):
            renamed[name.replace(".attn.q.", ".attn.qkv.")] = np.concatenate([renamed.pop(each) for each in names])
    return renamed
