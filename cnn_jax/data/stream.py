"""Reads and decodes blocks of batches ahead of use, in the order requested."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np

from cnn_jax.data.datasets import Batch, Source

_AHEAD = 2  # batches kept ready besides those that are being read

# Reads one batch into its place in a block; with the block itself if that is its last batch.
_Job = tuple[Callable[[], Batch], Batch | None]


def stream(
    source: Source,
    blocks: Iterable[tuple[int, int]],
    indices_of: Callable[[int], np.ndarray],
    readers: int,
) -> Generator[Batch, None, None]:
    """Yields, for each (start, stop) of `blocks`, the stacked batches of the steps start .. stop-1.

    The batch of a step is `source.read(indices_of(step))`, a block
    {"image": uint8 [k, b, H, W, C], "label": int32 [k, b]} with k = stop - start. `readers` threads
    read and decode whole batches ahead of use, each into its place; with 0, a block is read in the
    caller's thread when it is requested. The batches don't depend on it. What a reader raises is
    raised here, in the turn of its block. Closing or dropping the iterator ends the readers.
    Raises ValueError if `readers` is negative.
    """
    if readers < 0:
        raise ValueError(f"readers must be 0 or more, got {readers}")
    jobs = _jobs(source, blocks, indices_of)
    return _read_ahead(jobs, readers) if readers else _read(jobs)


def _jobs(
    source: Source, blocks: Iterable[tuple[int, int]], indices_of: Callable[[int], np.ndarray]
) -> Generator[_Job, None, None]:
    for start, stop in blocks:
        block: Batch = {}
        for step in range(start, stop):
            indices = indices_of(step)
            block = block or source.empty(stop - start, len(indices))
            place = {key: values[step - start] for key, values in block.items()}
            yield partial(source.read, indices, place), block if step == stop - 1 else None


def _read(jobs: Generator[_Job, None, None]) -> Generator[Batch, None, None]:
    for read_batch, block in jobs:
        read_batch()
        if block is not None:
            yield block


def _read_ahead(jobs: Generator[_Job, None, None], readers: int) -> Generator[Batch, None, None]:
    # Threads suffice, since reading, decoding and copying release the interpreter lock.
    pool, waiting = ThreadPoolExecutor(readers, "stream"), deque[tuple[Future, Batch | None]]()

    def finish_first() -> Batch | None:
        reading, block = waiting.popleft()
        reading.result()  # raises what the reader has raised
        return block

    try:
        for read_batch, block in jobs:
            waiting.append((pool.submit(read_batch), block))
            if len(waiting) == readers + _AHEAD and (finished := finish_first()):
                yield finished
        while waiting:
            if finished := finish_first():
                yield finished
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
