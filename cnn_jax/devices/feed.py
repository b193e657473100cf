"""Bring examples to the devices, held there (resident) or read ahead of use (streamed).

Either way the order is the same, and the compiled step is handed blocks, one item per step. A
resident item is indices into arrays on the device; a streamed item is the examples themselves.
`fetch` makes a batch of either.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array

from cnn_jax.data import Dataset, batch_indices, load_resident, stream
from cnn_jax.devices import parallel

Kind = Literal["auto", "resident", "stream"]
Block = tuple[int, int]  # steps [start, stop) that one dispatch computes
Told = Callable[[int, int], object]  # of how many examples are done, of how many


class Feed(NamedTuple):
    """One split, ready to be read in any order."""

    dataset: Dataset
    split: str
    resident: dict[str, Array]  # "image", "label" on every device; {} when streamed
    readers: int  # threads that decode, when streamed


def open_feed(dataset: Dataset, split: str, kind: Kind, readers: int) -> Feed:
    """Put the split on the devices, or leave it on disk.

    Args:
        kind: "auto" holds a split that takes at most a quarter of a device's memory.
        readers: threads that decode a streamed split; 0 for one per core.
    """
    readers = readers or len(os.sched_getaffinity(0))
    if choose(dataset, split, kind) == "resident":
        resident: Any = parallel.replicate(load_resident(dataset, split))
        return Feed(dataset, split, resident, readers)
    return Feed(dataset, split, {}, readers)


def choose(dataset: Dataset, split: str, kind: Kind) -> Literal["resident", "stream"]:
    """Decide `auto` by the split's size against a device's memory."""
    if kind != "auto":
        return kind
    fits = split_bytes(dataset, split) <= parallel.device_memory() / 4
    return "resident" if fits else "stream"


def split_bytes(dataset: Dataset, split: str) -> int:
    """Bytes of the split's decoded uint8 images."""
    return dataset.num_examples(split) * int(np.prod(dataset.image_shape))


def fetch(resident: dict[str, Array], item: dict[str, Array]) -> dict[str, Array]:
    """Make a batch of an item, inside the compiled step."""
    if not resident:
        return item
    index = item["index"]
    rest = {name: value for name, value in item.items() if name != "index"}
    return {name: values[index] for name, values in resident.items()} | rest


def training_blocks(
    feed: Feed, seed: int | Sequence[int], batch_size: int, blocks: Iterable[Block]
) -> Iterator[Any]:
    """This process's share of the training batches, block after block: the batch law.

    Args:
        seed: one, or those of M members, each of which has batches of its own; resident only.

    Yields:
        pytrees of arrays `[steps, b, ...]` or `[steps, b, M, ...]`, b examples per process.
    """
    examples = feed.dataset.num_examples(feed.split)
    share = parallel.local_share(batch_size)

    def indices_of(step: int, seed: int) -> np.ndarray:
        return batch_indices(seed, step, batch_size, examples)[share]

    if isinstance(seed, int):
        return _blocks(feed, partial(indices_of, seed=seed), list(blocks))
    # One member's block after the other's: an epoch's order is drawn once for many steps.
    each = [_blocks(feed, partial(indices_of, seed=one), list(blocks)) for one in seed]
    stacked = partial(jax.tree.map, lambda *members: np.stack(members, axis=-1))
    return (stacked(*members) for members in zip(*each, strict=True))


def evaluation_blocks(feed: Feed, batch_size: int) -> Iterator[Any]:
    """Every example of the split once, in stored order; the last batch is padded and masked."""
    examples = feed.dataset.num_examples(feed.split)
    share = parallel.local_share(batch_size)

    def positions(step: int) -> np.ndarray:
        return np.arange(step * batch_size, (step + 1) * batch_size)[share]

    steps = -(-examples // batch_size)
    blocks = _blocks(feed, lambda t: positions(t) % examples, [(t, t + 1) for t in range(steps)])
    for step, block in enumerate(blocks):
        mask = (positions(step) < examples).astype(np.float32)
        yield block | {"mask": mask[None]}


def tell_nobody(done: int, examples: int) -> None:
    """Where nobody wants to be told how far a walk over a split has come."""


def _blocks(
    feed: Feed, indices_of: Callable[[int], np.ndarray], blocks: list[Block]
) -> Iterator[dict[str, np.ndarray]]:
    if feed.resident:
        for start, stop in blocks:
            yield {"index": np.stack([indices_of(t) for t in range(start, stop)]).astype(np.int32)}
    else:
        yield from stream(feed.dataset.open(feed.split), blocks, indices_of, feed.readers)
