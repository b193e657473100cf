"""Deformation against SciPy, draw by draw, and what the draws do to shapes that can be measured."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cnn_jax.augment import deform
from cnn_jax.augment.deform import random_deformation
from cnn_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 20, 28, 3)).astype(np.uint8)
KEYS = jax.random.split(jax.random.key(0), len(IMAGES))
CENTRE = (9.5, 13.5)
RANGES: Any = {"shift": 2.0, "scale": 0.2, "shear": 10.0, "rotation": 15.0, "alpha": 34.0}


@jax.jit
def _deformed(keys: jax.Array, images: Any, ranges: dict[str, Any]) -> jax.Array:
    return jax.vmap(lambda key, image, own: deform.deform(key, image, sigma=4.0, **own))(
        keys, images, ranges
    )


def deformed(keys: jax.Array, images: Any, ranges: dict[str, Any]) -> np.ndarray:
    """Each of images [B, H, W, C] under its key [B]; ranges are traced scalars or arrays [B].

    All calls for one shape of images share a compilation.
    """
    each = {name: np.broadcast_to(np.float32(r), len(keys)) for name, r in ranges.items()}
    return np.asarray(_deformed(keys, images, each))


resample = jax.jit(deform.resample)
elastic_fields = jax.jit(
    jax.vmap(deform.elastic_field, (0, None, None)), static_argnames=("shape", "sigma")
)


@jax.jit
@jax.vmap
def draws(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The numbers [6] and the field [2, 20, 28] that a deformation draws from its key."""
    affine_key, elastic_key = jax.random.split(key)
    numbers = jax.random.uniform(affine_key, (6,), minval=-1, maxval=1)
    return numbers, deform.elastic_field(elastic_key, (20, 28), 4.0)


def bilinear(image: np.ndarray, rows: Any, columns: Any) -> np.ndarray:
    """SciPy's values of image [H, W, C] between zeros, in float64."""
    points = np.broadcast_arrays(np.asarray(rows, np.float64), np.asarray(columns, np.float64))
    values = partial(ndimage.map_coordinates, coordinates=points, order=1, mode="grid-constant")
    return np.stack(
        [values(channel) for channel in np.moveaxis(image.astype(np.float64), -1, 0)], -1
    )


def matrix(factors: Any, shear: float, rotation: float) -> np.ndarray:
    """The linear map of a deformation, of (row, column) seen from the centre."""
    angle, lean = np.deg2rad(rotation), np.tan(np.deg2rad(shear))
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return rotate @ np.array([[1, 0], [-lean, 1]]) @ np.diag(factors)


@jax.jit
def sources(rows: Any, columns: Any, centre: Any, affine: Any) -> tuple[jax.Array, jax.Array]:
    return deform.affine_sources(rows, columns, centre=centre, **affine)


def affine_sources(rows: Any, columns: Any, shift: Any, **affine: Any) -> np.ndarray:
    """What `sources` should return: in NumPy, by the inverse of `matrix`."""
    points = np.stack(np.broadcast_arrays(rows, columns)).astype(np.float64)
    offset = np.reshape(CENTRE, (2, 1, 1))
    seen = points - offset - np.reshape(shift, (2, 1, 1))
    return np.einsum("ij,jyx->iyx", np.linalg.inv(matrix(**affine)), seen) + offset


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resampling_is_bilinear_between_zeros(dtype: type) -> None:
    rng = np.random.default_rng(1)
    rows = rng.uniform(-4, 24, (50, 30)).astype(np.float32)
    columns = rng.uniform(-4, 32, (50, 30)).astype(np.float32)
    rows[:2], columns[:2] = np.round(rows[:2]), np.round(columns[:2])
    outcome = resample(IMAGES[0].astype(dtype), rows, columns)
    assert outcome.dtype == jnp.float32
    np.testing.assert_allclose(outcome, bilinear(IMAGES[0], rows, columns), atol=1e-3)


def test_resampling_broadcasts_rows_and_columns() -> None:
    rows, columns = np.arange(3, dtype=np.float32)[:, None] + 0.25, np.arange(4)[None] + 0.5
    outcome = resample(IMAGES[0], rows, columns)
    np.testing.assert_allclose(outcome, bilinear(IMAGES[0], rows, columns), atol=1e-3)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.6, 4.0, 20.0])
def test_smoothing_is_that_of_scipy(sigma: float) -> None:
    field = np.random.default_rng(2).uniform(-1, 1, (2, 20, 28)).astype(np.float32)
    expected = ndimage.gaussian_filter(
        field.astype(np.float64), sigma, axes=(1, 2), mode="constant", truncate=4.0
    )
    np.testing.assert_allclose(deform.smooth(jnp.asarray(field), sigma), expected, atol=1e-6)


