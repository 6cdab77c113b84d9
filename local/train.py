"""Stage 2: train a network. The same as `paddletag train`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("train")
