"""What can be done on the page of a tagging result, in a browser: lanes, buttons, downloads, corrections."""

import csv
import io
import json

import numpy as np
import pytest
import soundfile
from paddletag.data import manifest
from paddletag.reports import tagging_page as tagging_pages
from paddletag.reports.embedded_media import SoundSummary
from paddletag.reports.look import DARK, class_order
from paddletag.reports.tagging_page import tagging_page
from paddletag.tagging.events import find_events
from paddletag.tagging.result_formats import events_audacity, events_csv
from prepared import call, tone

RATE, SECONDS, HOP = 16000, 12.0, 0.5
HOSTILE = 'x"<b>,;\n\t=1+1 é猫'
SCORES = {  # label: [(first window, window after the last, score)]
    "rain": [(0, 4, 0.6), (8, 12, 0.5), (18, 24, 0.7)],
    "dog": [(3, 6, 0.9), (14, 17, 0.8)],
    HOSTILE: [(12, 15, 0.4375), (15, 16, 0.40625)],
    "cat": [],
    "sea": [(5, 6, 0.03125)],
}


def scene(folder, scores=SCORES):
    """(arrays, sound): rain is a low tone, dog a high one; windows of one hop, so that events are what SCORES says."""
    generator = np.random.default_rng(0)
    count = round(SECONDS / HOP)
    start = HOP * np.arange(count)
    values = np.zeros((count, len(scores)), np.float32)
    wave = 0.01 * generator.standard_normal(round(SECONDS * RATE)).astype(np.float32)
    for k, spans in enumerate(scores.values()):
        for first, last, score in spans:
            values[first:last, k] = score
            part = slice(round(first * HOP * RATE), round(last * HOP * RATE))
            wave[part] += tone((300, 2000)[k % 2], (last - first) * HOP, generator, RATE)[: len(wave[part])]
    soundfile.write(folder / "a scene.wav", wave, RATE)
    arrays = {"scores": values, "start": start, "end": start + HOP, "time": start / SECONDS}
    return {**arrays, "labels": np.array(list(scores)), "model": np.array("ab" * 32)}, folder / "a scene.wav"


@pytest.fixture
def opened(browser, tmp_path):
    """A function: what `tagging_page` takes besides -> (page, arrays)."""
    pages = []

    def visit(width=1440, scores=SCORES, **options):
        arrays, sound = scene(tmp_path, scores)
        (tmp_path / "r.html").write_text(tagging_page(arrays, sound, tmp_path, **options), encoding="utf-8")
        pages.append(browser(tmp_path / "r.html", width))
        return pages[-1], arrays

    yield visit
    for page in pages:
        assert page.faults == []
        page.close()


def saved(page, name):
    """(name of the file, its text) that a button gives."""
    with page.expect_download() as waiting:
        page.locator(f"#save-{name}").click()
    return waiting.value.suggested_filename, waiting.value.path().read_bytes().decode()


def pick(page, number):
    """Choose an event of the table, by its row, and stop playing."""
    page.locator("#events tbody button").nth(number).click()
    page.evaluate("audio.pause()")


def lane_names(page):
    return page.locator(".timeline .row .plain").all_text_contents()


def test_the_answer_comes_first(opened):
    page, arrays = opened()
    answer = page.locator("#answer")
    expected = f"rain 3 times (7 s); dog 1.5 to 3 s and 7 to 8.5 s; {HOSTILE} 6 to 8 s"
    assert answer.text_content() == expected
    page.locator("#threshold").fill("0.75")
    assert answer.text_content() == "dog 1.5 to 3 s and 7 to 8.5 s"
    page.locator("#threshold").fill("0.95")
    assert answer.text_content() == "Nothing reached the threshold" and lane_names(page) == []
    page.locator("#threshold").fill("0.02")
    assert "sea 2.5 to 3 s" in answer.text_content()
    for selector in ("#answer", "#events tbody tr", ".lane", "#save-csv", "#accept"):  # without scrolling
        box = page.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] < 900


def test_a_long_answer_stays_short_and_says_how_many_are_left_out(opened):
    many = {f"a class with a long name, number {k}": [(k, k + 1, 0.5 + k / 50)] for k in range(20)}
    page, _ = opened(scores=many)
    text = page.locator("#answer").text_content()
    assert len(text) < 160 and text.endswith(f"and {20 - text.count('number')} more classes")
    assert page.locator("#answer").bounding_box()["height"] < 80
    assert "number 19" in text  # the strongest


def test_lanes_of_classes_with_events_alone(opened):
    page, arrays = opened()
    order = arrays["labels"][class_order(arrays["scores"])].tolist()
    assert order[:3] == ["dog", "rain", HOSTILE] and lane_names(page) == order[:3]
    more = page.locator("#more")
    assert "2 more classes" in more.text_content() and more.get_attribute("aria-expanded") == "false"
    more.click()
    assert lane_names(page) == order and more.get_attribute("aria-expanded") == "true"
    more.click()
    page.locator("#filter").fill("SEA")
    assert lane_names(page) == ["sea"] and more.is_hidden()
    numbers = page.locator(".timeline .name .number")
    assert numbers.text_content() == "0.03" and "ighest score" in numbers.get_attribute("title")
    assert page.locator("#legend .swatch").count() == 4


