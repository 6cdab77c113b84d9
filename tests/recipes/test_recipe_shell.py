"""utils/recipe.sh under examples/esc50/run.sh, with stubs for the Python scripts: what is run, where and how."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

SCRIPTS = (
    "prepare", "extract_features", "train", "train_classic", "evaluate", "summarize", "audio_tag", "parse_result"
)  # fmt: skip
STUB = """
import json, os, sys, time
name, words = os.path.basename(sys.argv[0])[:-3], sys.argv[1:]
fold = words[words.index("--fold") + 1] if "--fold" in words else "-"
keys = "CUDA_VISIBLE_DEVICES OMP_NUM_THREADS RECIPE_CALLER RECIPE_COMMAND PADDLETAG_PROGRESS PADDLE_TRAINERS_NUM"
call = {"name": name, "argv": words, "cwd": os.getcwd(), "env": {key: os.environ.get(key) for key in keys.split()}}
record = f"{os.environ['RECORDS']}/{time.time_ns()}"
with open(record, "w") as file:
    json.dump({**call, "began": time.time()}, file)
os.rename(record, record + ".json")  # a test may be looking
print(name, "says", fold)
behaviour = json.loads(os.environ.get("BEHAVIOUR", "{}")).get(f"{name} {fold}", {})
time.sleep(behaviour.get("sleep", 0))
if behaviour.get("line"):
    print(behaviour["line"], file=sys.stderr)
