"""Stage 3: evaluate trained models. The same as `paddletag evaluate`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("evaluate")
