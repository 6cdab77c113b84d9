"""What `task` chooses: the loss to train with, and the activation that turns logits into scores."""

from paddle.nn import functional as F


def loss(task, logits, targets, label_smoothing=0.0):
    """Mean loss of logits [B, C] against targets [B, C], which mixup may have made fractional.

    single_label: cross-entropy; multi_label: binary cross-entropy.
    """
    if label_smoothing:
        even = 1 / targets.shape[1] if task == "single_label" else 0.5
        targets = (1 - label_smoothing) * targets + label_smoothing * even
    if task == "single_label":
        return F.cross_entropy(logits, targets, soft_label=True)
    return F.binary_cross_entropy_with_logits(logits, targets)


def activation(task, logits):
    """Logits [B, C] -> scores in 0..1: softmax for single_label, sigmoid for multi_label."""
    return F.softmax(logits, axis=-1) if task == "single_label" else F.sigmoid(logits)
