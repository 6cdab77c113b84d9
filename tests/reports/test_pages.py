"""Reports, as files and in a browser, where there is one (playwright for Python and Chromium)."""

import base64
import html.parser
import io
import json
import re
import time
import urllib.parse

import numpy as np
import prepared
import pytest
import soundfile
from paddletag.reports import embedded_media
from paddletag.reports import tagging_page as tagging_pages
from paddletag.reports.embedded_media import PEAKS
from paddletag.reports.html_page import build_page, embedded_json
from paddletag.reports.tagging_page import CLASSES, tagging_page
from paddletag.runtime import log
from paddletag.tagging.events import find_events, median_scores
from paddletag.tagging.labels import choose_labels
from PIL import Image

RATE, SECONDS = 32000, 4.0
HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "\"'`${window.hacked = 1}`\n<!-- {{script}}",
    "猫 &lt; Café\u2028",
]


class Page(html.parser.HTMLParser):
    """What a browser would make of the HTML: tags with their attributes, and the text of each script and title."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open_tag = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open_tag = tag
        self.texts.append([tag, ""])

    def handle_endtag(self, tag):
        self.open_tag = None

    def handle_data(self, data):
        if self.open_tag:
            self.texts[-1][1] += data

    def text(self, tag):
        return [text for name, text in self.texts if name == tag]

    @property
    def data(self):
        return json.loads(self.text("script")[0])


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    """(npz, sound, arrays): 4 s whose second half is a tone of 2 kHz; hostile labels."""
    folder = tmp_path_factory.mktemp("tagged")
    seconds = np.arange(int(SECONDS * RATE)) / RATE
    wave = 0.5 * np.sin(2 * np.pi * 2000 * seconds) * (seconds > 2)
    sound = folder / "a<b>'\"\n&é #%.wav"
    soundfile.write(sound, wave + 1e-4 * np.random.default_rng(0).standard_normal(len(wave)), RATE)
    start = 0.3 * np.arange(14)
    labels = [*HOSTILE, *(f"class {k}" for k in range(60))]
    scores = np.random.default_rng(1).uniform(0, 0.25, (len(start), len(labels))).astype(np.float32)
    scores[:, : len(HOSTILE)] *= 4
    scores[3:6, 1] = 0.7  # exactly a threshold, in float32
    arrays = {"time": start / SECONDS, "start": start, "end": np.minimum(start + 1, SECONDS), "scores": scores}
    arrays |= {"labels": np.array(labels), "model": np.array("ab" * 32)}
    np.savez(folder / "tags.npz", **arrays)
    return folder / "tags.npz", sound, arrays


def source_of(path, size, changed):
    """What stage 4 remembers of a file."""
    return np.array(json.dumps([str(path), size, changed, 2.0, 0.3]) + " zero")


def write_tagging(tagged, output, *options):
    npz, sound, _ = tagged
    prepared.call("report", npz, "--audio", sound, "--out", output, *options)
    return Page(output.read_text(encoding="utf-8"))


def test_json_in_a_page_is_inert_and_whole():
    value = {name: [name, 1.5, None] for name in [*HOSTILE, "\udcff", "\\u003c"]}
    text = embedded_json(value)
    assert json.loads(text) == value
    assert text.isascii() and not set("<>&\n") & set(text)


def test_a_tagging_report_holds_the_result(tagged, tmp_path):
    _, sound, arrays = tagged
    data = write_tagging(tagged, tmp_path / "r.html").data
    order = np.argsort(-arrays["scores"].max(0))[:CLASSES]
    assert data["labels"] == [str(arrays["labels"][k]) for k in order]
    scores = np.frombuffer(base64.b64decode(data["scores"]), "<f4").reshape(len(order), -1)
    assert np.array_equal(scores, arrays["scores"][:, order].T)
    assert data["left_out_peak"] == np.sort(arrays["scores"].max(0))[-CLASSES - 1]
    original, _ = soundfile.read(sound)
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(data["sound"])))
    assert rate == RATE and len(wave) == len(original) == data["seconds"] * RATE
    assert np.corrcoef(wave, original)[0, 1] > 0.99  # a shift by a quarter of its period would leave 0
    peaks = np.array(data["peaks"])
    assert len(peaks) == PEAKS and peaks[:1900].max() < 0.01 and abs(peaks[2100:].mean() - 0.5) < 0.01


def test_the_picture_shows_a_tone_where_its_axis_says(tagged, tmp_path):
    data = write_tagging(tagged, tmp_path / "r.html").data
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["spectrogram"]))).convert("L"), float)
    half = image.shape[1] // 2
    row = image[:, half + 10 :].mean(1).argmax()
    assert image[row, : half - 10].mean() < 0.5 * image[row, half + 10 :].mean()
    height = dict((f, h) for f, h in data["frequencies"])[2]
    assert abs((1 - (row + 0.5) / len(image)) - height) < 1.5 / len(image)


def test_a_class_that_reaches_the_threshold_is_not_left_out(tagged, tmp_path):
    data = write_tagging(tagged, tmp_path / "r.html", "--threshold", "0.05").data
    assert len(data["labels"]) == (tagged[2]["scores"].max(0) >= 0.05).sum() > CLASSES
    data = write_tagging(tagged, tmp_path / "r.html", "--classes", "class 1*").data
    assert sorted(data["labels"]) == sorted(["class 1", *(f"class {k}" for k in range(10, 20))])


def test_a_link_leads_to_the_sound(tagged, tmp_path):
    data = write_tagging(tagged, tmp_path / "sub" / "r.html", "--sound", "link").data
    assert "sound" not in data
    assert (tmp_path / "sub" / urllib.parse.unquote(data["audio"])).resolve() == tagged[1].resolve()
    assert not set("<>\"'# \n") & set(data["audio"])


def test_long_sound_is_referred_to_unless_told_otherwise(tagged, tmp_path, monkeypatch):
    monkeypatch.setattr(tagging_pages, "EMBEDDED", SECONDS - 0.1)
    data = write_tagging(tagged, tmp_path / "r.html").data
    assert "audio" in data and "sound" not in data
    data = write_tagging(tagged, tmp_path / "r.html", "--sound", "embed").data
    assert "sound" in data and "audio" not in data


def test_the_parts_of_a_stream_leave_no_trace(tagged, tmp_path, monkeypatch):
    """Peaks and picture are those of the whole sound, however it is cut while it is read."""
    pages = []
    for block, peaks in ((2**18, 400), (997, 400), (2**18, 399)):
        monkeypatch.setattr("paddletag.data.audio.BLOCK", block)
        monkeypatch.setattr(embedded_media, "PEAKS", peaks)
        monkeypatch.setattr(embedded_media, "COLUMNS", 20)
        pages.append(write_tagging(tagged, tmp_path / "r.html").data)
    assert pages[0]["peaks"] == pages[1]["peaks"] != pages[2]["peaks"]
    assert pages[0]["spectrogram"] == pages[1]["spectrogram"]
    wave, _ = soundfile.read(tagged[1])
    parts = np.abs(wave[: 400 * 320]).reshape(400, 320).max(1)
    np.testing.assert_allclose(pages[0]["peaks"], parts, atol=1e-3)


def test_stage_5_makes_a_report(tagged, tmp_path, caplog, monkeypatch):
    _, sound, arrays = tagged
    source = source_of(sound, sound.stat().st_size, sound.stat().st_mtime_ns)
    (tmp_path / "tags" / "sub").mkdir(parents=True)
    np.savez(tmp_path / "tags" / "sub" / "a.npz", **arrays, source=source)
    out = tmp_path / "out"
    options = ["--output_dir", out, "--report", "--classes", "class 1*", "--median", 3, "--format", "text", "png"]
    prepared.call("parse_result", "--tagging_file", tmp_path / "tags", *options, "--threshold", "0.2", "class 10=0.6")
    assert Image.open(out / "sub" / "a.png").size[0] == 768
    data = Page((out / "sub" / "a.html").read_text(encoding="utf-8")).data
    shown = np.frombuffer(base64.b64decode(data["scores"]), "<f4").reshape(len(data["labels"]), -1).T
    columns = choose_labels(arrays["labels"], data["labels"])
    order = [list(arrays["labels"]).index(label) for label in data["labels"]]
    assert sorted(order) == columns.tolist() and len(order) == 11
    np.testing.assert_array_equal(shown, median_scores(arrays["scores"], 3)[:, order])
    assert data["threshold"] == 0.2 and (out / "sub" / "a.txt").exists()
    single = tmp_path / "tags" / "sub" / "a.npz"
    message = prepared.refusal("parse_result", "--tagging_file", single, "--audio", sound, "--output_dir", out)
    assert "--audio" in message and "--report" in message
    np.savez(tmp_path / "tags" / "b.npz", **arrays)
    message = prepared.refusal("parse_result", "--tagging_file", tmp_path / "tags", *options, "--audio", sound)
    assert "--audio" in message and str(tmp_path / "tags") in message and "2 results" in message
    prepared.call("parse_result", "--tagging_file", tmp_path / "tags" / "b.npz", *options, "--audio", sound)
    assert Page((out / "b.html").read_text(encoding="utf-8")).data["file"] == sound.name
    np.savez(single, **arrays, source=source_of("elsewhere.wav", 1, 2))
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr("paddletag.runtime.start_log", lambda: None)
    prepared.call("parse_result", "--tagging_file", single, *options, "--audio", sound)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sound.name.split("\n")[-1] in warning and "elsewhere.wav" in warning and "size" in warning


@pytest.mark.parametrize("kind", ["tagging", "evaluation"])
def test_a_page_is_self_contained_and_hostile_names_are_inert(kind):
    value = {"labels": HOSTILE, "url": "https://example.org"}
    page = Page(build_page(kind, HOSTILE[0], value))
    assert page.data == value and page.text("title") == [HOSTILE[0]]
    tags = [tag for tag, _ in page.tags]
    assert sorted(tags) == sorted("html head meta meta meta title link style body main noscript script script".split())
    assert [a for _, attributes in page.tags for a in attributes if a in ("src", "href")] == ["href"]  # the icon, empty
    code = page.text("style")[0] + re.sub(r"/\*.*?\*/", "", page.text("script")[1], flags=re.S)
    assert set(re.findall(r"https?://[^\"'\s]+", code)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xhtml",
    }
    assert not re.search(r"@import|url\(|innerHTML\s*=\s*data|insertAdjacentHTML|document\.write", code)


def test_ten_minutes_weigh_less_than_15_mb(tmp_path):
    """A tenth of them: the sound grows with time, and noise compresses worst; peaks and picture do not grow."""
    wave = np.random.default_rng(0).normal(0, 0.2, 60 * RATE).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, RATE)
    start = np.arange(0, 60, 0.3)
    scores = np.random.default_rng(0).random((len(start), 200), np.float32) * 0.29
    arrays = {"scores": scores, "start": start, "end": np.minimum(start + 2, 60), "labels": np.arange(200).astype(str)}
    size = len(tagging_page(arrays, tmp_path / "a.wav", tmp_path))
    fixed = len(build_page("tagging", "", {})) + 600_000
    assert size < fixed + (15e6 - fixed) / 10


def test_a_report_lies_beside_its_result(tagged, tmp_path, monkeypatch):
    npz, sound, _ = tagged
    (tmp_path / "tags").mkdir()
    (tmp_path / "tags" / "x.y.npz").write_bytes(npz.read_bytes())
    monkeypatch.chdir(tmp_path)
    prepared.call("report", "tags/x.y.npz", "--audio", sound)
    assert [path.name for path in tmp_path.iterdir()] == ["tags"]
    assert sorted(path.name for path in (tmp_path / "tags").iterdir()) == ["x.y.html", "x.y.npz"]


def test_what_a_user_can_get_wrong(tagged, tmp_path):
    npz, sound, _ = tagged
    output = tmp_path / "r.html"
    message = prepared.refusal("report", npz, "--out", output)
    assert str(npz) in message and "--audio" in message
    gone = tmp_path / "gone.npz"
    np.savez(gone, **tagged[2], source=source_of(tmp_path / "none.wav", 1, 2))
    assert "none.wav" in prepared.refusal("report", gone, "--out", output)
    np.savez(gone, **tagged[2], source=source_of(sound, sound.stat().st_size, 2))
    assert "has changed" in prepared.refusal("report", gone, "--out", output)
    assert f"{tmp_path}: is not" in prepared.refusal("report", tmp_path, "--out", output)
    assert "--clips" in prepared.refusal("report", npz, "--audio", sound, "--clips", 3, "--out", output)
    assert "--threshold 2" in prepared.refusal("report", npz, "--audio", sound, "--threshold", 2, "--out", output)
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(RATE), RATE)
    assert "1.00 s" in prepared.refusal("report", npz, "--audio", short, "--out", output)
    assert "none.wav: no such" in prepared.refusal("report", npz, "--audio", tmp_path / "none.wav", "--out", output)
    assert "none.npz: no such" in prepared.refusal("report", tmp_path / "none.npz", "--audio", sound, "--out", output)
    broken = tmp_path / "broken.npz"
    np.savez(broken, **{**tagged[2], "scores": tagged[2]["scores"] * np.float32("nan")})
    assert "broken.npz: not a" in prepared.refusal("report", broken, "--audio", sound, "--out", output)
    assert not output.exists()


TEXTS = "table => [...document.querySelectorAll(table + ' tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
FOCUS = "(e => [e.id || e.tagName, getComputedStyle(e).outlineStyle])(document.activeElement)"


def until(page, expression, seconds=10):
    """Wait until the expression is true. (Playwright's own waiting evaluates text, which the page forbids.)"""
    for _ in range(50 * seconds):
        if page.evaluate(expression):
            return
        time.sleep(0.02)
    raise AssertionError(f"still not true after {seconds} s: {expression}")


def ready(page):
    until(page, "document.querySelector('audio').readyState >= 2")


def position(page):
    return page.evaluate("document.querySelector('audio').currentTime")


def at(seconds):
    return f"Math.abs(document.querySelector('audio').currentTime - {seconds}) < 0.01"


def rows(page):
    cells = page.evaluate(TEXTS, "#events")
    return [(a, b, label, float(peak), float(mean)) for a, b, label, peak, mean in cells]


def printable(label):
    """A label as pages show it."""
    return label.replace("\u2028", "\\u2028")


def expected_rows(arrays, threshold):
    clock = "0:{:05.2f}".format
    events = find_events(arrays, threshold)
    return sorted((clock(e["onset"]), clock(e["offset"]), printable(e["label"]), e["peak"], e["mean"]) for e in events)


def same_rows(shown, expected):
    assert [row[:3] for row in sorted(shown)] == [row[:3] for row in expected]
    assert np.allclose([row[3:] for row in sorted(shown)], [row[3:] for row in expected], atol=6e-4)


def test_a_tagging_report_in_a_browser(browser, tagged, tmp_path):
    write_tagging(tagged, tmp_path / "r.html")
    page = browser(tmp_path / "r.html")
    ready(page)
    assert page.locator("h1").text_content() == tagged[1].name
    same_rows(rows(page), expected_rows(tagged[2], 0.3))
    for threshold in (0.7, 0.5):  # at 0.7 three windows have it exactly
        page.locator("#threshold").fill(str(threshold))
        same_rows(rows(page), expected_rows(tagged[2], threshold))
    page.locator("#filter").fill("CAFÉ")
    assert {row[2] for row in rows(page)} == {printable(HOSTILE[3])}
    assert page.locator(".lane").count() == 1
    page.locator("#filter").fill("")
    assert page.locator(".lane").count() == len({row[2] for row in rows(page)}) == 4
    page.locator("#more").click()
    assert page.locator(".lane").count() == CLASSES
    page.get_by_role("button", name="Peak").click()
    peaks = [row[3] for row in rows(page)]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) > 1
    assert page.faults == [] and page.evaluate("window.hacked") is None


