"""Audio classification and tagging on PaddlePaddle: the library under the scripts of `local/`."""

import sys

__version__ = "0.1.0"


def _one_line_on_ctrl_c(kind, error, trace, usual=sys.excepthook):
    """For programs that import this package and do not call `interrupt.begin`: no traceback while they do."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        usual(kind, error, trace)


sys.excepthook = _one_line_on_ctrl_c
