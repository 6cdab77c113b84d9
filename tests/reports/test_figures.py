"""Pictures: that they show what they are given."""

import matplotlib
import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_hex
from paddletag.features import frontend
from paddletag.reports import figures
from paddletag.reports.look import DARK


def curves(figure):
    """{label of the axis: {label of the curve: (x, y)}}."""
    return {
        axes.get_ylabel(): {line.get_label(): tuple(np.array(line.get_data()).tolist()) for line in axes.get_lines()}
        for axes in figure.axes
    }


def test_a_learning_curve_has_the_rows_numbers():
    rows = [
        {"epoch": 1, "lr": 1e-3, "loss": 2.0, "accuracy": 0.5, "skipped": 0},
        {
            "epoch": 2,
            "lr": 1e-4,
            "loss": 1.0,
            "accuracy": 0.75,
            "valid_loss": 1.5,
            "valid_accuracy": 0.25,
            "skipped": 1,
        },
        {"epoch": 3, "lr": 1e-5, "loss": 0.5, "accuracy": 0.875, "valid_loss": 1.25, "valid_accuracy": 0.5},
    ]
    figure = figures.learning_curve(rows)
    assert curves(figure) == {
        "loss": {"training": ([1, 2, 3], [2, 1, 0.5]), "validation": ([2, 3], [1.5, 1.25])},
        "accuracy": {"training": ([1, 2, 3], [0.5, 0.75, 0.875]), "validation": ([2, 3], [0.25, 0.5])},
        "learning rate": {"training": ([1, 2, 3], [1e-3, 1e-4, 1e-5])},
    }
    assert figure.axes[-1].get_xlabel() == "epoch" and figure.axes[0].get_legend() is not None
    assert all(tick == int(tick) for tick in figure.axes[-1].get_xticks())


def test_a_run_without_scores_has_no_panel_for_them():
    figure = figures.learning_curve([{"epoch": 1, "lr": 1e-3, "loss": 2.0}])
    assert 1 in figure.axes[-1].get_xticks() and all(tick == int(tick) for tick in figure.axes[-1].get_xticks())
    assert list(curves(figure)) == ["loss", "learning rate"] and figure.axes[0].get_legend() is not None
    figure = figures.learning_curve([{"epoch": 1, "lr": 1e-3, "loss": 2.0, "valid_mAP": 0.5}])
    assert list(curves(figure)) == ["loss", "mAP", "learning rate"]


def test_the_picture_is_a_whole_png_with_ink(tmp_path):
    rows = [{"epoch": n, "lr": 1e-3 / n, "loss": 1 / n, "valid_mAP": float("nan")} for n in range(1, 4)]
    figures.save(figures.learning_curve(rows), tmp_path / "exp" / "curve.png")
    pixels = image.imread(tmp_path / "exp" / "curve.png")
    assert pixels.shape[1] == 768 and 0.01 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.5
    assert [path.name for path in (tmp_path / "exp").iterdir()] == ["curve.png"]


def test_confusion_writes_each_count():
    axes = figures.confusion(np.array([[3, 1], [0, 4]]), ["dog", "rain"], "Fold 1").axes[0]
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [
        ((0, 0), "3"),
        ((1, 0), "1"),
        ((1, 1), "4"),
    ]
    shares = axes.get_images()[0].get_array()
    np.testing.assert_allclose(shares, [[0.75, 0.25], [0, 1]])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["dog", "rain"]


def test_a_waveform_keeps_its_peaks():
    wave = np.zeros(100_000, np.float32)
    wave[33_333], wave[80_000] = 0.7, -0.4
    (shape,) = figures.waveform(wave, 10_000).axes[0].collections
    corners = shape.get_paths()[0].vertices
    np.testing.assert_allclose([corners[:, 1].min(), corners[:, 1].max()], [-0.4, 0.7], rtol=1e-6)
    assert corners[corners[:, 1].argmax(), 0] == pytest.approx(3.333, abs=0.01)  # seconds
    assert figures.waveform(np.ones(3), 8000).axes[0].get_xlim() == (0, 3 / 8000)


