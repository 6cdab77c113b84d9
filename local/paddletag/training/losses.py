"""The loss that `task` and `train.loss` choose, and the weights of classes in it."""

import numpy as np
import paddle
from paddle.nn import functional as F


def loss(
    task: str,
    logits: paddle.Tensor,
    targets: paddle.Tensor,
    label_smoothing: float = 0.0,
    class_weights: paddle.Tensor | None = None,
    kind: str = "cross_entropy",
) -> paddle.Tensor:
    """Mean loss of logits [B, C] against targets [B, C], which mixup may have made fractional.

    single_label: cross-entropy or, with `kind` "binary", the sum of the classes' binary cross-entropies, as if
    a clip could have several labels (Wightman et al., arXiv 2110.00476); multi_label: the mean of those.
    class_weights: float32 [C], by which each class's share of a target counts more or less (binary: its presence; its
    absence counts 1). The sum is divided by the number of clips (multi_label: times classes), not by the weights that
    are in this batch: so a mean over parts of a batch is that of the whole, and a batch of rare classes keeps its
    weight.
    """
    if label_smoothing:
        even = 1 / targets.shape[1] if task == "single_label" else 0.5
        targets = (1 - label_smoothing) * targets + label_smoothing * even
    if task == "single_label" and kind == "binary":
        return targets.shape[1] * F.binary_cross_entropy_with_logits(logits, targets, pos_weight=class_weights)
    if task == "single_label":
        if class_weights is None:
            return F.cross_entropy(logits, targets, soft_label=True)
        return -(class_weights * targets * F.log_softmax(logits, axis=-1)).sum(-1).mean()
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=class_weights)


def class_weights(counts: np.ndarray) -> np.ndarray:
    """The number of clips of each class [C] -> float32 [C]: each class's weight, inverse to how often it occurs.

    As scikit-learn's "balanced": labels / (classes * labels of this class), so that the mean over all labels is 1. A
    class that never occurs has 1.
    """
    counts = np.asarray(counts, np.float64)
    occurs = counts > 0
    weights = np.ones(len(counts))
    weights[occurs] = counts.sum() / (occurs.sum() * counts[occurs])
    return weights.astype(np.float32)
