"""Bring examples to the devices: held there (resident), or read ahead of use (streamed).

The order is the same either way. The compiled step receives blocks with one item for each step: a
resident item is indices into arrays on the device, a streamed item is the examples themselves.
`fetch` makes a batch of either.
"""

import itertools
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


class Feed(NamedTuple):
    """One split, ready to be read in any order."""

    dataset: Dataset
    split: str
    resident: dict[str, Array]  # "image" and "label" on every device; {} when streamed
    readers: int  # threads that decode a streamed split

    @property
    def num_examples(self) -> int:
        """The number of examples in the split."""
        return self.dataset.num_examples(self.split)


def open_feed(dataset: Dataset, split: str, kind: Kind = "auto", readers: int = 0) -> Feed:
    """Put the split on the devices, or leave it on disk to be streamed.

    Args:
        kind: "auto" makes a split resident if it takes at most a quarter of a device's memory.
        readers: threads that decode a streamed split; 0 for one per core.
    """
    readers = readers or len(os.sched_getaffinity(0))
    if choose(dataset, split, kind) == "resident":
        resident: Any = parallel.replicate(load_resident(dataset, split))
        return Feed(dataset, split, resident, readers)
    return Feed(dataset, split, {}, readers)


def choose(dataset: Dataset, split: str, kind: Kind) -> Literal["resident", "stream"]:
    """Decide `auto` by the size of the split and the memory of a device."""
    if kind != "auto":
        return kind
    fits = split_bytes(dataset, split) <= parallel.device_memory() / 4
    return "resident" if fits else "stream"


def split_bytes(dataset: Dataset, split: str) -> int:
    """The bytes that the decoded uint8 images of a split take."""
    return dataset.num_examples(split) * int(np.prod(dataset.image_shape))


def fetch(resident: dict[str, Array], item: dict[str, Array]) -> dict[str, Array]:
    """Make a batch of an item; runs inside the compiled step."""
    if not resident:
        return item
    index = item["index"]
    rest = {name: value for name, value in item.items() if name != "index"}
    return {name: values[index] for name, values in resident.items()} | rest


def training_blocks(
    feed: Feed,
    seed: int | Sequence[int],
    batch_size: int,
    blocks: Iterable[Block],
    accumulate: int = 1,
) -> Iterator[Any]:
    """Yield this process's share of the training batches, block after block: the batch law.

    Blocks are taken as they are needed, so that memory does not grow with their number.

    Args:
        seed: one seed, or the seeds of M members, each of which has its own batches (resident
            splits only).
        accumulate: the pieces in which the step computes a batch.

    Yields:
        pytrees of arrays `[steps, b, ...]` or `[steps, b, M, ...]` with b examples per process.
    """
    places = parallel.local_places(batch_size, accumulate)

    def indices_of(step: int, seed: int) -> np.ndarray:
        return batch_indices(seed, step, batch_size, feed.num_examples)[places]

    if isinstance(seed, int):
        return _blocks(feed, partial(indices_of, seed=seed), blocks)
    # Member by member within a block: the order of an epoch is drawn once for many steps.
    members = [
        _blocks(feed, partial(indices_of, seed=member_seed), member_blocks)
        for member_seed, member_blocks in zip(seed, itertools.tee(blocks, len(seed)), strict=True)
    ]
    stack = partial(jax.tree.map, lambda *arrays: np.stack(arrays, axis=-1))
    return (stack(*block) for block in zip(*members, strict=True))


def evaluation_blocks(feed: Feed, batch_size: int) -> Iterator[Any]:
    """Yield every example of the split once, in stored order, in blocks of one batch.

    Besides the examples a batch holds "position", the place of each in the split, and "mask", which
    is 1 for an example and 0 for what fills up the last batch.
    """
    here = parallel.local_places(batch_size)

    def positions(step: int) -> np.ndarray:
        return step * batch_size + here

    steps = range(-(-feed.num_examples // batch_size))
    one_by_one = ((t, t + 1) for t in steps)
    batches = _blocks(feed, lambda t: positions(t) % feed.num_examples, one_by_one)
    for step, block in zip(steps, batches, strict=True):
        places = positions(step)[None]
        yield block | {"position": places, "mask": (places < feed.num_examples).astype(np.float32)}


def _blocks(
    feed: Feed, indices_of: Callable[[int], np.ndarray], blocks: Iterable[Block]
) -> Iterator[dict[str, np.ndarray]]:
    if feed.resident:
        for start, stop in blocks:
            yield {"index": np.stack([indices_of(t) for t in range(start, stop)]).astype(np.int32)}
    else:
        yield from stream(feed.dataset.open(feed.split), blocks, indices_of, feed.readers)
