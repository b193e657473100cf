"""Each transform against NumPy, mapped over a batch as the training step maps it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.augment import basic as augment

IMAGES = np.random.default_rng(0).integers(1, 256, (6, 9, 12, 3)).astype(np.uint8)
KEYS = jax.random.split(jax.random.key(0), len(IMAGES))
IMAGE = jax.ShapeDtypeStruct(IMAGES.shape[1:], np.uint8)

SIZES = ((5, 7), (18, 24), (9, 12), (4, None))
FIXED = {f"resize {size}": augment.resize(*size) for size in SIZES} | {
    "centre_crop": augment.centre_crop(6),
    "uneven centre_crop": augment.centre_crop(9),
    "pad": augment.pad(1, 2, 3, 0),
}
RANDOM = {
    "random_crop": augment.random_crop(6),
    "tight random_crop": augment.random_crop(9),
    "random_shift": augment.random_shift(3),
    "random_flip": augment.random_flip(),
}


@jax.jit
def fixed(keys: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
    """The outcomes of all fixed transforms, from a single compilation."""
    return {name: jax.vmap(transform)(keys, images) for name, transform in FIXED.items()}


@jax.jit
def random(keys: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
    return {name: jax.vmap(transform)(keys, images) for name, transform in RANDOM.items()}


def transformed(keys: jax.Array, images: Any) -> dict[str, jax.Array]:
    return fixed(keys, images) | random(keys, images)


@jax.jit
def drawn(keys: jax.Array) -> dict[str, jax.Array]:
    """The outcomes of the random transforms on one image, under each of `keys`."""
    image = jnp.asarray(IMAGES[0])
    return {name: jax.vmap(transform, (0, None))(keys, image) for name, transform in RANDOM.items()}


def windows(image: np.ndarray, height: int, width: int, padding: int) -> list[np.ndarray]:
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return [
        padded[top : top + height, left : left + width]
        for top in range(padded.shape[0] - height + 1)
        for left in range(padded.shape[1] - width + 1)
    ]


def counts(name: str, candidates: list[np.ndarray]) -> np.ndarray:
    """How often a transform returns each of `candidates` in 1,000 draws; it may return no other."""
    place = {candidate.tobytes(): i for i, candidate in enumerate(candidates)}
    outcomes = np.asarray(drawn(jax.random.split(jax.random.key(1), 1000))[name])
    assert outcomes.shape[1:] == candidates[0].shape
    return np.bincount([place[o.tobytes()] for o in outcomes], minlength=len(candidates))


def triangle_weights(source: int, target: int) -> np.ndarray:
    """Bilinear weights [target, source], the triangle widened by the scale when it shrinks."""
    scale = source / target
    centres = (np.arange(target) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(source) - centres[:, None]) / max(scale, 1)
    weights = np.maximum(0, 1 - distance)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resize(height: int, width: int | None, dtype: type) -> None:
    outcome = fixed(KEYS, IMAGES.astype(dtype))[f"resize {(height, width)}"]
    rows, columns = triangle_weights(9, height), triangle_weights(12, width or height)
    expected = np.einsum("yh,nhwc,xw->nyxc", rows, IMAGES.astype(np.float64), columns)
    assert outcome.dtype == np.float32
    np.testing.assert_allclose(outcome, expected, atol=2e-3)


def test_centre_crop() -> None:
    outcomes = fixed(KEYS, IMAGES)
    np.testing.assert_array_equal(outcomes["centre_crop"], IMAGES[:, 1:7, 3:9])
    # No middle pixel to begin at: nearer to the top left.
    np.testing.assert_array_equal(outcomes["uneven centre_crop"], IMAGES[:, :, 1:10])


def test_pad_puts_zeros_around() -> None:
    expected = np.pad(IMAGES, ((0, 0), (1, 2), (3, 0), (0, 0)))
    np.testing.assert_array_equal(fixed(KEYS, IMAGES)["pad"], expected)


@pytest.mark.parametrize(("name", "size"), [("random_crop", 6), ("tight random_crop", 9)])
def test_random_crop_reaches_every_window_and_nothing_else(name: str, size: int) -> None:
    candidates = windows(IMAGES[0], size, size, padding=0)
    found = counts(name, candidates)
    assert found.min() > 0 and found.max() < 4 * 1000 / len(candidates)


def test_random_shift_reaches_every_place_and_fills_with_zeros() -> None:
    candidates = windows(IMAGES[0], 9, 12, padding=3)
    assert len(candidates) == 7 * 7 and counts("random_shift", candidates).min() > 0


def test_random_flip_takes_each_side_half_of_the_time() -> None:
    _, mirrored = counts("random_flip", [IMAGES[0], IMAGES[0][:, ::-1]])
    assert 430 < mirrored < 570  # 4.4 standard deviations


def test_an_example_does_not_depend_on_its_neighbours() -> None:
    together = transformed(KEYS, IMAGES)
    turned = transformed(KEYS[::-1], IMAGES[::-1])
    mixed = transformed(KEYS[jnp.array([0, 1, 2, 0, 0, 1])], IMAGES[[0, 1, 2, 5, 5, 5]])
    for name, outcome in together.items():
        # But for the last bit of the products in `resize`, which XLA may round by place.
        np.testing.assert_allclose(outcome, turned[name][::-1], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(outcome[:3], mixed[name][:3], rtol=1e-6, err_msg=name)


def test_all_but_resize_keep_the_dtype() -> None:
    for dtype in (np.uint8, np.float32):
        outcomes = jax.eval_shape(transformed, KEYS, IMAGES.astype(dtype))
        for name, outcome in outcomes.items():
            assert outcome.dtype == (np.float32 if name.startswith("resize") else dtype), name


def test_fixed_transforms_ignore_the_key() -> None:
    @jax.jit
    def without_key(images: jax.Array) -> dict[str, jax.Array]:
        return {name: jax.vmap(partial(f, None))(images) for name, f in FIXED.items()}

    with_key = fixed(KEYS, IMAGES)
    for name, outcome in without_key(IMAGES).items():
        np.testing.assert_allclose(outcome, with_key[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", RANDOM)
def test_random_transforms_refuse_to_work_without_a_key(name: str) -> None:
    with pytest.raises(ValueError, match="needs a key"):
        jax.eval_shape(partial(RANDOM[name], None), IMAGE)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (augment.centre_crop(10), "10 x 10 from an image of 9 x 12"),
        (augment.random_crop(12), "12 x 12 from an image of 9 x 12"),
        (augment.random_crop(0), "the size of a crop must be at least 1, got 0"),
        (augment.centre_crop(-3), "the size of a crop must be at least 1, got -3"),
        (augment.random_shift(13), "9 x 12 pixels cannot be shifted by up to 13"),
    ],
)
def test_a_size_that_does_not_fit_the_image_is_refused(
    transform: augment.Transform, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(transform, KEYS[0], IMAGE)


def test_sizes_that_no_image_has_are_refused() -> None:
    with pytest.raises(ValueError, match="the largest shift must be at least 0, got -1"):
        augment.random_shift(-1)
    with pytest.raises(ValueError, match="the height to resize to must be at least 1, got 0"):
        augment.resize(0)
    with pytest.raises(ValueError, match="the width to resize to must be at least 1, got 0"):
        augment.resize(5, 0)