@pytest.mark.parametrize("scale", ["hertz", "mel"])
def test_a_spectrogram_has_each_frequency_at_its_row(scale):
    frequencies = np.linspace(0, 16000, 513) if scale == "hertz" else 700 * np.expm1(np.linspace(0.04, 3.1, 128))
    values = np.random.default_rng(0).standard_normal((50, len(frequencies)))
    axes = figures.spectrogram(values, 2.0, frequencies, "dB").axes[0]
    np.testing.assert_allclose(axes.get_images()[0].get_array(), values.T, rtol=1e-6)
    rows, names = axes.get_yticks(), [tick.get_text() for tick in axes.get_yticklabels()]
    assert len(names) >= 5
    at = np.interp(rows, np.arange(len(frequencies)), frequencies) / 1000
    np.testing.assert_allclose(at, [float(name) for name in names], rtol=0.03, atol=0.01)
    assert axes.get_images()[0].get_extent()[:2] == [0, 2.0]


def test_a_filter_bank_shows_filters_where_they_weigh():
    bank = frontend.MN.mel_bank
    drawn = figures.filter_bank(bank, 32000, every=16).axes[0].get_lines()
    assert len(drawn) == 8
    x, y = drawn[3].get_data()
    assert x[y.argmax()] == pytest.approx(bank[:, 48].argmax() * 32 / 1024)  # kHz
    np.testing.assert_array_equal(y, bank[:, 48])


def test_a_timeline_has_the_strongest_lanes_and_seconds():
    scores = np.array([[0.1, 0.9, 0.0], [0.2, 0.1, 0.0], [0.3, 0.1, 0.05]])
    start = np.array([0.0, 1.0, 2.0])
    figure = figures.timeline(scores, ["rain", "dog", "cat"], start, start + 1, top=2, threshold=[0.25, 0.5, 0.01])
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["dog", "rain"]
    assert [text.get_text() for text in axes.texts] == ["0.90", "0.30", "highest"]
    assert axes.yaxis_inverted()
    height = {name: np.zeros((2, 3)) for name in ("accent", "lane")}  # of what is drawn, as a share of the lane
    for patch in axes.patches:
        values, edges, floor = patch.get_data()
        np.testing.assert_allclose(edges, [0, 1, 2, 3])  # what a window speaks for begins and ends in s
        for name, shares in height.items():
            if to_hex(patch.get_facecolor()) == DARK[name]:
                shares[int(floor)] += (floor - values) / 0.84
    np.testing.assert_allclose(height["accent"], [[0.9, 0, 0], [0, 0, 0.3]], atol=1e-9)  # reaches its threshold
    np.testing.assert_allclose(height["accent"] + height["lane"], scores[:, [1, 0]].T, atol=1e-9)


def test_bars_and_lines_have_their_numbers():
    bars = figures.bars(["dog", "rain"], [0.75, 0.5], "score").axes[0]
    assert [patch.get_width() for patch in bars.patches] == [0.75, 0.5] and bars.yaxis_inverted()
    assert [text.get_text() for text in bars.texts] == ["0.75", "0.50"]
    lines = figures.lines({"mel": ([0, 1], [2, 3]), "": ([0, 1], [1, 1])}, "frequency in Hz", "mel").axes[0]
    assert [text.get_text() for text in lines.get_legend().get_texts()] == ["mel"]
    assert figures.lines({"": ([0, 1], [1, 1])}, "x", "y").axes[0].get_legend() is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("label", ["a$b$ $x_{", "two\nlines", "猫\u2028\x1b[31m", "<b>" * 100, "\udcff"])
def test_any_label_can_be_drawn(label, tmp_path):
    start = np.arange(3.0)
    for figure in (
        figures.confusion(np.eye(2, dtype=int), [label, "dog"], label),
        figures.timeline(np.eye(3), [label, "b", "c"], start, start + 1, title=label),
        figures.bars([label], [0.5], "score", label),
        figures.lines({label: ([0, 1], [0, 1])}, "x", "y", label),
        figures.learning_curve([{"epoch": 1, "lr": 1e-3, "loss": 2.0}], label),
    ):
        figures.save(figure, tmp_path / "a.png")
        pixels = image.imread(tmp_path / "a.png")[..., :3]
        assert 0.001 < (abs(pixels - pixels[0, 0]).max(axis=2) > 0.1).mean() < 0.9


def test_nothing_of_the_style_is_left_behind(tmp_path):
    before = dict(matplotlib.rcParams)
    figures.save(figures.bars(["dog"], [0.5], "score"), tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("words", [3, 30])
def test_a_title_has_room(words):
    figure = figures.confusion(np.eye(3, dtype=int), ["a long label of a class", "b", "c"], "of all folds" * words)
    figure.draw_without_rendering()
    box = figure._suptitle.get_window_extent()
    assert 0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    assert box.y0 >= figure.axes[0].get_window_extent().y1
