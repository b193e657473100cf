"""Is a convolutional network invariant to translation? Measured, over every example of a split.

`sweep_shifts` moves all images to every place of a square and counts, at each, how many are still
recognised and how many still get the label that they get unmoved. `sweep_corruptions` counts the
same under the corruptions of `data/corrupt.py`. Images change on the device, as they are stored:
before the run's own resizing, cropping and standardisation.

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
from cnn_jax.devices.feed import Told, evaluation_blocks, fetch, open_feed, tell_nobody
from cnn_jax.devices.parallel import AXIS
from cnn_jax.errors import UserError
from cnn_jax.metrics import accuracy
from cnn_jax.step import evaluation_logits, example_keys
from cnn_jax.trained import Trained

Padding = Literal["zeros", "edge"]
# (keys [b], images uint8 [b, H, W, C]) -> a function of one of the views -> images [b, H, W, C]
Views = Callable[[Array, Array], Callable[[Array], Array]]


@dataclass(frozen=True)
class Counts:
    """How many examples are right, and how many have the label of their unchanged image."""

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
    """What a network makes of shifted images."""

    run: str
    step: int
    split: str
    padding: Padding
    offsets: np.ndarray  # int64 [n], pixels, ascending, with 0 in the middle
    counts: Counts  # [n, n]: by shift down, by shift to the right

    @property
    def distances(self) -> np.ndarray:
        """The larger of |down| and |right|, pixels, int64 [n // 2 + 1]."""
        return self.offsets[len(self.offsets) // 2 :]

    def rings(self, values: np.ndarray) -> np.ndarray:
        """Means of `values` [n, n] over the places at each of `distances`, float64."""
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
    """What a network makes of corrupted images."""

    run: str
    step: int
    split: str
    names: tuple[str, ...]
    counts: Counts  # [names, 6]: by severity, 0 (unchanged) to 5

    def to_json(self) -> dict[str, Any]:
        """Per corruption its five amounts, and accuracies and consistencies from severity 0 on."""
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
    """Every `stride`-th whole number from 0 up to ±`max_shift`, ascending.

    Raises:
        UserError: `max_shift` is negative or `stride` not positive.
    """
    if max_shift < 0 or stride < 1:
        raise UserError(
            f"--max-shift must be 0 or more and --stride at least 1, got {max_shift} and {stride}"
        )
    return stride * np.arange(-(max_shift // stride), max_shift // stride + 1)


def sweep_shifts(
    trained: Trained,
    max_shift: int = 12,
    stride: int = 1,
    padding: Padding = "zeros",
    split: str | None = None,
    batch_size: int = 250,
    told: Told = tell_nobody,
) -> ShiftSweep:
    """Count what is recognised of images moved by up to `max_shift` pixels along each axis.

    Args:
        stride: 3 takes every third shift along each axis: a ninth of the work.
        padding: what moves in from outside: black, or the nearest pixel of the image.
        split: of the run's dataset; None is the one it was evaluated on while training.
        batch_size: examples at once. The counts do not depend on it.

    Raises:
        UserError: a number is out of its range, or there is no such split.
    """
    offsets = shift_offsets(max_shift, stride)
    views = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), -1).reshape(-1, 2)
    moved = _shifted(int(offsets[-1]), padding)
    counts = _count(trained, moved, views, len(views) // 2, split, batch_size, told)
    square = counts.arranged(lambda x: x.reshape(len(offsets), -1))
    split = split or trained.experiment.eval_split
    return ShiftSweep(trained.run, trained.step, split, padding, offsets, square)


def sweep_corruptions(
    trained: Trained,
    names: Sequence[str] = tuple(SEVERITIES),
    split: str | None = None,
    batch_size: int = 250,
    told: Told = tell_nobody,
) -> CorruptionSweep:
    """Count what is recognised of corrupted images; arguments: `sweep_shifts`'s.

    What is drawn is keyed by the example's place in the split: every run meets the same images.

    Args:
        names: of `data.corrupt.SEVERITIES`.

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
    counts = _count(trained, corrupted, views, 0, split, batch_size, told)

    def by_name(x: np.ndarray) -> np.ndarray:
        return np.insert(x[1:].reshape(len(names), 5), 0, x[0], axis=1)

    split = split or trained.experiment.eval_split
    return CorruptionSweep(trained.run, trained.step, split, tuple(names), counts.arranged(by_name))


def _shifted(reach: int, padding: Padding) -> Views:
    """Views are shifts (down, right) in pixels, at most `reach`."""
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
    told: Told,
) -> Counts:
    """Count over a split under each view of `which` [S, ...]; `unchanged` is the identity's place.

    A batch is one dispatch, which takes the views one after the other: no slower on a CPU than
    several at once, and one batch of activations is all that it needs.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {batch_size}")
    experiment = trained.experiment
    feed = open_feed(experiment.dataset, split or experiment.eval_split, "auto", readers=0)
    batch_size = parallel.round_up(batch_size)

    def one_batch(params: Any, model_state: Any, resident: Any, which: Array, items: Any) -> Any:
        item = jax.tree.map(lambda x: x[0], items)  # a block of one batch
        batch = fetch(resident, {name: x for name, x in item.items() if name != "position"})
        view = views(example_keys(0, 0, item["position"]), batch["image"])

        def look(one: Array) -> tuple[Array, Array]:
            logits = evaluation_logits(experiment, params, model_state, view(one))
            return accuracy(logits, batch["label"]) > 0, logits.argmax(-1)

        right, labels = lax.map(look, which)  # [S, b]
        real = batch["mask"] > 0
        found = (right & real, (labels == labels[unchanged]) & real, real)
        return lax.psum(tuple(x.sum(-1, dtype=jnp.int32) for x in found), AXIS)

    mapped = parallel.map_replicated(one_batch, replicated=4)
    examples = feed.dataset.num_examples(feed.split)
    on_devices = parallel.replicate(jnp.asarray(which))
    correct, same = np.zeros((2, len(which)), np.int64)
    count = 0
    blocks = _with_positions(evaluation_blocks(feed, batch_size), batch_size)
    for block in parallel.ahead(blocks, parallel.share_out):
        done = mapped(trained.params, trained.model_state, feed.resident, on_devices, block)
        right, kept, real = (np.asarray(x) for x in done)
        correct, same, count = correct + right, same + kept, count + int(real)
        told(count, examples)
    if count != examples:
        raise RuntimeError(f"looked at {count} examples of {examples} in {feed.split}")
    return Counts(correct, same, count)


def _with_positions(blocks: Any, batch_size: int) -> Any:
    """The blocks with each example's place in the split, which keys what is drawn for it."""
    share = parallel.local_share(batch_size)
    for step, block in enumerate(blocks):
        places = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)[share]
        yield block | {"position": places[None]}
