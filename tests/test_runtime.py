"""Options, one-line errors, and the log."""

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paddletag import runtime
from paddletag.commands.options import Parser, refuse
from paddletag.runtime import UserError

LOCAL = Path(__file__).resolve().parents[1] / "local"


@pytest.fixture
def parser():
    parser = Parser(prog="tool.py")
    parser.add_argument("--stop-stage", type=int)
    parser.add_argument("--sample_rate", type=int)
    parser.add_argument("--opts", nargs="*", default=[])
    return parser


@pytest.mark.parametrize("spelling", ["--stop-stage 3", "--stop_stage 3", "--stop-stage=3", "--stop_stage=3"])
def test_hyphens_and_underscores_are_one_spelling(parser, spelling):
    assert parser.parse_args(spelling.split()).stop_stage == 3
    other = spelling.replace("stop", "sample").replace("stage", "rate")
    assert parser.parse_args(other.split()).sample_rate == 3


def test_values_are_left_as_they_are(parser):
    options = "--opts data.max_rejected 3 model.name my-net".split()
    assert parser.parse_args(options).opts == options[1:]


@pytest.mark.parametrize("options", ["--stop 3", "--stop-stages 3", "--stop-stage three", "--stop-stage"])
def test_wrong_options_are_one_line(parser, capsys, options):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(options.split())
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("tool.py: error: ") and "--stop" in line and line.count("\n") == 1


