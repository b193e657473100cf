"""Datasets in memory, statistics, stated ranges, and the fingerprint of a split."""

import hashlib
from typing import Any

import numpy as np
import pytest
from samples import arrays, small

from cnn_jax import data
from cnn_jax.data import statistics


def test_array_dataset_says_what_it_is() -> None:
    dataset = small()
    pixels = arrays(20)[0] / 255.0
    assert dataset.image_shape == (4, 6, 3) and dataset.class_names == ("a", "b", "c")
    assert (dataset.num_examples("train"), dataset.num_examples("test")) == (20, 7)
    np.testing.assert_allclose(dataset.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std((0, 1, 2)), rtol=1e-12)


def test_read_returns_the_examples_in_the_order_of_the_indices() -> None:
    pixels, labels = arrays(20)
    batch = small().open("train").read(np.array([3, 0, 3, 19]))
    np.testing.assert_array_equal(batch["image"], pixels[[3, 0, 3, 19]])
    np.testing.assert_array_equal(batch["label"], labels[[3, 0, 3, 19]])
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)


@pytest.mark.parametrize("indices", [[-1], [20], [0, 5, 99]])
def test_read_refuses_indices_outside_the_split(indices: list[int]) -> None:
    with pytest.raises(IndexError, match=r"not all in 0 \.\. 19"):
        small().open("train").read(indices)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": arrays()}, "needs a split 'train'"),
        ({"train": (arrays()[0].astype(float), arrays()[1])}, "need one or more uint8"),
        ({"train": (arrays()[0], arrays()[1][:-1])}, "need 20 integer labels"),
        ({"train": (arrays()[0], arrays()[1] + 1)}, "outside 0 .. 2"),
        ({"train": (arrays()[0][..., 0], arrays()[1])}, "one shape .H, W, C."),
        ({"train": arrays(), "test": (arrays()[0][:, 1:], arrays()[1])}, "one shape"),
    ],
)
def test_array_dataset_refuses_other_arrays(splits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.array_dataset("wrong", splits, "abc")


def test_statistics_are_exact_and_do_not_depend_on_batches() -> None:
    # Sums of squares of this many bright pixels don't fit 32 bits, nor float32's 24.
    pixels = np.full((300, 32, 32, 1), 255, np.uint8)
    pixels[0, 0, 0] = 254
    labels = np.arange(300, dtype=np.int32)
    whole = [{"image": pixels, "label": labels}]
    cut = [{"image": pixels[i : i + 7], "label": labels[i : i + 7]} for i in range(0, 300, 7)]
    measured = statistics.measure(whole, "test")
    n = pixels.size
    assert measured == statistics.measure(cut, "test")
    assert measured.mean[0] == (255 * n - 1) / (255 * n)
    np.testing.assert_allclose(measured.std[0], np.sqrt((n - 1) / n**2) / 255, rtol=1e-12)
    constant = statistics.measure([{"image": pixels[1:], "label": labels[1:]}], "test")
    assert constant.std == (1.0,)  # one may divide by it
    relabelled = [{"image": pixels, "label": labels[::-1]}]
    assert measured.sha256 != statistics.measure(relabelled, "test").sha256


def test_a_scaled_dataset_takes_pixels_to_its_range(digits: data.Dataset) -> None:
    scaled = digits.scaled(-0.1, 1.175)
    pixels = np.array([0, 255, 51]) / 255
    np.testing.assert_allclose((pixels - scaled.mean[0]) / scaled.std[0], [-0.1, 1.175, 0.155])
    assert scaled.statistics.sha256 == digits.statistics.sha256
    assert len(scaled.mean) == 1 and "-0.1 to 1.175" in scaled.statistics.origin


def test_a_centred_dataset_subtracts_the_mean_from_pixels_and_no_more(digits: data.Dataset) -> None:
    centred = digits.centred()
    pixels = np.array([0, 255, 51])
    shown = (pixels / 255 - centred.mean[0]) / centred.std[0]
    np.testing.assert_allclose(shown, pixels - 255 * digits.mean[0])
    assert "no deviation" in centred.statistics.origin


def test_a_fingerprint_is_of_the_pixels_and_labels_of_a_split(
    digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = digits.open("test").read(np.arange(360))
    expected = hashlib.sha256(examples["image"].tobytes())
    expected.update(examples["label"].astype("<i4").tobytes())
    assert data.content_sha256(digits, "test") == expected.hexdigest()
    in_memory = data.array_dataset(
        "copy", {"train": (examples["image"], examples["label"])}, digits.class_names
    )
    assert data.content_sha256(in_memory, "train") == expected.hexdigest()
    assert data.content_sha256(digits, "test[:359]") != expected.hexdigest()
    assert data.content_sha256(digits, "train") == digits.statistics.sha256
    monkeypatch.setattr(statistics, "MAX_EXAMPLES", 359)  # of a larger set, the first ones
    assert data.content_sha256(in_memory, "train") == data.content_sha256(digits, "test[:359]")
