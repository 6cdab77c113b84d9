"""Stage 4: tag sounds. The same as `paddletag tag`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("tag")
