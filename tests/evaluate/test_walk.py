"""The walk over a split: every example once and in order, for any batch size and devices."""

from typing import Any

import jax
import numpy as np
import programs
import pytest
from jax import lax

from cnn_jax.data import array_dataset
from cnn_jax.devices.feed import Feed, Kind, open_feed
from cnn_jax.devices.parallel import AXIS
from cnn_jax.errors import UserError
from cnn_jax.evaluate.exact import make_walk

EXAMPLES = 23
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (EXAMPLES, 3, 2, 1)).astype(np.uint8)
LABELS = (np.arange(EXAMPLES) * 7 % 5).astype(np.int32)
DATASET = array_dataset("noise", {"train": (IMAGES, LABELS)}, "abcde")
NAMES = ("image", "label", "position", "mask")


def walked(feed: Feed, batch_size: int, progress: Any = None) -> dict[str, np.ndarray]:
    """All batches of a walk put together, with the images times the argument of the walk."""

    def function(factor: jax.Array, batch: Any) -> Any:
        scaled = batch | {"image": batch["image"] * factor}
        return lax.all_gather(tuple(scaled[name] for name in NAMES), AXIS, tiled=True)

    walk = make_walk(function, replicated=1)
    batches = list(walk(feed, batch_size, np.int32(2), progress=progress))
    return {name: np.concatenate(parts) for name, *parts in zip(NAMES, *batches, strict=True)}


@pytest.mark.parametrize("kind", ["resident", "stream"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("batch_size", [1, 7, 23, 10_000])
def test_every_example_is_walked_once_and_in_order(
    batch_size: int, devices: int, kind: Kind
) -> None:
    with programs.simulated_devices(devices):
        columns = walked(open_feed(DATASET, "train", kind, readers=2), batch_size)
    mask = columns["mask"] > 0
    assert mask[:EXAMPLES].all() and not mask[EXAMPLES:].any()
    np.testing.assert_array_equal(columns["position"][mask], np.arange(EXAMPLES))
    np.testing.assert_array_equal(columns["label"][mask], LABELS)
    np.testing.assert_array_equal(columns["image"][mask], IMAGES.astype(np.int32) * 2)


def test_a_walk_says_how_far_it_has_come() -> None:
    seen: list[tuple[int, int]] = []
    walked(open_feed(DATASET, "train"), 10, lambda done, of: seen.append((done, of)))
    assert seen == [(10, 23), (20, 23), (23, 23)]


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="--batch-size must be at least 1, got 0"):
        walked(open_feed(DATASET, "train"), 0)
