"""RESULTS.md: its numbers against the statistics module, and what it refuses to mix."""

import json
import shutil
import statistics

import numpy as np
import pytest
from paddletag import config
from paddletag.models import model_folder, registry
from paddletag.reports import figures
from prepared import call, refusal

ACCURACY = {1: 0.95, 2: 0.9, 3: 1.0}
CONFUSED = {1: [["rain", "wind", 2], ["wind", "rain", 1]], 2: [["rain", "wind", 3], ["sea", "rain", 4]], 3: []}


def run(fold, **train):
    tree = config.to_dict(config.defaults())
    tree["train"].update(train)
    return {"config": tree, "data": "abc", "sound": f"of all but {fold}", "fold": fold, "processes": 1}


@pytest.fixture(scope="module")
def weights():
    return registry.create_model("mn01_as", 3)


@pytest.fixture
def exp(tmp_path, weights):
    exp = tmp_path / "mn04"
    for fold, accuracy in ACCURACY.items():
        meta = {"backbone": "mn01_as", "labels": ["rain", "sea", "wind"], "task": "single_label", "clip_seconds": 5.0}
        meta.update(run=run(fold), command="bash run.sh --config conf/mn04.yaml")
        meta.update(trained={"epochs": 6, "seconds": 61.4 + fold}, versions={"python": "3.11"})
        model_folder.save_model(exp / f"fold{fold}", weights, {**meta, "machine": "a laptop, 2 cores"})
        sha256 = model_folder.read_meta(exp / f"fold{fold}")["sha256"]
        metrics = {"fold": fold, "model": sha256, "accuracy": accuracy, "n": 80, "confused": CONFUSED[fold]}
        metrics["accuracy_ci"] = [accuracy - 0.05, min(1, accuracy + 0.03)]
        (exp / f"fold{fold}" / "metrics.json").write_text(json.dumps(metrics))
        scores = np.eye(3)[[0, 0, 1, 2, fold - 1]]  # the last clip is rain to the first model, sea to the second ...
        np.savez(exp / f"fold{fold}" / "scores.npz", scores=scores, targets=np.eye(3)[[0, 0, 1, 2, 2]])
    return exp


def listed(path):
    """The commands in a RESULTS.md."""
    return path.read_text().partition("```bash\n")[2].partition("\n```\n")[0].split("\n")


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_mean_and_sample_standard_deviation(exp):
    call("summarize", "--exp", exp, "--folds", 1, 2, 3)
    text = (exp / "RESULTS.md").read_text()
    percent = [100 * value for value in ACCURACY.values()]
    mean, deviation = statistics.mean(percent), np.std(percent, ddof=1)
    assert f"**Accuracy (%) {mean:.2f} ± {deviation:.2f} over 3 folds**" in text and "95.00 ± 5.00" in text
    assert "# Results: mn04\n" in text
    assert listed(exp / "RESULTS.md")[:-1] == ["bash run.sh --config conf/mn04.yaml"]  # once for three folds
    assert "| 2 | 90.00 | 85.00 to 93.00 | 80 | 63 |" in text and "a laptop, 2 cores" in text and "lr: 0.0003" in text


def test_groups_that_cross_the_folds_are_repeated(exp):
    call("summarize", "--exp", exp, "--folds", 1, 2, 3)
    assert "g_1" not in (exp / "RESULTS.md").read_text()
    for fold in ACCURACY:
        change(exp / f"fold{fold}/metrics.json", crossing="1 groups with 2 clips lie in ...: g_1 (folds 1, 2)")
    call("summarize", "--exp", exp, "--folds", 1, 2, 3)
    assert (exp / "RESULTS.md").read_text().count("g_1 (folds 1, 2)") == 1


def test_it_says_which_runs_it_is_of(exp):
    def runs():
        return [line for line in (exp / "RESULTS.md").read_text().splitlines() if "fold1" in line and line[0] == "-"]

    call("summarize", "--exp", exp, "--folds", 1, 2, 3)
    assert runs() == ["- Runs: fold1, fold2, fold3"]
    shutil.copytree(exp / "fold2", exp / "seed10" / "fold1")
    shutil.copytree(exp / "fold2", exp / "seed9" / "fold1")
    call("summarize", "--exp", exp, "--folds", 1, "--seeds", 10)
    here, others = runs()
    assert here == "- Runs: seed10/fold1" and others.endswith(": fold1, fold2, fold3, seed9/fold1")
    call("summarize", "--exp", exp, "--folds", 1, 2, 3)
    assert runs()[0] == "- Runs: fold1, fold2, fold3" and runs()[1].endswith(": seed9/fold1, seed10/fold1")


