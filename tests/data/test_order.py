"""The batch law: the batch of a step is a pure function of (seed, step)."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cnn_jax.data import batch_indices, epoch_permutation


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_an_epoch_visits_every_example_once(n: int) -> None:
    order = epoch_permutation(seed=3, epoch=5, n=n)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_seed_and_epoch_change_the_order() -> None:
    orders = {
        tuple(epoch_permutation(seed, epoch, 50).tolist())
        for seed in (0, 1, -1, 2**63)
        for epoch in (0, 1, 2)
    }
    assert len(orders) == 12


def test_the_order_is_the_same_for_ever() -> None:
    # Written down once. If this fails, no run made before can be repeated.
    assert epoch_permutation(0, 0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert epoch_permutation(7, 3, 10).tolist() == [2, 5, 9, 7, 3, 0, 6, 8, 4, 1]
    assert batch_indices(seed=1, step=2, batch_size=6, n=10).tolist() == [5, 3, 4, 9, 7, 8]


def test_the_order_is_the_argsort_of_the_raw_philox_words() -> None:
    key = np.array([4, 2], dtype=np.uint64)
    words = [int(np.random.Philox(key=key).random_raw(i + 1)[-1]) for i in range(20)]
    assert epoch_permutation(4, 2, 20).tolist() == sorted(range(20), key=words.__getitem__)


def test_a_cached_order_cannot_be_changed() -> None:
    with pytest.raises(ValueError):
        epoch_permutation(0, 0, 10)[0] = 1


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 25])
def test_batches_are_the_epochs_one_after_the_other(batch_size: int) -> None:
    n, steps = 10, 12
    batches = [batch_indices(9, step, batch_size, n) for step in range(steps)]
    assert all(batch.shape == (batch_size,) and batch.dtype == np.int64 for batch in batches)
    sequence = np.concatenate(batches)
    epochs = -(-len(sequence) // n)
    expected = np.concatenate([epoch_permutation(9, epoch, n) for epoch in range(epochs)])
    np.testing.assert_array_equal(sequence, expected[: len(sequence)])


def test_a_batch_does_not_depend_on_what_was_asked_before() -> None:
    steps = [11, 0, 7, 7, 3, 10**6, 1]
    alone = []
    for step in steps:
        epoch_permutation.cache_clear()
        alone.append(batch_indices(0, step, 4, 13))
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda step: batch_indices(0, step, 4, 13), steps * 20))
    np.testing.assert_array_equal(np.tile(alone, (20, 1)), together)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_shares_of_several_processes_are_disjoint_and_complete(processes: int) -> None:
    n, batch_size = 24, 8
    share = batch_size // processes
    seen = [
        batch_indices(0, step, batch_size, n)[rank * share : (rank + 1) * share]
        for step in range(n // batch_size)
        for rank in range(processes)
    ]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(n))


@pytest.mark.parametrize(("step", "batch_size", "n"), [(0, 0, 5), (0, 5, 0), (-1, 5, 5)])
def test_impossible_batches_are_refused(step: int, batch_size: int, n: int) -> None:
    with pytest.raises(ValueError, match="batch_size >= 1"):
        batch_indices(0, step, batch_size, n)
