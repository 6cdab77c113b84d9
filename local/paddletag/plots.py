"""Pictures of results, in one style."""

import logging

import matplotlib

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # paddle shows INFO of all libraries
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


def confusion(path, matrix, labels, title):
    """The confusion matrix [C, C] as a PNG: shades are shares of the true class, numbers are clips."""
    size = min(20, max(4.5, 1.8 + 0.38 * len(labels)))
    figure, axes = pyplot.subplots(figsize=(size, size), dpi=120, layout="constrained")
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels, rotation=90)
    axes.set_yticks(ticks, labels)
    axes.tick_params(labelsize=9 if len(labels) <= 20 else 7, length=0)
    for i in ticks:
        for j in ticks:
            if matrix[i, j]:
                color = "w" if shares[i, j] > 0.5 else "k"
                axes.text(j, i, matrix[i, j], ha="center", va="center", fontsize=8, color=color)
    axes.set_xlabel("model's label")
    axes.set_ylabel("true label")
    axes.set_title(title)
    figure.savefig(path, format="png")
    pyplot.close(figure)
