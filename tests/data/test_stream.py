"""Batches read ahead of use: the same bytes as resident ones, and readers that end."""

import dataclasses
import threading

import numpy as np
import pytest
from samples import same, small

from cnn_jax import data


@pytest.mark.parametrize("readers", [0, 1, 2, 5])
def test_streamed_and_resident_batches_are_the_same_bytes(
    digits: data.Dataset, readers: int
) -> None:
    everything = data.load_resident(digits, "test")

    def indices_of(step: int) -> np.ndarray:
        return data.batch_indices(seed=3, step=step, batch_size=40, n=360)

    blocks = [(5, 9), (9, 10), (10, 28)]  # from the middle of the first epoch into the fourth
    streamed = list(data.stream(digits.open("test"), blocks, indices_of, readers))
    assert len(streamed) == len(blocks)
    for (start, stop), block in zip(blocks, streamed, strict=True):
        indices = np.stack([indices_of(step) for step in range(start, stop)])
        assert same(block, {key: values[indices] for key, values in everything.items()})


def readers_end() -> bool:
    """Waits for the threads of streams; whether all have ended."""
    readers = [thread for thread in threading.enumerate() if thread.name.startswith("stream")]
    for thread in readers:
        thread.join(5)
    return not any(thread.is_alive() for thread in readers)


def test_streaming_reads_a_little_ahead_and_ends_its_readers() -> None:
    requested = []

    def indices_of(step: int) -> np.ndarray:
        requested.append(step)
        return np.array([step % 20])

    blocks = [(start, start + 2) for start in range(0, 10_000, 2)]
    batches = data.stream(small().open("train"), blocks, indices_of, readers=2)
    assert not requested  # nothing before the first batch is
    next(batches)
    next(batches)
    assert max(requested) < 10
    batches.close()
    assert readers_end()


def test_closing_reads_no_more() -> None:
    begun, go_on = [], threading.Event()
    dataset = small()

    def fetch(split: str, positions: list[int], out: data.Batch) -> None:
        begun.append(positions)
        assert positions == [0] or go_on.wait(10)
        dataset._fetch(split, positions, out)

    source = dataclasses.replace(dataset, _fetch=fetch).open("train")
    blocks = [(step, step + 1) for step in range(10)]
    batches = data.stream(source, blocks, lambda step: np.array([step]), readers=1)
    next(batches)
    batches.close()
    go_on.set()
    assert readers_end()
    assert len(begun) <= 2  # the first, and the one that was being read


def test_no_steps_no_batches() -> None:
    for readers in (0, 2):
        assert list(data.stream(small().open("train"), [], np.array, readers)) == []


def test_a_negative_number_of_readers_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        data.stream(small().open("train"), [(0, 5)], np.array, -1)
