"""Sweeps count what a loop in NumPy counts, however many examples are looked at together."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import programs
import pytest

from cnn_jax import __main__ as program
from cnn_jax.augment.corrupt import SEVERITIES, corruption
from cnn_jax.evaluate.exact import evaluate_run
from cnn_jax.evaluate.shift import shift_offsets, sweep_corruptions, sweep_shifts
from cnn_jax.figures import COLOURS
from cnn_jax.figures import shift as figures
from cnn_jax.step import example_keys
from cnn_jax.trained import Trained, open_run

# Fewer than the split's 360 examples, and no multiple of a batch or of four devices.
SPLIT = "test[:203]"


@pytest.fixture(scope="module")
def trained(tiny_run: Path) -> Trained:
    return open_run(tiny_run)


def examples(trained: Trained) -> dict[str, Any]:
    return trained.experiment.dataset.open(SPLIT).read(range(203))


def labels_of(trained: Trained, images: np.ndarray) -> np.ndarray:
    """Predicted labels [n] of images [n, H, W, C] in 0..255, by the model alone."""
    dataset = trained.experiment.dataset
    mean, std = (np.array(x, np.float32) for x in (dataset.mean, dataset.std))
    logits = apply(trained.experiment.model, trained.variables, (images / 255 - mean) / std)
    return np.asarray(logits).argmax(-1)


@partial(jax.jit, static_argnums=0)
def apply(model: Any, variables: Any, images: jax.Array) -> jax.Array:
    return model.apply(variables, images, train=False, keys=None, mutable=[])[0]


def moved(images: np.ndarray, down: int, right: int, padding: str) -> np.ndarray:
    """Each pixel taken from where it was, one by one."""
    height, width = images.shape[1:3]
    out = np.zeros_like(images)
    for y in range(height):
        for x in range(width):
            row, column = y - down, x - right
            if padding == "edge":
                row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
            if 0 <= row < height and 0 <= column < width:
                out[:, y, x] = images[:, row, column]
    return out


@pytest.mark.parametrize("padding", ["zeros", "edge"])
def test_a_sweep_is_what_a_loop_over_the_shifts_counts(padding: Any, trained: Trained) -> None:
    sweep = sweep_shifts(trained, 5, 2, padding, SPLIT, batch_size=64)
    batch = examples(trained)
    unmoved = labels_of(trained, batch["image"])
    np.testing.assert_array_equal(sweep.offsets, [-4, -2, 0, 2, 4])
    for i, down in enumerate(sweep.offsets):
        for j, right in enumerate(sweep.offsets):
            labels = labels_of(trained, moved(batch["image"], down, right, padding))
            assert sweep.counts.correct[i, j] == (labels == batch["label"]).sum()
            assert sweep.counts.same[i, j] == (labels == unmoved).sum()
    assert sweep.counts.examples == 203 and (sweep.split, sweep.padding) == (SPLIT, padding)


def test_unshifted_is_the_evaluation_and_consistent(trained: Trained, tiny_run: Path) -> None:
    sweep = sweep_shifts(trained, 1)
    expected = evaluate_run(tiny_run)
    assert (sweep.split, sweep.counts.examples) == (expected["split"], expected["count"])
    assert sweep.counts.accuracy[1, 1] == pytest.approx(expected["accuracy"], abs=1e-12)
    assert sweep.counts.consistency[1, 1] == 1
    assert sweep.counts.consistency[0, 0] < 1


def test_rings_are_means_over_the_places_at_a_distance(trained: Trained) -> None:
    sweep = sweep_shifts(trained, 4, 2, split="test[:5]")
    np.testing.assert_array_equal(sweep.distances, [0, 2, 4])
    values = np.arange(25.0).reshape(5, 5) ** 2
    inner = np.delete(values[1:4, 1:4].ravel(), 4)
    outer = np.concatenate([values[0], values[4], values[1:4, 0], values[1:4, 4]])
    np.testing.assert_allclose(sweep.rings(values), [values[2, 2], inner.mean(), outer.mean()])


def test_a_corruption_sweep_is_what_a_loop_counts(trained: Trained) -> None:
    """Noise and the direction of a rotation are keyed by the example's place in the split."""
    names = ("rotation", "noise")
    sweep = sweep_corruptions(trained, names, SPLIT, batch_size=64)
    batch, keys = examples(trained), example_keys(0, 0, np.arange(203))  # pyright: ignore
    unchanged = labels_of(trained, batch["image"])
    assert sweep.names == names
    for i, name in enumerate(names):
        for severity in (0, 1, 5):
            images = jax.jit(jax.vmap(corruption(name, severity)))(keys, batch["image"])
            labels = labels_of(trained, np.asarray(images))
            assert sweep.counts.correct[i, severity] == (labels == batch["label"]).sum()
            assert sweep.counts.same[i, severity] == (labels == unchanged).sum()


def test_neither_batch_size_nor_devices_change_the_counts(tiny_run: Path, trained: Trained) -> None:
    """Noise is drawn per example, so it would show if a key were a batch's or a device's."""
    expected = sweep_corruptions(trained, ["noise"], SPLIT)
    with programs.simulated_devices(4):
        counts = sweep_corruptions(open_run(tiny_run), ["noise"], SPLIT, batch_size=7)
    assert counts.to_json() == expected.to_json()