@pytest.mark.parametrize("options", [(), ("--sound", "link")])
def test_a_click_plays_from_there(browser, tagged, tmp_path, options):
    write_tagging(tagged, tmp_path / "r.html", *options)
    page = browser(tmp_path / "r.html")
    ready(page)
    page.evaluate("document.querySelector('audio').addEventListener('seeked', e => window.at = e.target.currentTime)")
    page.evaluate("document.querySelector('audio').playbackRate = 0.1")  # so that it is still where it was sent
    listed = rows(page)
    long = [n for n, row in enumerate(listed) if float(row[1][2:]) - float(row[0][2:]) > 0.25]
    for n in (long[-1], long[0], long[2]):
        page.evaluate("window.at = null")
        page.locator("#events tbody button").nth(n).click()
        until(page, "window.at !== null")
        assert abs(page.evaluate("window.at") - float(listed[n][0][2:])) < 0.05
        assert not page.evaluate("document.querySelector('audio').paused")
    for selector, share in ((".lane", 0.25), (".spectrogram", 0.75), (".wave", 0.5)):
        page.evaluate("window.at = null")
        track = page.locator(selector).first
        width, height = track.evaluate("e => [e.clientWidth, e.clientHeight]")
        track.click(position={"x": share * width, "y": height / 2})
        until(page, "window.at !== null")
        assert abs(page.evaluate("window.at") - share * SECONDS) < 0.05
    box, cursor = track.bounding_box(), page.locator(".over .cursor").bounding_box()
    assert abs(cursor["x"] - (box["x"] + 0.5 * width)) < 20
    assert page.faults == []


