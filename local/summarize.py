"""The end of stage 3: report all folds. The same as `paddletag summarize`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("summarize")
