"""The options of commands: spellings, flags, lists, groups, and what is said of a mistake."""

import argparse

import pytest
from paddletag.commands.options import Parser, add_flag, add_list, nearest, refuse
from paddletag.data.splits import parse_fold
from paddletag.runtime import UserError


@pytest.fixture
def parser():
    """One with names, flags and lists, in a group too."""
    parser = Parser(prog="tool")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--stop-stage", type=int)
    parser.add_argument("--top_k", type=int, default=5)
    add_flag(parser, "--json", "JSON")
    add_flag(parser, "--extend", "go on", default=None)
    add_list(parser, "--folds", parse_fold, nargs="+")
    add_list(parser, "--seeds", str, nargs="*", default=[])
    group = parser.group("a group")
    group.add_argument("--low-limit", type=float)
    add_flag(group, "--report", "a report")
    return parser


@pytest.fixture
def without_names():
    """One whose words are all values of options."""
    parser = Parser(prog="tool")
    parser.add_argument("--out", required=True)
    add_flag(parser, "--smooth", "smooth", default=None)
    return parser


def error_line(parser, capsys, *words):
    """The one line with which a parser refuses; the status is 2."""
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(list(words))
    err = capsys.readouterr().err
    assert caught.value.code == 2 and err.startswith("tool: error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    "words, names, json",
    [
        ("--json a.wav b.wav", ["a.wav", "b.wav"], True),  # a name after a flag is a name
        ("a.wav --json", ["a.wav"], True),
        ("--json true a.wav", ["a.wav"], True),
        ("--json True", [], True),
        ("--json 0 a.wav", ["a.wav"], False),
        ("a.wav --json=false", ["a.wav"], False),
        ("--json=FALSE a.wav", ["a.wav"], False),
        ("--json --top_k 3", [], True),
        ("--json --json false", [], False),  # the last one
        ("a.wav", ["a.wav"], False),
    ],
)
def test_flags_and_names(parser, words, names, json):
    args = parser.parse_args(words.split())
    assert (args.names, args.json) == (names, json)
    assert ("json" in args.given) == ("--json" in words)


@pytest.mark.parametrize(
    "words, extend", [("", None), ("--extend", True), ("--extend true", True), ("--extend=0", False)]
)
def test_a_flag_that_is_not_given_has_its_default(parser, words, extend):
    assert parser.parse_args(words.split()).extend is extend


@pytest.mark.parametrize("words", [["--json=maybe"], ["--json="]])
def test_a_flag_is_true_or_false(parser, capsys, words):
    assert "--json" in error_line(parser, capsys, *words)


def test_without_names_what_follows_a_flag_is_its_value(without_names, capsys):
    assert without_names.parse_args(["--smooth", "--out", "x"]).smooth is True
    assert without_names.parse_args(["--out", "x", "--smooth", "False"]).smooth is False
    line = error_line(without_names, capsys, "--out", "x", "--smooth", "maybe")
    assert "--smooth" in line and "maybe" in line


@pytest.mark.parametrize(
    "words, folds",
    [
        ("--folds 1", [1]),
        ("--folds 1,2", [1, 2]),
        ("--folds 1 2", [1, 2]),
        ("--folds 1, 2", [1, 2]),
        ("--folds 1,,2", [1, 2]),
        ("--folds=1,2,", [1, 2]),
        ("--folds 1,2 3", [1, 2, 3]),
        ("--folds test", ["test"]),
        ("--folds 1 --folds 2", [1, 2]),
        ("--folds 1 2 -- 3", [1, 2]),
    ],
)
def test_lists(parser, words, folds):
    assert parser.parse_args(words.split()).folds == folds


def test_values_between_commas_and_blanks(parser):
    assert parser.parse_args(["--folds", "1, 2"]).folds == [1, 2]
    assert parser.parse_args([]).seeds == [] and parser.parse_args(["--seeds"]).seeds == []
    assert parser.parse_args(["--seeds", "0,5", "7"]).seeds == ["0", "5", "7"]


@pytest.mark.parametrize(
    "words", [["--folds"], ["--folds", ","], ["--folds", ""], ["--folds", "1", " "], ["--folds=,,"]]
)
def test_an_empty_list_where_one_is_required(parser, capsys, words):
    assert "--folds" in error_line(parser, capsys, *words)


def test_a_value_of_the_wrong_kind_in_a_list(parser):
    with pytest.raises(UserError, match="one"):
        parser.parse_args(["--folds", "1,one"])


@pytest.mark.parametrize("words", ["--stop-stage 2", "--stop_stage 2", "--stop-stage=2", "--stop_stage=2"])
def test_a_dash_is_an_underscore(parser, words):
    args = parser.parse_args(words.split())
    assert args.stop_stage == 2 and args.given == {"stop_stage"}


