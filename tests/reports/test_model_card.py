"""The card of a trained model: what its folder and a real run say, and that nothing depends on it."""

import json
import logging
import re
import shlex

import pytest
from paddletag.data import manifest
from paddletag.models import model_folder
from paddletag.reports import model_card
from prepared import call, prepare, settings

ABOUT = ("data.name", "Tones | of <b>ours</b>", "data.licence", "CC0")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(folder)
    return folder


def train(data, exp, *opts, script="train"):
    path, _ = settings(data)
    call(script, "--config", path, "--data", data, "--fold", 1, "--exp", exp, "--opts", "train.epochs", 1, *opts)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """A model that was trained, and then evaluated; its card before that is in before.md."""
    exp = tmp_path_factory.mktemp("exp") / "fold1"
    train(data, exp, *ABOUT)
    (exp / "before.md").write_text((exp / "README.md").read_text())
    call("evaluate", "--model", exp, "--data", data)
    return exp


def rows(text):
    """{title: texts} of the card's table."""
    found = {}
    for title, value in re.findall(r"^\| ([^|]+?) \| (.*) \|$", text, re.M):
        found.setdefault(title, []).append(value)
    return found


def test_what_a_card_says(folder, data):
    text = (folder / "README.md").read_text()
    found, meta = rows(text), json.loads((folder / "model.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    clips = manifest.read(data)[0]
    held_out = sum(record["fold"] == 1 for record in clips)
    assert f"**{100 * metrics['accuracy']:.2f}**" in found["Result"][0] and str(held_out) in found["Result"][0]
    assert f"{100 * metrics['accuracy_ci'][0]:.2f} to" in found["Result"][0]
    assert f"{held_out} clips" in found["Held out"][0] and f"{len(clips) - held_out} clips" in found["Trained on"][0]
    assert "2 labels" in found["Data"][0] and "CC0" in found["Data"][0] and "mn01_as" in found["Backbone"][0]
    assert meta["date"] in found["Training"][0] and meta["machine"] in found["Training"][0]
    assert "32000 Hz" in found["Front end"][0] and meta["versions"]["numpy"] in found["Versions"][0]
    assert "<b>" not in text and "Tones \\| of &lt;b&gt;" in text  # names are text
    assert text.count("\n") <= 50 and "/tmp" not in text and str(data) not in text


def test_before_the_evaluation(folder):
    before, after = (rows((folder / name).read_text()) for name in ("before.md", "README.md"))
    assert "not evaluated" in before.pop("Result")[0] and "Weakest labels" not in before
    after.pop("Result"), after.pop("Weakest labels", None)
    assert before == after


def test_its_python_lines_run_in_the_folder(folder, data, monkeypatch, capsys):
    sound = next((data / "audio").glob("1-*.wav"))
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    (commands,) = re.findall(r"```bash\n(.*?)```", (folder / "README.md").read_text(), re.S)
    monkeypatch.chdir(folder)
    exec(code.replace("sound.wav", str(sound)), {})
    assert {line.split()[2] for line in capsys.readouterr().out.splitlines()} == {"high", "low"}
    for line in commands.splitlines():
        words = [str(sound) if word.endswith(".wav") else word for word in shlex.split(line, comments=True)]
        assert words[:2] == ["paddletag", "tag"]
        call(*words[1:])
        assert "high" in capsys.readouterr().out


def test_another_evaluation_is_added(folder, data):
    call("evaluate", "--model", folder, "--data", data, "--tta", 2)
    results = rows((folder / "README.md").read_text())["Result"]
    assert len(results) == 2 and "2 rolled copies" in results[1]


def test_a_new_name_of_the_data_is_no_other_run(folder, data, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "train.log"}
    train(data, folder, "data.name", "another", "data.licence", "another")
    call("evaluate", "--model", folder, "--data", data)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert capsys.readouterr().out.count("up to date") == 2


def test_what_people_wrote_stays(folder, tmp_path):
    copy = tmp_path / "fold1"
    copy.mkdir()
    (copy / "model.json").write_bytes((folder / "model.json").read_bytes())
    (copy / "README.md").write_text("# My notes\n")
    model_card.write_card(copy)
    assert (copy / "README.md").read_text() == "# My notes\n"
    (copy / "README.md").unlink()
    model_card.write_card(copy)  # without clips and evaluation
    found = rows((copy / "README.md").read_text())
    assert "not evaluated" in found["Result"][0] and found["Held out"] == ["fold 1"]


def test_a_card_that_cannot_be_written_is_a_warning(folder, data, tmp_path, monkeypatch, caplog):
    def full(path, text):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(model_card, "write_text", full)
    monkeypatch.setattr(logging.getLogger("paddletag"), "propagate", True)
    model_card.write_card(folder)
    with monkeypatch.context() as patch:
        patch.setattr(model_card, "read_evaluations", lambda folder: [])  # so that the text is another one
        model_card.write_card(folder)
    assert any(record.levelname == "WARNING" and "README.md" in record.message for record in caplog.records)


def test_a_classic_baseline(data, tmp_path):
    exp = tmp_path / "fold1"
    train(data, exp, "classic.classifier", "knn", "features.online", "true", *ABOUT, script="train_classic")
    call("evaluate", "--model", exp, "--data", data)
    found = rows((exp / "README.md").read_text())
    assert "**" in found["Result"][0] and "mfcc" in found["Backbone"][0] and "mfcc" in found["Front end"][0]
    assert "epochs" not in found["Training"][0]


def test_several_labels_and_a_calibration(folder):
    meta = model_folder.read_meta(folder)
    meta.update(task="multi_label", labels=[f"label {n}" for n in range(60)])
    metrics = {"mAP": 0.51234, "mAP_ci": [0.4, 0.6], "n": 1, "per_class": {"label 1": {"ap": 0.25, "n": 3}}}
    plain = model_card.model_card(meta, {"train": 8, "valid": 2, "test": 3}, [metrics])
    found = rows(plain)
    assert (
        "**0.5123**" in found["Result"][0] and "1 clip " in found["Result"][0] and "0.25" in found["Weakest labels"][0]
    )
    assert (
        "8 clips" in found["Trained on"][0] and "label 49" in plain and "label 50" not in plain and "10 more" in plain
    )
    assert "Calibration" not in found and "unknown" not in plain
    meta["calibration"] = {"temperature": 1.2345, "thresholds": {}}
    text = model_card.model_card(meta, {}, [])
    assert "1.23" in rows(text)["Calibration"][0] and "unknown" in text
