"""The recipes as a family: each from its own run.sh on toy data, one shell for all, and a new one in a minute."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from paddletag import config
from paddletag.data import layouts, manifest
from paddletag.data.splits import parse_fold, split_of
from test_recipes import recipe

EXAMPLES = ROOT / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/run.sh"))
MN = "model.name mn02_as model.weights none train.batch_size 8 train.workers 0 train.log_freq 1 "  # within seconds


def make(folder, *options):
    command = [sys.executable, str(ROOT / "tools" / "make_toy_dataset.py"), "--out", str(folder), *map(str, options)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def finished(folder, place, task):
    """The metrics of a run in `folder`/e, whose every result must be there and agree with the others."""
    model = folder / "e" / place
    metrics, meta = (json.loads((model / name).read_text()) for name in ("metrics.json", "model.json"))
    labels = (folder / "d" / "labels.txt").read_text().splitlines()
    assert meta["labels"] == labels and meta["task"] == task
    with np.load(model / "scores.npz") as arrays:
        ids, scores, targets = arrays["ids"].tolist(), arrays["scores"], arrays["targets"]
    split = parse_fold(place.removeprefix("fold"))
    records = {record["id"]: record for record in manifest.read(folder / "d")[0]}
    assert sorted(ids) == sorted(clip_id for clip_id, record in records.items() if split_of(record) == split)
    assert metrics["n"] == len(ids) > 0
    for clip_id, target in zip(ids, targets, strict=True):
        assert {labels[n] for n in np.flatnonzero(target)} == set(records[clip_id]["labels"])
    assert np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1
    if task == "single_label":
        np.testing.assert_allclose(scores.sum(1), 1, atol=1e-4)
        assert metrics["accuracy"] == pytest.approx(np.mean(scores.argmax(1) == targets.argmax(1)))
    else:
        assert 0 < metrics["mAP"] <= 1
    losses = re.findall(r"loss=(\S+)", (model / "train.log").read_text())
    assert losses and np.isfinite(np.array(losses, float)).all()
    assert "# Results: e" in (folder / "e" / "RESULTS.md").read_text()
    (tagged,) = (folder / "e" / "tagging").glob("*.npz")
    assert any(tagged.stem == Path(records[clip_id]["audio"]).stem for clip_id in ids)  # a clip that was held out
    best = tagged.with_suffix(".txt").read_text().splitlines()[1].rpartition(":")[0]
    with np.load(tagged) as arrays:
        assert best == arrays["labels"][arrays["scores"][0].argmax()]
    return metrics


# Clips are fewer and shorter than by default, and the epochs two: that every stage fits the next is what is tested.
RUNS = {
    "gtzan": ("gtzan", "conf/toy.yaml", "test", ("--layout", "gtzan", "--clips-per-class", 4, "--seconds", 7), ""),
    "gtzan in folds": (
        *("gtzan", "conf/mn04_10fold.yaml", "fold2", ("--layout", "gtzan", "--clips-per-class", 10, "--seconds", 2)),
        MN + "data.clip_seconds 2",
    ),
    "music_speech": (
        *("music_speech", "conf/toy.yaml", "fold1", ("--layout", "music_speech", "--clips-per-class", 10)),
        "train.batch_size 8",
    ),
    "tess": ("tess", "conf/toy.yaml", "fold1", ("--layout", "tess", "--clips-per-class", 10), ""),
    "tess by speaker": (
        *("tess", "conf/mn04_speaker.yaml", "fold2", ("--layout", "tess", "--clips-per-class", 10)),
        MN,
    ),
    "mixtures": ("audioset_tagging", "conf/toy.yaml", "fold1", ("--multi-label", "--clips-per-class", 10), ""),
    "audioset": (
        *("audioset_tagging", "conf/mn04_balanced.yaml", "test", ("--layout", "audioset", "--clips-per-class", 10)),
        MN + "data.clip_seconds 2 train.warmup_epochs 1 train.hold_epochs 0",
    ),
}


SECOND = ("gtzan in folds", "tess by speaker", "mixtures")  # other ways to run a recipe that is among the rest


@pytest.mark.parametrize("run", [pytest.param(run, marks=[pytest.mark.full] * (run in SECOND)) for run in RUNS])
def test_all_stages_on_toy_data(run, tmp_path):
    name, conf, place, toy, opts = RUNS[run]
    make(tmp_path / "toy", *toy)
    done = recipe(
        name, "--config", conf, "--raw", "toy", "--data", "d", "--exp", "e", "--folds", place.removeprefix("fold"),
        "--opts", f"{opts} train.epochs 2", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    finished(tmp_path, place, config.load(EXAMPLES / name / conf).task)


@pytest.mark.parametrize(
    "conf", ["embeddings", *(pytest.param(name, marks=pytest.mark.full) for name in ("knn", "svm", "forest"))]
)
def test_classic_baselines_with_two_processes(conf, tmp_path):
    """Features and evaluation are launched on two, and the fit is one process between them."""
    make(tmp_path / "toy", "--clips-per-class", 10)
    opts = "data.clip_seconds 2 model.name mn01_as model.weights none features.shard_size 20"
    done = recipe(
        "esc50", "--config", f"conf/classic_{conf}.yaml", "--raw", "toy", "--data", "d", "--exp", "e", "--folds", "1",
        "--nproc", 2, "--stop-stage", 3, "--opts", opts, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "e/fold1/metrics.json").read_text())
    assert metrics["n"] == 24 and 0 <= metrics["accuracy"] <= 1
    assert json.loads((tmp_path / "e/fold1/model.json").read_text())["run"]["processes"] == 1


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "place", "toy", "key", "lowest"),
    [
        ("gtzan", "test", ("--layout", "gtzan"), "accuracy", 0.6),
        ("music_speech", "fold1", ("--layout", "music_speech"), "accuracy", 0.85),
        ("tess", "fold1", ("--layout", "tess"), "accuracy", 0.85),
        ("audioset_tagging", "fold1", ("--multi-label",), "mAP", 0.8),
    ],
)
def test_what_toys_are_learnt_to(name, place, toy, key, lowest, tmp_path):
    """The toy configs as they are, from random weights, on the whole toy data sets."""
    make(tmp_path / "toy", *toy)
    options = ("--config", "conf/toy.yaml", "--raw", "toy", "--data", "d", "--exp", "e")
    done = recipe(name, *options, "--folds", place.removeprefix("fold"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    task = "multi_label" if key == "mAP" else "single_label"
    assert finished(tmp_path, place, task)[key] >= lowest
    assert json.loads((tmp_path / "e" / place / "model.json").read_text())["trained"]["seconds"] < 180


# ------------------------------------------------------------------------------------------ what the recipes consist of


def shell(path):
    """(the names of a run.sh's defaults, what is left of it without them and without comments)."""
    defaults, rest = [], []
    for line in path.read_text().splitlines():
        code = re.sub(r"(^|\s+)#.*", "", line)
        default = re.fullmatch(r'([a-z_]+)=("[^"$]*"|[^$"\s]*)', code)
        if default and not rest[1:]:  # above the line that sources recipe.sh
            defaults.append(default[1])
        elif code:
            rest.append(code)
    return defaults, rest


def test_shell_differs_in_defaults_and_comments_alone():
    assert {"audioset_tagging", "esc10", "esc50", "gtzan", "music_speech", "tess"} <= set(NAMES)
    first = shell(EXAMPLES / "esc50" / "run.sh")
    assert first[0] == ["stage", "stop_stage", "config", "raw", "folds", "wav"]
    assert first[1][:2] == ['cd "$(dirname "$0")" || exit', ". ../../utils/recipe.sh"] and len(first[1]) > 10
    for name in NAMES:
        assert shell(EXAMPLES / name / "run.sh") == first, name


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_shell_yaml_and_text(name):
    """No Python; a default config that is there; what the READMEs name is there."""
    folder = EXAMPLES / name
    made = (folder / "data", folder / "exp", folder / "clips")  # by runs; and sound
    files = [path for path in folder.rglob("*") if path.is_file() and not set(made) & set(path.parents)]
    assert {path.suffix for path in files} <= {".md", ".sh", ".yaml", ".txt"}
    assert [path.name for path in files if path.suffix == ".sh"] == ["run.sh"]
    conf = re.search(r"^config=(\S+)", (folder / "run.sh").read_text(), re.M)[1]
    configs = {path.relative_to(folder).as_posix() for path in (folder / "conf").iterdir()}
    assert conf in configs
    for path in configs:
        config.load(folder / path)
    for readme in ("README.md", "README_cn.md"):
        text = (folder / readme).read_text(encoding="utf-8")
        named = set(re.findall(r"conf/\w+\.yaml", text))
        assert conf in named and named <= configs, readme
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", text):
            assert (folder / link).exists(), f"{readme}: {link}"


def touch(folder, names):
    """Empty files: which clips there are, and what their names tell, is read without their sound."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def read(name, conf, raw):
    path = EXAMPLES / name / "conf" / f"{conf}.yaml"
    return layouts.read(config.load(path), raw, path.parent)


GENRES = "blues classical country disco hiphop jazz metal pop reggae rock".split()


@pytest.mark.parametrize("spelling", ["genres/{0}/{0}.{1:05d}.au", "genres_original/{0}/{0}.{1:05d}.wav"])
def test_gtzans_fault_filtered_split(spelling, tmp_path):
    raw = touch(tmp_path, [spelling.format(genre, n) for genre in GENRES for n in range(100)])
    for conf in ("mn04", "mn10", "panns_cnn14"):
        records, labels = read("gtzan", conf, raw)
        assert labels == GENRES
        assert Counter(record["split"] for record in records) == {"train": 443, "valid": 197, "test": 290}
        assert all(record["id"].startswith(record["labels"][0] + ".") for record in records)
        manifest.check(records, labels)
    records, _ = read("gtzan", "mn04_10fold", raw)
    shares = Counter((record["fold"], record["labels"][0]) for record in records)
    assert len(shares) == 100 and set(shares.values()) == {10}


@pytest.mark.parametrize("folder", ["", "{0}_{2}/"])
def test_tess_with_its_misspelt_name(folder, tmp_path):
    """OA_bite_neutral is of speaker OAF: held out with her, and with the other recordings of its word."""
    spelling = folder + "{0}_{1}_{2}.wav"
    names = [
        spelling.format(speaker, word, emotion)
        for speaker in ("OAF", "YAF") for word in ("back", "bar", "bite", "base", "bath")
        for emotion in ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad")
    ]  # fmt: skip
    names = [name.replace("OAF_bite_neutral", "OA_bite_neutral") for name in names]
    raw = touch(tmp_path, names)
    records, labels = read("tess", "mn04_speaker", raw)
    assert len(records) == 70 and len(labels) == 7
    assert {(record["fold"], record["id"][:2]) for record in records} == {(1, "OA"), (2, "YA")}
    records, _ = read("tess", "mn04", raw)
    folds = {(record["group"], record["fold"]) for record in records}
    assert len(records) == 70 and len(folds) == 5 and {fold for _, fold in folds} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("folder", ["{}_wav", "{}"])
def test_music_and_speech(folder, tmp_path):
    raw = touch(tmp_path, [f"{folder.format(kind)}/{kind}{n}.wav" for kind in ("music", "speech") for n in range(64)])
    records, labels = read("music_speech", "mn04", raw)
    shares = Counter((record["fold"], record["labels"][0]) for record in records)
    assert labels == ["music", "speech"] and sum(shares.values()) == 128 and set(shares.values()) <= {12, 13}


def test_audiosets_sets(tmp_path):
    """The balanced configs train on one CSV, the full ones on both; class indices give the order of the labels."""
    (tmp_path / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/b,B\n1,/m/a,A\n")
    head = "# Segments csv\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"
    for number, name in enumerate(("balanced_train", "unbalanced_train", "eval")):
        row = f'{"abcdefghij"}{number}, 30.000, 40.000, "/m/a,/m/b"\n'
        (tmp_path / f"{name}_segments.csv").write_text(head + row)
    touch(tmp_path / "audio", [f"Yabcdefghij{number}.wav" for number in range(3)])
    for path in sorted((EXAMPLES / "audioset_tagging" / "conf").glob("*_*.yaml")):
        records, labels = read("audioset_tagging", path.stem, tmp_path)
        assert labels == ["B", "A"]
        ids = {split: {r["id"] for r in records if r["split"] == split} for split in ("train", "test")}
        assert ids["test"] == {"abcdefghij2"}
        assert len(ids["train"]) == {"balanced": 1, "full": 2}[path.stem.rpartition("_")[2]]


# --------------------------------------------------------------------------------------------------------- a new recipe


@pytest.fixture
def clone(tmp_path):
    """A folder like the project's, in which recipes may be made."""
    root = tmp_path / "a clone"
    shutil.copytree(ROOT / "utils", root / "utils")
    for name in ("esc50", "gtzan"):
        (root / "examples" / name).mkdir(parents=True)
        shutil.copy(EXAMPLES / name / "run.sh", root / "examples" / name)
        shutil.copytree(EXAMPLES / name / "conf", root / "examples" / name / "conf")
    (root / "local").symlink_to(ROOT / "local")
    return root


def new_recipe(clone, *words):
    return subprocess.run(
        ["bash", "utils/new_recipe.sh", *words], cwd=clone, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("origin", ["esc50", "gtzan"])
def test_a_new_recipe_has_one_file_to_edit(clone, origin):
    done = new_recipe(clone, "mine", *(() if origin == "esc50" else ("--from", origin)))
    assert done.returncode == 0 and done.stderr == ""
    folder = clone / "examples" / "mine"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        *("conf/mn04.yaml", "run.sh")
    ]
    assert sorted(path.name for path in (clone / "examples").iterdir()) == ["esc50", "gtzan", "mine"]
    assert shell(folder / "run.sh") == shell(EXAMPLES / "esc50" / "run.sh")
    assert 'folds="1 2 3 4 5"' in (folder / "run.sh").read_text()
    for step in ("examples/mine/conf/mn04.yaml", "bash examples/mine/run.sh --raw FOLDER", "docs/new_dataset.md"):
        assert step in done.stdout
    made, old = (config.load(path / "conf" / "mn04.yaml") for path in (folder, EXAMPLES / origin))
    assert (made.model, made.augment, made.train) == (old.model, old.augment, old.train)
    assert (made.data.layout, made.data.folds, made.data.url, made.data.split_lists) == ("folders", 5, "", "")


def test_a_new_recipe_from_folders_to_a_tag(clone, tmp_path):
    """The way that docs/new_dataset.md describes, with the lines on groups taken."""
    make(tmp_path / "sounds", "--layout", "folders", "--clips-per-class", 10, "--seconds", 1)
    assert new_recipe(clone, "mine").returncode == 0
    yaml = clone / "examples" / "mine" / "conf" / "mn04.yaml"
    text = yaml.read_text()
    text = re.sub(r'^  audio: "\{label\}/\{id\}.*\n', "", text, flags=re.M)
    text = text.replace("  # audio: ", "  audio: ").replace("  # group: ", "  group: ")
    yaml.write_text(text)
    command = ["bash", str(clone / "examples" / "mine" / "run.sh"), "--raw", "sounds", "--data", "d", "--exp", "e"]
    command += ["--folds", "1", "--opts", MN + "data.clip_seconds 1 train.epochs 1"]
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    finished(tmp_path, "fold1", "single_label")
    folds = {(record["group"], record["fold"]) for record in manifest.read(tmp_path / "d")[0]}
    assert len(folds) == 60  # twelve classes of five recordings, each in one fold


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "how is the recipe to be called?"),
        (("esc50",), "examples/esc50: is there already"),
        (("../esc",), "a name begins with a letter"),
        (("1st",), "a name begins with a letter"),
        (("my recipe",), "a name begins with a letter"),
        (("mine", "yours"), "unexpected argument: yours"),
        (("mine", "--form", "esc50"), "unknown option: --form"),
        (("mine", "--from"), "--from needs the name of a recipe"),
        (("mine", "--from", "esc"), "--from esc: no such recipe; there are: esc50 gtzan"),
        (("mine", "--from", ".."), "--from ..: no such recipe"),
    ],
)
def test_a_new_recipe_that_cannot_be(clone, words, message):
    done = new_recipe(clone, *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("new_recipe.sh: error: ") and message in done.stderr
    assert sorted(path.name for path in (clone / "examples").iterdir()) == ["esc50", "gtzan"]


def test_the_page_on_new_data_sets(tmp_path):
    """Every YAML of it is a config, and there are the same ones in both languages."""
    pages = []
    for name in ("new_dataset.md", "new_dataset_cn.md"):
        blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / name).read_text(encoding="utf-8"), re.S)
        configs = []
        for block in blocks:
            (tmp_path / "a.yaml").write_text(block, encoding="utf-8")
            configs.append(config.to_dict(config.load(tmp_path / "a.yaml")))
        pages.append(configs)
    assert pages[0] == pages[1]
    assert {page["data"]["layout"] for page in pages[0]} == set(config.CHOICES["data.layout"])


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck():
    done = subprocess.run(["shellcheck", ROOT / "utils" / "new_recipe.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
