"""Videos, decoded again: their length, where cursor and bars are, films, and what no name or label may do."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import prepared
import pytest
import soundfile
from conftest import ESC10, ROOT
from paddletag.data import audio
from paddletag.data import ffmpeg as ffmpeg_module
from paddletag.features import frontend
from paddletag.models import model_folder, registry
from paddletag.reports import look, video, video_screen, video_text
from paddletag.reports.spectrogram_image import grey_image
from paddletag.reports.video_layout import ScreenLayout
from paddletag.tagging import pipeline
from PIL import ImageColor

RATE, SIZE = 16000, (640, 360)
HOSTILE = ["$x_1^{2}$ \\frac %{pts} %n", "line\nbreak\ttab\x1b[31m", "猫 мяч كلب \u202eevil", "x" * 5000, "';[v]null"]
LABELS = ["rain", "dog", "siren", *HOSTILE]


@pytest.fixture(scope="module")
def ffmpeg():
    """A function that runs ffmpeg with arguments and gives its output; skips where there is none."""
    try:
        program = ffmpeg_module.ffmpeg_program("tests")
    except audio.AudioError:
        pytest.skip("neither ffmpeg nor imageio_ffmpeg is installed")

    def run(*args):
        command = [program, "-nostdin", "-v", "error", "-y", *map(str, args)]
        return subprocess.run(command, check=True, capture_output=True).stdout

    return run


@pytest.fixture(scope="module")
def decode(ffmpeg):
    """A function: a video -> its frames uint8 [N, height, width, 3]."""

    def read(path, size=SIZE):
        data = ffmpeg("-i", f"file:{path}", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
        return np.frombuffer(data, np.uint8).reshape(-1, size[1], size[0], 3)

    return read


def tagged(folder, seconds=2.03, name="scene.wav", scores=None, channels=1):
    """(sound, npz, arrays): stereo or mono noise, and scores of windows of 0.4 s every 0.1 s."""
    generator = np.random.default_rng(0)
    soundfile.write(folder / name, 0.1 * generator.standard_normal((round(seconds * RATE), channels)), RATE)
    start = np.arange(0, seconds, 0.1)
    if scores is None:
        scores = generator.uniform(0, 1, (len(start), len(LABELS))).astype(np.float32)
    arrays = {"time": start / seconds, "start": start, "end": np.minimum(start + 0.4, seconds), "scores": scores}
    arrays |= {"labels": np.array(LABELS[: scores.shape[1]])}
    np.savez(folder / "tags.npz", **arrays)
    return folder / name, folder / "tags.npz", arrays


def render(sound, npz, output, *options):
    prepared.call("render_video", sound, "--tagging", npz, "--out", output, "--size", "640x360", *options)


def near(pixels, colour, tolerance=24):
    """Where pixels [..., 3] have about a colour."""
    return (np.abs(pixels.astype(int) - ImageColor.getrgb(colour)).max(-1) <= tolerance).nonzero()


@pytest.mark.parametrize("seconds, fps", [(2.03, 25), (1.0, 10), (1.999, 29.97), (0.01, 25)])
def test_it_is_as_long_as_the_sound(ffmpeg, decode, tmp_path, seconds, fps):
    sound, npz, _ = tagged(tmp_path, seconds, channels=2)
    render(sound, npz, tmp_path / "out.mp4", "--fps", fps)
    count = len(decode(tmp_path / "out.mp4"))
    assert 0 <= count / fps - seconds < 1 / fps + 1e-9
    ffmpeg("-i", tmp_path / "out.mp4", "-c:a", "pcm_f32le", tmp_path / "heard.wav")
    heard, rate = soundfile.read(tmp_path / "heard.wav")
    original, _ = soundfile.read(sound)
    assert rate == RATE and heard.shape[1] == 2 and abs(len(heard) / rate - seconds) < max(1 / fps, 1024 / RATE)
    if seconds > 1:
        part = slice(4000, 12000)  # a shift by one sample would leave noise without correlation
        assert np.corrcoef(heard[part, 0], original[part, 0])[0, 1] > 0.7
    assert sorted(os.listdir(tmp_path)) == ["heard.wav", "out.mp4", "scene.wav", "tags.npz"]


def test_the_cursor_is_at_the_moment(decode, tmp_path):
    sound, npz, arrays = tagged(tmp_path, 2.0)
    render(sound, npz, tmp_path / "out.mp4", "--fps", 10)
    layout = ScreenLayout(SIZE, len(LABELS), 5)
    left, _, right, bottom = layout.track
    for number, frame in enumerate(decode(tmp_path / "out.mp4")):
        lanes = frame[layout.lanes_top : bottom].astype(
            int
        )  # all else is blue or grey, but for what compression leaves
        columns = (lanes[..., 0] - lanes[..., 2] - 60).clip(0).sum(0)
        assert np.ptp(np.flatnonzero(columns)) <= 6
        middle = (columns * (np.arange(SIZE[0]) + 0.5)).sum() / columns.sum()
        assert abs(middle - (left + (right - left) * number / 20)) <= 1.5


def test_a_long_sound_is_shown_page_by_page(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "PAGE_SECONDS", 1)
    sound, _, arrays = tagged(tmp_path, 3.0)
    _, low, high = video.measure(sound)
    edges = np.linspace(0, 3, 4)
    parts = list(video.spectrograms(sound, edges))
    log_mel = frontend.MN.log_mel(audio.load(sound, 32000))
    assert [len(part) for part in parts] == [100, 100, 100]
    np.testing.assert_allclose(np.concatenate(parts), log_mel, atol=1e-5)
    assert high == pytest.approx(log_mel.max(), abs=1e-5) and low == pytest.approx(np.quantile(log_mel, 0.02), abs=1e-5)
    screen = video_screen.Screen(ScreenLayout(SIZE, len(LABELS), 5), "", LABELS, np.full(len(LABELS), 0.3))
    pictures = (grey_image(part, low, high) for part in parts)
    left, _, right, bottom = screen.layout.track
    for number, frame in enumerate(video.frames(screen, arrays, pictures, edges, 10.0, 30)):
        luma = frame[: SIZE[0] * SIZE[1]].reshape(SIZE[1], SIZE[0]).astype(int)
        line = luma[bottom - 1, left - 2 : right + 2]  # below the last lane there is nothing but the cursor
        line = line - line.min()
        middle = left - 2 + (line * (np.arange(len(line)) + 0.5)).sum() / line.sum()
        assert line.max() > 50 and abs(middle - (left + (right - left) * (number % 10) / 10)) <= 0.1
        assert abs((luma[-1] > 100).sum() - SIZE[0] * number / 30) <= 1


def test_bars_are_as_long_as_scores_and_keep_their_rows(decode, tmp_path):
    scores = np.tile(np.float32([0.5, 0.9, 0.25]), (20, 1))
    scores[10:] = [0.6, 0.1, 0.75]  # the second was the highest, and is the lowest: it stays in the first row
    sound, npz, arrays = tagged(tmp_path, 2.0, scores=scores)
    thresholds = np.float32([0.55, 0.3, 0.3])
    np.savez(npz, **arrays, thresholds=thresholds)
    render(sound, npz, tmp_path / "out.mp4", "--fps", 10, "--top_k", 3)
    frames = decode(tmp_path / "out.mp4")
    order = [1, 2, 0]  # as on pages: by the highest score of the file
    assert look.class_order(scores).tolist() == order
    left, top, right, bottom = ScreenLayout(SIZE, 3, 3).bars
    for number in (5, 18):
        rows = np.split(frames[number, top:bottom, left:right], [(bottom - top) // 3, 2 * (bottom - top) // 3])
        for row, k in zip(rows, order, strict=True):
            score = scores[number, k]
            line = row[len(row) // 2]
            full = len(near(line, video_screen.ACCENT if score >= thresholds[k] else video_screen.LANE)[0])
            rest = len(near(line, video_screen.LINE, 8)[0])
            assert full / (full + rest) == pytest.approx(score, abs=0.02)


def test_lanes_are_bright_where_the_threshold_is_reached(tmp_path):
    layout = ScreenLayout(SIZE, 2, 2)
    screen = video_screen.Screen(layout, "", LABELS[:2], np.array([0.5, 0.8]))
    left, _, right, _ = layout.track
    curves = np.repeat(np.float32([[0.7, 0.7, 0.2], [0.1, 0.9, 0.7]]), -(-(right - left) // 3), axis=1)
    curves = curves[:, : right - left]
    page = np.asarray(screen.page(grey_image(np.zeros((9, 128)), 0, 1), (0, 3), [0, 1], curves))
    for n, threshold in enumerate((0.5, 0.8)):
        bottom = layout.lanes_top + (n + 1) * layout.lane_height - layout.px(4) - 1
        bright = np.zeros(right - left, bool)
        bright[near(page[bottom, left:right], video_screen.ACCENT, 4)] = True
        assert np.array_equal(bright, curves[n] >= threshold)


def test_classes_keep_their_rows():
    rank, limits = np.arange(6), np.full(6, 0.3)
    assert video.keep_rows([0, 2, 4], np.array([0.1, 0.9, 0.0, 0.2, 0.05, 0.2]), limits, rank) == [0, 1, 4]
    assert video.keep_rows([0, 2, 4], np.array([0.1, 0.29, 0.0, 0.2, 0.05, 0.2]), limits, rank) == [0, 2, 4]
    assert video.keep_rows([0, 2, 4], np.array([0.5, 0.4, 0.6, 0.45, 0.7, 0.2]), limits, rank) == [0, 2, 4]
    everything = np.array([0.1, 0.9, 0.0, 0.8, 0.2, 0.7])
    assert video.keep_rows([0, 2, 4], everything, limits, rank[::-1]) == [5, 3, 1]


def test_a_bar_glides_to_its_length(tmp_path):
    sound, _, arrays = tagged(tmp_path, 2.0, scores=np.repeat(np.float32([[0.2], [0.8]]), 10, axis=0))
    screen = video_screen.Screen(ScreenLayout(SIZE, 1, 1), "", LABELS[:1], np.array([0.3]))
    lengths, draw = [], screen.bars
    screen.bars = lambda rows: lengths.append(rows[0][1]) or draw(rows)
    pictures = iter([grey_image(np.zeros((9, 128)), 0, 1)])
    list(video.frames(screen, arrays, pictures, np.array([0, 2.0]), 100.0, 200))
    assert lengths[0] == pytest.approx(0.2) and lengths[-1] == pytest.approx(0.8)
    assert len(lengths) >= 6 and np.diff(lengths).min() > -1e-6


def film(ffmpeg, path, picture, seconds):
    """A film of a picture, with two seconds of sound."""
    sound = f"sine=frequency=500:sample_rate=32000:duration={seconds}"
    ffmpeg("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound, "-c:v", "mpeg4", "-q:v", 2, "-c:a", "flac", path)
    with audio.opened(path) as source:
        seconds = sum(map(len, source.parts)) / source.rate
    start = np.arange(0, seconds, 0.1)
    arrays = {"time": start / seconds, "start": start, "end": np.minimum(start + 0.4, seconds)}
    scores = np.full((len(start), 2), 0.5, np.float32)
    np.savez(path.with_suffix(".npz"), **arrays, scores=scores, labels=np.array(LABELS[:2]))
    return path, path.with_suffix(".npz"), seconds


def test_many_channels_become_one(ffmpeg, tmp_path):
    sound, npz, _ = tagged(tmp_path, 1.0, channels=6)
    render(sound, npz, tmp_path / "out.mp4")
    ffmpeg("-i", tmp_path / "out.mp4", "-c:a", "pcm_f32le", tmp_path / "heard.wav")
    heard, rate = soundfile.read(tmp_path / "heard.wav")
    original, _ = soundfile.read(sound)
    assert heard.ndim == 1 and rate == RATE and abs(len(heard) / rate - 1) < 0.07
    assert np.corrcoef(heard[4000:12000], original[4000:12000].mean(1))[0, 1] > 0.7


@pytest.mark.parametrize("options, shape", [("", 4 / 3), (",setsar=2", 8 / 3)], ids=["square", "wide pixels"])
@pytest.mark.parametrize("picture_seconds", [1.2, 4])
def test_a_film_is_in_its_place(ffmpeg, decode, tmp_path, picture_seconds, options, shape):
    picture = f"color=color=red:size=64x48:rate=15:duration={picture_seconds}{options}"
    path, npz, seconds = film(ffmpeg, tmp_path / "film.mkv", picture, 2)
    render(path, npz, tmp_path / "out.mp4")
    frames = decode(tmp_path / "out.mp4")
    assert abs(len(frames) / 25 - seconds) <= 1 / 25
    ffmpeg("-i", tmp_path / "out.mp4", "-vn", "-c:a", "pcm_s16le", tmp_path / "heard.wav")
    assert abs(audio.probe(tmp_path / "heard.wav").seconds - seconds) <= 0.07
    left, top, right, bottom = ScreenLayout(SIZE, 2, 5, film=True).film
    for frame in (frames[2], frames[-1]):  # the last picture stays where the film is shorter
        y, x = near(frame[top:bottom, left:right], "#fe0000", 40)
        across, high = np.ptp(x) + 1, np.ptp(y) + 1
        assert across / high == pytest.approx(shape, rel=0.03)
        assert max(across / (right - left), high / (bottom - top)) > 0.97
        assert abs(x.min() + x.max() + 1 - (right - left)) <= 4 and abs(y.min() + y.max() + 1 - (bottom - top)) <= 4
        assert len(y) > 0.98 * across * high
        assert len(near(frame[:top], "#fe0000", 90)[0]) == 0


def test_a_film_moves_with_its_sound(ffmpeg, decode, tmp_path):
    picture = "color=color=black:size=64x48:rate=25:duration=2,geq=lum='if(lt(T,1),30,200)':cb=128:cr=128"
    path, npz, _ = film(ffmpeg, tmp_path / "film.mkv", picture, 2)
    render(path, npz, tmp_path / "out.mp4")
    left, top, right, bottom = ScreenLayout(SIZE, 2, 5, film=True).film
    middle = decode(tmp_path / "out.mp4")[:, (top + bottom) // 2, (left + right) // 2, 0]
    assert (middle[:24] < 60).all() and (middle[26:] > 150).all()


def test_a_film_without_picture_is_a_sound(ffmpeg, decode, tmp_path):
    path, npz, _ = film(ffmpeg, tmp_path / "film.mkv", "color=size=64x48:duration=1", 1)
    ffmpeg("-i", path, "-vn", "-c:a", "copy", tmp_path / "sound.mka")
    render(tmp_path / "sound.mka", npz, tmp_path / "out.mp4")
    top = ScreenLayout(SIZE, 2, 5).lanes_top
    assert len(near(decode(tmp_path / "out.mp4")[10, top : top + 10], video_screen.ACCENT)[0]) > 500


NAMES = ["-y", "concat:a", "a'b\"c\nd%d:e;[f],=$(g)\\", "café 猫", os.fsdecode(b"\xff\xfe")]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_and_labels(ffmpeg, decode, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    path, _, _ = film(ffmpeg, tmp_path / "film.mkv", "color=color=red:size=64x48:duration=1", 1)
    os.rename(path, f"{name}.mkv")
    sound, npz, _ = tagged(tmp_path / "in", 1.0)
    os.rename(sound, f"{name}.wav")
    before = set(os.listdir("."))  # the folder of the video has the name as well: ffmpeg sees it first
    for suffix in ("wav", "mkv") if name.isprintable() or "\n" in name else ("mkv",):  # soundfile takes text alone
        prepared.call("render_video", "--tagging", npz, f"--out={name}/o.mp4", "--top_k=8", "--", f"{name}.{suffix}")
        assert len(decode(f"{name}/o.mp4", (1280, 720))) == 25
    assert set(os.listdir(".")) == before | {name} and os.listdir(name) == ["o.mp4"]


def test_text_is_drawn_as_it_is(monkeypatch):
    text, _ = video_text.fit_text("$x_1$ %{pts}", 20, None, False)
    assert text == "$x_1$ %{pts}"
    text, font = video_text.fit_text("long " * 99, 20, 200, False)
    assert text.endswith("\u2026") and 150 < font.getlength(text) <= 200
    plain = video_text.font_file("Café", False)
    assert "DejaVuSans.ttf" in plain
    rare = "\u16a0\u16a2"  # runes, which DejaVu Sans does not have; here they are said to be in another font
    assert not {0x16A0} <= video_text.characters(plain)
    other = video_text.font_file("Café", True)
    characters = video_text.characters
    more = {other: {0x16A0, 0x16A2}}
    monkeypatch.setattr(video_text, "characters", lambda path: characters(path) | more.get(path, set()))
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: ["/none.ttf", other])
    video_text.font_file.cache_clear()
    assert video_text.font_file(rare, False) == other
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [])
    video_text.font_file.cache_clear()
    assert video_text.font_file(rare, False) == plain  # boxes are better than nothing
    video_text.font_file.cache_clear()


def test_a_model_tags_what_is_not_tagged_yet(decode, tmp_path):
    model = registry.create_model("mn01_as", 3, seed=1)
    meta = {"labels": LABELS[:3], "task": "single_label", "clip_seconds": 0.4, "backbone": "mn01_as", "run": {}}
    model_folder.save_model(tmp_path / "model", model, {**meta, "front_end": model.front_end.to_dict()})
    sound, _, _ = tagged(tmp_path, 1.0)
    windows = "--sample_duration", "0.4", "--hop_duration", "0.2"
    own = "--model", tmp_path / "model", *windows
    prepared.call("render_video", sound, *own, "--out", tmp_path / "a.mp4", "--size=640x360")
    arrays = pipeline.tag_windows(*model_folder.load_model(tmp_path / "model"), sound, 0.4, 0.2)
    np.savez(tmp_path / "own.npz", **arrays)
    render(sound, tmp_path / "own.npz", tmp_path / "b.mp4")
    assert np.array_equal(decode(tmp_path / "a.mp4"), decode(tmp_path / "b.mp4"))


def test_a_real_dog(ffmpeg, decode, tmp_path, monkeypatch):
    sound = ESC10 / "audio" / "1-30226-A-0.ogg"
    seen, keep_rows = set(), video.keep_rows
    monkeypatch.setattr(video, "keep_rows", lambda *args: seen.update(keep_rows(*args)) or keep_rows(*args))
    prepared.call("render_video", sound, "--out", tmp_path / "out.mp4")
    assert abs(len(decode(tmp_path / "out.mp4", (1280, 720))) / 25 - audio.probe(sound).seconds) <= 1 / 25
    assert {"Animal", "Dog"} <= {registry.audioset_labels()[k] for k in seen}


@pytest.mark.parametrize(
    "options, words",
    [
        ("none.wav --out o.mp4", "none.wav: no such"),
        ("tags.npz --out o.mp4", "tags.npz: not a sound"),
        ("scene.wav --out o.mkv", "--out o.mkv: must end"),
        ("scene.wav --out folder.mp4", "--out folder.mp4: is a folder"),
        ("copy.mp4 --out ./copy.mp4", "--out copy.mp4: is the sound"),
        ("scene.wav --out o.mp4 --size 641x360", "--size 641x360"),
        ("scene.wav --out o.mp4 --size 64x36", "360 to 7680"),
        ("scene.wav --out o.mp4 --size 99998x360", "360 to 7680"),
        ("scene.wav --out o.mp4 --size big", "--size big"),
        ("scene.wav --out o.mp4 --fps 0", "--fps 0: must be 1 to 120"),
        ("scene.wav --out o.mp4 --fps nan", "--fps nan"),
        ("scene.wav --out o.mp4 --top_k 0", "--top_k 0: must be 1 to 10"),
        ("scene.wav --out o.mp4 --hop_duration 0", "--hop_duration 0"),
        ("scene.wav --out o.mp4 --sample_duration inf", "--sample_duration inf:"),
        ("scene.wav --out o.mp4 --model nowhere", "nowhere: "),
        ("scene.wav --out o.mp4 --tagging tags.npz --hop_duration 1", "--hop_duration: "),
        ("scene.wav --out o.mp4 --tagging other.npz", "2.00 s"),
        ("scene.wav --out o.mp4 --tagging broken.npz", "broken.npz: not a"),
        ("scene.wav --out o.mp4 --tagging none.npz", "none.npz: no such"),
        ("mute.mkv --out o.mp4", "mute.mkv: it has no"),
    ],
)
def test_what_cannot_be_done_is_said(ffmpeg, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    tagged(tmp_path, 2.0)
    os.rename("tags.npz", "other.npz")
    _, _, arrays = tagged(tmp_path, 1.0)
    np.savez("broken.npz", **{**arrays, "scores": arrays["scores"] * np.float32("nan")})
    os.mkdir("folder.mp4")
    film(ffmpeg, tmp_path / "copy.mkv", "color=size=64x48:duration=1", 1)
    ffmpeg("-i", "copy.mkv", "-c:a", "aac", "copy.mp4")
    ffmpeg("-i", "copy.mkv", "-an", "mute.mkv")
    before = sorted(os.listdir("."))
    assert words in prepared.refusal("render_video", *options.split())
    assert sorted(os.listdir(".")) == before


def test_without_ffmpeg(tmp_path, monkeypatch):
    sound, npz, _ = tagged(tmp_path, 1.0)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    refused = prepared.refusal("render_video", sound, "--tagging", npz, "--out", tmp_path / "o.mp4")
    assert "o.mp4: " in refused and "ffmpeg" in refused


@pytest.mark.parametrize("reads", [0, 3_000_000])
def test_ffmpeg_fails(tmp_path, monkeypatch, reads):
    sound, npz, _ = tagged(tmp_path, 1.0)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").write_text(
        f"#!{sys.executable}\nimport sys\nsys.stdin.buffer.read({reads})\n"
        "print('[out#0/mp4 @ 0x1] Error writing: No space left on device', file=sys.stderr)\nsys.exit(228)\n"
    )
    (tmp_path / "bin" / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    before = sorted(os.listdir(tmp_path))
    threads = threading.active_count()
    refused = prepared.refusal("render_video", sound, "--tagging", npz, "--out", tmp_path / "o.mp4")
    assert "Error writing: No space left on device" in refused and "0x1" not in refused
    assert sorted(os.listdir(tmp_path)) == before and threading.active_count() == threads


def test_an_interruption_leaves_nothing(ffmpeg, tmp_path):
    sound, npz, _ = tagged(tmp_path, 200.0)
    before = sorted(os.listdir(tmp_path))
    command = [sys.executable, ROOT / "local" / "render_video.py", sound, "--tagging", npz, "--out", tmp_path / "o.mp4"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for _ in range(600):
        made = [name for name in os.listdir(tmp_path) if name.startswith(".o.mp4.")]
        if made and (tmp_path / made[0]).stat().st_size:
            break
        time.sleep(0.05)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors.startswith("render_video.py: ") and errors.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before
    with pytest.raises(ProcessLookupError):  # nor an ffmpeg
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("options, words", [("a.wav --out o.mp4 --size 1x1", "even"), ("a.wav --out o.mp4", "no such")])
def test_a_mistake_is_told_before_paddle_is_imported(script, tmp_path, options, words):
    (tmp_path / "paddle").mkdir()
    (tmp_path / "paddle" / "__init__.py").write_text("raise SystemExit('paddle was imported')\n")
    done = script("local/render_video.py", *options.split(), PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and re.fullmatch(rf"render_video\.py: error: .*{words}.*\n", done.stderr)