sys.exit(behaviour.get("status", 0))
"""


class Recipe:
    def __init__(self, folder):
        self.root = folder / "a clone"
        self.folder = self.root / "examples" / "x"
        self.user = folder / "the user"
        self.records = folder / "records"
        for path in (self.folder / "conf", self.root / "utils", self.root / "local", self.user, self.records):
            path.mkdir(parents=True)
        shutil.copy(ROOT / "examples/esc50/run.sh", self.folder)
        shutil.copy(ROOT / "utils/recipe.sh", self.root / "utils")
        for name in SCRIPTS:
            (self.root / "local" / f"{name}.py").write_text(STUB)
        (self.folder / "conf" / "mn04.yaml").write_text("")

    def start(self, *options, behaviour=None, cwd=None, **env):
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE", "OMP_", "CUDA_", "RECIPE_"))}
        env = {**inherited, "PYTHON": sys.executable, "RECORDS": str(self.records), **env}
        env["BEHAVIOUR"] = json.dumps(behaviour or {})
        command = ["bash", os.path.relpath(self.folder / "run.sh", cwd or self.user), *options]
        kinds = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=cwd or self.user, env=env, **kinds)

    def run(self, *options, **kwargs):
        process = self.start(*options, **kwargs)
        process.stdout, process.stderr, process.returncode = *process.communicate(timeout=30), process.returncode
        return process

    def calls(self):
        return [json.loads(path.read_text()) for path in sorted(self.records.glob("*.json"))]

    def names(self):
        return [call["name"] for call in self.calls()]


@pytest.fixture
def recipe(tmp_path):
    return Recipe(tmp_path)


def option(call, name):
    return call["argv"][call["argv"].index(name) + 1]


def test_all_stages_in_order_with_their_arguments(recipe):
    done = recipe.run("--folds", "1 2", "--jobs", "1", "--opts", "train.epochs 2  train.lr 1e-3")
    assert (done.returncode, done.stderr) == (0, "")
    calls = recipe.calls()
    assert [call["name"] for call in calls] == [
        *(
            "prepare",
            "extract_features",
            "train",
            "evaluate",
            "train",
            "evaluate",
            "summarize",
            "audio_tag",
            "parse_result",
        )
    ]
    prepare, extract, train, evaluate, train2, _, summarize, tag, _ = calls
    opts = ["--opts", "train.epochs", "2", "train.lr", "1e-3"]
    data, exp = str(recipe.folder / "data"), str(recipe.folder / "exp" / "mn04")
    assert prepare["argv"] == ["--config", "conf/mn04.yaml", "--raw", "", "--data", data, *opts]
    assert extract["argv"] == ["--config", "conf/mn04.yaml", "--data", data, *opts]
    words = ["--config", "conf/mn04.yaml", "--data", data, "--fold", "1", "--exp", f"{exp}/fold1"]
    assert train["argv"] == [*words, "--extend", "false", "--device", "cpu", *opts]
    assert option(train2, "--exp") == f"{exp}/fold2"
    assert option(evaluate, "--model") == option(tag, "--model") == f"{exp}/fold1"
    assert summarize["argv"][:5] == ["--exp", exp, "--folds", "1", "2"]
    assert shlex.split(train["env"]["RECIPE_COMMAND"])[2:5] == ["--folds", "1 2", "--jobs"]
    assert {call["cwd"] for call in calls} == {str(recipe.folder)}
    assert {call["env"]["RECIPE_CALLER"] for call in calls} == {str(recipe.user)}
    assert {call["env"]["OMP_NUM_THREADS"] for call in calls} == {"1"}
    headers = [line for line in done.stdout.splitlines() if line.startswith("==")]
    assert headers[:3] == ["== stage 0: prepare", "== stage 1: features", "== stage 2: train (fold 1)"]
    assert len(headers) == 9


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_every_fold_with_every_seed(recipe, jobs):
    words = ("--folds", "1 2", "--seeds", "0 7", "--jobs", jobs, "--stage", "2", "--tta", "3", "--extend", "true")
    done = recipe.run(*words, "--opts", "train.lr 1")
    assert done.returncode == 0, done.stderr
    calls, exp = recipe.calls(), recipe.folder / "exp" / "mn04"
    trained = {option(call, "--exp"): call["argv"] for call in calls if call["name"] == "train"}
    assert set(trained) == {f"{exp}/seed{seed}/fold{fold}" for seed in (0, 7) for fold in (1, 2)}
    for path, argv in trained.items():
        seed, fold = path[len(f"{exp}/seed")], path[-1]
        assert argv[argv.index("--fold") + 1] == fold and argv[argv.index("--extend") + 1] == "true"
        assert argv[argv.index("--opts") :] == ["--opts", "train.lr", "1", "train.seed", seed]
    evaluated = [call for call in calls if call["name"] == "evaluate"]
    assert {option(call, "--model") for call in evaluated} == set(trained)
    assert {option(call, "--tta") for call in evaluated} == {"3"}
    (summary,) = (call for call in calls if call["name"] == "summarize")
    assert summary["argv"] == ["--exp", str(exp), "--folds", "1", "2", "--seeds", "0", "7", "--tta", "3"]
    (tag,) = (call for call in calls if call["name"] == "audio_tag")
    assert option(tag, "--model") == f"{exp}/seed0/fold1"
    assert "seed 7, fold 2" in done.stdout


@pytest.mark.parametrize("flag", [["--extend"], ["--extend", "true"], ["--extend=true"], ["--extend", "--nproc=1"]])
def test_lists_with_commas_and_flags_without_a_value(recipe, flag):
    done = recipe.run("--stage=2", *flag, "--stop-stage=3", "--folds", "1,2", "--seeds=0,7", "--exp", "e")
    assert done.returncode == 0, done.stderr
    trained = [call for call in recipe.calls() if call["name"] == "train"]
    assert {option(call, "--extend") for call in trained} == {"true"} and len(trained) == 4
    (summary,) = (call["argv"] for call in recipe.calls() if call["name"] == "summarize")
    assert summary[2:8] == ["--folds", "1", "2", "--seeds", "0", "7"]


def test_settings_given_twice_all_count(recipe):
    done = recipe.run("--stage=2", "--stop-stage=2", "--folds=1", "--opts", "train.lr 1", "--opts=train.epochs 2")
    assert done.returncode == 0, done.stderr
    (call,) = recipe.calls()
    assert call["argv"][call["argv"].index("--opts") + 1 :] == ["train.lr", "1", "train.epochs", "2"]


def test_the_split_test(recipe):
    done = recipe.run("--folds", "test", "--seeds", "0 3", "--jobs", "2", "--stage", "2", "--exp", "e")
    assert done.returncode == 0, done.stderr
    calls, exp = recipe.calls(), recipe.user / "e"
    trained = [call for call in calls if call["name"] == "train"]
    assert {option(call, "--fold") for call in trained} == {"test"}
    assert {option(call, "--exp") for call in trained} == {f"{exp}/seed0/test", f"{exp}/seed3/test"}
    (summary,) = (call for call in calls if call["name"] == "summarize")
    assert summary["argv"] == ["--exp", str(exp), "--folds", "test", "--seeds", "0", "3", "--tta", "1"]
    assert "seed 3, test | == stage 2: train (seed 3, test)" in done.stdout.splitlines()


def test_the_config_chooses_the_trainer(recipe):
    (recipe.folder / "conf" / "knn.yaml").write_text("data: {}\nclassic:\n  classifier: knn\n")
    (recipe.user / "probe.yaml").write_text("# classic:\ndata: {classic: 1}\n")
    only = ("--stage=2", "--stop-stage=2", "--folds", "1")
    for config in ("conf/mn04.yaml", "conf/knn.yaml", "probe.yaml"):
        assert recipe.run(*only, "--config", config).returncode == 0
    assert recipe.names() == ["train", "train_classic", "train"]
    first, second, _ = (call["argv"] for call in recipe.calls())
    assert [word.replace("knn", "mn04") for word in second] == first


def test_what_stage_5_parses(recipe):
    (recipe.user / "clips").mkdir()
    (recipe.user / "a.b.wav").write_text("")
    for words in ((), ("--wav", "a.b.wav"), ("--wav", "clips"), ("--wav", "clips/")):
        assert recipe.run("--stage=5", "--exp", "e", *words).returncode == 0
    tagging = f"{recipe.user}/e/tagging/"
    files = [option(call, "--tagging_file") for call in recipe.calls()]
    assert files == [tagging, f"{tagging}a.b.npz", tagging, tagging]


@pytest.mark.parametrize(
    "spelling",
    [
        ["--stop-stage", "1"],
        ["--stop_stage", "1"],
        ["--stop-stage=1"],
        ["--stop_stage=1"],
        ["--stop-stage", "4", "--stop-stage", "1"],
    ],
)
def test_spellings_of_an_option(recipe, spelling):
    done = recipe.run("--stage=1", *spelling)
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["== stage 1: features", "extract_features says -"]
    assert recipe.names() == ["extract_features"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--foo", "1"], ["unknown option", "--foo"]),
        (["--stop-stge", "1"], ["unknown option", "--stop-stge", "--stop-stage"]),
        (["--flods=1"], ["unknown option", "--flods", "--folds"]),
        (["--rwa", "x"], ["unknown option", "--rwa", "--raw"]),
        (["--stage"], ["--stage", "needs a value"]),
        (["--wav", "--stage=1"], ["--wav", "needs a value"]),
        (["5"], ["unexpected", "5"]),
        (["--stage", "6"], ["--stage 6", "0 to 5"]),
        (["--stage", "two"], ["--stage two", "0 to 5"]),
        (["--stop-stage=-1"], ["--stop-stage -1", "0 to 5"]),
        (["--stage", "3", "--stop-stage", "2"], ["--stage 3", "--stop-stage 2"]),
        (["--dry-run", "perhaps"], ["--dry-run perhaps"]),
        (["--folds", "1;2"], ["--folds 1;2"]),
        (["--folds", "1,2,1"], ["--folds", "twice"]),
        (["--folds", ","], ["--folds"]),
        (["--seeds", ","], ["--seeds"]),
        (["--folds", "1 2 1"], ["--folds", "twice"]),
        (["--folds", ""], ["--folds"]),
        (["--folds", "1 test"], ["--folds 1 test", "the word test"]),
        (["--folds", "valid"], ["--folds valid", "the word test"]),
        (["--seeds", "test"], ["--seeds test", "not numbers"]),
        (["--opts", "train.lr"], ["--opts train.lr", "pairs"]),
        (["--gpus", "0", "--nproc", "2"], ["--gpus 0", "--nproc 2"]),
        (["--gpus", "0;1"], ["--gpus 0;1"]),
        (["--gpus", "0,1,0"], ["--gpus 0,1,0", "twice"]),
        (["--nproc", "0"], ["--nproc 0"]),
        (["--jobs", "many"], ["--jobs many"]),
        (["--nnodes", "2"], ["--nnodes 2", "--master"]),
        (["--nnodes", "2", "--master", "host"], ["--master", "host"]),
        (["--nnodes", "2", "--master", "host:65536"], ["--master", "host:65536"]),
        (["--nnodes", "2", "--master", "h:1", "--node-wait", "0"], ["--node-wait 0"]),
        (["--nnodes", "2", "--master", "h:1", "--node-rank", "2"], ["--node-rank 2"]),
        (["--node-rank", "1"], ["--node-rank 1"]),
        (["--nnodes", "2", "--master", "h:1", "--jobs", "2"], ["--jobs 2"]),
        (["--master", "h:1"], ["--master h:1", "--nnodes"]),
        (["--raw", "/nowhere/at all"], ["--raw /nowhere/at all"]),
        (["--stage", "a[$(touch hit)]"], ["--stage"]),
        (["--a[$(touch hit)]", "1"], ["unknown option"]),
    ],
)
def test_a_wrong_option_is_one_line(recipe, options, words):
    done = recipe.run(*options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("run.sh: error: ") and done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert recipe.calls() == []
    assert not list(recipe.root.rglob("hit"))


def test_values_are_not_evaluated(recipe):
    done = recipe.run("--stage=0", "--stop-stage=0", "--exp", "$(touch hit)`touch hit` *", "--data", "a; touch hit")
    assert done.returncode == 0
    assert option(recipe.calls()[0], "--data") == str(recipe.user / "a; touch hit")
    assert not list(recipe.root.parent.rglob("hit"))


def test_help_shows_the_header_and_the_defaults(recipe):
    done = recipe.run("--stage", "9", "--help")
    assert (done.returncode, recipe.calls()) == (0, [])
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ESC-50")
    assert not any("shellcheck" in line or line.startswith("#") for line in lines)
    options = {line.split()[0]: line.rsplit(" [", 1)[1][:-1] for line in lines if line.startswith("  --")}
    assert options["--stage"] == "0" and options["--stop-stage"] == "5" and options["--folds"] == "1 2 3 4 5"
    assert options["--config"] == "conf/mn04.yaml" and options["--dry-run"] == "false" and options["--gpus"] == ""
    assert "first stage" in done.stdout


def test_paths_mean_what_they_mean_to_the_user(recipe):
    (recipe.user / "my raw").mkdir()
    (recipe.folder / "data" / "raw").mkdir(parents=True)
    only = ("--stage=0", "--stop-stage=0")
    recipe.run(*only, "--raw", "my raw", "--data", "my data", "--config", "conf/mn04.yaml")
    recipe.run(*only, "--raw", "data/raw")
    recipe.run(*only, cwd=recipe.folder)
    (recipe.user / "conf").mkdir()
    (recipe.user / "conf" / "mn04.yaml").write_text("")
    recipe.run(*only, "--config", "conf/mn04.yaml")
    recipe.run(
        "--stage=4", "--stop-stage=4", "--config", "conf/mn04.yaml", "--exp", "out put", "--wav", "conf/mn04.yaml"
    )
    first, second, third, fourth, tag = recipe.calls()
    assert option(first, "--raw") == str(recipe.user / "my raw")
    assert option(first, "--data") == str(recipe.user / "my data")
    assert option(first, "--config") == "conf/mn04.yaml"
    assert option(second, "--raw") == "data/raw"
    assert option(third, "--data") == str(recipe.folder / "data") and third["cwd"] == str(recipe.folder)
    assert option(fourth, "--config") == str(recipe.user / "conf/mn04.yaml")  # the user's place comes first
    assert option(tag, "--model") == str(recipe.user / "out put" / "fold1")
    assert option(tag, "--wav") == str(recipe.user / "conf/mn04.yaml")


def test_a_missing_config_names_both_places(recipe):
    done = recipe.run("--config", "conf/none.yaml")
    assert done.returncode == 2
    assert str(recipe.user) in done.stderr and str(recipe.folder) in done.stderr and "conf/none.yaml" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_dry_run_prints_what_a_run_does(recipe):
    options = ("--folds", "1 2", "--jobs", "1", "--data", "my data", "--stop-stage", "4")
    dry = recipe.run(*options, "--dry-run", "true")
    assert (dry.returncode, dry.stderr, recipe.calls()) == (0, "", [])
    assert not (recipe.folder / "exp").exists()
    env = {**os.environ, "RECORDS": str(recipe.records)}
    subprocess.run(["bash", "-e"], input=dry.stdout, text=True, env=env, check=True, cwd="/", capture_output=True)
    pasted = recipe.calls()
    for path in recipe.records.iterdir():
        path.unlink()
    recipe.run(*options)
    real = recipe.calls()
    for call in pasted + real:
        del call["began"], call["env"]["PADDLE_TRAINERS_NUM"], call["env"]["RECIPE_COMMAND"]
    assert pasted == real


def test_one_gpu_is_one_process_and_several_are_launched(recipe):
    recipe.run("--gpus", "3", "--stage", "2", "--stop-stage", "2", "--folds", "1")
    call = recipe.calls()[0]
    assert option(call, "--device") == "gpu"
    assert call["env"]["CUDA_VISIBLE_DEVICES"] == "3" and call["env"]["OMP_NUM_THREADS"] == "1"
    two = recipe.run("--gpus", "0,3", "--stage", "2", "--stop-stage", "2", "--folds", "1", "--dry-run", "true").stdout
    assert "export CUDA_VISIBLE_DEVICES=0,3\n" in two
    command = shlex.split(two.splitlines()[-1])
    assert command[1:5] == ["-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    assert command[command.index("--device") + 1] == "gpu" and "--master" not in command


def test_other_nodes_only_launch(recipe):
    options = ("--nnodes", "2", "--master", "10.0.0.1:8000", "--nproc", "4", "--folds", "1", "--dry-run", "true")
    zero, one = (recipe.run(*options, "--node-rank", rank).stdout.splitlines() for rank in "01")
    assert [line for line in one if "launch" not in line][-3:] == [
        *("# stage 1: features", "# stage 2: train (fold 1)", "# stage 3: evaluate (fold 1)")
    ]
    assert sum(line.startswith("#") for line in zero) == 7
    train = shlex.split(next(line for line in one if "train.py" in line))
    for name, value in {"--nnodes": "2", "--rank": "1", "--master": "10.0.0.1:8000", "--nproc_per_node": "4"}.items():
        assert train[train.index(name) + 1] == value
    ids = [shlex.split(next(line for line in lines if "train.py" in line)) for lines in (zero, one)]
    assert len({words[words.index("--job_id") + 1] for words in ids}) == 1  # nodes meet under one name
    assert len({words[words.index("--log_dir") + 1] for words in ids}) == 2  # and share a file system


def test_more_processes_than_cores_are_slower(recipe):
    cores = len(os.sched_getaffinity(0))
    for processes, lines in ((cores, 0), (cores + 1, 1)):
        done = recipe.run("--stage=1", "--stop-stage=1", "--nproc", str(processes), "--dry-run", "true")
        assert done.returncode == 0 and done.stderr.count("\n") == lines
    assert done.stderr.startswith(f"run.sh: --nproc {cores + 1}: ") and f"on {cores} cores" in done.stderr


def test_a_scheduler_s_rank_is_not_ours(recipe):
    recipe.run("--stage=1", "--stop-stage=1", PADDLE_TRAINERS_NUM="8", PADDLE_TRAINER_ID="3")
    assert recipe.calls()[0]["env"]["PADDLE_TRAINERS_NUM"] is None


def test_folds_side_by_side(recipe):
    slow = {f"train {fold}": {"sleep": 0.8} for fold in (1, 2, 3)}
    done = recipe.run("--stage=2", "--stop-stage=3", "--folds", "1 2 3", "--jobs", "2", behaviour=slow)
    assert (done.returncode, done.stderr) == (0, "")
    calls = recipe.calls()
    began = {option(call, "--fold"): call["began"] for call in calls if call["name"] == "train"}
    assert abs(began["1"] - began["2"]) < 0.7 and began["3"] - min(began["1"], began["2"]) > 0.7
    assert sorted(call["name"] for call in calls) == ["evaluate"] * 3 + ["summarize"] + ["train"] * 3
    assert calls[-1]["name"] == "summarize"
    assert {call["env"]["PADDLETAG_PROGRESS"] for call in calls[:-1]} == {"0"}
    lines = done.stdout.splitlines()
    for fold in "123":
        mine = [line.removeprefix(f"fold {fold} | ") for line in lines if line.startswith(f"fold {fold} | ")]
        assert mine == [
            *(f"== stage 2: train (fold {fold})", f"train says {fold}"),
            *(f"== stage 3: evaluate (fold {fold})", "evaluate says -"),
        ]


def test_folds_share_the_gpus(recipe):
    """One GPU for each of four folds; the fifth takes that of the first that ends. What comes after has them all."""
    slow = {f"train {fold}": {"sleep": 0.3 if fold == 3 else 1.2} for fold in range(1, 6)}
    done = recipe.run("--stage=2", "--stop-stage=4", "--gpus", "0,2,4,6", "--jobs", "4", behaviour=slow)
    assert (done.returncode, done.stderr) == (0, "")
    given = {}
    for call in recipe.calls():
        gpus = call["env"]["CUDA_VISIBLE_DEVICES"]
        if call["name"] in ("train", "evaluate"):
            fold = option(call, "--fold") if call["name"] == "train" else option(call, "--model")[-1]
            given.setdefault(fold, set()).add(gpus)
            assert option(call, "--device") == "gpu" and call["env"]["OMP_NUM_THREADS"] == "1"
        else:
            assert gpus == "0,2,4,6"
    assert given == {"1": {"0"}, "2": {"2"}, "3": {"4"}, "4": {"6"}, "5": {"4"}}


def test_shares_of_several_gpus(recipe):
    words = ("--stage", "2", "--stop-stage", "2", "--gpus", "4,5,6,7", "--dry-run", "true", "--folds", "1 2 3")
    text = recipe.run(*words, "--jobs", "2").stdout
    shares = [line.split("=")[1] for line in text.splitlines() if "CUDA_VISIBLE_DEVICES" in line]
    assert shares == ["4,5,6,7", "4,5", "6,7", "4,5", "4,5,6,7"] and text.count("--nproc_per_node 2 ") == 3
    alone = recipe.run(*words[:-1], "1", "--jobs", "4").stdout  # a fold has the share that it has among others
    assert "CUDA_VISIBLE_DEVICES=4\n" in alone and "launch" not in alone
    done = recipe.run(*words, "--jobs", "3")
    assert done.returncode == 2 and "--jobs 3" in done.stderr and "4 GPUs" in done.stderr


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_user_s_mistake_in_a_fold_ends_the_run_with_its_line(recipe, jobs):
    behaviour = {"train 1": {"status": 2, "line": "train.py: error: no"}, "train 2": {"sleep": 25}}
    before = time.monotonic()
    done = recipe.run("--stage=2", "--stop-stage=3", "--folds", "1 2 3", "--jobs", jobs, behaviour=behaviour)
    assert time.monotonic() - before < 10
    assert done.returncode == 2
    lines = (done.stdout + done.stderr).splitlines()
    assert [line.removeprefix("fold 1 | ") for line in lines if "error" in line] == ["train.py: error: no"]
    assert not any("failed" in line for line in lines)
    assert "evaluate" not in recipe.names() and "summarize" not in recipe.names()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_any_other_failure_names_its_stage(recipe, jobs):
    done = recipe.run("--stage=2", "--folds", "4 5", "--jobs", jobs, behaviour={"train 4": {"status": 7}})
    assert done.returncode == 7
    assert "run.sh: stage 2: train (fold 4) failed (exit status 7)" in done.stdout + done.stderr


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything(recipe, jobs, number):
    behaviour = {f"train {fold}": {"sleep": 25} for fold in (1, 2)}
    process = recipe.start("--stage=2", "--folds", "1 2", "--jobs", jobs, behaviour=behaviour)
    end = time.monotonic() + 10
    while len(recipe.names()) < int(jobs) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(number)
    process.communicate(timeout=9)
    assert process.returncode == 128 + number
    assert [name for name in recipe.names() if name != "train"] == []
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(recipe.root) not in running


def test_not_installed_yet(recipe, tmp_path):
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "python3").write_text("#!/bin/sh\nexit 1\n")
    (bare / "python3").chmod(0o755)
    done = recipe.run(PYTHON="", PATH=f"{bare}:{os.environ['PATH']}")
    assert done.returncode == 2
    assert "bash " in done.stderr and "tools/install.sh" in done.stderr and done.stderr.count("\n") == 1


def test_the_venv_of_the_clone_is_used(recipe):
    venv = recipe.root / ".venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").symlink_to(sys.executable)
    dry = recipe.run("--stage=0", "--stop-stage=0", "--dry-run=true", PYTHON="").stdout
    assert shlex.split(dry.splitlines()[-1])[0] == str(venv / "python")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck():
    files = [ROOT / "utils/recipe.sh", *sorted(ROOT.glob("examples/*/run.sh"))]
    done = subprocess.run(["shellcheck", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
