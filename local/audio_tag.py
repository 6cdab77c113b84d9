"""Stage 4: tag sounds. The same as `paddletag tag`, with PaddleAudio's defaults: one window, the whole file."""

from paddletag.commands import run

if __name__ == "__main__":
    run("tag", historical=True)
