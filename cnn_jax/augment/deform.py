"""Random affine and elastic deformation of images, on the device, in a single resampling.

`random_deformation` returns a transform like those of `basic.py`. It calls `deform`, whose ranges
may also be traced. The other functions are their parts, of which only `elastic_field` is random.
Points are (row, column) in pixels, rows counted downwards, pixel centres at whole numbers; angles
are in degrees.

Sources: the affine maps of LeCun, Bottou, Bengio and Haffner (1998), section III.B; the elastic
displacements of Simard, Steinkraus and Platt (2003), Best practices for convolutional neural
networks applied to visual document analysis, section 2; both together in Ciresan, Meier,
Gambardella and Schmidhuber (2010), Deep, big, simple neural nets for handwritten digit recognition.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cnn_jax.augment.basic import Transform, require_key
from cnn_jax.errors import UserError
from cnn_jax.errors.ranges import check_range


def random_deformation(
    *,
    shift: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    rotation: float = 0.0,
    alpha: float = 0.0,
    sigma: float | None = None,
) -> Transform:
    """`deform` with these ranges as a transform, to float32 [H, W, C].

    `random_deformation(sigma=4, alpha=34)` is that of Simard et al.

    Raises:
        UserError: a range is negative, `scale` is not below 1 or `shear` not below 90 degrees,
            `sigma` is not positive or above 1,000, or `alpha` is given without `sigma`. The
            transform itself raises ValueError without a key.
    """
    ranges: dict[str, Any] = {"shift": shift, "scale": scale, "shear": shear, "rotation": rotation}
    ranges["alpha"] = alpha
    _check_ranges(**ranges, sigma=sigma)
    if alpha > 0 and sigma is None:
        raise UserError("alpha needs sigma, the smoothness of the elastic field in pixels")

    def transform(key: jax.Array | None, image: jax.Array) -> jax.Array:
        return deform(require_key(key), image, sigma=sigma, **ranges)

    return transform


def deform(
    key: jax.Array,
    image: jax.Array,
    *,
    shift: ArrayLike = 0.0,
    scale: ArrayLike = 0.0,
    shear: ArrayLike = 0.0,
    rotation: ArrayLike = 0.0,
    either: bool = False,
    alpha: ArrayLike = 0.0,
    sigma: float | None = None,
) -> jax.Array:
    """Apply an affine map about the centre, then an elastic displacement, both drawn from `key`.

    Every draw is uniform between minus and plus its half-width. Half-widths may be traced scalars,
    so that they can depend on the label. If all are 0, the result is the image itself.

    Args:
        image: [H, W, C], values 0 .. 255, uint8 or floating point.
        shift: pixels, down and to the right, drawn separately.
        scale: a fraction; height and width are multiplied by 1 - scale .. 1 + scale, separately.
        shear: degrees from the vertical by which upright strokes lean to the right or left.
        rotation: degrees.
        either: shear or rotate each image, by the toss of a coin, as Ciresan et al. do; else both.
        alpha: pixels by which the smoothed field of `elastic_field` is multiplied. The displacement
            has a standard deviation of alpha / (sigma * sqrt(12 * pi)) along each axis: 1.38 pixels
            for Simard's sigma = 4, alpha = 34.
        sigma: pixels, the deviation of the Gaussian that smooths the field; None for no field.

    Returns:
        float32 [H, W, C], bilinear between the pixels of `image`, 0 outside it.

    Raises:
        UserError: a range that is not traced is out of the limits of `random_deformation`.
        ValueError: `alpha` is given without `sigma`.
    """
    _check_ranges(shift, scale, shear, rotation, alpha, sigma)
    height, width, _ = image.shape
    affine_key, elastic_key = jax.random.split(key)
    rows, columns = jnp.arange(height, dtype=jnp.float32)[:, None], jnp.arange(width)[None]
    if sigma is not None:
        down, right = jnp.asarray(alpha) * elastic_field(elastic_key, (height, width), sigma)
        rows, columns = rows + down, columns + right
    elif not (isinstance(alpha, int | float) and alpha == 0):
        raise ValueError("alpha needs sigma")
    u = jax.random.uniform(affine_key, (6 + either,), minval=-1, maxval=1)
    if either:
        shear, rotation = jnp.where(u[6] > 0, shear, 0.0), jnp.where(u[6] > 0, 0.0, rotation)
    rows, columns = affine_sources(
        rows,
        columns,
        centre=((height - 1) / 2, (width - 1) / 2),
        shift=(shift * u[0], shift * u[1]),
        factors=(1 + scale * u[2], 1 + scale * u[3]),
        shear=shear * u[4],
        rotation=rotation * u[5],
    )
    return resample(image, rows, columns)


def _check_ranges(
    shift: Any, scale: Any, shear: Any, rotation: Any, alpha: Any, sigma: float | None
) -> None:
    """Raise UserError for a range out of its limits; those that are traced are not looked at."""
    # From these limits on a point's place in the original would be infinite.
    limits = {"scale": (scale, 1), "shear": (shear, 90)}
    for name, (value, limit) in limits.items():
        check_range(name, value, least=0, below=limit)
    for name, value in {"shift": shift, "rotation": rotation, "alpha": alpha}.items():
        check_range(name, value, least=0)
    check_range("sigma", sigma, above=0, most=1000)


def affine_sources(
    rows: jax.Array,
    columns: jax.Array,
    *,
    centre: tuple[float, float],
    shift: tuple[ArrayLike, ArrayLike],
    factors: tuple[ArrayLike, ArrayLike],
    shear: ArrayLike,
    rotation: ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """Where the points (rows, columns) of the deformed image lie in the original.

    This is the inverse of the deformation, whose steps about the point `centre` (row, column) are:
    multiply heights and widths by `factors`; shear by `shear` degrees, the upper half to the right
    if positive; rotate by `rotation` degrees, counterclockwise as displayed; shift by `shift`
    pixels down and to the right.
    """
    y, x = rows - centre[0] - shift[0], columns - centre[1] - shift[1]
    angle = jnp.deg2rad(rotation)
    y, x = jnp.cos(angle) * y + jnp.sin(angle) * x, jnp.cos(angle) * x - jnp.sin(angle) * y
    x = x + jnp.tan(jnp.deg2rad(shear)) * y
    return y / factors[0] + centre[0], x / factors[1] + centre[1]


def elastic_field(key: jax.Array, shape: tuple[int, int], sigma: float) -> jax.Array:
    """The elastic displacement of each pixel, down and to the right [2, *shape], before alpha.

    Uniform in ±1, smoothed by a Gaussian whose weights sum to 1. (Simard et al. also speak of a
    field of norm 1; this reading turns their alpha into pixels.) Outside the image the field counts
    as 0, so it is weaker within about sigma of the edges, down to 1 / sqrt(2) at them.
    """
    # 16 bits are plenty for a value that is averaged next, and take half the work.
    bits = jax.random.bits(key, shape, jnp.uint32)
    halves = jnp.stack([bits >> 16, bits & 0xFFFF]).astype(jnp.float32)
    return smooth((halves + 0.5) / 2**15 - 1, sigma)


def smooth(field: jax.Array, sigma: float) -> jax.Array:
    """Convolve [..., H, W] with a Gaussian cut at 4 sigma and normalised to sum 1; 0 outside."""
    down, across = (jnp.asarray(_gaussian_band(size, sigma)) for size in field.shape[-2:])
    return jnp.einsum("yi,...ij,xj->...yx", down, field, across, precision="highest")


def resample(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The values of image [H, W, C] at the points (rows, columns): bilinear, with 0 outside it.

    Args:
        rows, columns: pixels, of one shape or of shapes that broadcast to it.

    Returns:
        float32 [*shape, C]. Differentiable in the image and, away from whole numbers, the points.
    """
    height, width, channels = image.shape
    rows, columns = jnp.broadcast_arrays(jnp.clip(rows, -1, height), jnp.clip(columns, -1, width))
    top, left = jnp.floor(rows), jnp.floor(columns)
    # Each pixel lies beside its three neighbours, so a point takes one look-up instead of four.
    padded = jnp.pad(image.astype(jnp.float32), ((1, 2), (1, 2), (0, 0)))
    corners = [padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]]
    patches = jnp.stack(corners, axis=2).reshape(-1, 4, channels)
    place = (top.astype(jnp.int32) + 1) * (width + 2) + left.astype(jnp.int32) + 1
    values = patches.at[place].get(mode="promise_in_bounds")
    down, right = rows - top, columns - left
    weights = jnp.stack(
        [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], axis=-1
    )
    # A product, since XLA makes a slow loop of the sum; "highest" keeps float32 on accelerators.
    return jnp.einsum("...kc,...k->...c", values, weights, precision="highest")


def _gaussian_band(size: int, sigma: float) -> np.ndarray:
    """The matrix [size, size] whose product with a line of pixels is that line, smoothed."""
    distance = np.arange(size) - np.arange(size)[:, None]
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    band = np.exp(-0.5 * (distance / sigma) ** 2) * (abs(distance) <= radius) / weights.sum()
    return band.astype(np.float32)
