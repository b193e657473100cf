"""Transforms of photographs against Pillow and NumPy; the measured colours against NumPy."""

import dataclasses
import json
import math
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax.augment import photographs
from cnn_jax.augment.photographs import Colours, colour_noise, measure_colours, random_resized_crop
from cnn_jax.data import array_dataset
from cnn_jax.data import cache as kept
from cnn_jax.data.datasets import Dataset

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


def mapped(transform, count: int, image: np.ndarray = IMAGE) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(transform, (0, None)))(keys(count), image))


FULLS = ((40, 60), (400, 400), (40, 90), (90, 40), (40, 44))  # heights and widths
SIZES = (7, 24, 64)  # always, sometimes and hardly ever smaller than the rectangle


@jax.jit
def all_rectangles(keys: jax.Array, scale: tuple[float, float]) -> dict:
    def draw(key: jax.Array) -> dict:
        return {full: photographs._rectangle(key, full, scale, (3 / 4, 4 / 3)) for full in FULLS}

    return jax.vmap(draw)(keys)


def rectangles(
    full: tuple[int, int], count: int, scale: tuple[float, float] = (0.08, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Corners [count, 2] and shapes [count, 2], under the first `count` of 4,000 keys."""
    place, shape = all_rectangles(keys(4000), scale)[full]
    return np.asarray(place)[:count], np.asarray(shape)[:count]


@cache
def resized_crops() -> dict[int, np.ndarray]:
    """20 random crops of IMAGE in each of SIZES, under the first 20 of 4,000 keys."""

    @jax.jit
    @jax.vmap
    def crops(key: jax.Array) -> dict[int, jax.Array]:
        return {size: random_resized_crop(size)(key, jnp.asarray(IMAGE)) for size in SIZES}

    return {size: np.asarray(crop) for size, crop in crops(keys(4000)[:20]).items()}


def pillow(image: np.ndarray, place: np.ndarray, shape: np.ndarray, size: int) -> np.ndarray:
    """Crop, then resize each channel in float, which spares Pillow its rounding."""
    (top, left), (height, width) = place.tolist(), shape.tolist()
    part = image[top : top + height, left : left + width].astype(np.float32)
    channels = [
        Image.fromarray(part[..., c]).resize((size, size), Image.Resampling.BILINEAR)
        for c in range(part.shape[-1])
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


@pytest.mark.parametrize("size", SIZES)
def test_random_resized_crop_is_pillows(size: int) -> None:
    places, shapes = rectangles(IMAGE.shape[:2], 20)
    outcome = resized_crops()[size]
    assert outcome.dtype == np.float32 and outcome.shape == (20, size, size, 3)
    for crop, place, shape in zip(outcome, places, shapes, strict=True):
        np.testing.assert_allclose(crop, pillow(IMAGE, place, shape, size), atol=2e-3)


def test_a_resized_crop_of_everything_is_the_image() -> None:
    whole = random_resized_crop(40, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    np.testing.assert_allclose(mapped(whole, 2, IMAGE[:, :40])[1], IMAGE[:, :40], atol=1e-4)


def test_rectangles_have_the_drawn_areas_ratios_and_places() -> None:
    places, shapes = rectangles((400, 400), 4000, scale=(0.1, 0.3))
    assert (places >= 0).all() and (places + shapes <= 400).all()
    area = shapes.prod(axis=1) / 400**2
    # Everything fits here, so the draws are what was asked for: uniform in area and log-ratio.
    assert 0.099 < area.min() < 0.102 and 0.298 < area.max() < 0.301
    assert abs(area.mean() - 0.2) < 0.004  # 4.4 standard deviations
    logs = np.log(shapes[:, 1] / shapes[:, 0])
    limit = math.log(4 / 3)
    assert limit - 0.02 < np.abs(logs).max() < limit + 0.02
    assert abs(logs.mean()) < 0.012 and abs(logs.std() - limit / 3**0.5) < 0.008
    # Uniform in what room is left.
    relative = places / (400 - shapes)
    assert np.abs(relative.mean(axis=0) - 0.5).max() < 0.02
    assert relative.min() < 0.01 and relative.max() > 0.99


def test_rectangles_that_do_not_fit_are_drawn_again_and_the_tenth_falls_back() -> None:
    # Wider than high by 1.5: areas near 1 fit only at ratios near 4 / 3, so some fall back.
    places, shapes = rectangles((40, 60), 500, scale=(0.8, 1.0))
    assert (places >= 0).all() and (places + shapes <= [40, 60]).all()
    central = (shapes == [40, 53]).all(axis=1) & (places == [0, 3]).all(axis=1)
    assert 0 < central.sum() < 500
    ratios = shapes[~central, 1] / shapes[~central, 0]
    assert ratios.min() > 0.74 and ratios.max() < 1.37  # rounding included

    for full, place, shape in (
        ((40, 90), [0, 18], [40, 53]),  # too wide
        ((90, 40), [18, 0], [53, 40]),  # too high
        ((40, 44), [0, 0], [40, 44]),
    ):
        fallback = rectangles(full, 3, scale=(1.5, 2.0))  # fits nowhere
        np.testing.assert_array_equal(fallback, [[place] * 3, [shape] * 3])


COLOURS = Colours(
    mean=np.array([0.5, 0.4, 0.3]),
    covariance=np.array([[0.08, 0.05, 0.03], [0.05, 0.07, 0.04], [0.03, 0.04, 0.06]]),
)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_colour_noise_adds_one_colour_unclipped(dtype: type) -> None:
    image = np.where(IMAGE > 127, 255, 0).astype(dtype)
    noisy = mapped(colour_noise(COLOURS), 50, image)
    added = noisy - image
    assert noisy.dtype == np.float32 and noisy.min() < 0 and noisy.max() > 255
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], added.shape), atol=1e-4)
    assert len(np.unique(added[:, 0, 0], axis=0)) == 50  # each example another


@pytest.mark.parametrize(("by", "power"), [("eigenvalue", 2), ("deviation", 1)])
def test_colour_noise_has_the_covariance_of_the_formula(by, power: int) -> None:
    """The sum of p_i a_i l_i has covariance std^2 C C, that of p_i a_i sqrt(l_i) std^2 C."""
    black = np.zeros((1, 1, 3), np.float32)
    noisy = mapped(colour_noise(COLOURS, std=0.2, by=by), 40_000, black)[:, 0, 0] / 255
    expected = 0.2**2 * np.linalg.matrix_power(COLOURS.covariance, power)
    centre = np.zeros(3)
    if by == "deviation":  # shrunk towards the mean, noise and image both
        expected, centre = expected / 1.2**2, COLOURS.mean * (1 - 1 / 1.2)
    deviation = np.sqrt(np.diag(expected))
    assert (np.abs(noisy.mean(axis=0) - centre) < 0.025 * deviation).all()  # 5 standard errors
    np.testing.assert_allclose(np.cov(noisy.T), expected, atol=0.04 * expected.max())


def test_colour_noise_by_deviation_keeps_the_mean_and_shrinks_the_rest() -> None:
    two = np.stack([255 * COLOURS.mean, 255 * COLOURS.mean + 11])[None].astype(np.float32)
    silent = colour_noise(Colours(COLOURS.mean, np.zeros((3, 3))), by="deviation")
    expected = [255 * COLOURS.mean, 255 * COLOURS.mean + 10]
    np.testing.assert_allclose(mapped(silent, 1, two)[0, 0], expected, rtol=1e-5)


def test_colour_noise_refuses_other_lengths() -> None:
    with pytest.raises(ValueError, match="by must be"):
        colour_noise(COLOURS, by="variance")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("transform", [random_resized_crop(8), colour_noise(COLOURS)])
def test_random_transforms_refuse_to_work_without_a_key(transform) -> None:
    with pytest.raises(ValueError, match="needs a key"):
        jax.eval_shape(transform, None, IMAGE)


def dataset(count: int = 70) -> Dataset:
    """More than one read of 64, in colours that go together."""
    images = np.random.default_rng(count).integers(0, 256, (count, 5, 4, 3))
    images[..., 1] = (images[..., 0] + images[..., 1]) // 2
    grey = np.full((1, 5, 4, 3), 7, np.uint8)
    splits = {
        "train": (images.astype(np.uint8), np.zeros(count, np.int32)),
        "test": (grey, np.zeros(1, np.int32)),
    }
    return array_dataset("noise", splits, "a")


def test_measured_colours_are_those_of_the_training_pixels() -> None:
    noise = dataset()
    colours = measure_colours(noise)
    pixels = noise.open("train").read(np.arange(70))["image"].reshape(-1, 3) / 255
    np.testing.assert_allclose(colours.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(colours.mean, noise.mean, rtol=1e-12)
    np.testing.assert_allclose(colours.covariance, np.cov(pixels.T, bias=True), rtol=1e-10)
    np.testing.assert_allclose(np.sqrt(np.diag(colours.covariance)), noise.std, rtol=1e-10)


def test_colours_are_measured_once_and_again_when_the_files_change(tmp_path: Path) -> None:
    stored = dataclasses.replace(dataset(), folder=tmp_path)
    (tmp_path / "shard").write_text("as prepared")
    first = measure_colours(stored)
    saved = tmp_path / kept.FOLDER / "colours-5x4x3.json"
    assert json.loads(saved.read_text())["mean"] == first.mean.tolist()

    other = dataclasses.replace(dataset(80), folder=tmp_path)
    again = measure_colours(other)  # from the file: the pixels of `other` are others
    np.testing.assert_array_equal(again.covariance, first.covariance)

    (tmp_path / "shard").write_text("prepared anew")
    assert not np.array_equal(measure_colours(other).covariance, first.covariance)
    saved.write_text("{}")
    np.testing.assert_array_equal(measure_colours(stored).covariance, first.covariance)
