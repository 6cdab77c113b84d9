"""Runs side by side: figures against scipy, scikit-learn and the folds' own results, and what is refused."""

import csv
import json
import re

import numpy as np
import pytest
from paddletag import config
from paddletag.features import frontend
from paddletag.training import metrics
from prepared import call, refusal, report_data
from scipy import stats

LABELS = ["rain", "sea", "wind"]
CLIPS = 60  # of a fold


def truth(fold, several=False):
    generator = np.random.default_rng(fold)
    return (generator.random((CLIPS, 3)) < 0.4) if several else np.eye(3)[generator.integers(3, size=CLIPS)] > 0


def make_model(folder, fold, skill, seed=0, task="single_label", data="abc", names="clip", **train):
    """A trained model of so much skill that was tested on `fold`: its record and its evaluation. Returns its scores."""
    tree = config.to_dict(config.defaults())
    tree["train"].update(seed=seed, **train)
    run = {"config": tree, "data": data, "fold": fold, "processes": 1, "weights": "none"}
    sha256 = f"{folder.name}-{seed}-{skill}-{fold}"
    meta = {"backbone": "mn01_as", "labels": LABELS, "task": task, "clip_seconds": 5.0, "sha256": sha256, "run": run}
    meta.update(front_end=frontend.MN.to_dict(), trained={"seconds": 10.0 + fold}, machine="a laptop", versions={})
    targets = truth(fold, task == "multi_label")
    noise = np.random.default_rng([fold, seed, round(100 * skill)]).random(targets.shape)
    scores = (skill * targets + noise).astype(np.float32)
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(meta))
    measured = {"fold": fold, "model": sha256, **metrics.evaluate(task, scores, targets, LABELS)}
    (folder / "metrics.json").write_text(json.dumps(measured))
    ids = np.array([f"{names}{fold}-{n}" for n in range(CLIPS)])
    np.savez(folder / "scores.npz", ids=ids, scores=scores, targets=targets, labels=np.array(LABELS))
    return scores


def right(scores, fold):
    return scores.argmax(1) == truth(fold).argmax(1)


@pytest.fixture
def exp(tmp_path):
    """Runs good and weak of two folds, and seeds, of two seeds."""
    for fold in (1, 2):
        make_model(tmp_path / f"exp/good/fold{fold}", fold, 0.6)
        make_model(tmp_path / f"exp/weak/fold{fold}", fold, 0.3, epochs=3)
        for seed in (0, 1):
            make_model(tmp_path / f"exp/seeds/seed{seed}/fold{fold}", fold, 0.5, seed)
    return tmp_path / "exp"


