"""Pictures of results, in one style."""

import logging

import matplotlib

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # paddle shows INFO of all libraries
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

BLUE, ORANGE = "#0072B2", "#D55E00"  # can be told apart by the colour-blind (Okabe & Ito)


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


def learning_curve(path, rows):
    """The rows of history.csv as a PNG: loss, score (where there is one) and learning rate over the epochs."""
    scores = {"accuracy": "accuracy", "valid_accuracy": "accuracy", "valid_mAP": "mAP"}
    names = {key: name for key, name in scores.items() if any(key in row for row in rows)}
    panels = [("loss", ("loss", "valid_loss"))]
    panels += [(" / ".join(dict.fromkeys(names.values())), tuple(names))] if names else []
    panels += [("learning rate", ("lr",))]
    figure, every = pyplot.subplots(
        len(panels), sharex=True, figsize=(6.4, 1 + 2.2 * len(panels)), dpi=120, layout="constrained"
    )
    for axes, (name, keys) in zip(every, panels, strict=True):
        for key in keys:
            points = [(row["epoch"], row[key]) for row in rows if key in row]
            if points:
                valid = key.startswith("valid")
                axes.plot(
                    *zip(*points, strict=True), "s--" if valid else "o-", markersize=3.5, linewidth=1.4,
                    color=ORANGE if valid else BLUE, label="validation" if valid else "training",
                )  # fmt: skip
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    if any("valid_loss" in row for row in rows):
        every[0].legend(frameon=False)
    every[-1].set_xlabel("epoch")
    every[-1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    every[-1].set_xlim(0.5, rows[-1]["epoch"] + 0.5)
    every[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.savefig(path, format="png")
    pyplot.close(figure)