def test_the_picture_is_of_all_folds(exp, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append((figure, path)))
    call("summarize", "--exp", exp, "--folds", 1, 2, 3)
    ((figure, path),) = drawn
    axes = figure.axes[0]
    counts = {text.get_position()[::-1]: int(text.get_text()) for text in axes.texts}  # (row, column)
    assert counts == {(0, 0): 6, (1, 1): 3, (2, 2): 4, (2, 0): 1, (2, 1): 1}
    assert path == exp / "confusion.png" and "over 3 folds" in figure.get_suptitle()


def test_confused_pairs_are_added_up(exp):
    call("summarize", "--exp", exp, "--folds", 1, 2, 3)
    lines = (exp / "RESULTS.md").read_text().splitlines()
    first = lines.index("| True label | Model's label | Clips |") + 2
    assert lines[first : first + 4] == ["| rain | wind | 5 |", "| sea | rain | 4 |", "| wind | rain | 1 |", ""]


def test_one_fold_says_so(exp):
    call("summarize", "--exp", exp, "--folds", 1, 1)
    text = (exp / "RESULTS.md").read_text()
    assert "**Accuracy (%) 95.00 on fold 1 alone (95 % interval: 90.00 to 98.00)**" in text and "±" not in text


def test_seeds_have_a_mean_of_their_means(exp):
    for seed, gain in ((0, 0.0), (5, 0.05)):
        for fold in (1, 2):
            folder = exp / f"seed{seed}" / f"fold{fold}"
            shutil.copytree(exp / f"fold{fold}", folder)
            change(folder / "model.json", run=run(fold, seed=seed))
            change(folder / "metrics.json", accuracy=ACCURACY[fold] + gain)
    call("summarize", "--exp", exp, "--folds", 1, 2, "--seeds", 0, 5)
    text = (exp / "RESULTS.md").read_text()
    deviation = statistics.stdev([92.5, 97.5])
    assert f"**Accuracy (%) 95.00 ± {deviation:.2f} over 2 seeds of 2 folds (92.50, 97.50)**" in text
    assert "| Seed | Fold held out |" in text and "| 5 | 2 | 95.00 | 85.00 to 93.00 | 80 | 63 |" in text
    change(exp / "seed5" / "fold2" / "model.json", run=run(2, seed=5, epochs=7))
    assert "train.epochs was 10, is 7" in refusal("summarize", "--exp", exp, "--folds", 1, 2, "--seeds", 0, 5)


def test_nothing_is_written_twice(exp, capsys):
    call("summarize", "--exp", exp, "--folds", 1, 2)
    before = (exp / "RESULTS.md").stat().st_mtime_ns
    call("summarize", "--exp", exp, "--folds", 1, 2)
    assert (exp / "RESULTS.md").stat().st_mtime_ns == before and "is up to date" in capsys.readouterr().out


def test_the_commands_are_in_an_order_that_gives_the_numbers_again(exp, monkeypatch):
    """Trainings, evaluations, then the report of these folds; each once, and no other line."""
    for fold, training, evaluation in ((1, "T1\nT2", "T2"), (2, "T3", "E"), (3, "T1\nT2", "E")):
        change(exp / f"fold{fold}/model.json", command=training)  # two lines: the second extended the first
        change(exp / f"fold{fold}/metrics.json", command=evaluation)

    def written(last, *folds):
        monkeypatch.setenv("RECIPE_COMMAND", last)
        call("summarize", "--exp", exp, "--folds", *folds)
        return listed(exp / "RESULTS.md")

    assert written("E", 1, 2, 3) == ["T1", "T2", "T3", "E"]
    assert written("again", 1, 2, 3) == ["T1", "T2", "T3", "E"]  # nothing is new
    assert written("T3", 1, 2) == ["T1", "T2", "E", "T3"]  # the one that reports these folds is the last
    assert written("T1", 1) == ["T2", "T1"]
    (exp / "RESULTS.md").unlink()
    assert written("R", 1) == ["T1", "T2", "R"]
    change(exp / "fold1/metrics.json", command="E2")
    assert written("other", 1) == ["T1", "T2", "E2", "other"]
    monkeypatch.delenv("RECIPE_COMMAND")
    call("summarize", "--exp", exp, "--folds", 3)
    *before, last = listed(exp / "RESULTS.md")
    assert before == ["T1", "T2", "E"] and last.endswith(f"summarize.py --exp {exp} --folds 3")


