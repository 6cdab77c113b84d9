"""Stage 5: parse tagging results. The same as `paddletag parse`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("parse")
