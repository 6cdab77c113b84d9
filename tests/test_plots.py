"""Pictures: that they show what they are given."""

import numpy as np
import pytest
from matplotlib import image, pyplot
from paddletag import history, plots


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function: rows of a history -> the figure that learning_curve draws."""

    def draw(rows):
        monkeypatch.setattr(pyplot, "close", lambda figure: None)
        plots.learning_curve(tmp_path / "curve.png", rows)
        figure = pyplot.gcf()
        monkeypatch.undo()
        pyplot.close(figure)
        return figure

    return draw


def curves(figure):
    """{label of the axis: {label of the curve: (x, y)}}."""
    return {
        axes.get_ylabel(): {line.get_label(): tuple(np.array(line.get_data()).tolist()) for line in axes.get_lines()}
        for axes in figure.axes
    }


def test_a_learning_curve_has_the_rows_numbers(drawn):
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
    figure = drawn(rows)
    assert curves(figure) == {
        "loss": {"training": ([1, 2, 3], [2, 1, 0.5]), "validation": ([2, 3], [1.5, 1.25])},
        "accuracy": {"training": ([1, 2, 3], [0.5, 0.75, 0.875]), "validation": ([2, 3], [0.25, 0.5])},
        "learning rate": {"training": ([1, 2, 3], [1e-3, 1e-4, 1e-5])},
    }
    assert figure.axes[-1].get_xlabel() == "epoch" and figure.axes[0].get_legend() is not None
    assert all(tick == int(tick) for tick in figure.axes[-1].get_xticks())


def test_a_run_without_scores_has_no_panel_for_them(drawn):
    figure = drawn([{"epoch": 1, "lr": 1e-3, "loss": 2.0}])
    assert 1 in figure.axes[-1].get_xticks() and all(tick == int(tick) for tick in figure.axes[-1].get_xticks())
    assert list(curves(figure)) == ["loss", "learning rate"] and figure.axes[0].get_legend() is None
    assert list(curves(drawn([{"epoch": 1, "lr": 1e-3, "loss": 2.0, "valid_mAP": 0.5}]))) == [
        "loss",
        "mAP",
        "learning rate",
    ]


def test_the_picture_is_a_whole_png_with_ink(tmp_path):
    rows = [{"epoch": n, "lr": 1e-3 / n, "loss": 1 / n, "valid_mAP": float("nan")} for n in range(1, 4)]
    history.picture(tmp_path / "exp" / "curve.png", rows)
    pixels = image.imread(tmp_path / "exp" / "curve.png")
    assert pixels.shape[1] == 768 and 0.01 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.5
    assert [path.name for path in (tmp_path / "exp").iterdir()] == ["curve.png"]
    assert not pyplot.get_fignums()


def test_confusion_writes_each_count(tmp_path):
    matrix = np.array([[3, 1], [0, 4]])
    plots.confusion(tmp_path / "confusion.png", matrix, ["dog", "rain"], "Fold 1")
    assert image.imread(tmp_path / "confusion.png").shape[2] == 4 and not pyplot.get_fignums()
