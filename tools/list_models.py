"""List the backbones. The same as `paddletag models`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("models")
