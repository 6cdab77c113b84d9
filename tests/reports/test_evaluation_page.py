"""The page of an evaluation, as a file and in a browser, where there is one (playwright for Python and Chromium)."""

import base64
import io
import json
import re
import urllib.parse

import numpy as np
import prepared
import pytest
import soundfile
from paddletag.data import manifest
from paddletag.features import frontend
from paddletag.training import metrics
from PIL import Image
from test_pages import HOSTILE, RATE, TEXTS, Page, both_widths_and_shades, until

CALIBRATION = {
    "ece": 0.125,
    "bins": [
        {"from": 0.0, "to": 0.5, "confidence": None, "accuracy": None, "n": 0},
        {"from": 0.5, "to": 0.75, "confidence": 0.625, "accuracy": 0.25, "n": 10},
        {"from": 0.75, "to": 1.0, "confidence": 0.9, "accuracy": 0.875, "n": 20},
    ],
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A function: task -> (folder of an evaluated model, prepared folder, scores, targets); hostile labels and ids."""

    def make(task, **measured_too):
        folder = tmp_path_factory.mktemp(task)
        model, data, labels = folder / "fold2", folder / "data", [label.replace("\n", " ")[:40] for label in HOSTILE]
        labels = ["".join(label.splitlines()) for label in labels]
        model.mkdir()
        generator, records = np.random.default_rng(2), []
        targets = np.zeros((30, 4), np.float32)
        targets[np.arange(30), np.arange(30) % 4] = 1
        if task == "multi_label":
            targets[::3, 0] = 1
        noise = generator.dirichlet(np.ones(4), 30)
        scores = (0.5 * noise + 0.5 * targets * generator.random((30, 1))).astype(np.float32)
        for i in range(30):
            path = data / "audio" / f"{i} <b>#é.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, prepared.tone(300 + 50 * i, 0.5, generator), RATE)
            names = [labels[k] for k in np.flatnonzero(targets[i])]
            row = {"id": f"{i}<script>window.hacked = 1</script>", "audio": str(path), "labels": names, "seconds": 0.5}
            records += [{**row, "fold": 2}, {**row, "id": f"other {i}", "fold": 1}]
        manifest.write(data, records, labels, [])
        ids = np.array([record["id"] for record in records if record["fold"] == 2])
        np.savez(model / "scores.npz", ids=ids, scores=scores, targets=targets, labels=np.array(labels))
        measured = metrics.evaluate(task, scores, targets, labels) | measured_too
        (model / "metrics.json").write_text(json.dumps({"fold": 2, "model": "m1", "data": "d", **measured}))
        meta = {"backbone": "mn01_as", "labels": labels, "task": task, "clip_seconds": 0.5}
        meta["front_end"] = frontend.MN.to_dict()
        meta |= {"run": {"fold": 2, "config": {"train": {"note": HOSTILE[0]}}}, "sha256": "m1"}
        (model / "model.json").write_text(json.dumps(meta))
        (model / "history.csv").write_text("epoch,loss,accuracy,lr\n1,2.5,0.25,0.001\n2,nan,0.5,0.0005\n3,1.5,0.75,0\n")
        return model, data, scores, targets

    return make


def number_of(clip):
    """Which of the 30 clips the page means."""
    return int(clip["id"].split("<")[0])


@pytest.mark.parametrize(("task", "embedded"), [("single_label", 5), ("single_label", 28), ("multi_label", 9)])
def test_the_page_holds_the_clips(evaluated, task, embedded):
    model, data, scores, targets = evaluated(task)
    prepared.call("report", model, "--data", data, "--clips", embedded)
    page = Page((model / "report.html").read_text(encoding="utf-8"))
    report, clips = page.data, page.data["clips"]
    wrong = [i for i in range(30) if not targets[i, scores[i].argmax()]]
    assert 3 < len(wrong) < 30 == len(clips)
    most_confident = sorted(wrong, key=lambda i: -scores[i].max())
    assert [number_of(clip) for clip in clips[: len(wrong)]] == most_confident
    if (
        task == "single_label"
    ):  # embedded: what the page opens with, then the most confident mistakes, then unsure clips
        matrix = metrics.confusion(scores, targets)
        np.fill_diagonal(matrix, 0)
        pair = np.unravel_index(matrix.argmax(), matrix.shape)
        first = [i for i in wrong if (targets[i].argmax(), scores[i].argmax()) == pair]
    else:
        precisions = json.loads((model / "metrics.json").read_text())["per_class"].values()
        weakest = min(range(4), key=lambda k: list(precisions)[k]["ap"])
        assert report["weakest"] == weakest
        own = sorted(np.flatnonzero(targets[:, weakest]), key=lambda i: scores[i, weakest])
        others = sorted(np.flatnonzero(targets[:, weakest] == 0), key=lambda i: -scores[i, weakest])
        first = own[:4] + others[:4]
    unsure = sorted(set(range(30)) - set(wrong), key=lambda i: scores[i].max())
    expected = set(list(dict.fromkeys([*first, *most_confident, *unsure]))[:embedded])
    assert {number_of(clip) for clip in clips if "sound" in clip} == expected > set(first)
    for clip in clips:
        i = number_of(clip)
        assert clip["labels"] == np.flatnonzero(targets[i]).tolist() and clip["seconds"] == 0.5
        assert clip["own"] == pytest.approx(scores[i][targets[i] > 0], abs=1e-4)
        assert [k for k, _ in clip["top"]] == sorted(range(4), key=lambda k: -scores[i, k])
        if "audio" in clip:
            path = (model / urllib.parse.unquote(clip["audio"])).resolve()
            assert path == (data / "audio" / f"{i} <b>#é.wav").resolve() and path.exists()
        else:
            wave, rate = soundfile.read(io.BytesIO(base64.b64decode(clip["sound"])))
            hertz = np.abs(np.fft.rfft(wave)).argmax() * rate / len(wave)
            assert abs(hertz - (300 + 50 * i)) < 10
            assert Image.open(io.BytesIO(base64.b64decode(clip["picture"]))).size[1] == 48
    assert report["history"]["loss"] == [2.5, None, 1.5]
    assert report["metrics"] == json.loads((model / "metrics.json").read_text())
    assert page.text("title") == [f"{data.parent.name}, mn01_as, fold 2: evaluation"]


def test_what_a_user_can_get_wrong_with_a_model(evaluated, tmp_path):
    model, data, _, _ = evaluated("single_label")
    output = tmp_path / "r.html"
    assert "--data" in prepared.refusal("report", model, "--out", output)
    assert "--sound" in prepared.refusal("report", model, "--data", data, "--sound", "link", "--out", output)
    assert "--clips -1" in prepared.refusal("report", model, "--data", data, "--clips", "-1", "--out", output)
    (model / "scores.npz").write_bytes(b"no")
    assert "scores.npz: damaged" in prepared.refusal("report", model, "--data", data, "--out", output)
    results = json.loads((model / "metrics.json").read_text())
    (model / "metrics.json").write_text(json.dumps({**results, "model": "m2"}))
    assert "metrics.json: is of an earlier model" in prepared.refusal("report", model, "--data", data, "--out", output)
    assert not output.exists()


def ids(page, where="#clips"):
    """The numbers of the clips that are shown."""
    return [int(text.split("<")[0]) for text in page.locator(f"{where} .name-of").all_text_contents()]


def test_the_result_and_the_largest_confusion_come_first(browser, evaluated):
    model, data, scores, targets = evaluated("single_label", date="2026-01-31")
    prepared.call("report", model, "--data", data, "--clips", "2")
    page = browser(model / "report.html")
    heading = page.locator("h1").text_content()
    assert all(text in heading for text in (data.parent.name, "mn01_as", "fold 2", "2026-01-31"))
    matrix = metrics.confusion(scores, targets)
    right = int(matrix.trace())
    low, high = metrics.wilson(right / 30, 30)
    said = page.locator("#result").text_content()
    assert said == f"{right} of 30 clips right ({right / 0.3:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f})"
    cells = [[0 if text == "·" else int(text) for text in row[1:]] for row in page.evaluate(TEXTS, "#matrix")]
    assert np.array_equal(cells, matrix)
    mistakes = matrix - np.diag(np.diag(matrix))
    i, j = np.unravel_index(mistakes.argmax(), mistakes.shape)
    assert sorted(ids(page, "#cell")) == np.flatnonzero((targets.argmax(1) == i) & (scores.argmax(1) == j)).tolist()
    assert page.locator("#cell h3").text_content().startswith(f"{mistakes.max()} clips of ")
    assert page.locator("#cell .time").first.text_content() == "0.5 s"
    i, j = next((i, j) for i, j in np.argwhere(mistakes) if mistakes[i, j] < mistakes.max())
    cell = page.locator("#matrix tbody tr").nth(i).locator("td").nth(j).locator("button")
    cell.click()
    assert cell.get_attribute("aria-pressed") == "true" and len(ids(page, "#cell")) == matrix[i, j]
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert len(ids(page, "#cell")) == min(4, matrix[matrix > 0][0])
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('tr').rowIndex") == 2
    assert page.locator("#calibration").count() == 0  # of an evaluation from before
    page.locator("summary").click()
    assert HOSTILE[0] in page.locator(".settings").text_content()
    assert page.faults == [] and page.evaluate("window.hacked") is None


def test_clips_are_found_and_heard(browser, evaluated):
    model, data, scores, targets = evaluated("single_label")
    prepared.call("report", model, "--data", data, "--clips", "2")
    page = browser(model / "report.html")
    truth, guess = targets.argmax(1), scores.argmax(1)
    wrong = np.flatnonzero(truth != guess)
    order = wrong[np.argsort(-scores[wrong].max(1))]
    assert page.locator("#clip-count").text_content().startswith(f"{len(wrong)} of 30 clips are wrong")
    assert ids(page) == order[:12].tolist()
    page.locator("#clip-outcome").select_option("right")
    page.locator("#clip-guess").select_option("2")
    assert sorted(ids(page)) == np.flatnonzero((truth == guess) & (guess == 2)).tolist()
    page.locator("#clip-guess").select_option("")
    page.locator("#clip-outcome").select_option("")
    page.locator("#clip-text").fill("27<SCRIPT>")
    assert ids(page) == [27]
    page.locator("#clip-text").fill("nothing like this")
    assert ids(page) == []
    page.locator("#clip-text").fill("")
    page.locator("#clip-order").select_option("name")
    assert ids(page) == list(range(12))
    page.locator("#clips button", has_text="More").click()
    assert ids(page) == list(range(24))
    label = page.locator("#classes tbody button").first.text_content()
    page.locator("#classes tbody button").first.click()
    chosen = page.locator("#clip-truth option:checked")
    assert chosen.text_content() == label
    assert sorted(ids(page)) == np.flatnonzero(truth == int(chosen.get_attribute("value"))).tolist()
    page.get_by_role("button", name="Precision").click()
    precision = [float(row[3]) for row in page.evaluate(TEXTS, "#classes")]
    assert precision == sorted(precision, reverse=True) and len(set(precision)) > 1
    page.locator("#clip-truth").select_option("")
    page.locator("#clip-outcome").select_option("wrong")
    page.locator("#clip-order").select_option("high")
    players = page.locator("#clips .clip")
    kinds = ["sound" in clip for clip in prepared.report_data(model / "report.html")["clips"][: len(wrong)]]
    inside, beside = kinds.index(True), kinds.index(False)
    page.evaluate("sound.loop = true")
    for n in (inside, beside):  # one at a time
        players.nth(n).locator(".play").click()
        until(page, "!sound.paused && sound.currentTime > 0")
        assert page.evaluate("sound.duration") == pytest.approx(0.5, abs=0.01)
        assert page.evaluate("sound.src").startswith("file:" if n == beside else "blob:")
        assert [players.nth(k).locator(".play.on").count() for k in (inside, beside)] == [n == inside, n == beside]
    players.nth(beside).locator(".play").click()
    until(page, "sound.paused")
    players.nth(beside).locator("input").fill("0.3")
    until(page, "sound.currentTime > 0.25")
    assert players.nth(beside).locator(".time").text_content() == "0.3 of 0.5 s"
    gone = beside + 1 + kinds[beside + 1 :].index(False)
    (data / "audio" / f"{order[gone]} <b>#é.wav").unlink()
    players.nth(gone).locator(".play").click()
    players.nth(gone).locator(".alert", has_text="Cannot").wait_for()
    assert page.evaluate("window.hacked") is None and [fault for fault in page.faults if "NOT_FOUND" not in fault] == []


def test_values_of_charts_are_read_with_pointer_and_keys(browser, evaluated):
    model, data, _, _ = evaluated("single_label", calibration=CALIBRATION)
    prepared.call("report", model, "--data", data)
    page = browser(model / "report.html")
    loss, accuracy, rate = (page.locator(".curves figure").nth(n) for n in (1, 2, 3))
    assert [figure.locator("b").text_content() for figure in (loss, accuracy, rate)] == [
        "Loss",
        "Accuracy",
        "Learning rate",
    ]
    assert loss.locator("circle").count() == 2 and accuracy.locator("circle").count() == 3
    plot = accuracy.get_by_role("slider")
    assert plot.get_attribute("aria-valuetext") == "Epoch 3: 0.75"
    plot.focus()
    page.keyboard.press("ArrowLeft")
    assert accuracy.locator(".said").text_content() == "Epoch 2: 0.5" == plot.get_attribute("aria-valuetext")
    page.keyboard.press("Home")
    assert plot.get_attribute("aria-valuetext") == "Epoch 1: 0.25"
    accuracy.locator("circle").nth(1).hover()
    assert accuracy.locator(".said").text_content() == "Epoch 2: 0.5"
    curve = page.locator("#calibration")
    assert curve.locator("b").first.text_content() == "12.5 percentage points"
    assert "too high" in curve.text_content() and curve.locator("circle").count() == curve.locator("rect").count() == 2
    curve.get_by_role("slider").press("Home")
    said = curve.locator(".said").text_content()
    assert all(text in said for text in ("0.5 to 0.75", "10 clips", "0.625", "25.0 %"))
    assert "0.125" in page.locator(".figures").text_content()
    assert page.faults == []


def test_a_phone_shows_the_clips_of_a_cell(browser, evaluated):
    model, data, _, _ = evaluated("single_label")
    prepared.call("report", model, "--data", data)
    both_widths_and_shades(browser, model / "report.html")
    page = browser(model / "report.html", width=390)
    page.emulate_media(reduced_motion="reduce")
    page.locator("#matrix button").last.scroll_into_view_if_needed()
    assert page.locator("#cell h3").evaluate("node => node.getBoundingClientRect().top") < 0
    page.locator("#matrix button").last.click()
    assert 0 <= page.locator("#cell h3").evaluate("node => node.getBoundingClientRect().top") < 450
    page.locator("#back").click()
    assert page.evaluate("document.activeElement.closest('table').id") == "matrix"
    assert page.faults == []


def test_a_report_of_rolled_copies(browser, evaluated, tmp_path):
    model, data, _, targets = evaluated("single_label")
    results = json.loads((model / "metrics.json").read_text())
    (model / "metrics.tta3.json").write_text(json.dumps({**results, "tta": 3, "command": "bash run.sh --tta 3"}))
    with np.load(model / "scores.npz") as arrays:
        np.savez(model / "scores.tta3.npz", **{**arrays, "scores": targets})  # no mistake, so that the two differ
    for options in ((), ("--tta", 3)):
        prepared.call("report", model, "--data", data, *options)
    plain, rolled = (browser(model / name) for name in ("report.html", "report.tta3.html"))
    assert "--tta" not in plain.locator("header").text_content()
    assert "3 copies of each clip, rolled in time (--tta 3)" in rolled.locator("header").text_content()
    assert "bash run.sh --tta 3" in rolled.locator(".settings").text_content()
    assert rolled.locator("#cell .clip").count() == 0 and rolled.locator("#clip-outcome").input_value() == "right"
    clips = [Page((model / name).read_text()).data["clips"] for name in ("report.html", "report.tta3.html")]
    assert clips[0] != clips[1] and plain.faults == rolled.faults == []
    assert "--tta 5" in prepared.refusal("report", model, "--data", data, "--tta", 5)
    assert "--tta 0" in prepared.refusal("report", model, "--data", data, "--tta", 0)
    np.savez(tmp_path / "tags.npz", scores=targets)
    assert "--tta" in prepared.refusal("report", tmp_path / "tags.npz", "--tta", 3)


def test_several_labels_in_a_browser(browser, evaluated):
    model, data, scores, targets = evaluated("multi_label")
    prepared.call("report", model, "--data", data)
    page = browser(model / "report.html")
    results = json.loads((model / "metrics.json").read_text())
    said = page.locator("#result").text_content()
    numbers = re.findall(r"[\d.]+", said.replace("95 %", ""))
    assert numbers == [f"{results['mAP']:.3f}", "4", *(f"{end:.3f}" for end in results["mAP_ci"])]
    assert page.locator("#matrix").count() == 0
    weakest = min(range(4), key=lambda k: list(results["per_class"].values())[k]["ap"])
    own = np.flatnonzero(targets[:, weakest])
    assert ids(page, "#cell")[:4] == own[np.argsort(scores[own, weakest])][:4].tolist()
    page.locator("#classes tbody button").nth(1).click()
    assert ids(page, "#cell")[:4] != own[np.argsort(scores[own, weakest])][:4].tolist()
    wrong = [i for i in range(30) if not targets[i, scores[i].argmax()]]
    assert page.locator("#clips .clip").count() == min(12, len(wrong))
    assert page.faults == [] and page.evaluate("window.hacked") is None


def test_a_part_of_a_file_is_played_from_its_start_to_its_end(browser, evaluated):
    model, data, _, _ = evaluated("single_label")
    lines = [json.loads(line) for line in (data / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    part = {"start": 0.2, "end": 0.4, "seconds": 0.2}
    (data / "manifest.jsonl").write_text("".join(json.dumps({**line, **part}) + "\n" for line in lines))
    prepared.call("report", model, "--data", data, "--clips", 0)
    page = browser(model / "report.html")
    player = page.locator("#cell .clip").first
    assert player.locator(".time").text_content() == "0.2 s"
    page.evaluate("window.heard = []; sound.ontimeupdate = () => heard.push(sound.currentTime); undefined")
    player.locator(".play").click()
    until(page, "heard.length > 1 && sound.paused")
    heard = page.evaluate("heard")
    assert min(heard) >= 0.199 and max(heard) < 0.48 and player.locator(".time").text_content() == "0.2 s"
    assert page.faults == []
