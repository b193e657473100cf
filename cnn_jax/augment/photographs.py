"""Random resized crops as in torchvision, and colour noise as in AlexNet, for photographs.

These are transforms like those of `basic.py`: of images [H, W, C] with values 0 .. 255, to float32,
not rounded. Colours are in units of [0, 1], like the mean and deviation of a dataset.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.augment.basic import Transform, require_key
from cnn_jax.data import cache
from cnn_jax.data.datasets import Dataset
from cnn_jax.data.statistics import MAX_EXAMPLES
from cnn_jax.errors.ranges import check_range

_ATTEMPTS = 10  # to draw a rectangle that fits, as in torchvision
_EXACT = jax.lax.Precision.HIGHEST  # else accelerators round pixels to 10 bits or fewer


def random_resized_crop(
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Transform:
    """Resize a rectangle of random area, shape and place to float32 [size, size, C].

    Its share of the image's area is uniform in `scale`, and the logarithm of its width / height is
    uniform between the logarithms of `ratio`. Ten are drawn, and the first that fits is taken, at a
    uniform place; if none fits, the largest central rectangle of a permitted ratio. This is
    torchvision's rule, after Szegedy et al. (2015), Going deeper with convolutions, section 6.

    Resizing is bilinear, antialiased where it shrinks, and uses no pixel outside the rectangle: as
    in Pillow, which torchvision uses, but without rounding to whole numbers.

    Raises UserError for a size below 1.
    """
    check_range("the size of a crop", size, least=1)

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        place, shape = _rectangle(require_key(key), image.shape[:2], scale, ratio)
        rows = _bilinear(image.shape[0], place[0], shape[0], size)
        columns = _bilinear(image.shape[1], place[1], shape[1], size)
        image = jnp.einsum("yh,hwc->ywc", rows, image.astype(jnp.float32), precision=_EXACT)
        return jnp.einsum("xw,ywc->yxc", columns, image, precision=_EXACT)

    return transform


def _rectangle(
    key: jax.Array,
    full: tuple[int, ...],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array]:
    """The top left corner [2] and shape [2] of a part of an image of height and width `full`."""
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = jnp.exp(jax.random.uniform(ratio_key, (_ATTEMPTS,), minval=low, maxval=high))
    shares = jax.random.uniform(area_key, (_ATTEMPTS,), minval=scale[0], maxval=scale[1])
    areas = full[0] * full[1] * shares
    shapes = jnp.stack([jnp.sqrt(areas / ratios), jnp.sqrt(areas * ratios)], axis=1)
    shapes = jnp.round(shapes).astype(jnp.int32)

    whole = jnp.array(full)
    fits = ((0 < shapes) & (shapes <= whole)).all(axis=1)
    central = jnp.array(
        [min(full[0], round(full[1] / ratio[0])), min(full[1], round(full[0] * ratio[1]))]
    )
    shape = jnp.where(fits.any(), shapes[jnp.argmax(fits)], central)
    place = jax.random.randint(place_key, (2,), 0, whole - shape + 1)
    return jnp.where(fits.any(), place, (whole - central) // 2), shape


def _bilinear(length: int, start: jax.Array, extent: jax.Array, size: int) -> jax.Array:
    """Weights [size, length] that resize the pixels start .. start + extent of a line to `size`."""
    step = extent / size
    centres = start + (jnp.arange(size) + 0.5) * step - 0.5
    pixels = jnp.arange(length)
    weights = jnp.maximum(0, 1 - jnp.abs(pixels - centres[:, None]) / jnp.maximum(step, 1))
    weights = jnp.where((start <= pixels) & (pixels < start + extent), weights, 0)
    return weights / weights.sum(axis=1, keepdims=True)


class Colours(NamedTuple):
    """The mean and covariance of the colours of a dataset's training pixels, units of [0, 1]."""

    mean: np.ndarray  # float64 [C]
    covariance: np.ndarray  # float64 [C, C], of the population


def colour_noise(
    colours: Colours, std: float = 0.1, by: Literal["eigenvalue", "deviation"] = "eigenvalue"
) -> Transform:
    """Add one random colour to all pixels, along the principal components of the colours.

    Krizhevsky et al. (2012), section 4.1: the sum over i of p_i * a_i * l_i, with p_i and l_i the
    eigenvectors and eigenvalues of the covariance of the pixels, and a_i ~ N(0, std^2) drawn anew
    each time an image is used. The paper does not give the units. Here they are those of [0, 1]; in
    those of 0 .. 255 the noise would be 255 times as strong and hide the image.

    by "deviation" is what the author's later code, cuda-convnet2, does: it takes the root of l_i,
    which has the units of a pixel, in place of l_i; and it divides the distance to the mean by
    1 + std, so that training images keep the scale of those in evaluation.

    Nothing is clipped, as in both: values may leave 0 .. 255.
    """
    if by not in ("eigenvalue", "deviation"):
        raise ValueError(f"by must be 'eigenvalue' or 'deviation', got {by!r}")
    eigenvalues, eigenvectors = np.linalg.eigh(colours.covariance)
    eigenvalues = np.maximum(eigenvalues, 0)  # rounding may leave < 0 where colours lie in a plane
    lengths = eigenvalues if by == "eigenvalue" else np.sqrt(eigenvalues)
    directions = (255 * std * lengths * eigenvectors).astype(np.float32)  # one in each column
    mean = (255 * colours.mean).astype(np.float32)

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        draws = jax.random.normal(require_key(key), lengths.shape)
        noisy = image.astype(jnp.float32) + (directions * draws).sum(axis=1)
        return noisy if by == "eigenvalue" else mean + (noisy - mean) / (1 + std)

    return transform


def measure_colours(dataset: Dataset) -> Colours:
    """The colours of the first 60,000 training examples, those that the dataset's mean is of.

    Exact, being sums of integers. Measured once, in about the time that decoding the examples
    takes, and kept beside the prepared dataset, or in ~/.cache/cnn_jax if that cannot be written.
    """
    if dataset.folder is None:
        return _measure(dataset)
    channels = dataset.image_shape[-1]

    def parse(values: dict[str, Any]) -> Colours:
        mean, covariance = (np.array(values[name], np.float64) for name in Colours._fields)
        if mean.shape != (channels,) or covariance.shape != (channels, channels):
            raise ValueError(f"shapes {mean.shape} and {covariance.shape}, not {channels} channels")
        if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(covariance))):
            raise ValueError("numbers that are not finite")
        return Colours(mean, covariance)

    return cache.remember(
        dataset.name,
        dataset.folder,
        f"colours-{'x'.join(map(str, dataset.image_shape))}.json",
        lambda: {name: value.tolist() for name, value in _measure(dataset)._asdict().items()},
        parse,
    )


def _measure(dataset: Dataset) -> Colours:
    channels, pixels = dataset.image_shape[-1], 0
    total, products = np.zeros(channels), np.zeros((channels, channels))
    for batch in dataset.open("train").chunks(64, limit=MAX_EXAMPLES):
        values = batch["image"].reshape(-1, channels).astype(np.float64)
        # Whole numbers, below 2^53 for 60,000 images of up to 1,500 x 1,500: nothing is rounded.
        total += values.sum(axis=0)
        products += values.T @ values
        pixels += len(values)
    mean = total / pixels
    return Colours(mean / 255, (products / pixels - np.outer(mean, mean)) / 255**2)
