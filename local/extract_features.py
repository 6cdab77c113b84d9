"""Stage 1: extract features. The same as `paddletag features`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("features")