def test_affine_sources_undo_the_steps_in_their_order() -> None:
    rng = np.random.default_rng(3)
    rows, columns = rng.uniform(-5, 30, (2, 4, 7))
    affine: Any = {
        "shift": (1.5, -2.25),
        "factors": (0.8, 1.3),
        "shear": 12.0,
        "rotation": -25.0,
    }
    outcome = sources(rows, columns, CENTRE, affine)
    np.testing.assert_allclose(outcome, affine_sources(rows, columns, **affine), atol=1e-5)


@pytest.mark.parametrize(
    ("step", "start", "end"),  # (row, column) seen from the centre
    [
        ({"shift": (3.0, 1.0)}, (0, 0), (3, 1)),
        ({"factors": (2.0, 0.5)}, (4, 4), (8, 2)),
        ({"shear": 45.0}, (-3, 0), (-3, 3)),
        ({"rotation": 90.0}, (0, 5), (-5, 0)),
    ],
    ids=["down and right", "taller and narrower", "leans right", "counterclockwise"],
)
def test_directions(step: dict, start: tuple[int, int], end: tuple[int, int]) -> None:
    still = {"shift": (0.0, 0.0), "factors": (1.0, 1.0), "shear": 0.0, "rotation": 0.0}
    rows, columns = (np.full((4, 7), place, np.float32) for place in end)
    down, right = sources(rows, columns, (0.0, 0.0), {**still, **step})
    np.testing.assert_allclose((down[0, 0], right[0, 0]), start, atol=1e-5)


def test_a_deformation_is_one_resampling_of_the_composed_maps() -> None:
    outcome = deformed(KEYS, IMAGES, RANGES)
    ys, xs = np.mgrid[:20, :28]
    numbers, fields = (np.asarray(values, np.float64) for values in draws(KEYS))
    for i, u in enumerate(numbers):
        affine: Any = {"shift": 2 * u[:2], "factors": 1 + 0.2 * u[2:4], "shear": 10 * u[4]}
        down, right = 34 * fields[i]
        rows, columns = affine_sources(ys + down, xs + right, rotation=15 * u[5], **affine)
        # Float32 places a point to some 5e-6 of a pixel, and neighbours differ by up to 255.
        np.testing.assert_allclose(outcome[i], bilinear(IMAGES[i], rows, columns), atol=5e-3)


def test_the_transform_deforms_by_the_ranges_that_it_is_given() -> None:
    transform = jax.jit(jax.vmap(random_deformation(**RANGES, sigma=4.0)))
    expected = deformed(KEYS, IMAGES, RANGES)
    np.testing.assert_allclose(transform(KEYS, IMAGES), expected, atol=5e-3)


def test_zero_ranges_are_the_identity() -> None:
    elastic = deformed(KEYS, IMAGES, dict.fromkeys(RANGES, 0.0))
    affine = jax.jit(jax.vmap(random_deformation()))(KEYS, IMAGES.astype(np.float32))
    for outcome in (elastic, affine):
        assert outcome.dtype == np.float32
        np.testing.assert_array_equal(outcome, IMAGES)


def test_either_shears_or_rotates_and_does_neither_always() -> None:
    keys, image = jax.random.split(jax.random.key(1), 60), jnp.asarray(IMAGES[0])

    @partial(jax.jit, static_argnames="either")
    def turned(shear: float, rotation: float, either: bool = False) -> jax.Array:
        turns = {"shear": shear, "rotation": rotation, "either": either}
        return jax.vmap(lambda key: deform.deform(key, image, scale=0.2, **turns))(keys)

    sheared, rotated = turned(10.0, 0.0), turned(0.0, 15.0)
    either = turned(10.0, 15.0, either=True)
    is_sheared, is_rotated = (
        np.all(np.asarray(either == kind), (1, 2, 3)) for kind in (sheared, rotated)
    )
    assert np.all(is_sheared ^ is_rotated)
    assert 18 <= is_sheared.sum() <= 42  # 60 tosses, 3.1 deviations


def test_an_example_does_not_depend_on_its_neighbours() -> None:
    together = deformed(KEYS, IMAGES, RANGES)
    turned = deformed(KEYS[::-1], IMAGES[::-1], RANGES)
    np.testing.assert_allclose(together, turned[::-1], atol=5e-3)
    mixed = deformed(KEYS[jnp.array([0, 1, 2, 0, 0, 1])], IMAGES[[0, 1, 2, 5, 5, 5]], RANGES)
    np.testing.assert_allclose(together[:3], mixed[:3], atol=5e-3)


@pytest.mark.parametrize("name", RANGES)
def test_every_key_draws_anew(name: str) -> None:
    ranges = {**dict.fromkeys(RANGES, 0.0), name: RANGES[name]}
    images = np.repeat(IMAGES[:1], len(KEYS), axis=0)
    outcome = deformed(KEYS, images, ranges)
    apart = np.abs(outcome[:, None] - outcome[None]).max(axis=(2, 3, 4))
    assert (apart + 10 * np.eye(len(KEYS)) > 5).all()
    np.testing.assert_array_equal(outcome, deformed(KEYS, images, ranges))


