"""Make a recipe for a data set of your own: examples/NAME with a run.sh, and one YAML file to edit.

It needs a clone of the project, where the recipes are: the one that you stand in, or else the one that `paddletag` is
installed from.
"""

import subprocess
import sys
from pathlib import Path

import paddletag
from paddletag.commands.options import Parser, add_flag
from paddletag.runtime import UserError


def main() -> None:
    """`paddletag new-recipe`."""
    parser = Parser(description=__doc__)
    parser.add_argument("name", help="of the new recipe: letters, digits, _ and -")
    recipe = "the recipe whose backbone and training values the YAML file begins with"
    add_flag(parser, "--table", "the data set is a table (CSV, TSV) with a row per sound; default: a folder per class")
    parser.add_argument("--from", dest="source", default="esc50", metavar="RECIPE", help=recipe)
    args = parser.parse_args()
    folders = [Path.cwd(), *Path.cwd().parents, Path(paddletag.__file__).resolve().parents[2]]
    scripts = [folder / "utils" / "new_recipe.sh" for folder in folders if (folder / "examples").is_dir()]
    script = next(filter(Path.is_file, scripts), None)
    if script is None:
        raise UserError("new-recipe needs a clone of the project, where the recipes are: this is an installed package")
    options = ["--table"] if args.table else []
    if status := subprocess.run(["bash", script, args.name, "--from", args.source, *options]).returncode:
        sys.exit(status)  # the script has said why