def test_the_program_writes_numbers_and_figures(
    tiny_run: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "shift"
    command = ["shift", str(tiny_run), str(tiny_run), "--names", "one", "other", "--step", "6"]
    program.main([*command, "--max-shift", "1", "--split", SPLIT, "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {"shift.json", "shift.png", "curves.png"}
    one, other = json.loads((out / "shift.json").read_text())["runs"]
    assert (one["name"], other["name"], one["step"], one["padding"]) == ("one", "other", 6, "zeros")
    expected = sweep_shifts(open_run(tiny_run, 6), 1, split=SPLIT).to_json()
    assert {"name": "one"} | expected == one
    printed = capsys.readouterr().out
    assert "other" in printed and f"{100 * expected['accuracy_by_distance'][1]:.2f}" in printed


def test_the_program_writes_corruptions(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["shift", str(tiny_run), "--corruption", "all", "--split", "test[:20]"]
    program.main([*command, "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"corruption.json", "curves.png"}
    (run,) = json.loads((tmp_path / "corruption.json").read_text())["runs"]
    assert list(run["corruptions"]) == list(SEVERITIES)
    printed = capsys.readouterr().out
    assert all(name in printed for name in SEVERITIES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--corruption", "fog"], "no corruption 'fog'"),
        (["--split", "validation"], "has no split 'validation'"),
        (["--step", "7"], "no checkpoint of step 7"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_written(
    arguments: list[str],
    message: str,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["shift", str(tiny_run), *arguments, "--out", str(tmp_path / "out")]
    programs.assert_refused(command, message, capsys)
    assert list(tmp_path.iterdir()) == []


def test_places_and_runs_that_will_not_do_are_refused(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    run = str(tiny_run)
    for out, message in ((full, "is not empty"), (full / "mine.txt", "is not a folder")):
        programs.assert_refused(["shift", run, "--out", str(out)], message, capsys)
    inside = str(full / "mine.txt" / "out")
    programs.assert_refused(["shift", run, "--out", inside], "cannot be made", capsys)
    programs.assert_refused(["shift", run, run], "runs need different names", capsys)
    programs.assert_refused(["shift"], "at least one run folder", capsys)
    programs.assert_refused(["shift", str(full)], "is not a run folder", capsys)
    assert [path.name for path in full.iterdir()] == ["mine.txt"]


RANDOM = np.random.default_rng(0)


def test_maps_show_the_shares_on_one_scale_with_axes_in_pixels() -> None:
    offsets = shift_offsets(6, 3)
    accuracy, consistency = (
        {name: RANDOM.uniform(0.2, 0.9, (5, 5)) for name in ("MLP", "LeNet-5")} for _ in range(2)
    )
    figure = figures.shift_maps(offsets, accuracy, consistency)
    *axes, bar = figure.axes
    assert bar.get_ylabel() == "share of examples / %"
    shown = [*accuracy.values(), *consistency.values()]
    for ax, values in zip(axes, shown, strict=True):
        (image,) = ax.images
        np.testing.assert_allclose(np.asarray(image.get_array()), 100 * values)
        assert image.get_clim() == (0, 100)
        # A cell is as wide as the shifts are apart, the first row at the top.
        assert tuple(image.get_extent()) == (-7.5, 7.5, 7.5, -7.5) and image.origin == "upper"
    assert [ax.get_title() for ax in axes] == ["MLP", "LeNet-5", "", ""]
    rows = ("accuracy", "label as unshifted")
    assert [ax.get_ylabel() for ax in axes[::2]] == [f"{x}\n\nshift down / pixels" for x in rows]
    assert figure.get_supxlabel() == "shift right / pixels"
    assert figure.get_size_inches()[0] <= 7.2


def lines(ax: Any) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_ydata() for line in ax.lines}


def test_curves_show_a_line_per_run() -> None:
    accuracy = {"MLP": np.array([0.98, 0.5, 0.1]), "LeNet-5": np.array([0.99, 0.9, 0.3])}
    (ax,) = figures.distance_curves(np.array([0, 2, 4]), accuracy).axes
    for name, values in accuracy.items():
        np.testing.assert_allclose(lines(ax)[name], 100 * values)
    assert [line.get_color() for line in ax.lines] == list(COLOURS[:2])
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0, 2, 4])
    legend = ax.get_legend()
    assert legend and [text.get_text() for text in legend.get_texts()] == list(accuracy)
    assert "pixels" in ax.get_xlabel() and ax.get_ylabel() == "accuracy / %"


def test_severities_have_a_column_per_corruption() -> None:
    accuracy, consistency = (
        {run: RANDOM.uniform(size=(2, 6)) for run in ("MLP", "LeNet-5")} for _ in range(2)
    )
    figure = figures.severity_curves(("noise", "blur"), accuracy, consistency)
    for row, shares in enumerate((accuracy, consistency)):
        for column in range(2):
            shown = lines(figure.axes[2 * row + column])
            for run, values in shares.items():
                np.testing.assert_allclose(shown[run], 100 * values[column])
    assert [ax.get_title() for ax in figure.axes[:2]] == ["noise", "blur"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["MLP", "LeNet-5"]
