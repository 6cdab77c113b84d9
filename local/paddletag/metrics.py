"""Scores against targets: the figures of a task, by scikit-learn where it has them."""

import math
from statistics import NormalDist

import numpy as np
from sklearn import metrics as sk


def evaluate(task, scores, targets, labels):
    """The metrics of scores [N, C] against targets [N, C], as plain numbers for `metrics.json`."""
    return (single_label if task == "single_label" else multi_label)(scores, targets, labels)


def single_label(scores, targets, labels):
    """Accuracy, macro F1, and precision, recall and support per class."""
    truth, guess = targets.argmax(1), scores.argmax(1)
    numbers = np.arange(len(labels))
    precision, recall, _, support = sk.precision_recall_fscore_support(truth, guess, labels=numbers, zero_division=0)
    return {
        "accuracy": float(sk.accuracy_score(truth, guess)),
        "n": len(truth),
        "macro_f1": float(sk.f1_score(truth, guess, labels=np.unique(truth), average="macro", zero_division=0)),
        "per_class": {
            name: {"precision": float(precision[i]), "recall": float(recall[i]), "n": int(support[i])}
            for i, name in enumerate(labels)
        },
    }


def multi_label(scores, targets, labels):
    """mAP, AUC and d-prime as macro averages, as in PANNs (arXiv 1912.10211).

    Classes that occur in no clip, or in all, have no AUC; they are left out and counted.
    """
    used = [i for i in range(len(labels)) if 0 < targets[:, i].sum() < len(targets)]
    ap = {i: float(sk.average_precision_score(targets[:, i], scores[:, i])) for i in used}
    auc = {i: float(sk.roc_auc_score(targets[:, i], scores[:, i])) for i in used}
    mean_auc = float(np.mean(list(auc.values()))) if used else math.nan
    return {
        "mAP": float(np.mean(list(ap.values()))) if used else math.nan,
        "auc": mean_auc,
        "d_prime": d_prime(mean_auc),
        "n": len(targets),
        "classes_left_out": len(labels) - len(used),
        "per_class": {labels[i]: {"ap": ap[i], "auc": auc[i], "n": int(targets[:, i].sum())} for i in used},
    }


def d_prime(auc):
    """sqrt(2) times the inverse normal CDF of the area under the ROC curve."""
    if 0 < auc < 1:
        return math.sqrt(2) * NormalDist().inv_cdf(auc)
    return math.nan if math.isnan(auc) else math.copysign(math.inf, auc - 0.5)


def confusion(scores, targets):
    """The confusion matrix [C, C]: rows are the true classes, columns the model's."""
    return sk.confusion_matrix(targets.argmax(1), scores.argmax(1), labels=np.arange(targets.shape[1]))


def most_confused(matrix, labels):
    """The off-diagonal entries that are not zero, largest first: [(true label, model's label, clips)]."""
    pairs = [(int(n), i, j) for (i, j), n in np.ndenumerate(matrix) if i != j and n]
    return [(labels[i], labels[j], n) for n, i, j in sorted(pairs, key=lambda p: (-p[0], p[1], p[2]))]
