"""Convolutions are SciPy's cross-correlations, and pictures show the numbers that they are of."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.signal import correlate2d

from cnn_jax import __main__ as program
from cnn_jax.data import load_dataset
from cnn_jax.errors import UserError
from cnn_jax.figures import convolution as figures
from cnn_jax.see.convolution import KERNELS, Convolution, convolve, kernel_of
from cnn_jax.see.images import open_image

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (7, 9, 1), np.uint8)
COLOURED = RANDOM.integers(0, 256, (6, 5, 3), np.uint8)


@pytest.mark.parametrize("image", [GREY, COLOURED], ids=["grey", "colours"])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (2, 5)])
def test_the_feature_map_is_what_scipy_correlates(image: np.ndarray, size: Any) -> None:
    kernel = RANDOM.normal(size=(*size, image.shape[-1]))
    found = convolve(image, kernel)
    expected = sum(
        correlate2d(image[..., c] / 255, kernel[..., c], mode="valid")
        for c in range(image.shape[-1])
    )
    np.testing.assert_allclose(found.feature_map, expected, atol=1e-5)
    for place in [(0, 0), (2, 0), found.strongest]:
        assert found.patch(*place).shape == (*size, image.shape[-1])
        products = found.patch(*place) * found.kernel
        assert products.sum() == pytest.approx(found.feature_map[place], abs=1e-5)
    assert found.feature_map[found.strongest] == found.feature_map.max()


def test_a_flat_kernel_is_for_every_channel() -> None:
    flat, deep = KERNELS["top-edge"], np.stack([KERNELS["top-edge"]] * 3, -1)
    np.testing.assert_array_equal(
        convolve(COLOURED, flat).feature_map, convolve(COLOURED, deep).feature_map
    )


def test_kernels_find_what_they_are_named_after() -> None:
    """On a bright square: edges on their side, their opposites across, corners at their corner."""
    square = np.zeros((12, 12, 1), np.uint8)
    square[4:8, 4:8] = 255
    sides = {"top-edge": (3, 4), "bottom-edge": (6, 4), "left-edge": (4, 3), "right-edge": (4, 6)}
    for name, (row, column) in sides.items():
        found = convolve(square, KERNELS[name])
        strongest = np.argwhere(found.feature_map == found.feature_map.max())
        assert [row, column] in strongest.tolist() and len(strongest) == 2, name
        assert found.feature_map.min() == -found.feature_map.max()
    corners = {"top-left": (3, 3), "top-right": (3, 6), "bottom-left": (6, 3)}
    for name, place in (corners | {"bottom-right": (6, 6)}).items():
        assert convolve(square, KERNELS[f"corner-{name}"]).strongest == place
    even = np.full((5, 5, 1), 100, np.uint8)
    for name, kernel in KERNELS.items():
        level = 100 / 255 if name == "blur" else 0
        np.testing.assert_allclose(convolve(even, kernel).feature_map, level, atol=1e-6)


def test_images_are_opened_from_datasets_and_files(tmp_path: Path) -> None:
    digits = load_dataset("digits")
    expected = digits.open("test").read([3])["image"][0]
    np.testing.assert_array_equal(open_image("digits:test:3"), expected)
    np.testing.assert_array_equal(open_image("digits:test[2:9]:1"), expected)
    for name, pixels in (("grey", GREY), ("colours", COLOURED)):
        Image.fromarray(pixels.squeeze()).save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(open_image(str(tmp_path / f"{name}.png")), pixels)


def test_kernels_are_read_from_text_and_files(tmp_path: Path) -> None:
    np.testing.assert_array_equal(kernel_of("[[1, -2.5]]"), [[1, -2.5]])
    np.save(tmp_path / "mine.npy", GREY)
    np.testing.assert_array_equal(kernel_of(str(tmp_path / "mine.npy")), GREY)


def arrays(figure: Any) -> dict[str, np.ndarray]:
    return {
        ax.get_title(): np.asarray(ax.images[0].get_array())
        for ax in figure.axes
        if ax.images and ax.get_title()
    }


def drawn(found: Convolution, place: tuple[int, int]) -> Any:
    return figures.one_place(found.image, found.kernel, found.feature_map, "k", place, "the sum")


def test_one_place_shows_its_numbers() -> None:
    found = convolve(GREY, KERNELS["top-edge"])
    figure = drawn(found, (2, 3))
    shown = arrays(figure)
    np.testing.assert_array_equal(shown["image"], found.image[..., 0])
    np.testing.assert_array_equal(shown["feature map of the kernel k"], found.feature_map)
    np.testing.assert_array_equal(shown["patch"], found.patch(2, 3)[..., 0])
    np.testing.assert_array_equal(shown["kernel"], KERNELS["top-edge"])
    products = found.patch(2, 3) * found.kernel
    np.testing.assert_array_equal(shown["products"], products[..., 0])
    by_title = {ax.get_title(): ax for ax in figure.axes}
    image, signed = by_title["image"], by_title["feature map of the kernel k"]
    end = np.abs(found.feature_map).max()
    assert signed.images[0].get_clim() == pytest.approx((-end, end))
    assert signed.images[0].get_cmap().name == "RdBu_r"
    assert image.patches[0].get_bbox().bounds == (2.5, 1.5, 3, 3)  # around pixels, not on them
    assert signed.patches[0].get_bbox().bounds == (2.5, 1.5, 1, 1)
    texts = [text.get_text() for text in by_title["patch"].texts]
    assert texts[:9] == [f"{value:.2f}" for value in found.patch(2, 3).flat]
    assert figure.get_size_inches()[0] == 7.2


def test_colours_have_a_row_each() -> None:
    found = convolve(COLOURED, RANDOM.normal(size=(2, 2, 3)))
    shown = arrays(drawn(found, (1, 1)))
    np.testing.assert_array_equal(shown["image"], found.image)
    for channel, colour in enumerate(("red", "green", "blue")):
        np.testing.assert_array_equal(shown[f"{colour} patch"], found.patch(1, 1)[..., channel])
        np.testing.assert_array_equal(shown[f"{colour} kernel"], found.kernel[..., channel])


def test_what_is_spelled_out_stays_on_the_page() -> None:
    found = convolve(COLOURED, KERNELS["blur"])
    lines = "\n".join(["all of this"] * 4)
    parts = (found.image, found.kernel, found.feature_map, "k")
    figure: Any = figures.one_place(*parts, (0, 0), lines)
    figure.canvas.draw()
    (words,) = [text for part in figure.subfigs for text in part.texts]
    assert words.get_text() == lines and words.get_window_extent().y0 > 0


def test_numbers_are_written_only_where_they_can_be_read() -> None:
    few, many = (figures.pixel_values(np.zeros((n, n, 1)), "x").axes[0] for n in (28, 60))
    assert len(few.texts) == 28 * 28 and not many.texts
    assert min(float(text.get_fontsize()) for text in few.texts) >= 4.5


def test_the_program_writes_what_it_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    image = str(tmp_path / "small.png")  # few frames
    Image.fromarray(GREY[:4, :3, 0]).save(image)
    program.main(["convolve", image, "--kernel", "[[1],[-1]]", "--out", str(out)])
    stems = ("convolution.png", "convolution.gif", "pixels.png", "feature_map.png")
    assert {path.name for path in out.iterdir()} == {*stems, "feature_map.npy"}
    found = convolve(open_image(image), np.array([[1], [-1]]))
    np.testing.assert_array_equal(np.load(out / "feature_map.npy"), found.feature_map)
    row, column = found.strongest
    printed = capsys.readouterr().out
    assert f"row {row}, column {column}" in printed and f"{found.feature_map.max():.2f}" in printed
    upper, lower = found.image[row : row + 2, column, 0]
    assert f"{upper:.3f}·1 + {lower:.3f}·(−1)" in printed
    with Image.open(out / "convolution.gif") as animation:
        assert getattr(animation, "n_frames") == found.feature_map.size  # noqa: B009
        first = np.asarray(animation.convert("RGB"))
        animation.seek(found.feature_map.size - 1)
        assert (np.asarray(animation.convert("RGB")) != first).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png"], "neither an image file nor DATASET:SPLIT:INDEX"),
        (["digits:test:360"], "has the examples 0 to 359"),
        (["digits:test:x"], "whole number"),
        (["digits:validation:0"], "no split 'validation'"),
        (["digits:test:0", "--kernel", "edge"], "is not a kernel"),
        (["digits:test:0", "--kernel", "[[[1, 2, 3]]]"], "3 channels and the image 1"),
        (["digits:test:0", "--kernel", json.dumps([[0] * 9])], "does not fit"),
        (["digits:test:0", "--at", "6", "0"], "rows 0 to 5"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as refusal:
        program.main(["convolve", *arguments, "--out", str(out)])
    captured = capsys.readouterr()
    assert refusal.value.code == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err and not out.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("top-egde", "is not a kernel: did you mean top-edge?"),
        ("nothing", "is not a kernel: there are top-edge, bottom-edge,"),
        ("[" * 100_000, "more brackets in each other"),
        ("[" * 40 + "1" + "]" * 40, "is not a grid of numbers"),
        ("[[1, 2], [3]]", "give rows of equally many numbers"),
        ("[[1, 2]", "give rows of equally many numbers"),
        ("[[NaN]]", "not finite"),
        ("[[-Infinity, 0]]", "not finite"),
        ("[[1e400]]", "not finite"),
        ("[[1e39]]", "too large for float32"),
        (f"[[1{400 * '0'}]]", "is not a grid of numbers"),
        ("[]", "is not a grid of numbers"),
        ("[[]]", "is not a grid of numbers"),
        ("[1, 2]", "is not a grid of numbers"),
        ("[[true]]", "is not a grid of numbers"),
        ('[["a"]]', "is not a grid of numbers"),
        ("[[null]]", "is not a grid of numbers"),
        ("7", "is not a grid of numbers"),
        ("{}", "is not a grid of numbers"),
        ("missing.npy", "is not a kernel"),
        ("gs://bucket/a.npy", "is a URL"),
        ("text.npy", "is not a kernel"),
        ("archive.npy", "is not a kernel"),
        ("pipe.npy", "is not a kernel"),
        ("folder.npy", "is not a kernel"),
        ("lying.npy", "is not a kernel"),
        ("sparse.npy", "of at most 10,000,000"),
        ("objects.npy", "is not a kernel"),
    ],
    ids=lambda text: text[:16],
)
def test_what_is_no_kernel_is_refused(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Briefly, and without the memory that a file claims to need."""
    monkeypatch.chdir(tmp_path)
    if text.endswith(".npy"):
        write_no_kernels()
    with pytest.raises(UserError) as refusal:
        kernel_of(text)
    assert words in str(refusal.value) and len(str(refusal.value)) < 400


def write_no_kernels() -> None:
    Path("text.npy").write_text("[[1]]", encoding="utf-8")
    with Path("archive.npy").open("wb") as file:
        np.savez(file, kernel=np.ones((2, 2)))
    os.mkfifo("pipe.npy")
    Path("folder.npy").mkdir()
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    for name, size in (("lying.npy", 0), ("sparse.npy", 8 * 10**12)):
        with Path(name).open("wb") as file:
            header = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + size)
