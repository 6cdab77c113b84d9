"""Write a report of a tagging result or an evaluated model. The same as `paddletag report`."""

from paddletag.commands import run

if __name__ == "__main__":
    run("report")
