"""`python -m paddletag`, for where the program `paddletag` is not on the PATH."""

from paddletag.commands import main

if __name__ == "__main__":
    main()
