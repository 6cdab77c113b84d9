"""The shape of the library: imports go one way, nothing reaches into another file, and no file has too many jobs."""

import ast
import graphlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

LIBRARY = ROOT / "local" / "paddletag"
FILES = sorted(LIBRARY.rglob("*.py"))
PACKAGES = (
    "data",
    "features",
    "models",
    "tagging",
    "archives",
    "training",
    "reports",
    "launch",
    "commands",
)  # each may import those before
MOST_LINES = {"function": 60, "class": 150, "file": 350}


def module_of(path):
    """paddletag.data.audio for .../paddletag/data/audio.py."""
    return ".".join(["paddletag", *path.relative_to(LIBRARY).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imports(path):
    """The modules of the library that a file imports, wherever in the file it does."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "paddletag":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules.update(name if name in MODULES else node.module for name in names)
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names if alias.name in MODULES)
    return modules


def height(module):
    """0 for the modules at the top of the library, which all others may import; then the packages in their order."""
    package = module.split(".")[1] if module.count(".") else ""
    return PACKAGES.index(package) + 1 if package in PACKAGES else 0


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_comes_before(module):
    if module in ("paddletag", "paddletag.__main__"):  # the public names, and the program
        return
    assert not [name for name in imports(MODULES[module]) if height(name) > height(module)]


def test_no_circle():
    graph = {module: imports(path) - {"paddletag"} for module, path in MODULES.items() if module != "paddletag"}
    graphlib.TopologicalSorter(graph).prepare()  # raises a CycleError that names the circle


def test_every_package_says_what_it_holds():
    for package in PACKAGES:
        assert ast.get_docstring(ast.parse((LIBRARY / package / "__init__.py").read_text())), package
    assert {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").exists()} == set(PACKAGES)


@pytest.mark.parametrize("name", ["README.md", "README_cn.md"])
def test_the_readme_names_files_that_are_there(name):
    rows = re.findall(r"^\| `(\w+)/` \|.*\|(.*)\|$", (ROOT / name).read_text(), re.M)
    assert [package for package, _ in rows] == list(PACKAGES)
    for package, files in rows:
        names = re.findall(r"`(\w+)`", files)
        assert len(names) > 2 and not [file for file in names if not (LIBRARY / package / f"{file}.py").is_file()]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_private_of_another_file_is_used(path):
    tree = ast.parse(path.read_text())
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not [alias.name for alias in node.names if private(alias.name)]
            names.update((alias.asname or alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update((alias.asname or alias.name, alias.name) for alias in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            assert not private(node.attr), f"{node.value.id}.{node.attr}"


def private(name):
    public = ("_exit", "_signal")  # os._exit is documented; interrupt.py says why it takes _signal
    return name.startswith("_") and not name.startswith("__") and name not in public


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_functions_and_classes_fit_on_a_few_screens(path):
    text = path.read_text()
    long = []
    for node in ast.walk(ast.parse(text)):
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and length(node) > MOST_LINES[kind]:
            long.append(f"{node.name} has {length(node)} lines")
    assert not long
    assert text.count("\n") <= MOST_LINES["file"] or text.startswith("# Long: ")


def length(node):
    return node.end_lineno - node.lineno + 1


STATE = """
import importlib, json, logging, os, signal, sys, warnings
for name in sys.argv[1].split():  # what others' modules change is theirs
    importlib.import_module(name)
def state():
    return [
        repr(sys.excepthook), repr(sys.unraisablehook), repr(sys.displayhook), dict(os.environ), sys.path, os.getcwd(),
        repr(warnings.filters), [repr(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        {n: logging.getLevelName(n) for n in range(60)}, repr(logging.getLogger().handlers),
        {name: logging.getLogger(name).level for name in loggers},
    ]
loggers = ["", *logging.root.manager.loggerDict]
before = state()
sys.path.insert(0, sys.argv[2])
for name in sys.argv[3].split():
    importlib.import_module(name)
sys.path.pop(0)
after = state()
print(json.dumps([[one, other] for one, other in zip(before, after) if one != other]))
"""
OTHERS = """paddle paddlespeech.cls.models numpy scipy.sparse scipy.fft scipy.special scipy.ndimage soundfile soxr
pyarrow safetensors.numpy sklearn.metrics yaml yacs.config tqdm matplotlib.figure matplotlib.font_manager PIL.ImageFont
onnxruntime multiprocessing.connection concurrent.futures.process"""


def test_importing_changes_nothing():
    """Not excepthook, environment, warnings or logging: programs do that."""
    modules = [name for name in MODULES if name not in ("paddletag.__main__",)]
    command = [sys.executable, "-c", STATE, OTHERS, str(ROOT / "local"), " ".join(modules)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path.home())
    assert json.loads(done.stdout.splitlines()[-1]) == []
