"""Accuracy and consistency of trained networks under shifts and corruptions of every example.

`sweep_shifts` moves all images to every place of a square and counts, for each place, how many are
still classified correctly and how many still get the class that they get unmoved.
`sweep_corruptions` counts the same under the corruptions of `augment/corrupt.py`. Images change on
the device as they are stored: before the run's own resizing, cropping and standardisation.

Zhang (2019), Making convolutional networks shift-invariant again, measures the share of equal
labels between two random shifts of a photograph; here one of the two is always the unmoved image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnn_jax.augment.corrupt import SEVERITIES, corruption
from cnn_jax.devices import parallel
from cnn_jax.devices.feed import open_feed
from cnn_jax.devices.parallel import sum_over_devices
from cnn_jax.errors.ranges import check_range
from cnn_jax.evaluate.exact import Progress, make_walk
from cnn_jax.metrics import accuracy
from cnn_jax.step import evaluation_logits, example_keys
from cnn_jax.trained import Trained

MOST_SHIFT = 1000  # pixels; the places of a square of such shifts are listed

Padding = Literal["zeros", "edge"]
# (keys [b], images uint8 [b, H, W, C]) -> a function of one of the views -> images [b, H, W, C]
Views = Callable[[Array, Array], Callable[[Array], Array]]


@dataclass(frozen=True)
class Counts:
    """How many examples are classified correctly, and how many as their unchanged image is."""

    correct: np.ndarray  # int64 [...], one number per view
    same: np.ndarray  # int64 [...]
    examples: int

    @property
    def accuracy(self) -> np.ndarray:
        """float64 [...], 0 .. 1."""
        return self.correct / self.examples

    @property
    def consistency(self) -> np.ndarray:
        """float64 [...], 0 .. 1."""
        return self.same / self.examples

    def arranged(self, change: Callable[[np.ndarray], np.ndarray]) -> "Counts":
        """The same counts in another shape."""
        return Counts(change(self.correct), change(self.same), self.examples)


@dataclass(frozen=True)
class ShiftSweep:
    """The counts of one network over shifted images."""

    run: str
    step: int
    split: str
    padding: Padding
    offsets: np.ndarray  # int64 [n], pixels, ascending, with 0 in the middle
    counts: Counts  # [n, n]: by shift down, by shift to the right

    @property
    def distances(self) -> np.ndarray:
        """The larger of |down| and |right| in pixels, as they occur: int64 [n // 2 + 1]."""
        return self.offsets[len(self.offsets) // 2 :]

    def rings(self, values: np.ndarray) -> np.ndarray:
        """The mean of `values` [n, n] over the places at each of `distances`, float64."""
        far = np.abs(self.offsets)
        ring = np.maximum(far[:, None], far[None])
        return np.array([values[ring == distance].mean() for distance in self.distances])

    def to_json(self) -> dict[str, Any]:
        """Accuracies and consistencies as nested lists: rows are shifts down, columns right."""
        accuracies, consistencies = self.counts.accuracy, self.counts.consistency
        return {
            **_origin(self),
            "padding": self.padding,
            "offsets": self.offsets.tolist(),
            "accuracy": accuracies.tolist(),
            "consistency": consistencies.tolist(),
            "distances": self.distances.tolist(),
            "accuracy_by_distance": self.rings(accuracies).tolist(),
            "consistency_by_distance": self.rings(consistencies).tolist(),
        }


@dataclass(frozen=True)
class CorruptionSweep:
    """The counts of one network over corrupted images."""

    run: str
    step: int
    split: str
    names: tuple[str, ...]
    counts: Counts  # [names, 6]: by severity, 0 (unchanged) to 5

    def to_json(self) -> dict[str, Any]:
        """The amounts, accuracies and consistencies of each corruption, from severity 0 on."""
        return _origin(self) | {
            "corruptions": {
                name: {
                    "amounts": SEVERITIES[name],
                    "accuracy": accuracies.tolist(),
                    "consistency": consistencies.tolist(),
                }
                for name, accuracies, consistencies in zip(
                    self.names, self.counts.accuracy, self.counts.consistency, strict=True
                )
            }
        }


def _origin(sweep: ShiftSweep | CorruptionSweep) -> dict[str, Any]:
    return {name: getattr(sweep, name) for name in ("run", "step", "split")} | {
        "count": sweep.counts.examples
    }


def shift_offsets(max_shift: int, stride: int = 1) -> np.ndarray:
    """The offsets 0, ±stride, ±2 stride, … up to ±`max_shift`, ascending.

    Raises:
        UserError: `max_shift` is negative or above `MOST_SHIFT`, or `stride` not positive.
    """
    check_range("--max-shift", max_shift, least=0, most=MOST_SHIFT)
    check_range("--stride", stride, least=1)
    return stride * np.arange(-(max_shift // stride), max_shift // stride + 1)


def sweep_shifts(
    trained: Trained,
    max_shift: int = 12,
    stride: int = 1,
    padding: Padding = "zeros",
    split: str | None = None,
    batch_size: int = 250,
    progress: Progress | None = None,
) -> ShiftSweep:
    """Classify all images moved by up to `max_shift` pixels along each axis, and count.

    Args:
        stride: 3 takes every third shift along each axis, which is a ninth of the work.
        padding: what moves in from outside: zeros, or the nearest pixel of the image.
        split: of the run's dataset; None is the one it was evaluated on while training.
        batch_size: examples at once. The counts do not depend on it.

    Raises:
        UserError: a number is out of its range, the shift is more than twice as long as the
            images, or there is no such split.
    """
    offsets = shift_offsets(max_shift, stride)
    longest = max(trained.experiment.dataset.image_shape[:2])
    # Beyond one side nothing of the image is left, but that is where the smallest images already
    # are with the command's default.
    check_range("--max-shift", max_shift, most=2 * longest)
    views = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), -1).reshape(-1, 2)
    moved = _shifted(int(offsets[-1]), padding)
    counts = _count(trained, moved, views, len(views) // 2, split, batch_size, progress)
    square = counts.arranged(lambda x: x.reshape(len(offsets), -1))
    split = split or trained.experiment.eval_split
    return ShiftSweep(trained.run, trained.step, split, padding, offsets, square)


def sweep_corruptions(
    trained: Trained,
    names: Sequence[str] = tuple(SEVERITIES),
    split: str | None = None,
    batch_size: int = 250,
    progress: Progress | None = None,
) -> CorruptionSweep:
    """Classify all images under every corruption and severity, and count.

    Random corruptions are keyed by the example's place in the split, so all runs see the same
    images. The other arguments are those of `sweep_shifts`.

    Args:
        names: corruptions of `augment.corrupt.SEVERITIES`.

    Raises:
        UserError: there is no such corruption or split, or `batch_size` is out of its range.
    """
    changes = [corruption(name, severity) for name in names for severity in range(1, 6)]
    unchanged = corruption("noise", 0)

    def corrupted(keys: Array, images: Array) -> Callable[[Array], Array]:
        def view(index: Array) -> Array:
            return jax.vmap(partial(lax.switch, index, [unchanged, *changes]))(keys, images)

        return view

    views = np.arange(len(changes) + 1)
    counts = _count(trained, corrupted, views, 0, split, batch_size, progress)

    def by_name(x: np.ndarray) -> np.ndarray:
        return np.insert(x[1:].reshape(len(names), 5), 0, x[0], axis=1)

    split = split or trained.experiment.eval_split
    return CorruptionSweep(trained.run, trained.step, split, tuple(names), counts.arranged(by_name))


def _shifted(reach: int, padding: Padding) -> Views:
    """Views that shift images by (down, right) pixels, at most `reach`."""
    mode = {"zeros": "constant", "edge": "edge"}[padding]

    def shifted(keys: Array, images: Array) -> Callable[[Array], Array]:
        padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode=mode)

        def view(shift: Array) -> Array:
            start = (0, reach - shift[0], reach - shift[1], 0)
            return lax.dynamic_slice(padded, start, images.shape)

        return view

    return shifted


def _count(
    trained: Trained,
    views: Views,
    which: np.ndarray,
    unchanged: int,
    split: str | None,
    batch_size: int,
    progress: Progress | None,
) -> Counts:
    """Count over a split under each view of `which` [S, ...].

    A batch is one dispatch, which takes the views one after the other: no slower on a CPU than
    several at once, and it needs the activations of one batch only.

    Args:
        unchanged: the index in `which` of the view that changes nothing.
    """
    experiment = trained.experiment
    feed = open_feed(experiment.dataset, split or experiment.eval_split)

    def counts(params: Any, model_state: Any, which: Array, batch: Any) -> Any:
        view = views(example_keys(0, 0, batch["position"]), batch["image"])

        def classify(index: Array) -> tuple[Array, Array]:
            logits = evaluation_logits(experiment, params, model_state, view(index))
            return accuracy(logits, batch["label"]) > 0, logits.argmax(-1)

        right, classes = lax.map(classify, which)  # [S, b]
        real = batch["mask"] > 0
        masks = (right & real, (classes == classes[unchanged]) & real, real)
        return sum_over_devices(tuple(x.sum(-1, dtype=jnp.int32) for x in masks))

    walk = make_walk(counts, replicated=3)
    network = (trained.params, trained.model_state, parallel.replicate(jnp.asarray(which)))
    correct, same = np.zeros((2, len(which)), np.int64)
    count = 0
    for right, kept, real in walk(feed, batch_size, *network, progress=progress):
        correct, same = correct + np.asarray(right), same + np.asarray(kept)
        count += int(real)
    if count != feed.num_examples:
        raise RuntimeError(f"counted {count} examples of {feed.num_examples} in {feed.split}")
    return Counts(correct, same, count)