def failing(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    "error, status, words",
    [
        (UserError("a.wav: is\n   empty"), 2, "a.wav: is empty"),
        (OSError(errno.ENOSPC, "", "x.arrow"), 2, "x.arrow: no space left on the disk"),
        (OSError(errno.ENOSPC, ""), 2, "no space left on the disk"),
        (OSError(errno.EDQUOT, "", "x.arrow"), 2, "x.arrow: no space left on the disk"),
        (PermissionError(errno.EACCES, "", "secret.wav"), 2, "secret.wav: permission denied"),
        (FileNotFoundError(errno.ENOENT, "", "labels.txt"), 2, "labels.txt: no such file or directory"),
        (FileExistsError(errno.EEXIST, "", "data"), 2, "data: is there already, and is no folder"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_status_and_line(monkeypatch, capsys, error, status, words):
    monkeypatch.setattr(sys, "argv", ["local/prepare.py"])
    with pytest.raises(SystemExit) as caught:
        runtime.run(failing(error))
    assert caught.value.code == status
    line = capsys.readouterr().err
    assert line.startswith("prepare.py: ") and words in line and line.count("\n") == 1


@pytest.mark.parametrize("line", ["a  b.wav: gone", "café 猫.wav"])
def test_a_line_is_left_as_it_is(line):
    assert runtime.one_line(line) == line and str(UserError(line)) == line


def test_a_text_becomes_a_line_that_no_terminal_obeys():
    assert str(UserError(" a\n  b\t\r\nc \x1b[31m\u202e\udcff ")) == r"a b c \x1b[31m\u202e\udcff"
    assert runtime.show("x\n" * 500) == ("x " * 50)[:100]


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("of no file")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        runtime.run(failing(error))


def test_a_main_that_ends_well_does_not_exit():
    assert runtime.run(lambda: None) is None


def test_the_log_goes_to_the_console_and_is_appended_to_a_file(tmp_path, capsys):
    file = tmp_path / "log" / "run.log"
    for run in (1, 2):
        runtime.start_log(file)
        runtime.log.info("run %d", run)
        runtime.log.log(runtime.EVAL, "accuracy")
    runtime.start_log(quiet=True)  # another rank: warnings alone
    runtime.log.info("of rank 1")
    runtime.log.warning("a warning")
    lines = file.read_text().splitlines()
    assert [line.rpartition(" - ")[2] for line in lines] == ["run 1", "accuracy", "run 2", "accuracy"]
    assert "[    EVAL]" in lines[1]
    out = capsys.readouterr().out
    assert "run 1" in out and "a warning" in out and "of rank 1" not in out
    runtime.log.handlers.clear()


def test_the_log_is_ours_alone():
    """Paddle shows INFO of all libraries, and matplotlib's is about fonts."""
    runtime.start_log()
    runtime.log.handlers.clear()
    assert not logging.getLogger("matplotlib.font_manager").isEnabledFor(logging.INFO)
    assert [logging.getLevelName(level) for level in (runtime.TRAIN, runtime.EVAL)] == ["TRAIN", "EVAL"]


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path):
    talk = "from paddletag import runtime\nruntime.run(lambda: [print(n) for n in range(100_000)])\n"
    (tmp_path / "talk.py").write_text(talk)
    command = f'set -o pipefail; "{sys.executable}" "{tmp_path / "talk.py"}" | head -n 1'
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "PYTHONPATH": str(LOCAL)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (141, "0\n", "")


@pytest.mark.parametrize("words", ["--top_k 5", "--top-k=5", "--top-k 7 --opts a b", "--top_k 5 -- --batch_size"])
def test_what_was_given_is_known_though_it_is_the_default(words):
    parser = Parser(prog="tool.py")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=5)
    parser.add_argument("--opts", nargs="*", default=[])
    args = parser.parse_args(words.split())
    assert args.given == {"top_k"} | ({"opts"} if "--opts" in words else set())
    assert args.files == (["--batch_size"] if "--" in words.split() else [])
    assert parser.parse_args([]).given == set()
    refuse(args, ["batch_size"], "there are no batches")
    with pytest.raises(UserError, match="^--top-k: nothing is printed$"):
        refuse(args, ["batch_size", "top_k"], "nothing is printed")


def test_after_two_hyphens_everything_is_left_as_it_is(parser):
    parser.add_argument("files", nargs="*")
    assert parser.parse_args(["--", "--stop_stage"]).files == ["--stop_stage"]


NASTY = "a\x1b]0;owned\x07\x1b[2Jb\nc\u202e\udcff猫.wav"
SAFE = r"a\x1b]0;owned\x07\x1b[2Jb\nc\u202e\udcff猫.wav"


def test_no_terminal_obeys_what_is_logged_or_printed(tmp_path, capsys):
    runtime.start_log(tmp_path / "run.log")
    runtime.log.info("%s: done", NASTY)
    runtime.log.warning("%s: left out", Path(NASTY))
    runtime.log.info(f"100 %: {NASTY}")
    runtime.log.info("found in %s:%s", NASTY, runtime.Lines([f"  rate  {NASTY}", "  format  wav"]))
    runtime.log.info("%d of %.1f", 1, 2.5)
    runtime.log.handlers.clear()
    runtime.say(f"  {NASTY}", "second")
    runtime.say("error", file=sys.stderr)
    printed = capsys.readouterr()
    expected = [f"{SAFE}: done", f"{SAFE}: left out", f"100 %: {SAFE}", f"found in {SAFE}:", f"  rate  {SAFE}"]
    expected += ["  format  wav", "1 of 2.5"]
    logged = [line.partition("] - ")[2] or line for line in printed.out.splitlines()]
    assert logged == [*expected, f"  {SAFE}", "second"] and printed.err == "error\n"
    assert [line.partition("] - ")[2] or line for line in (tmp_path / "run.log").read_text().splitlines()] == expected


def test_a_bar_and_a_wrong_option_are_no_escape_either(capsys, parser):
    with pytest.raises(SystemExit):
        parser.parse_args([NASTY])
    list(runtime.progress(range(3), desc=NASTY, disable=False, leave=True))
    text = capsys.readouterr().err
    assert r"unrecognized arguments: a\x1b]0;owned" in text and r"\x1b]0;owned" in text.partition("\n")[2]
    assert "\x07" not in text and "\x1b]" not in text and "\u202e" not in text


def test_a_command_is_one_line_that_a_shell_takes(monkeypatch):
    words = ["a b", "it's", "new\nline", "tab\t'\\n'", "\u202e", "plain"]
    monkeypatch.setattr(sys, "argv", ["tool.py", *words])
    monkeypatch.delenv("RECIPE_COMMAND", raising=False)
    line = runtime.command()
    assert line.isprintable()
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    script = f"set -- {line}\nshift 2\n'{sys.executable}' -c '{code}' \"$@\""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == words


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("0::/job", {"job/cpu.max": "150000 100000", "cpu.max": "max 100000"}, 2),  # version 2; parts of a core count
        ("0::/a/job", {"a/job/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, 1),  # the limit of a parent
        ("0::/job", {}, 64),
        ("4:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000"}, 3),
        ("4:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, 64),
        ("0::/job", {"job/cpu.max": "1000 100000"}, 1),
        ("no cgroup", {}, 64),
    ],
)
def test_cores_are_those_of_the_cgroup(tmp_path, monkeypatch, cgroup, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "own").write_text(cgroup + "\n")
    monkeypatch.setattr(runtime, "CGROUPS", (tmp_path, tmp_path / "own"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert runtime.cores() == cores
