"""Figures show the arrays that they were given, on axes that say what they are."""

from pathlib import Path

import numpy as np
import pytest
import tiny
from matplotlib.collections import LineCollection

from cnn_jax import __main__ as program
from cnn_jax.figures import curves as drawn
from cnn_jax.figures import save

RUNS = {
    "one": {
        "train": {"step": np.array([5, 10]), "loss": np.array([[2.0], [1.0]])},
        "test": {
            "step": np.array([10, 20]),
            "loss": np.array([[2.0], [1.0]]),
            "accuracy": np.array([[0.9], [0.99]]),
        },
    },
    "three": {
        "test": {
            "step": np.array([10, 20]),
            "loss": np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 4.0]]),
            "accuracy": np.array([[0.8, 0.9, 1.0], [0.5, 0.6, 1.0]]),
        }
    },
}


def test_learning_curves_draw_means_and_bands() -> None:
    figure = drawn.learning_curves(RUNS, epochs={"one": 5.0, "three": 10.0})
    loss, accuracy = figure.axes
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "loss / nats")
    assert (accuracy.get_xlabel(), accuracy.get_ylabel()) == ("epoch", "accuracy")
    xy = [np.stack(line.get_data()).tolist() for line in loss.lines]
    assert xy == [[[1, 2], [2, 1]], [[2, 4], [2, 1]], [[1, 2], [2, 2]]]
    assert [line.get_linestyle() for line in loss.lines] == ["--", "-", "-"]
    assert len({line.get_color() for line in loss.lines}) == 2
    (band,) = loss.collections
    np.testing.assert_allclose(band.get_datalim(loss.transData).get_points()[:, 1], [1, 4])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *RUNS,
        "held out",
        "training",
    ]
    assert accuracy.get_yscale() == "logit" and loss.get_yscale() == "log"


def test_a_sweep_is_drawn_with_its_intervals() -> None:
    spread = {"mean": 0.5, "std": 0.1, "low": 0.4, "high": 0.7}
    alone = {"mean": 0.6, "std": None, "low": None, "high": None}
    rows = [{"rate": 0.1, "seeds": 3, "loss": spread}, {"rate": 0.03, "seeds": 1, "loss": alone}]
    (panel,) = drawn.sweep_effect("rate", rows, ["loss"]).axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0.1", "0.03"]
    assert np.asarray(panel.lines[0].get_ydata()).tolist() == [0.5, 0.6]
    (intervals,) = panel.collections
    assert isinstance(intervals, LineCollection)
    np.testing.assert_allclose(
        [np.asarray(s)[:, 1] for s in intervals.get_segments()], [[0.4, 0.7], [0.6, 0.6]]
    )


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_figure_is_the_same_file(suffix: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(drawn.learning_curves(RUNS), tmp_path / (name + suffix))
    one, two = ((tmp_path / (name + suffix)).read_bytes() for name in ("one", "two"))
    assert one == two and len(one) > 1000


def test_plot(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "curves.svg"
    program.main(["plot", str(tiny_run), str(tiny_run), "--out", str(out)])
    assert capsys.readouterr().out == f"{out}\n"
    assert "<svg" in out.read_text()
    cases = {
        "exists: choose another": ["--out", out],
        "must end in .png, .svg or .pdf": ["--out", tmp_path / "curves.gif"],
        "no run has the metric top9; there are: accuracy, loss, top5": [
            *("--metric", "top9", "--out", tmp_path / "other.svg")
        ],
    }
    for message, flags in cases.items():
        with pytest.raises(SystemExit) as stop:
            program.main(["plot", str(tiny_run), *map(str, flags)])
        assert stop.value.code == 2 and message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program.main(["plot", str(Path(tiny.__file__).parent), "--out", str(tmp_path / "x.png")])
    assert "has no metrics" in capsys.readouterr().err
