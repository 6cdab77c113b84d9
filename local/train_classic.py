"""Stage 2 of a classic baseline: fit a scikit-learn classifier. The same as `paddletag train-classic`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("train_classic")
