"""Audio classification and tagging on PaddlePaddle: the library under the scripts of `local/`."""

import sys

__version__ = "0.1.0"

IGNORED = (
    # Paddle warns at import that ccache is missing; only people who build C++ extensions need it.
    "No ccache found",
    # And, at the first step, that BatchNorm keeps running statistics, as every BatchNorm does.
    "When training, we now always track global mean and variance",
)
if warnings := sys.modules.get("warnings"):
    for message in IGNORED:
        warnings.filterwarnings("ignore", message)
else:  # as by python -W: to import `warnings` takes time in which a script cannot catch Ctrl-C yet (interrupt.py)
    sys.warnoptions += [f"ignore:{message}" for message in IGNORED]


def _one_line_on_ctrl_c(kind, error, trace, usual=sys.excepthook):
    """For programs that import this package and do not call `interrupt.begin`: no traceback while they do."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        usual(kind, error, trace)


sys.excepthook = _one_line_on_ctrl_c