@pytest.mark.parametrize("words", ["--top-k 2", "--top_k=2", "--low-limit 0.5", "--low_limit 0.5"])
def test_an_underscore_is_a_dash(parser, words):
    args = parser.parse_args(words.split())
    assert (args.top_k, args.low_limit) in ((2, None), (5, 0.5))


@pytest.mark.parametrize(
    "words, near",
    [
        ("--topk 3", "--top_k"),
        ("a.wav --top-kk=3", "--top_k"),
        ("--jsno", "--json"),
        ("--stop-stages 3", "--stop-stage"),
        ("--lowlimit 3", "--low-limit"),  # of a group
        ("--fold 1", "--folds"),  # no abbreviation
    ],
)
def test_an_unknown_option_near_another_one(parser, capsys, words, near):
    line = error_line(parser, capsys, *words.split())
    assert words.split()[-2 if " 3" in words or " 1" in words else -1].partition("=")[0] in line
    assert f"{near}?" in line


@pytest.mark.parametrize("words", ["--threshold 0.3", "a.wav --xyz", "-j", "--"])
def test_an_unknown_option_far_from_any(parser, without_names, capsys, words):
    if words == "--":
        parser, words = without_names, "--out x -- surplus"
    line = error_line(parser, capsys, *words.split())
    assert "?" not in line and (words.split()[-1] in line or "--threshold" in line)


def test_a_surplus_name_before_an_unknown_option(without_names, capsys):
    line = error_line(without_names, capsys, "--out", "x", "surplus", "--smoth", "true")
    assert "surplus" in line and "--smooth?" in line


def test_words_after_two_dashes_are_names(parser):
    args = parser.parse_args(["--top_k", "2", "--", "--json", "--stop_stage", "a.wav"])
    assert args.names == ["--json", "--stop_stage", "a.wav"]
    assert args.given == {"top_k"} and not args.json


def test_what_was_given(parser):
    """Its names, though the values are the defaults; of a group too."""
    assert parser.parse_args([]).given == set()
    words = "a.wav --top-k 5 --json false --low-limit=1 --report --seeds"
    assert parser.parse_args(words.split()).given == {"top_k", "json", "low_limit", "report", "seeds"}


def test_a_missing_or_wrong_value(parser, without_names, capsys):
    assert "--top_k" in error_line(parser, capsys, "--top_k")
    assert "--top_k" in error_line(parser, capsys, "--top-k", "many")
    assert "--out" in error_line(without_names, capsys)


def test_the_line_of_an_error_is_one(parser, capsys):
    assert r"\x1b" in error_line(parser, capsys, "--top_k", "1\n2\x1b[2J")


def test_a_group_knows_its_options(parser, capsys):
    group = parser.group("another")
    group.add_argument("--one-more")
    add_flag(group, "--two", "two")
    add_list(group, "--three", int, nargs="+")
    assert group.names == ["one_more", "two", "three"]
    assert {"--one-more", "--two", "--three", "--low-limit", "--json", "--help", "-h"} <= set(parser.options)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0 and "another:" in text and "--two true|false" in text


def test_refuse():
    args = argparse.Namespace(given={"top_k"}, spelling={"top_k": "--top_k", "json": "--json"}, top_k=5, json=False)
    refuse(args, ["json"], "is nothing")
    with pytest.raises(UserError, match="--top_k: why"):
        refuse(args, ("json", "top_k"), "why")


def test_nearest():
    assert "train" in nearest("trian", ["train", "tag"])
    assert nearest("xyzzy", ["train", "tag"]) == nearest("train", []) == ""


def test_an_option_given_twice_has_the_values_of_both(parser):
    parser.add_argument("--opts", nargs="*", default=[])
    parser.add_argument("--format", nargs="+", default=["text"])
    words = "--folds 1 --folds 2,3 --opts a 1 --opts b 2 --format csv --format png".split()
    args = parser.parse_args(words)
    assert args.folds == [1, 2, 3] and args.opts == ["a", "1", "b", "2"] and args.format == ["csv", "png"]
    assert parser.parse_args([]).format == ["text"] and parser.parse_args([]).opts == []


def test_names_between_options(parser):
    args = parser.parse_args("a.wav --json b.wav --top_k 1 c.wav".split())
    assert args.names == ["a.wav", "b.wav", "c.wav"] and args.json and args.top_k == 1
    args = parser.parse_args("--top_k 1 -- --json b.wav".split())
    assert args.names == ["--json", "b.wav"] and not args.json


def test_an_empty_text_is_a_mistake_unless_it_is_the_default(parser, without_names, capsys):
    parser.add_argument("--wav", default="")
    assert parser.parse_args(["--wav", ""]).wav == ""
    assert "names" in error_line(parser, capsys, "a.wav", "")
    assert "--out" in error_line(without_names, capsys, "--out", "")