def test_an_event_ends_where_it_ends(browser, tagged, tmp_path):
    write_tagging(tagged, tmp_path / "r.html")
    page = browser(tmp_path / "r.html")
    ready(page)
    n = next(n for n, row in enumerate(rows(page)) if row[1] < "0:03.00" and row[0] > "0:00.00")
    page.locator("#events tbody button").nth(n).click()
    until(page, "document.querySelector('audio').paused && document.querySelector('audio').currentTime > 0")
    assert 0 <= position(page) - float(rows(page)[n][1][2:]) < 0.2


def test_the_keyboard_is_enough(browser, tagged, tmp_path):
    write_tagging(tagged, tmp_path / "r.html")
    page = browser(tmp_path / "r.html")
    ready(page)
    page.keyboard.press("ArrowRight")
    until(page, at(1))
    page.keyboard.press("Shift+ArrowRight")
    until(page, at(1.1))
    page.keyboard.press("ArrowLeft")
    until(page, at(0.1))
    page.keyboard.press("Space")
    until(page, "!document.querySelector('audio').paused")
    assert page.locator("#play").text_content() == "Pause"
    page.keyboard.press("Space")
    until(page, "document.querySelector('audio').paused")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('tr').rowIndex") == 2
    reached = set()
    page.evaluate("document.activeElement.blur(); document.body.focus()")
    page.locator("#theme").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(FOCUS)
        reached.add(name)
        assert name == "BODY" or outline != "none"
    assert {"play", "speed", "zoom", "wave", "more", "threshold", "filter"} <= reached
    page.locator("#threshold").focus()
    before = position(page)
    page.keyboard.press("ArrowRight")
    assert page.locator("#shown-threshold").text_content() == "0.31" and position(page) == before
    page.keyboard.press("Space")  # plays from a slider too
    until(page, "!document.querySelector('audio').paused")
    assert page.faults == []


