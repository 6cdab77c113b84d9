"""Audio classification and tagging on PaddlePaddle: the library under the scripts of `local/`."""

import sys
import warnings

# Paddle warns at import that ccache is missing; only people who build C++ extensions need it.
warnings.filterwarnings("ignore", message="No ccache found")
# And, at the first step, that BatchNorm keeps running statistics, as every BatchNorm does.
warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")

__version__ = "0.1.0"


def _one_line_on_ctrl_c(kind, error, trace, usual=sys.excepthook):
    """`runtime.run` does the same for a script's work; this is for Ctrl-C while it still imports its libraries."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        usual(kind, error, trace)


sys.excepthook = _one_line_on_ctrl_c
