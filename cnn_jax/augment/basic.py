"""Padding, resizing, crops, shifts and flips as transforms: (key, image [H, W, C]) -> image.

Every function here returns a transform. A transform takes one typed PRNG key and one image, uint8
or float32 with values 0 .. 255. It is pure and made to be mapped over a batch with one key for each
example, so that the change of an example depends on nothing but its own key. Evaluation passes None
for the key: fixed transforms ignore it, random ones raise ValueError. All but `resize` keep the
dtype. `ByLabel` wraps a transform that depends on the label.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cnn_jax.errors import UserError
from cnn_jax.errors.ranges import check_range

Transform = Callable[[jax.Array | None, jax.Array], jax.Array]


class ByLabel(NamedTuple):
    """A transform for training that also takes the label: (key, image, label int32 []) -> image.

    For example, Cireşan et al. (2010) rotate the digits 1 and 7 by smaller angles than the others.
    """

    transform: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def pad(top: int, bottom: int, left: int, right: int) -> Transform:
    """Add so many rows and columns of zeros around the image."""

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        return jnp.pad(image, ((top, bottom), (left, right), (0, 0)))

    return transform


def resize(height: int, width: int | None = None) -> Transform:
    """Resize to float32 [height, width or height, C], bilinear, antialiased when it shrinks.

    Raises UserError for a size below 1.
    """
    check_range("the height to resize to", height, least=1)
    check_range("the width to resize to", height if width is None else width, least=1)

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        shape = (height, height if width is None else width, image.shape[-1])
        return jax.image.resize(image.astype(jnp.float32), shape, "bilinear")

    return transform


@dataclass(frozen=True)  # JAX refers to functions weakly, which a NamedTuple forbids
class CentreCrop:
    """The transform that `centre_crop` returns. It is a type so that `View`s can replace it."""

    size: int

    def __call__(self, key: jax.Array | None, image: jax.Array) -> jax.Array:
        height, width, _ = _check_crop(self.size, image.shape)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return image[top : top + self.size, left : left + self.size]


def centre_crop(size: int) -> CentreCrop:
    """Crop the central [size, size, C], or half a pixel to the top left of the centre.

    The transform raises UserError for an image smaller than `size`.
    """
    return CentreCrop(size)


class View(NamedTuple):
    """A place to crop other than the centre, for tests on several: integers, or int32 arrays [].

    The room that a crop can move in, down and to the right, is divided into `parts`, in which `row`
    and `column` count: (1, 1) of 2 parts is the place of `centre_crop`, (0, 0) the top left corner.
    """

    row: int | jax.Array
    column: int | jax.Array
    parts: int | jax.Array
    mirrored: int | jax.Array  # 1 exchanges left and right of the crop


def crop_at(size: int, view: View) -> Transform:
    """Crop the [size, size, C] of a view, whose numbers may be traced.

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
    """Crop a [size, size, C] at a uniform place: Krizhevsky et al. 2012, section 4.1.

    The transform raises UserError for an image smaller than `size`. `pad` before it lets crops
    reach beyond the image.
    """

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        height, width, channels = _check_crop(size, image.shape)
        last = jnp.array([height - size, width - size])
        top, left = jax.random.randint(require_key(key), (2,), 0, last + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), (size, size, channels))

    return transform


def random_shift(max_pixels: int) -> Transform:
    """Move the image by a uniform -max_pixels .. max_pixels along each axis; zeros move in.

    Raises UserError if max_pixels is negative, and the transform if it is more than the image has.
    """
    check_range("the largest shift", max_pixels, least=0)

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        height, width, _ = image.shape
        if max_pixels > max(height, width):
            raise UserError(
                f"images of {height} x {width} pixels cannot be shifted by up to {max_pixels}"
            )
        padded = jnp.pad(image, ((max_pixels, max_pixels), (max_pixels, max_pixels), (0, 0)))
        top, left = jax.random.randint(require_key(key), (2,), 0, 2 * max_pixels + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return transform


def random_flip() -> Transform:
    """Exchange left and right with probability one half."""

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(require_key(key)), image[:, ::-1], image)

    return transform


def _check_crop(size: int, shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width, channels = shape
    check_range("the size of a crop", size, least=1)
    if size > min(height, width):
        raise UserError(f"cannot crop {size} x {size} from an image of {height} x {width}")
    return height, width, channels


def require_key(key: jax.Array | None) -> jax.Array:
    """The key of a random transform. Raises ValueError if it is None, as in evaluation."""
    if key is None:
        raise ValueError("a random transform needs a key; evaluation has none, use a fixed one")
    return key
