"""Options of commands: one spelling for - and _, flags, lists with commas, and errors in one line."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from paddletag.runtime import UserError, one_line

FLAGS = {"true": True, "1": True, "false": False, "0": False}  # what stands for true and false, in lower case


class Parser(argparse.ArgumentParser):
    """argparse with `--stop-stage` and `--stop_stage` as one option, no abbreviations, and one-line errors.

    What it parses has two more attributes. `given`: the names of the options that stand on the command line, whatever
    their values. `spelling`: of every option by its name, as it stands there. An unknown option is an error that names
    the nearest one. `options` are all options by their spelling.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.options: dict[str, argparse.Action] = {}
        self._positionals_by_name: dict[str, argparse.Action] = {}
        kwargs.setdefault("formatter_class", _Help)
        super().__init__(allow_abbrev=False, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """As argparse's."""
        return self.remember(super().add_argument(*args, **_joined_where_a_list(args, kwargs)))

    def remember(self, action: argparse.Action) -> argparse.Action:
        """Count an argument among `options`, and return it."""
        self.options.update(dict.fromkeys(action.option_strings, action))
        if not action.option_strings:
            self._positionals_by_name[action.dest] = action
        return action

    def group(self, title: str) -> "Group":
        """Options under a title of their own in --help."""
        return Group(self, title)

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """The options, with `given`. Exits with status 2 for what is unknown, lacks a value or has a wrong one."""
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)  # what follows are no options
        options = self._with_flags_as_pairs([self._spelling(word) for word in words[:end]])
        if "--" in words:
            values, unknown = self.parse_known_args(options + words[end:], namespace)
        else:  # names may stand between the options
            values, unknown = self.parse_known_intermixed_args(options, namespace)
        if unknown:
            name = next((word.partition("=")[0] for word in unknown if word.startswith("--")), "")
            hint = nearest(name, [text for text in self.options if text.startswith("--")])
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        names = [word.partition("=")[0] for word in options]
        values.spelling = {action.dest: action.option_strings[0] for action in self.options.values()}
        values.spelling |= {self.options[name].dest: name for name in names if name in self.options}
        values.given = {self.options[name].dest for name in names if name in self.options}
        self._refuse_empty(values)
        return values

    def _refuse_empty(self, values: argparse.Namespace) -> None:
        """An empty text, as an unset variable of a shell gives it, is a mistake, unless it is the option's default."""
        for action in (*self._positionals_by_name.values(), *self.options.values()):
            value = getattr(values, action.dest, None)
            texts = value if isinstance(value, list) and not action.option_strings else [value]
            if "" in texts and action.default != "":
                self.error(f"{action.option_strings[0] if action.option_strings else action.dest}: is empty")

    def _spelling(self, word: str) -> str:
        """An option as `add_argument` spells it; any other word as it is."""
        if not word.startswith("--"):
            return word
        name, equals, value = word.partition("=")
        for spelling in ("--" + name[2:].replace("-", "_"), "--" + name[2:].replace("_", "-")):
            if spelling in self.options:
                return spelling + equals + value
        return word

    def _with_flags_as_pairs(self, words: list[str]) -> list[str]:
        """A flag and its value as one word, so that a name after a flag is not taken for its value.

        Where there are no such names, any word after a flag is its value, right or wrong.
        """
        joined: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word in self.options and self.options[word].type is flag:
                follows = bool(rest) and not rest[0].startswith("-")
                has_value = follows and (rest[0].lower() in FLAGS or not self._positionals_by_name)
                word += f"={rest.pop(0) if has_value else 'true'}"
            joined.append(word)
        return joined

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see --help)\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """--help with the defaults, where they say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default is False or action.default in ("", [])
        told = nothing or "default:" in (action.help or "")  # in words of the option's own
        return action.help if told else super()._get_help_string(action)


class Group:
    """Options of a parser under a title of their own in --help; `names` are theirs."""

    def __init__(self, parser: Parser, title: str) -> None:
        self._parser, self._group = parser, parser.add_argument_group(title)
        self.names: list[str] = []

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """As argparse's."""
        action = self._parser.remember(self._group.add_argument(*args, **_joined_where_a_list(args, kwargs)))
        self.names.append(action.dest)
        return action


def nearest(word: str, names: Iterable[str]) -> str:
    """A clause with the one of `names` that is spelt most like `word`: ": did you mean --top_k?"; empty if none is."""
    known = list(names)
    begun = [name for name in known if len(word) > 3 and name.startswith(word)]
    matches = begun or difflib.get_close_matches(word, known, 1, 0.6)
    return f": did you mean {matches[0]}?" if matches else ""


def flag(text: str) -> bool:
    """The type of an option that takes true or false, as in `--smooth True`."""
    if text.lower() not in FLAGS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return FLAGS[text.lower()]


def add_flag(parser: Parser | Group, name: str, description: str, default: bool | None = False) -> None:
    """Add an option that is true or false to a parser, or a group of one: `--flag` works as well as `--flag true`.

    description: for --help.
    """
    parser.add_argument(name, type=flag, default=default, metavar="true|false", help=description)


def add_list(parser: Parser | Group, name: str, kind: Callable[[str], Any], **kwargs: Any) -> None:
    """Add an option that takes values between blanks or commas, and gives a list of them.

    kind: makes a value of each text. kwargs: as for add_argument. A word without any value is an error; beside one,
    `1,,2` and `1, 2` are 1 and 2.
    """

    def values_of(text: str) -> list[Any]:
        texts = re.split(r"[,\s]+", text.strip(", \t\n"))
        if texts == [""]:
            raise argparse.ArgumentTypeError(f"{text!r} holds no value")
        return [kind(part) for part in texts]

    parser.add_argument(name, type=values_of, **kwargs)


def choice_of(names: Sequence[str]) -> Callable[[str], str]:
    """A kind of values for `add_list`: one of `names`."""

    def check(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join(names)})")
        return text

    return check


def _joined_where_a_list(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `add_argument`; for an option with several values, with `_Joined` as its action."""
    is_list = args[0].startswith("-") and kwargs.get("nargs") in ("+", "*") and "action" not in kwargs
    return {**kwargs, "action": _Joined} if is_list else kwargs


class _Joined(argparse.Action):
    """One list of all values of an option, also where the option is given several times."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest, None)
        joined = [] if before is None or before is self.default else before
        for word in values or ():
            joined = [*joined, *(word if isinstance(word, list) else [word])]
        setattr(namespace, self.dest, joined)


def refuse(args: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """UserError if one of the options `names` was given: `why` says why it would change nothing."""
    for name in names:
        if name in args.given:
            raise UserError(f"{args.spelling[name]}: {why}")
