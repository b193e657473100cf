"""`convolve`: slide a kernel over an image, step by step."""

import math
from typing import Annotated

import numpy as np
import tyro

from cnn_jax.command_line.flags import local_path
from cnn_jax.commands.arguments import DataDir, Flag, Out, argument, check_out
from cnn_jax.see.convolution import Convolution, kernel_of
from cnn_jax.see.convolution import convolve as convolved
from cnn_jax.see.images import open_image

FRAMES = 120  # of an animation; if there are more places, the window skips some
SPELLED = 27  # products that are written out one by one: 3x3 in three channels


def convolve(
    image: Annotated[tyro.conf.Positional[str], argument("IMAGE")],
    kernel: Annotated[str, argument("KERNEL")] = "top-edge",
    at: Annotated[
        tuple[int, int] | None, argument("ROW COLUMN", default="the largest response")
    ] = None,
    no_animation: Flag = False,
    data_dir: DataDir = None,
    out: Out = None,
) -> None:
    """Slide a kernel over an image, and write out one of the sums of products.

    Pixels are in 0 .. 1. In feature maps red is positive, white zero, blue negative.

    Args:
        image: An image file, or DATASET:SPLIT:INDEX such as digits:test:3.
        kernel: One of top-edge, bottom-edge, left-edge, right-edge, corner-top-left (-top-right,
            -bottom-left, -bottom-right) and blur; or a .npy file; or numbers, row by row, such as
            "[[-1, -1], [1, 1]]". An array [rows, columns, channels] has a kernel per colour.
        at: The patch that is written out.
        no_animation: Do not make the animation.
        out: New or empty folder for the figures (PNG), the animation (GIF) and feature_map.npy.
    """
    check_out(out)
    result = convolved(open_image(str(local_path(image)), data_dir), kernel_of(kernel))
    place = result.strongest if at is None else at
    text = spelled(result, place)
    name = kernel if len(kernel) <= 20 else "given"
    if out is not None:
        from cnn_jax.figures import convolution as figures
        from cnn_jax.figures import save

        out.mkdir(parents=True, exist_ok=True)
        parts = (result.image, result.kernel, result.feature_map, name)
        save(figures.one_place(*parts, place, text), out / "convolution.png")
        save(figures.pixel_values(result.image, "pixel values"), out / "pixels.png")
        title = f"feature map of the kernel {name}"
        save(figures.map_values(result.feature_map, title), out / "feature_map.png")
        np.save(out / "feature_map.npy", result.feature_map)
        if not no_animation:
            places = places_shown(result.feature_map.shape)
            sums = [_place(result, place) for place in places]
            figures.animate(out / "convolution.gif", *parts, places, sums)
    print(text)


def places_shown(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Places (row, column) of a feature map in reading order: all, or at most about `FRAMES` evenly
    spaced ones and the last.
    """
    count = math.prod(shape)
    step = -(-count // FRAMES)
    numbers = [*range(0, count - 1, step), count - 1]
    return [divmod(number, shape[1]) for number in numbers]


def spelled(result: Convolution, place: tuple[int, int]) -> str:
    """One number of the feature map in up to four lines: its place, its products, their sum.

    The products are left out if there are more than `SPELLED`.
    """
    patch = result.patch(*place)
    if patch.size > SPELLED:
        return _place(result, place)
    terms = [
        f"{pixel:.3f}·{_signed(weight)}"
        for pixel, weight in zip(
            np.moveaxis(patch, -1, 0).flat, np.moveaxis(result.kernel, -1, 0).flat, strict=True
        )
    ]
    lines = [" + ".join(terms[i : i + 9]) for i in range(0, len(terms), 9)]
    return "\n".join([_place(result, place), " +\n".join(lines)])


def _place(result: Convolution, place: tuple[int, int]) -> str:
    total = f"{result.feature_map[place]:.2f}".replace("-", "\N{MINUS SIGN}")
    return f"row {place[0]}, column {place[1]}: the products add up to {total}"


def _signed(value: float) -> str:
    text = f"{value:.3g}"
    return f"(\N{MINUS SIGN}{text[1:]})" if text[0] == "-" else text
