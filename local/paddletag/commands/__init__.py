"""The commands of `paddletag`: one file each, whose `main` parses its options and does the work.

The scripts in local/ and tools/ call `run` with the name of a command, and so take the same options.
"""

import importlib
import os
import sys

from paddletag import interrupt

COMMANDS = {  # name of the file: what the command does; - stands for _ on the command line
    "tag": "what is in recordings, and when: files, folders, video",
    "listen": "label what the microphone or standard input brings, live",
    "tag_archive": "label up to a million hours, as a Parquet data set",
    "find": "look for labels in what tag-archive has written",
    "prepare": "stage 0: check a data set and list its clips",
    "features": "stage 1: compute the log-mels of a prepared data set",
    "train": "stage 2: fine-tune a network",
    "train_classic": "stage 2: fit a classic classifier, as a baseline",
    "evaluate": "stage 3: test trained models on what they were not trained on",
    "calibrate": "a temperature and thresholds for a trained model's scores",
    "summarize": "stage 3: report all folds in RESULTS.md",
    "compare": "runs side by side: accuracy, tests on the same clips, settings",
    "parse": "stage 5: tagging results to text, events, pictures, pages",
    "report": "a page with sound: of a tagging result or an evaluation",
    "video": "a video of a sound and its labels",
    "export": "a model as ONNX, or for Paddle Inference",
    "models": "list the pretrained backbones",
    "weights": "download a backbone's weights, or take a file of them",
    "convert": "convert weights of PyTorch or Paddle",
    "new_recipe": "make a recipe for a data set of your own (in a clone)",
}
ENVIRONMENT = {  # variables that libraries read when they are imported
    "features": {"OMP_NUM_THREADS": "1"},  # a process per core: a BLAS thread per core in each would only fight
    # Paddle warns while it traces a model.
    **dict.fromkeys(("tag", "tag_archive", "listen", "video", "export"), {"GLOG_minloglevel": "2"}),
}
IGNORED_WARNINGS = (
    # Paddle warns at import that ccache is missing; only people who build C++ extensions need it.
    "No ccache found",
    # And, at the first step, that BatchNorm keeps running statistics, as every BatchNorm does.
    "When training, we now always track global mean and variance",
)


def main() -> None:
    """The program `paddletag`: `paddletag COMMAND OPTIONS`. Exits with the command's status."""
    interrupt.begin()
    if sys.argv[1:2] == ["help"]:  # paddletag help tag
        sys.argv[1:] = [*sys.argv[2:3], "--help"]
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    name = word.replace("-", "_")
    if name in COMMANDS:
        sys.argv[:2] = [f"paddletag {word}"]  # what messages and --help call the program
        return run(name)
    from paddletag import __version__, runtime

    def answer() -> None:
        if word in ("--help", "-h"):
            print(overview())
        elif word == "--version":
            print(f"paddletag {__version__}")
        else:
            raise runtime.UserError(describe_unknown(word))

    sys.argv[0] = "paddletag"
    runtime.run(answer)


def overview() -> str:
    """What `paddletag --help` prints: a screenful."""
    lines = [f"  {name.replace('_', '-'):<14}{text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: paddletag COMMAND [OPTIONS]", "", *lines, "", "paddletag COMMAND --help: its options"])


def describe_unknown(command: str) -> str:
    """What to say of a command that does not exist."""
    from paddletag.commands.options import nearest
    from paddletag.runtime import show

    hint = nearest(command, [name.replace("_", "-") for name in COMMANDS])
    return f"no command {show(command)!r}{hint} (see paddletag --help)"


def run(name: str, **settings: object) -> None:
    """Run the command in the file `name` with the options in sys.argv, and exit. settings: for its `main`."""
    interrupt.begin()
    ignore_warnings()
    for variable, value in ENVIRONMENT.get(name, {}).items():
        os.environ.setdefault(variable, value)
    from paddletag import runtime

    # Imported by `runtime.run`, which answers for a package that is not installed.
    runtime.run(lambda: importlib.import_module(f"paddletag.commands.{name}").main(**settings))


def ignore_warnings() -> None:
    """Hide warnings of Paddle that say nothing to users."""
    if warnings := sys.modules.get("warnings"):
        for message in IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", message)
    else:  # as by python -W: to import `warnings` takes time
        sys.warnoptions += [f"ignore:{message}" for message in IGNORED_WARNINGS]