def test_ranges_may_differ_between_examples() -> None:
    """As when they depend on the label: half for some digits, none for others."""
    factors = np.array([0.5, 1, 0, 1, 0.5, 0], np.float32)

    def scaled(factor: Any) -> np.ndarray:
        return deformed(KEYS, IMAGES, {name: factor * r for name, r in RANGES.items()})

    outcome = scaled(factors)
    for factor in (0, 0.5, 1):
        these = factors == factor
        np.testing.assert_allclose(outcome[these], scaled(factor)[these], atol=5e-3)


BLOB_DEVIATIONS = (8.0, 3.0)  # of rows, of columns


@jax.jit
def deformed_blobs(ranges: dict[str, Any]) -> jax.Array:
    """500 copies of an upright blob [81, 65] after an affine map: one compilation."""
    y, x = np.mgrid[-40:41, -32:33]
    exponent = (y / BLOB_DEVIATIONS[0]) ** 2 + (x / BLOB_DEVIATIONS[1]) ** 2
    blob = jnp.asarray((255 * np.exp(-exponent / 2))[..., None], jnp.float32)
    keys = jax.random.split(jax.random.key(4), 500)
    return jax.vmap(lambda key: deform.deform(key, blob, **ranges)[..., 0])(keys)


def moments(name: str, half_width: float) -> dict[str, np.ndarray]:
    """The shift, factors, shear and rotation that are measured on the deformed blobs."""
    still = dict.fromkeys(("shift", "scale", "shear", "rotation"), 0.0)
    blobs = np.asarray(deformed_blobs({**still, name: half_width}), np.float64)
    y, x = np.mgrid[-40:41, -32:33].reshape(2, -1)
    sums = blobs.reshape(500, -1) @ np.stack([np.ones_like(y), y, x, y * y, x * x, y * x], axis=1)
    down, right, yy, xx, yx = (sums[:, 1:] / sums[:, :1]).T
    yy, xx, yx = yy - down**2, xx - right**2, yx - down * right
    return {
        "down": down,
        "right": right,
        "height": np.sqrt(yy) / BLOB_DEVIATIONS[0],
        "width": np.sqrt(xx) / BLOB_DEVIATIONS[1],
        "shear": np.rad2deg(np.arctan(-yx / yy)),
        "rotation": np.rad2deg(np.arctan2(2 * yx, yy - xx)) / 2,
    }


@pytest.mark.parametrize(
    ("name", "half_width", "measured", "centre", "slack"),
    [
        ("shift", 3.0, ("down", "right"), 0, 0.01),
        ("scale", 0.25, ("height", "width"), 1, 0.02),
        ("shear", 20.0, ("shear",), 0, 0.5),
        ("rotation", 30.0, ("rotation",), 0, 0.5),
    ],
)
def test_what_is_drawn_is_uniform_over_its_range(
    name: str, half_width: float, measured: tuple[str, ...], centre: float, slack: float
) -> None:
    quantities = moments(name, half_width)
    for quantity in measured:
        offsets = quantities[quantity] - centre
        assert np.abs(offsets).max() <= half_width + slack
        # Beyond 97 % of the range on both sides: missed by one side of 500 in one of 1,800 cases.
        assert offsets.max() > 0.97 * half_width - slack
        assert offsets.min() < -0.97 * half_width + slack
        assert abs(offsets.mean()) < 0.1 * half_width  # 3.9 standard deviations
        assert offsets.std() == pytest.approx(half_width / np.sqrt(3), rel=0.1)
    if len(measured) == 2:
        assert abs(np.corrcoef([quantities[quantity] for quantity in measured])[0, 1]) < 0.15


def test_the_noise_is_uniform_and_its_axes_are_independent() -> None:
    keys = jax.random.split(jax.random.key(5), 100)
    noise = np.asarray(elastic_fields(keys, (28, 28), 0.1))  # a Gaussian of a single weight
    assert 0.9999 < np.abs(noise).max() < 1
    counts, _ = np.histogram(noise, bins=20, range=(-1, 1))
    np.testing.assert_allclose(counts / noise.size, 0.05, rtol=0.05)  # 4.5 standard deviations
    down, right = noise[:, 0].ravel(), noise[:, 1].ravel()
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.015  # 4.2 standard deviations
    assert abs(np.corrcoef(down[1:], down[:-1])[0, 1]) < 0.015


