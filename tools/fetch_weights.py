"""Install a backbone's weights. The same as `paddletag weights`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("weights")
