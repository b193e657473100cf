"""Blocks of batches read and decoded ahead of use, in the order asked for."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np

from cnn_jax.data.datasets import Batch, Source

_AHEAD = 2  # batches kept ready besides those that readers are at work on

# Reads one batch into its place in a block; the block, where that makes it whole.
_Job = tuple[Callable[[], Batch], Batch | None]


def stream(
    source: Source,
    blocks: Sequence[tuple[int, int]],
    indices_of: Callable[[int], np.ndarray],
    readers: int,
) -> Generator[Batch, None, None]:
    """For each (start, stop) of `blocks` the batches of its steps, `source.read(indices_of(step))`.

    They come stacked: {"image": uint8 [k, b, H, W, C], "label": int32 [k, b]}, k = stop - start.
    `readers` is the number of threads that read and decode whole batches ahead of use, each into
    its place; 0 reads a block when it is asked for, in the caller's thread. The batches don't
    depend on it. What a reader raises is raised here, in the block's turn. Closing the iterator,
    or dropping it, ends the readers. Raises ValueError if readers is negative.
    """
    if readers < 0:
        raise ValueError(f"readers must be 0 or more, got {readers}")
    jobs = _jobs(source, blocks, indices_of)
    return _read_ahead(jobs, readers) if readers else _read(jobs)


def _jobs(
    source: Source, blocks: Sequence[tuple[int, int]], indices_of: Callable[[int], np.ndarray]
) -> Generator[_Job, None, None]:
    for start, stop in blocks:
        block: Batch = {}
        for step in range(start, stop):
            indices = indices_of(step)
            block = block or source.empty(stop - start, len(indices))
            place = {key: values[step - start] for key, values in block.items()}
            yield partial(source.read, indices, place), block if step == stop - 1 else None


def _read(jobs: Generator[_Job, None, None]) -> Generator[Batch, None, None]:
    for job, whole in jobs:
        job()
        if whole is not None:
            yield whole


def _read_ahead(jobs: Generator[_Job, None, None], readers: int) -> Generator[Batch, None, None]:
    # Threads suffice: what reads, decodes and copies lets go of the interpreter.
    pool, waiting = ThreadPoolExecutor(readers, "stream"), deque[tuple[Future, Batch | None]]()

    def first() -> Batch | None:
        done, whole = waiting.popleft()
        done.result()  # raises what the reader has raised
        return whole

    try:
        for job, whole in jobs:
            waiting.append((pool.submit(job), whole))
            if len(waiting) == readers + _AHEAD and (block := first()):
                yield block
        while waiting:
            if block := first():
                yield block
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
