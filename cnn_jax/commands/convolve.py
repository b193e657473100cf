"""`convolve`: a hand-made kernel on an image, step by step."""

import math
from typing import Annotated

import numpy as np
import tyro

from cnn_jax.commands.arguments import DataDir, Out, check_out
from cnn_jax.figures import convolution as figures
from cnn_jax.figures import save
from cnn_jax.see.convolution import Convolution, kernel_of
from cnn_jax.see.convolution import convolve as convolved
from cnn_jax.see.images import open_image

FRAMES = 120  # of an animation; over more places the window takes longer steps
SPELLED = 27  # products that are written out one by one: 3x3 in three channels


def convolve(
    image: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IMAGE")],
    kernel: str = "top-edge",
    at: tuple[int, int] | None = None,
    animation: bool = True,
    data_dir: DataDir = None,
    out: Out = None,
) -> None:
    """Slide a kernel over an image, and spell out one patch times the kernel.

    Pixels are in 0 .. 1. In a feature map red is positive, white zero, blue negative.

    Args:
        image: An image file, or DATASET:SPLIT:INDEX such as digits:test:3.
        kernel: top-edge, bottom-edge, left-edge, right-edge, corner-top-left (-top-right,
            -bottom-left, -bottom-right), blur; a file .npy; or rows of numbers such as
            "[[-1, -1], [1, 1]]". [rows, columns, channels] has a grid per colour.
        at: Row and column of the patch that is spelled out. Default: the largest response.
        animation: Make the animation too.
        data_dir: Where prepared datasets lie. Default: TFDS's folder.
        out: New or empty folder for the figures as PNG, the animation as GIF, and the feature map
            as feature_map.npy.
    """
    check_out(out)
    found = convolved(open_image(image, data_dir), kernel_of(kernel))
    place = found.strongest if at is None else at
    text = spelled(found, place)
    name = kernel if len(kernel) <= 20 else "given"
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        parts = (found.image, found.kernel, found.feature_map, name)
        save(figures.one_place(*parts, place, text), out / "convolution.png")
        save(figures.pixel_values(found.image, "pixel values"), out / "pixels.png")
        title = f"feature map of the kernel {name}"
        save(figures.map_values(found.feature_map, title), out / "feature_map.png")
        np.save(out / "feature_map.npy", found.feature_map)
        if animation:
            places = places_shown(found.feature_map.shape)
            said = [_place(found, place) for place in places]
            figures.animate(out / "convolution.gif", *parts, places, said)
    print(text)


def places_shown(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Places [rows, columns] in reading order, every one if they are few, and always the last."""
    count = math.prod(shape)
    step = -(-count // FRAMES)
    numbers = [*range(0, count - 1, step), count - 1]
    return [divmod(number, shape[1]) for number in numbers]


def spelled(found: Convolution, place: tuple[int, int]) -> str:
    """Where the patch is, its products, and their sum, in up to four lines."""
    patch = found.patch(*place)
    if patch.size > SPELLED:
        return _place(found, place)
    terms = [
        f"{pixel:.3f}·{_signed(weight)}"
        for pixel, weight in zip(
            np.moveaxis(patch, -1, 0).flat, np.moveaxis(found.kernel, -1, 0).flat, strict=True
        )
    ]
    lines = [" + ".join(terms[i : i + 9]) for i in range(0, len(terms), 9)]
    return "\n".join([_place(found, place), " +\n".join(lines)])


def _place(found: Convolution, place: tuple[int, int]) -> str:
    total = f"{found.feature_map[place]:.2f}".replace("-", "\N{MINUS SIGN}")
    return f"row {place[0]}, column {place[1]}: the products add up to {total}"


def _signed(value: float) -> str:
    text = f"{value:.3g}"
    return f"(\N{MINUS SIGN}{text[1:]})" if text[0] == "-" else text
