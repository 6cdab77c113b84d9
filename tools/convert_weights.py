"""Convert weights. The same as `paddletag convert`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("convert")
