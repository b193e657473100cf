"""Random and fixed changes of images, on the device: (key, image [H, W, C]) -> image.

Every function here returns such a transform. It takes one typed PRNG key and one image, uint8 or
float32 with values 0 .. 255, is pure, and is meant to be mapped over a batch with a key for each
example, so that what happens to an example depends on nothing but its own key. Evaluation has no
keys: transforms that are not random ignore it, the others raise ValueError. Apart from `resize`,
all keep the dtype. `ByLabel` wraps one that depends on the label.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cnn_jax.errors import UserError

Transform = Callable[[jax.Array | None, jax.Array], jax.Array]


class ByLabel(NamedTuple):
    """A transform for training that also sees the label: (key, image, label int32 []) -> image.

    Cireşan et al. (2010) turn the digits 1 and 7 by smaller angles than the others.
    """

    transform: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def pad(top: int, bottom: int, left: int, right: int) -> Transform:
    """The image with so many rows and columns of zeros around it."""

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        return jnp.pad(image, ((top, bottom), (left, right), (0, 0)))

    return transform


def resize(height: int, width: int | None = None) -> Transform:
    """To float32 [height, width or height, C], bilinear, antialiased when it shrinks."""

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        shape = (height, width or height, image.shape[-1])
        return jax.image.resize(image.astype(jnp.float32), shape, "bilinear")

    return transform


@dataclass(frozen=True)  # no NamedTuple: JAX holds functions weakly, which a tuple cannot be
class CentreCrop:
    """The transform that `centre_crop` returns. It has a type so that `View`s can replace it."""

    size: int

    def __call__(self, key: jax.Array | None, image: jax.Array) -> jax.Array:
        height, width, _ = _check_crop(self.size, image.shape)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return image[top : top + self.size, left : left + self.size]


def centre_crop(size: int) -> CentreCrop:
    """The central [size, size, C]; nearer to the top left by half a pixel if it has to be.

    The transform raises UserError for an image smaller than `size`.
    """
    return CentreCrop(size)


class View(NamedTuple):
    """Another place to crop than the centre, for testing on several: integers, or int32 arrays [].

    `row` and `column` are counted in the `parts` of the way that the crop can be moved, down and to
    the right: (1, 1) of 2 is `centre_crop`'s place, (0, 0) the top left corner.
    """

    row: int | jax.Array
    column: int | jax.Array
    parts: int | jax.Array
    mirrored: int | jax.Array  # 1 exchanges left and right of what was cropped


def crop_at(size: int, view: View) -> Transform:
    """The [size, size, C] of a view; what the view is need not be known to the compiler.

    The transform raises UserError for an image smaller than `size`.
    """

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        height, width, channels = _check_crop(size, image.shape)
        top = (height - size) * view.row // view.parts
        left = (width - size) * view.column // view.parts
        crop = jax.lax.dynamic_slice(image, (top, left, 0), (size, size, channels))
        return jnp.where(view.mirrored, crop[:, ::-1], crop)

    return transform


def random_crop(size: int) -> Transform:
    """A [size, size, C] window at a uniform place: Krizhevsky et al. 2012, section 4.1.

    The transform raises UserError for an image smaller than `size`. With `pad` before it, windows
    reach beyond the image.
    """

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        height, width, channels = _check_crop(size, image.shape)
        last = jnp.array([height - size, width - size])
        top, left = jax.random.randint(given(key), (2,), 0, last + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), (size, size, channels))

    return transform


def random_shift(max_pixels: int) -> Transform:
    """The image moved by -max_pixels .. max_pixels along each axis, uniformly; zeros move in.

    Raises UserError if max_pixels is negative.
    """
    if max_pixels < 0:
        raise UserError(f"a shift is of 0 pixels or more, got {max_pixels}")

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        padded = jnp.pad(image, ((max_pixels, max_pixels), (max_pixels, max_pixels), (0, 0)))
        top, left = jax.random.randint(given(key), (2,), 0, 2 * max_pixels + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return transform


def random_flip() -> Transform:
    """The image or, in one case of two, its mirror image (left and right exchanged)."""

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(given(key)), image[:, ::-1], image)

    return transform


def _check_crop(size: int, shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width, channels = shape
    if size > min(height, width):
        raise UserError(f"cannot crop {size} x {size} from an image of {height} x {width}")
    return height, width, channels


def given(key: jax.Array | None) -> jax.Array:
    """The key of a random transform; ValueError if there is none."""
    if key is None:
        raise ValueError("a random transform needs a key; evaluation has none, use a fixed one")
    return key
