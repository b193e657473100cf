"""Batches read and decoded ahead of use, in the order asked for."""

from collections.abc import Callable, Generator

import numpy as np

from cnn_jax.data.datasets import Batch, Source

_AHEAD = 2  # batches kept ready besides those that readers are at work on


def stream(
    source: Source, steps: range, indices_of: Callable[[int], np.ndarray], readers: int
) -> Generator[Batch, None, None]:
    """The batches `source.read(indices_of(step))` for each of `steps`, in that order.

    `readers` is the number of threads that read and decode whole batches ahead of use; 0 reads
    each batch when it is asked for, in the caller's thread. The batches don't depend on it. What
    a reader raises is raised here, in the batch's turn. Closing the iterator, or dropping it,
    ends the readers. Raises ValueError if readers is negative.
    """
    if readers < 0:
        raise ValueError(f"readers must be 0 or more, got {readers}")
    batches = _Batches(source, steps, indices_of)
    return _read_ahead(batches, readers) if readers else (batches[i] for i in range(len(steps)))


class _Batches:
    """A sequence whose elements are whole batches, one for each of `steps`."""

    def __init__(self, source: Source, steps: range, indices_of: Callable[[int], np.ndarray]):
        self._source, self._steps, self._indices_of = source, steps, indices_of

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> Batch:
        return self._source.read(self._indices_of(self._steps[index]))


def _read_ahead(batches: _Batches, readers: int) -> Generator[Batch, None, None]:
    import grain  # slow to import, and resident training does without

    options = grain.ReadOptions(num_threads=readers, prefetch_buffer_size=readers + _AHEAD)
    # `yield from` hands a close() of this generator on to Grain's iterator.
    yield from grain.MapDataset.source(batches).to_iter_dataset(options)