def both_widths_and_shades(browser, path):
    """Check that a report fits a narrow screen, and follows its button and the system from light to dark."""
    page = browser(path, width=360)
    page.locator("h1").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shade = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(shade)
    page.locator("#theme").click()
    dark = page.evaluate(shade)
    assert sum(map(int, re.findall(r"\d+", light))) > 600 > 200 > sum(map(int, re.findall(r"\d+", dark)))
    page.emulate_media(color_scheme="dark")
    page.reload()
    assert page.evaluate(shade) == dark and page.faults == []


def test_both_widths_and_both_shades(browser, tagged, tmp_path):
    write_tagging(tagged, tmp_path / "r.html")
    both_widths_and_shades(browser, tmp_path / "r.html")


@pytest.mark.full
def test_ten_minutes_open_in_two_seconds(browser, tmp_path):
    generator = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", generator.normal(0, 0.2, 600 * RATE).astype(np.float32), RATE)
    start = np.arange(0, 600, 0.3)
    scores = generator.random((len(start), 527), np.float32) ** 8 * generator.random(527, np.float32) ** 4
    arrays = {"scores": scores, "start": start, "end": np.minimum(start + 2, 600), "labels": np.arange(527).astype(str)}
    (tmp_path / "r.html").write_text(tagging_page(arrays, tmp_path / "a.wav", tmp_path), encoding="utf-8")
    assert (tmp_path / "r.html").stat().st_size < 15e6
    began = time.monotonic()
    page = browser(tmp_path / "r.html")
    ready(page)  # to play
    assert time.monotonic() - began < 2
    assert rows(page) and page.faults == []