def test_many_lanes_are_shown_on_demand(opened):
    page, _ = opened(scores={f"c{k}": [(k, k + 1, 0.9 - k / 50)] for k in range(20)})
    assert lane_names(page) == [f"c{k}" for k in range(12)]
    assert "8 more classes, 8 with events" in page.locator("#more").text_content()


def colour(page, selector, what):
    return page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{what}")


def test_pages_have_the_colours_of_pictures_and_videos(opened):
    page, _ = opened()
    page.emulate_media(color_scheme="dark")
    for selector, what, name in (
        (".lane path:not(.below)", "fill", "accent"), (".lane path.below", "fill", "lane"),
        (".lane rect", "fill", "shade"), (".cursor", "backgroundColor", "warm"), (".lane", "backgroundColor", "page"),
    ):  # fmt: skip
        red, green, blue = (int(DARK[name][i : i + 2], 16) for i in (1, 3, 5))
        assert colour(page, selector, what) == f"rgb({red}, {green}, {blue})"


def test_close_events_are_one_only_in_the_drawing(browser, tmp_path, monkeypatch):
    start = HOP * np.arange(7200)  # an hour
    arrays = {"scores": np.float32([[0.9], [0.1]] * 3600), "start": start, "end": start + HOP}
    arrays["labels"] = np.array(["tick"])
    summary = SoundSummary(3600.0, np.ones(100), np.zeros((100, 128)), b"")  # decoding would take half a minute
    monkeypatch.setattr(tagging_pages, "summarize_sound", lambda *_, **__: summary)
    (tmp_path / "r.html").write_text(tagging_page(arrays, tmp_path / "a.wav", tmp_path), encoding="utf-8")
    page = browser(tmp_path / "r.html", 1440)
    drawn = "document.querySelectorAll('.lane rect').length"
    points = "document.querySelector('.lane path.below').getAttribute('d').length"
    assert page.evaluate("classes[0].events.length") == len(find_events(arrays)) == 3600
    assert page.locator("#count").text_content() == "3600 events"
    assert page.evaluate(drawn) == 1 and page.evaluate(points) < 20000
    page.locator("#zoom").fill("6")
    page.wait_for_timeout(200)
    assert page.evaluate(drawn) == 3600 and page.evaluate(points) > 50000
    assert page.locator("#answer").text_content() == "tick 3600 times (30:00)"
    page.close()


def test_loop_and_next(opened):
    page, _ = opened()
    page.evaluate("audio.muted = true")
    assert page.locator("#loop").is_disabled()
    pick(page, 0)  # rain, 0 to 2 s
    page.locator("#next").click()
    assert page.locator("#event-start").input_value() == "4"
    for _ in range(2):
        page.locator("#next").click()
    assert page.locator("#event-start").input_value() == "0"  # after the last comes the first
    page.evaluate("audio.playbackRate = 4")
    page.locator("#loop").click()
    assert page.locator("#loop").get_attribute("aria-pressed") == "true"
    page.evaluate("window.turns = 0; audio.addEventListener('seeked', () => { window.turns++; })")
    for _ in range(100):
        page.wait_for_timeout(50)
        if page.evaluate("window.turns") > 2:
            break
    assert page.evaluate("window.turns > 2 && !audio.paused && audio.currentTime < 2.5")
    page.locator("#loop").click()
    for _ in range(60):
        page.wait_for_timeout(50)
        if page.evaluate("audio.paused"):
            break
    assert page.evaluate("audio.paused")


@pytest.mark.parametrize("threshold", [0.3, 0.02])
def test_downloads_are_what_parse_writes(opened, threshold):
    page, arrays = opened(threshold=threshold)
    events = find_events(arrays, threshold)
    assert saved(page, "csv") == ("a scene.csv", events_csv(events))
    assert saved(page, "audacity") == ("a scene.audacity.txt", events_audacity(events))
    name, text = saved(page, "labelstudio")
    (task,) = json.loads(text)
    assert name == "a scene.labelstudio.json" and task["data"] == {"audio": "a scene.wav"}
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "ab" * 6
    for region, event in zip(prediction["result"], events, strict=True):
        assert (region["from_name"], region["to_name"], region["type"]) == ("label", "audio", "labels")
        times = {"start": round(event["onset"], 4), "end": round(event["offset"], 4)}
        assert region["value"] == {**times, "channel": 0, "labels": [event["label"]]}
        assert region["score"] == round(event["peak"], 4)


def test_numbers_are_rounded_as_python_does(opened):
    page, _ = opened()
    generator = np.random.default_rng(0)
    values = [*generator.uniform(0, 4000, 500), *(np.arange(200) / 32), 0.03125, 1.00005, 7.0, 1e-5, 1e-4, 3599.99995]
    assert page.evaluate("values => values.map(numberText)", list(map(float, values))) == [
        repr(round(float(value), 4)) for value in values
    ]