def compare(folder, *args):
    """The rows of compare.csv by run, which the command line `args` writes into `folder`."""
    call("compare", *args, "--output_dir", folder)
    with open(folder / "compare.csv", newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def number(row, key):
    return float(row[key])


def load(folder):
    with np.load(folder / "scores.npz") as file:
        return file["scores"]


def test_mcnemars_test_of_one_seed_each(exp, tmp_path):
    rows = compare(tmp_path / "out", exp / "good", exp / "weak")
    good, weak = (
        np.concatenate([right(load(exp / name / f"fold{fold}"), fold) for fold in (1, 2)]) for name in ("good", "weak")
    )
    better, worse = int((weak & ~good).sum()), int((good & ~weak).sum())
    assert worse > better > 0
    assert (number(rows["weak"], "better_on"), number(rows["weak"], "worse_on")) == (better, worse)
    assert number(rows["weak"], "p") == pytest.approx(stats.binomtest(better, better + worse).pvalue)
    assert number(rows["good"], "accuracy") == pytest.approx(good.mean())
    interval = stats.binomtest(int(good.sum()), 2 * CLIPS).proportion_ci(method="wilson")
    assert (number(rows["good"], "low"), number(rows["good"], "high")) == pytest.approx(tuple(interval))
    assert rows["good"]["p"] == "" and "p_holm" not in rows["good"]  # there is one test
    assert number(rows["weak"], "seconds") == 11.5 and rows["weak"]["models"] == "2"
    settings = {key for key in rows["weak"] if "." in key}
    assert settings == {"train.epochs"} and (rows["good"]["train.epochs"], rows["weak"]["train.epochs"]) == ("10", "3")


def test_one_fold_has_the_interval_of_its_evaluation(exp, tmp_path):
    for task in ("single_label", "multi_label"):
        make_model(tmp_path / task / "fold1", 1, 0.7, task=task)
        measured = json.loads((tmp_path / task / "fold1/metrics.json").read_text())
        row = compare(tmp_path / f"{task}_out", tmp_path / task / "fold1")["fold1"]
        key = metrics.MAIN_METRIC[task]
        assert number(row, key) == pytest.approx(measured[key])
        assert [number(row, "low"), number(row, "high")] == pytest.approx(measured[f"{key}_ci"])


def test_seeds_count_with_their_shares(exp, tmp_path, capsys):
    rows = compare(tmp_path / "out", exp / "good", exp / "seeds", exp / "weak", "--reference", "best")
    seeds = [right(load(exp / f"seeds/seed{seed}/fold{fold}"), fold) for seed in (0, 1) for fold in (1, 2)]
    assert number(rows["seeds"], "accuracy") == pytest.approx(np.mean(seeds))
    best = max(rows, key=lambda name: number(rows[name], "accuracy"))
    assert best == "good" and rows[best]["p"] == "" and rows["seeds"]["train.seed"] == "0, 1"
    difference = number(rows["seeds"], "accuracy") - number(rows["good"], "accuracy")
    balance = number(rows["seeds"], "better_on") - number(rows["seeds"], "worse_on")
    assert number(rows["seeds"], "difference") == pytest.approx(difference) == pytest.approx(balance / (2 * CLIPS))
    low, high = sorted(number(rows[name], "p") for name in ("seeds", "weak"))
    corrected = sorted(number(rows[name], "p_holm") for name in ("seeds", "weak"))
    assert corrected == pytest.approx([min(1, 2 * low), min(1, max(2 * low, high))])
    assert "over the seeds" in capsys.readouterr().out


def test_a_paired_bootstrap_of_map(tmp_path):
    """p against drawings that are made here, of clips written out."""
    from sklearn.metrics import average_precision_score

    one, two = (
        make_model(tmp_path / name / "fold1", 1, skill, task="multi_label") for name, skill in (("a", 0.7), ("b", 0.5))
    )
    targets, generator = truth(1, several=True), np.random.default_rng(7)

    def difference(rows):
        values = [[average_precision_score(targets[rows, c], s[rows, c]) for c in range(3)] for s in (one, two)]
        return np.mean(values[1]) - np.mean(values[0])

    drawn = [difference(generator.integers(CLIPS, size=CLIPS)) for _ in range(400)]
    z = difference(np.arange(CLIPS)) / np.std(drawn, ddof=1)
    row = compare(tmp_path / "out", tmp_path / "a", tmp_path / "b")["b"]
    assert number(row, "difference") == pytest.approx(difference(np.arange(CLIPS)))
    assert stats.norm.isf(number(row, "p") / 2) == pytest.approx(abs(z), rel=0.15) and "better_on" not in row


def test_only_common_clips_count_and_that_is_said(exp, tmp_path, capsys):
    rows = compare(tmp_path / "out", exp / "good", exp / "weak/fold2", exp / "seeds/seed1")
    assert list(rows) == ["good", "weak/fold2", "seeds/seed1"] and {row["clips"] for row in rows.values()} == {
        str(CLIPS)
    }
    assert number(rows["good"], "accuracy") == pytest.approx(right(load(exp / "good/fold2"), 2).mean())
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if f"{CLIPS} of its {2 * CLIPS} clips" in line] == [
        "good",
        "seeds/seed1",
    ]
    assert "no clip" in refusal("compare", exp / "good/fold1", exp / "weak/fold2")


