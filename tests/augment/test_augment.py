"""Each transform against NumPy, mapped over a batch as the training step maps it."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.augment import basic as augment

IMAGES = np.random.default_rng(0).integers(1, 256, (6, 9, 12, 3)).astype(np.uint8)
KEYS = jax.random.split(jax.random.key(0), len(IMAGES))

TRANSFORMS = {
    "resize": augment.resize(5, 7),
    "centre_crop": augment.centre_crop(6),
    "random_crop": augment.random_crop(6),
    "random_shift": augment.random_shift(3),
    "random_flip": augment.random_flip(),
}


@cache
def compiled(transform: augment.Transform) -> Callable[[jax.Array, np.ndarray], jax.Array]:
    return jax.jit(jax.vmap(transform))


def mapped(transform: augment.Transform, images: np.ndarray, keys: jax.Array = KEYS) -> np.ndarray:
    return np.asarray(compiled(transform)(keys, images))


def windows(image: np.ndarray, height: int, width: int, padding: int) -> list[np.ndarray]:
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return [
        padded[top : top + height, left : left + width]
        for top in range(padded.shape[0] - height + 1)
        for left in range(padded.shape[1] - width + 1)
    ]


def places(outcome: np.ndarray, candidates: list[np.ndarray]) -> list[int]:
    return [i for i, candidate in enumerate(candidates) if np.array_equal(outcome, candidate)]


def triangle_weights(source: int, target: int) -> np.ndarray:
    """Bilinear weights [target, source], the triangle widened by the scale when it shrinks."""
    scale = source / target
    centres = (np.arange(target) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(source) - centres[:, None]) / max(scale, 1)
    weights = np.maximum(0, 1 - distance)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (18, 24), (9, 12), (4, None)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resize(height: int, width: int | None, dtype: type) -> None:
    outcome = mapped(augment.resize(height, width), IMAGES.astype(dtype))
    rows, columns = triangle_weights(9, height), triangle_weights(12, width or height)
    expected = np.einsum("yh,nhwc,xw->nyxc", rows, IMAGES.astype(np.float64), columns)
    assert outcome.dtype == np.float32
    np.testing.assert_allclose(outcome, expected, atol=2e-3)


def test_centre_crop() -> None:
    np.testing.assert_array_equal(mapped(augment.centre_crop(6), IMAGES), IMAGES[:, 1:7, 3:9])
    # No middle pixel to begin at: nearer to the top left.
    np.testing.assert_array_equal(mapped(augment.centre_crop(9), IMAGES), IMAGES[:, :, 1:10])


@pytest.mark.parametrize("size", [6, 9])
def test_random_crop_reaches_every_window_and_nothing_else(size: int) -> None:
    images = np.repeat(IMAGES[:1], 1000, axis=0)
    keys = jax.random.split(jax.random.key(1), len(images))
    candidates = windows(IMAGES[0], size, size, padding=0)
    found = [places(o, candidates) for o in mapped(augment.random_crop(size), images, keys)]
    assert all(len(places) == 1 for places in found)
    counts = np.bincount(np.ravel(found), minlength=len(candidates))
    assert counts.min() > 0 and counts.max() < 4 * 1000 / len(candidates)


def test_random_shift_reaches_every_place_and_fills_with_zeros() -> None:
    images = np.repeat(IMAGES[:1], 1000, axis=0)
    keys = jax.random.split(jax.random.key(2), len(images))
    candidates = windows(IMAGES[0], 9, 12, padding=3)
    found = [
        places(outcome, candidates) for outcome in mapped(augment.random_shift(3), images, keys)
    ]
    assert all(len(places) == 1 for places in found)
    assert set(np.ravel(found)) == set(range(7 * 7))


def test_random_flip_takes_each_side_half_of_the_time() -> None:
    images = np.repeat(IMAGES[:1], 1000, axis=0)
    keys = jax.random.split(jax.random.key(3), len(images))
    candidates = [IMAGES[0], IMAGES[0][:, ::-1]]
    found = [places(outcome, candidates) for outcome in mapped(augment.random_flip(), images, keys)]
    assert all(len(places) == 1 for places in found)
    assert 430 < np.sum(found) < 570  # 4.4 standard deviations


@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_example_does_not_depend_on_its_neighbours(name: str) -> None:
    together = mapped(TRANSFORMS[name], IMAGES)
    turned = mapped(TRANSFORMS[name], IMAGES[::-1], KEYS[::-1])
    # But for the last bit of the products in `resize`, which XLA may round by place in the batch.
    np.testing.assert_allclose(together, turned[::-1], rtol=1e-6)
    alone = np.stack(
        [
            mapped(TRANSFORMS[name], IMAGES[i : i + 1], KEYS[i : i + 1])[0]
            for i in range(len(IMAGES))
        ]
    )
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name != "resize"])
def test_crops_shifts_and_flips_keep_the_dtype(name: str, dtype: type) -> None:
    image = jax.ShapeDtypeStruct(IMAGES.shape[1:], dtype)
    assert jax.eval_shape(TRANSFORMS[name], KEYS[0], image).dtype == dtype


@pytest.mark.parametrize("name", ["resize", "centre_crop"])
def test_fixed_transforms_ignore_the_key(name: str) -> None:
    without = jax.vmap(partial(TRANSFORMS[name], None))(jnp.asarray(IMAGES))
    np.testing.assert_allclose(without, mapped(TRANSFORMS[name], IMAGES), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name.startswith("random")])
def test_random_transforms_refuse_to_work_without_a_key(name: str) -> None:
    with pytest.raises(ValueError, match="needs a key"):
        TRANSFORMS[name](None, jnp.asarray(IMAGES[0]))


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (augment.centre_crop(10), "10 x 10 from an image of 9 x 12"),
        (augment.random_crop(12), "12 x 12 from an image of 9 x 12"),
    ],
)
def test_a_crop_larger_than_the_image_is_refused(
    transform: augment.Transform, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(transform, KEYS[0], jnp.asarray(IMAGES[0]))


def test_pad_puts_zeros_around() -> None:
    outcome = mapped(augment.pad(1, 2, 3, 0), IMAGES)
    expected = np.pad(IMAGES, ((0, 0), (1, 2), (3, 0), (0, 0)))
    assert outcome.dtype == np.uint8
    np.testing.assert_array_equal(outcome, expected)