@pytest.mark.parametrize(
    ("sigma", "alpha", "pixels"),
    [(4.0, 34.0, 1.384), (5.5, 37.0, 1.096)],
    ids=["Simard", "Ciresan"],
)
def test_displacements_have_the_size_that_is_promised(
    sigma: float, alpha: float, pixels: float
) -> None:
    assert alpha / (sigma * np.sqrt(12 * np.pi)) == pytest.approx(pixels, abs=5e-4)
    keys = jax.random.split(jax.random.key(6), 60)
    wide = alpha * np.asarray(elastic_fields(keys, (128, 128), sigma))
    inside = wide[:, :, 32:-32, 32:-32]
    assert inside.std() == pytest.approx(pixels, rel=0.04)
    assert abs(inside.mean()) < 0.1
    # Neighbours at distance sigma move together: exp(-1/4) for a Gaussian filter.
    lag = int(sigma)
    along = np.corrcoef(inside[..., lag:].ravel(), inside[..., :-lag].ravel())[0, 1]
    across = np.corrcoef(inside[..., lag:, :].ravel(), inside[..., :-lag, :].ravel())[0, 1]
    assert [along, across] == pytest.approx([np.exp(-((lag / sigma) ** 2) / 4)] * 2, abs=0.03)
    # Half of the Gaussian lies outside at an edge.
    edges = np.concatenate([wide[:, :, 0, 32:-32], wide[:, :, 32:-32, -1]])
    assert edges.std() == pytest.approx(pixels / np.sqrt(2), rel=0.15)


def test_gradient_with_respect_to_the_image_is_the_adjoint() -> None:
    rng = np.random.default_rng(6)
    rows, columns = rng.uniform(-2, 8, (2, 9, 4)).astype(np.float32)
    cotangent = rng.normal(size=(9, 4, 1)).astype(np.float32)
    image = rng.uniform(0, 255, (6, 7, 1)).astype(np.float32)
    _, pull_back = jax.vjp(lambda image: resample(image, rows, columns), image)
    pixels = np.eye(42).reshape(42, 6, 7, 1)
    expected = [np.sum(cotangent * bilinear(pixel, rows, columns)) for pixel in pixels]
    np.testing.assert_allclose(np.ravel(pull_back(cotangent)[0]), expected, atol=1e-5)


def test_gradient_with_respect_to_the_points_is_the_slope() -> None:
    rng = np.random.default_rng(7)
    whole = rng.integers(-2, 8, (2, 9, 4))
    rows, columns = (whole + rng.uniform(0.1, 0.9, whole.shape)).astype(np.float32)
    image = rng.uniform(0, 255, (6, 7, 1)).astype(np.float32)
    slopes = jax.grad(lambda points: resample(image, *points).sum())
    down, right = slopes((rows, columns))
    e = 0.05
    by_row = bilinear(image, rows + e, columns) - bilinear(image, rows - e, columns)
    by_column = bilinear(image, rows, columns + e) - bilinear(image, rows, columns - e)
    np.testing.assert_allclose(down, by_row[..., 0] / (2 * e), atol=1e-2)
    np.testing.assert_allclose(right, by_column[..., 0] / (2 * e), atol=1e-2)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"shift": -1.0}, "shift must be at least 0"),
        ({"scale": -0.1}, "scale must be at least 0 and below 1"),
        ({"shear": -5.0}, "shear must be at least 0 and below 90"),
        ({"rotation": float("nan")}, "rotation must be a finite number"),
        ({"alpha": -34.0, "sigma": 4.0}, "alpha must be at least 0"),
        ({"scale": 1.0}, "scale must be at least 0 and below 1"),
        ({"shear": 90.0}, "shear must be at least 0 and below 90"),
        ({"alpha": 34.0, "sigma": 0.0}, "sigma must be above 0 and at most 1,000"),
        ({"sigma": -4.0}, "sigma must be above 0"),
        ({"alpha": 1.0, "sigma": 1e9}, "sigma must be above 0 and at most 1,000"),
        ({"alpha": 34.0}, "alpha needs sigma"),
    ],
)
def test_wrong_ranges_are_refused(ranges: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        random_deformation(**ranges)
    if "needs" not in message:
        with pytest.raises(UserError, match=message):
            deform.deform(jax.random.key(0), jnp.zeros((5, 5, 1), jnp.uint8), **ranges)


def test_a_deformation_needs_a_key_and_alpha_a_sigma() -> None:
    with pytest.raises(ValueError, match="needs a key"):
        jax.eval_shape(random_deformation(shift=1.0), None, IMAGES[0])
    with pytest.raises(ValueError, match="alpha needs sigma"):
        jax.eval_shape(partial(deform.deform, alpha=34.0), KEYS[0], IMAGES[0])
    with pytest.raises(ValueError, match="alpha needs sigma"):
        jax.eval_shape(lambda a: deform.deform(KEYS[0], IMAGES[0], alpha=a), jnp.zeros(()))
