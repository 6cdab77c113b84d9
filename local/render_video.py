"""Make a video of a tagged sound. The same as `paddletag video`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("video")