def statuses(page):
    """Of each row of the table, the word in it: accepted, changed ...; "" for none."""
    rows = "[...document.querySelectorAll('#events tbody tr')]"
    return page.evaluate(f"{rows}.map((row) => row.querySelector('.status')?.textContent.split(' ')[1] ?? '')")


def test_an_event_is_corrected(opened):
    page, arrays = opened()
    before = page.locator("#events tbody tr").count()
    pick(page, 0)
    page.locator("#reject").click()
    assert statuses(page).count("rejected") == 1
    assert "rain 4 to 6 s and 9 to 12 s" in page.locator("#answer").text_content()
    assert len(list(csv.reader(io.StringIO(saved(page, "csv")[1])))) == before  # a header, and all others
    page.locator("#undo").click()
    assert statuses(page) == [""] * before and page.locator("#undo").is_disabled()
    page.locator("#event-label").fill("drizzle <i>")
    page.locator("#event-label").press("Enter")
    assert "drizzle <i>" in lane_names(page) and statuses(page).count("changed") == 1
    page.locator("#event-start").fill("5")
    page.locator("#event-start").press("Enter")  # after the end
    assert "0 to 12" in page.locator(".editor .alert").text_content()
    page.locator("#event-start").fill("0.25")
    page.locator("#event-start").press("Enter")
    assert page.locator(".editor .alert").text_content() == ""
    page.locator("#threshold").fill("0.99")  # what was corrected stays
    cells = page.locator("#events tbody tr").all_inner_texts()
    assert len(cells) == 1 and "0:00.25" in cells[0] and "–" in cells[0]
    page.locator("#threshold").fill("0.3")
    assert page.locator("#events tbody tr").count() == before  # and its own event does not come back


def test_the_keyboard_corrects(opened):
    page, _ = opened()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("a")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("r")
    assert statuses(page)[1:3] == ["accepted", "rejected"]
    assert page.evaluate("document.activeElement.closest('tr').rowIndex") == 3
    page.locator("#filter").focus()
    page.keyboard.type("rain")  # letters in a field are text
    assert statuses(page) == ["", "rejected", ""]


def test_what_was_corrected_is_what_is_trained_on(opened, tmp_path):
    page, arrays = opened(scores={label: SCORES[label] for label in ("rain", "dog")})
    pick(page, 0)
    page.locator("#reject").click()
    pick(page, 1)  # dog, 1.5 to 3 s
    page.locator("#event-end").fill("2.6251")
    page.locator("#event-end").press("Enter")
    page.locator("#accept-all").click()
    page.evaluate("seek(10.25)")
    page.locator("#add").click()
    page.keyboard.type("rain")
    page.keyboard.press("Enter")
    assert page.locator("#save-corrections").text_content() == "Corrections (5)"
    name, text = saved(page, "corrections")
    assert name == "a scene.corrections.csv"
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [["filename", "onset", "offset", "label"]] + [
        ["a scene.wav", *times, label]
        for *times, label in [
            ("1.5", "2.6251", "dog"), ("4.0", "6.0", "rain"), ("7.0", "8.5", "dog"), ("9.0", "12.0", "rain"),
            ("10.25", "11.25", "rain"),
        ]
    ]  # fmt: skip
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "conf.yaml").write_text(f"""
data: {{layout: csv, metadata: {name}, audio: "{{filename}}", label: label, start: onset, end: offset, folds: 2,
        clip_seconds: 2.0}}
model: {{name: mn01_as, weights: none}}
""")
    call("prepare", "--config", tmp_path / "conf.yaml", "--raw", tmp_path, "--data", tmp_path / "data")
    call("features", "--config", tmp_path / "conf.yaml", "--data", tmp_path / "data", "--workers", 1)
    records, labels = manifest.read(tmp_path / "data")
    assert labels == ["dog", "rain"]
    found = sorted((r["start"], r["end"], r["labels"]) for r in records)
    assert found == [(float(a), float(b), [label]) for _, a, b, label in rows[1:]]
    assert {r["audio"] for r in records} == {str(tmp_path / "a scene.wav")}
    assert list((tmp_path / "data" / "features").rglob("*.arrow"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen(opened, scheme):
    page, _ = opened(width=390)
    page.emulate_media(color_scheme=scheme)
    page.locator("#more").click()
    pick(page, 0)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#answer").bounding_box()["y"] < 200


def test_each_class_has_its_own_threshold(opened):
    page, arrays = opened(threshold=np.array([0.55, 0.85, 0.42, 0.3, 0.03]))
    expected = [(e["onset"], e["label"]) for e in find_events(arrays, np.array([0.55, 0.85, 0.42, 0.3, 0.03]))]
    assert page.evaluate("events.rows().map((e) => [e.onset, e.label]).sort((a, b) => a[0] - b[0])") == [
        list(pair) for pair in expected
    ]
    assert page.locator("#threshold").is_hidden() and "own threshold" in page.locator("#rules").text_content()
