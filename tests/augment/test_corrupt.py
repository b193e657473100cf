"""Corruptions are what their table says, compared with SciPy."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from scipy import ndimage

from cnn_jax.augment.corrupt import SEVERITIES, corruption
from cnn_jax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 20, 28, 3)).astype(np.uint8)
GREY = np.full((8, 64, 64, 1), 127.5, np.float32)
KEYS = jax.random.split(jax.random.key(1), len(IMAGES))


@cache
def corrupted(name: str, grey: bool = False) -> list[np.ndarray]:
    """IMAGES, or GREY, at severities 0 to 5: one compilation."""

    @jax.jit
    @jax.vmap
    def severities(key: jax.Array, image: jax.Array) -> list[jax.Array]:
        return [corruption(name, severity)(key, image) for severity in range(6)]

    return [np.asarray(outcome) for outcome in severities(KEYS, GREY if grey else IMAGES)]


def by_channel(image: np.ndarray, change: Any) -> np.ndarray:
    channels = np.moveaxis(image.astype(np.float64), -1, 0)
    return np.stack([change(channel) for channel in channels], -1)


def affine(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Bilinear between zeros, by the map from places of the result to places of the image."""
    centre = (np.array(image.shape[:2]) - 1) / 2
    offset = centre - matrix @ centre
    return by_channel(
        image,
        lambda x: ndimage.affine_transform(
            x,
            matrix,
            offset,  # pyright: ignore (an array is fine)
            order=1,
            mode="grid-constant",
        ),
    )


def counterclockwise(degrees: float) -> np.ndarray:
    """The inverse of a rotation, counterclockwise as displayed, of (row, column)."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("name", SEVERITIES)
def test_severity_0_is_the_image_and_every_other_keeps_shape_and_range(name: str) -> None:
    unchanged, *outcomes = corrupted(name)
    np.testing.assert_array_equal(unchanged, IMAGES)
    distances = []
    for outcome in outcomes:
        assert outcome.shape == IMAGES.shape and outcome.dtype == np.float32
        assert outcome.min() > -1e-3 and outcome.max() < 255.001
        distances.append(np.abs(outcome - IMAGES).mean())
    assert distances[0] > 1
    if name not in ("rotation", "scaling"):  # of white noise they leave nothing at once
        assert distances == sorted(distances)


@pytest.mark.parametrize(("severity", "degrees"), [(1, 11.5), (5, 57.3)])
def test_rotation_is_that_of_scipy_to_the_left_or_the_right(severity: int, degrees: float) -> None:
    directions = set()
    for image, outcome in zip(IMAGES, corrupted("rotation")[severity], strict=True):
        apart = {
            sign: np.abs(outcome - affine(image, counterclockwise(sign * degrees))).max()
            for sign in (1, -1)
        }
        # Float32 places a point to some 5e-6 of a pixel, and neighbours differ by up to 255.
        assert min(apart.values()) < 5e-3
        directions.add(min(apart, key=lambda sign: apart[sign]))
    assert directions == {1, -1}


@pytest.mark.parametrize(("severity", "factor"), [(1, 0.9), (5, 0.5)])
def test_scaling_is_that_of_scipy(severity: int, factor: float) -> None:
    expected = [affine(image, np.eye(2) / factor) for image in IMAGES]
    np.testing.assert_allclose(corrupted("scaling")[severity], expected, atol=5e-3)


@pytest.mark.parametrize(("severity", "sigma"), [(1, 20.4), (5, 96.9)])
def test_noise_has_its_deviation_and_is_independent(severity: int, sigma: float) -> None:
    # The mid-grey image is clipped beyond 127.5: seldom, but for the strongest noise.
    noise = corrupted("noise", grey=True)[severity] - GREY
    inside = np.abs(noise) < 127.4
    drawn = np.random.default_rng(2).normal(0, sigma, 10**6)
    expected = drawn[np.abs(drawn) < 127.4].std()
    assert noise[inside].std() == pytest.approx(expected, rel=0.02)  # 5 standard deviations
    assert abs(noise.mean()) < 0.03 * sigma
    assert np.abs(np.corrcoef(noise.reshape(8, -1)) - np.eye(8)).max() < 0.08


def test_noise_is_one_draw_for_every_severity() -> None:
    weak, strong = (corrupted("noise", grey=True)[severity] - GREY for severity in (1, 2))
    inside = np.abs(strong) < 127.4  # not clipped
    assert inside.mean() > 0.99
    np.testing.assert_allclose(weak[inside] * 30.6 / 20.4, strong[inside], atol=1e-3)


@pytest.mark.parametrize(("severity", "sigma"), [(1, 1.0), (2, 2.0), (5, 6.0)])
def test_blur_is_that_of_scipy(severity: int, sigma: float) -> None:
    expected = [
        by_channel(image, lambda x: ndimage.gaussian_filter(x, sigma, mode="nearest", truncate=4))
        for image in IMAGES
    ]
    np.testing.assert_allclose(corrupted("blur")[severity], expected, atol=1e-3)


@pytest.mark.parametrize(("severity", "factor"), [(1, 0.4), (5, 0.05)])
def test_contrast_shrinks_about_the_mean_of_each_channel(severity: int, factor: float) -> None:
    outcome = corrupted("contrast")[severity]
    shape = {"axis": (1, 2), "keepdims": True}
    np.testing.assert_allclose(outcome.mean((1, 2)), IMAGES.mean((1, 2)), atol=1e-3)
    expected = factor * (IMAGES - IMAGES.mean(**shape))
    np.testing.assert_allclose(outcome - outcome.mean(**shape), expected, atol=1e-3)


def test_unknown_corruptions_and_severities_are_refused() -> None:
    with pytest.raises(UserError, match="no corruption 'fog'; there are: rotation, scaling"):
        corruption("fog", 1)
    for severity in (-1, 6):
        with pytest.raises(UserError, match="severity must be 0 to 5"):
            corruption("blur", severity)
    for name in ("rotation", "noise"):
        with pytest.raises(ValueError, match="needs a key"):
            jax.eval_shape(corruption(name, 1), None, IMAGES[0])
