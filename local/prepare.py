"""Stage 0: prepare a data set. The same as `paddletag prepare`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("prepare")