def test_other_evaluations_have_files_of_their_own(exp, capsys):
    call("summarize", "--exp", exp, "--folds", 1, 2)
    before = {name: (exp / name).read_bytes() for name in ("RESULTS.md", "confusion.png")}
    line = refusal("summarize", "--exp", exp, "--folds", 1, 2, "--tta", 5)
    assert "fold1/metrics.tta5.json" in line and "--tta 5" in line
    for fold in (1, 2):
        folder = exp / f"fold{fold}"
        shutil.copy(folder / "metrics.json", folder / "metrics.tta5.json")
        change(folder / "metrics.tta5.json", tta=5, accuracy=0.5, command=f"E{fold}")
        np.savez(folder / "scores.tta5.npz", scores=np.eye(3)[[1, 1, 1, 1]], targets=np.eye(3)[[0, 0, 1, 2]])
    call("summarize", "--exp", exp, "--folds", 1, 2, "--tta", 5)
    text = (exp / "RESULTS.tta5.md").read_text()
    assert "50.00 ± 0.00 over 2 folds" in text and "means over 5 copies of each clip" in text and "--tta 5" in text
    assert listed(exp / "RESULTS.tta5.md")[:-1] == ["bash run.sh --config conf/mn04.yaml", "E1", "E2"]
    assert (exp / "confusion.tta5.png").read_bytes() != before["confusion.png"]
    assert before == {name: (exp / name).read_bytes() for name in before}
    capsys.readouterr()
    call("summarize", "--exp", exp, "--folds", 1, 2, "--tta", 5)
    call("summarize", "--exp", exp, "--folds", 1, 2)
    assert capsys.readouterr().out.count("is up to date") == 2
    change(exp / "fold2/metrics.json", tta=5)  # as it was written before names said so
    line = refusal("summarize", "--exp", exp, "--folds", 1, 2)
    assert "fold2/metrics.json" in line and "--tta 5" in line
    assert "--tta 0" in refusal("summarize", "--exp", exp, "--folds", 1, "--tta", 0)


def test_metrics_of_an_earlier_model_are_refused(exp):
    change(exp / "fold2" / "metrics.json", model="0" * 64)
    line = refusal("summarize", "--exp", exp, "--folds", 1, 2)
    assert "fold2/metrics.json" in line and "earlier model" in line and "stage 3" in line
    assert not (exp / "RESULTS.md").exists()


def test_folds_that_were_trained_differently_are_not_averaged(exp):
    change(exp / "fold3" / "model.json", run=run(3, epochs=7, log_freq=1))
    line = refusal("summarize", "--exp", exp, "--folds", 1, 2, 3)
    assert "fold 3" in line and "train.epochs was 10, is 7" in line and "log_freq" not in line
    call("summarize", "--exp", exp, "--folds", 1, 2)


def test_a_fold_that_is_missing(exp):
    line = refusal("summarize", "--exp", exp, "--folds", 1, 7)
    assert "fold7/metrics.json" in line and "stage 3" in line


def test_a_split_has_its_name(exp):
    (exp / "fold1").rename(exp / "test")
    change(exp / "test" / "model.json", run=run("test", select="best"))
    call("summarize", "--exp", exp, "--folds", "test")
    text = (exp / "RESULTS.md").read_text()
    assert "**Accuracy (%) 95.00 on the test split (95 % interval: 90.00 to 98.00)**" in text
    assert "| Split | Accuracy (%) |" in text and "| test | 95.00 |" in text
    assert "The epoch was chosen on the valid split, not on the test split." in text
    shutil.rmtree(exp / "test")
    line = refusal("summarize", "--exp", exp, "--folds", "test")
    assert "test/metrics.json" in line and "stage 3" in line


def test_labels_are_text_in_the_table(exp):
    change(exp / "fold1" / "metrics.json", confused=[["<script>a|b", "*`c`\n", 2]])
    call("summarize", "--exp", exp, "--folds", 1)
    assert r"| &lt;script&gt;a\|b | \*\`c\` | 2 |" in (exp / "RESULTS.md").read_text()


def test_how_a_model_was_chosen(exp):
    texts = {}
    for name, values in (
        ("last", {"run": run(1)}),
        ("best", {"run": run(1, select="best", validation=0.1)}),
        ("classic", {"run": run(1), "classic": {"classifier": "svm"}}),
    ):
        change(exp / "fold1" / "model.json", **values)
        call("summarize", "--exp", exp, "--folds", 1)
        texts[name] = (exp / "RESULTS.md").read_text()
    assert "The config fixes the epochs" in texts["last"] and "no fold was looked at" in texts["last"]
    assert "chosen on clips of the training folds (train.validation), not on the fold held out" in texts["best"]
    assert "epoch" not in texts["classic"].partition("<details>")[0]
    assert "The classifier was fitted without the clips of the fold held out." in texts["classic"]


def test_what_could_not_be_measured(exp):
    for fold, value in ((1, 0.5), (2, None)):
        change(exp / f"fold{fold}" / "model.json", task="multi_label")
        interval = None if value is None else [0.45, 0.5678]
        change(exp / f"fold{fold}" / "metrics.json", mAP=value, mAP_ci=interval)
    call("summarize", "--exp", exp, "--folds", 1, 2)
    text = (exp / "RESULTS.md").read_text()
    assert "**No mAP of fold 2: no label has clips both with and without it**" in text
    assert "| 1 | 0.5000 | 0.4500 to 0.5678 | 80 | 62 |" in text and "| 2 | - | - | 80 | 63 |" in text
