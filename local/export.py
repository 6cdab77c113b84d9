"""Export a model. The same as `paddletag export`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("export")