def test_what_is_no_run_is_named_and_left_out(exp, tmp_path, capsys):
    (exp / "notes.txt").write_text("x")
    (exp / "empty").mkdir()
    (exp / "good/fold2/scores.npz").write_bytes(b"x")
    (exp / "weak/fold2/metrics.json").unlink()
    call("compare", *sorted(exp.iterdir()))
    said = capsys.readouterr()
    named = [line for line in said.err.splitlines() if line.startswith("left out: ")]
    assert len(named) == 4 and all(
        any(name in line for line in named) for name in ("notes.txt", "empty", "scores.npz", "metrics.json")
    )
    assert f"same {CLIPS} clips" in said.out
    assert "no run to compare" in refusal("compare", exp / "empty")
    assert "no such folder" in refusal("compare", exp / "good", exp / "nothing")


@pytest.mark.parametrize("other", [{"data": "xyz"}, {"task": "multi_label"}, {"names": "other"}])
def test_other_data_are_refused(other, exp, tmp_path):
    make_model(tmp_path / "other/fold1", 1, 0.5, **other)
    assert "other" in refusal("compare", exp / "good", tmp_path / "other", "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_copies_and_mixtures_of_seeds(exp, tmp_path, capsys):
    """exp/fold1 may be a copy of exp/seed0/fold1; another model there has no place among the seeds."""
    make_model(exp / "seeds/fold1", 1, 0.3)
    call("compare", exp / "seeds", exp / "good")
    assert "with and without seeds" in capsys.readouterr().err
    for name in ("model.json", "metrics.json", "scores.npz"):
        (exp / "seeds/fold1" / name).write_bytes((exp / "seeds/seed0/fold1" / name).read_bytes())
    assert compare(tmp_path / "out", exp / "seeds", exp / "good")["seeds"]["models"] == "4"


def test_the_reference_by_name_by_path_and_a_wrong_one(exp, tmp_path):
    for reference in ("weak", exp / "weak"):
        rows = compare(tmp_path / "out", exp / "good", exp / "weak", "--reference", reference)
        assert rows["weak"]["p"] == "" and number(rows["good"], "difference") > 0
    assert "good" in refusal("compare", exp / "good", "--reference", "wekk")
    assert "--tta 0" in refusal("compare", exp / "good", "--tta", 0)
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal("compare", exp / "good", "--output_dir", tmp_path / "file")


def test_the_text_and_the_page_say_the_same(exp, tmp_path, capsys):
    (exp / "good").rename(exp / "<b>|good")
    rows = compare(tmp_path / "out", exp / "<b>|good", exp / "weak")
    data = report_data(tmp_path / "out/compare.html")
    titles = [column["title"] for column in data["columns"]]
    cells = dict(zip(titles, data["rows"][1]["cells"], strict=True))
    assert cells["p"][0] == number(rows["weak"], "p") and cells["Run"] == ["weak", "weak"]
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("Run", "<b>|good", "weak"))]
    starts = [re.search(title, table[0]).start() for title in ("Accuracy", "Difference")]
    assert all(line[start - 1] == " " and line[start] != " " for line in table for start in starts)
    text = (tmp_path / "out/compare.md").read_text()
    assert "&lt;b&gt;\\|good" in text and "<b>" not in text.partition("```")[0]


def test_the_page_in_a_browser(exp, tmp_path, browser):
    call("compare", exp / "good", exp / "weak", exp / "seeds", "--output_dir", tmp_path / "out")
    page = browser(tmp_path / "out/compare.html", width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    names = page.locator("#runs tbody tr td:first-child")
    values = [float(text) for text in page.locator("#runs tbody tr td:nth-child(2)").all_inner_texts()]
    assert values == sorted(values, reverse=True) and names.count() == 3
    page.locator("#runs thead button").first.click()
    page.locator("#runs thead button").first.click()
    assert names.all_inner_texts() in (["good", "seeds", "weak"], ["weak", "seeds", "good"])
    assert page.locator("#settings").inner_text().count("train.epochs") == 1
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before and not page.faults
