"""The batch law at the loop: whatever feeds the step, it is handed the same examples in order."""

import dataclasses
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax.data import Batch, Dataset, array_dataset, batch_indices
from cnn_jax.devices import feed as feeds
from cnn_jax.devices import parallel
from cnn_jax.devices.dispatch import split_into_blocks

EXAMPLES, BATCH, STEPS, SEED = 30, 8, 11, 5  # almost three epochs


def make_dataset(channels: int, examples: int = EXAMPLES) -> Dataset:
    random = np.random.default_rng(channels)
    images = random.integers(0, 256, (examples, 5, 4, channels)).astype(np.uint8)
    return array_dataset("noise", {"train": (images, np.arange(examples) % 7)}, "abcdefg")


GREY, COLOUR = make_dataset(1), make_dataset(3)


def steps_of(feed: feeds.Feed, blocks: Iterable[Any]) -> Iterator[dict[str, np.ndarray]]:
    """The batches that the compiled function would see, one per step."""
    for block in blocks:
        for i in range(len(jax.tree.leaves(block)[0])):
            item = jax.tree.map(lambda x, i=i: x[i], block)
            yield jax.tree.map(np.asarray, feeds.fetch(feed.resident, item))


def training_steps(
    dataset: Dataset, kind: feeds.Kind, readers: int = 1, start: int = 0, size: int = 4
) -> list[dict[str, np.ndarray]]:
    feed = feeds.open_feed(dataset, "train", kind, readers)
    blocks = split_into_blocks(start, STEPS, size)
    return list(steps_of(feed, feeds.training_blocks(feed, SEED, BATCH, blocks)))


def assert_same(one: Any, other: Any) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def test_members_have_the_batches_of_their_seeds_side_by_side() -> None:
    feed = feeds.open_feed(GREY, "train", "resident", 0)
    blocks = list(split_into_blocks(0, STEPS, 4))
    seeds = (5, 2, 9, 7, 1, 3)
    together = [b["index"] for b in feeds.training_blocks(feed, seeds, BATCH, blocks)]
    for place, seed in enumerate(seeds):
        alone = [b["index"] for b in feeds.training_blocks(feed, seed, BATCH, blocks)]
        for many, one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(many[..., place], one)


@pytest.mark.parametrize("dataset", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize(
    ("kind", "readers", "size"), [("resident", 0, 4), ("stream", 1, 4), ("stream", 3, 1)]
)
def test_every_feed_gives_the_batches_of_the_order(
    dataset: Dataset, kind: feeds.Kind, readers: int, size: int
) -> None:
    source = dataset.open("train")
    expected = [source.read(batch_indices(SEED, t, BATCH, EXAMPLES)) for t in range(STEPS)]
    assert_same(training_steps(dataset, kind, readers, size=size), expected)


@pytest.mark.parametrize(
    ("kind", "seeds"), [("resident", SEED), ("resident", (1, 2)), ("stream", SEED)]
)
def test_no_list_is_made_of_the_blocks_of_a_long_run(
    kind: feeds.Kind, seeds: int | tuple[int, ...]
) -> None:
    taken = []

    def blocks() -> Iterator[feeds.Block]:
        for block in split_into_blocks(0, 2**31 - 1, 4):
            taken.append(block)
            assert len(taken) < 20
            yield block

    first = next(feeds.training_blocks(feeds.open_feed(GREY, "train", kind, 1), seeds, 8, blocks()))
    assert len(jax.tree.leaves(first)[0]) == 4


@pytest.mark.parametrize("kind", ["resident", "stream"])
@pytest.mark.parametrize("start", [1, 4, 10])
def test_a_later_start_gives_the_tail(kind: feeds.Kind, start: int) -> None:
    assert_same(training_steps(GREY, kind, start=start), training_steps(GREY, kind)[start:])


@pytest.mark.parametrize("kind", ["resident", "stream"])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_a_batch_in_order(
    kind: feeds.Kind, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = training_steps(COLOUR, kind)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda rank=rank: rank)
        shares.append(training_steps(COLOUR, kind))
    assert all(len(batch["label"]) == BATCH // processes for share in shares for batch in share)
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert_same(joined, whole)


@pytest.mark.parametrize("kind", ["resident", "stream"])
@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_shows_every_example_once(
    kind: feeds.Kind, batch_size: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_size *= processes
    feed = feeds.open_feed(GREY, "train", kind, readers=1)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda rank=rank: rank)
        shares.append(list(steps_of(feed, feeds.evaluation_blocks(feed, batch_size))))
    batches = [batch for step in zip(*shares, strict=True) for batch in step]
    assert {batch["mask"].shape for batch in batches} == {(batch_size // processes,)}
    shown = np.concatenate([batch["image"][batch["mask"] == 1] for batch in batches])
    np.testing.assert_array_equal(shown, GREY.open("train").read(range(30))["image"])
    assert sum(batch["mask"].sum() for batch in batches) == EXAMPLES


def test_blocks_are_cut_where_they_would_be_without_a_restart() -> None:
    whole = list(split_into_blocks(0, 23, 5))
    assert whole == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    assert list(split_into_blocks(10, 23, 5)) == whole[2:]
    assert list(split_into_blocks(12, 23, 5)) == [(12, 15), *whole[3:]]
    assert list(split_into_blocks(23, 23, 5)) == []


def test_nothing_is_streamed_for_no_steps() -> None:
    feed = feeds.open_feed(GREY, "train", "stream", readers=1)
    assert list(feeds.training_blocks(feed, SEED, BATCH, [])) == []


@pytest.mark.parametrize(("memory", "choice"), [(4 * 600, "resident"), (4 * 600 - 4, "stream")])
def test_a_split_is_held_if_it_takes_a_quarter_of_the_memory(
    memory: int, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "device_memory", lambda: memory)
    assert feeds.split_bytes(GREY, "train") == 30 * 5 * 4 * 1
    assert feeds.choose(GREY, "train", "auto") == choice
    assert feeds.choose(GREY, "train", "stream") == "stream"
    assert bool(feeds.open_feed(GREY, "train", "auto", 0).resident) == (choice == "resident")


def test_by_default_threads_read_ahead_of_the_step() -> None:
    threads = set()

    def fetch(split: str, positions: list[int], out: Batch) -> None:
        threads.add(threading.current_thread())
        GREY._fetch(split, positions, out)

    training_steps(dataclasses.replace(GREY, _fetch=fetch), "stream", readers=0)
    assert threads and threading.main_thread() not in threads


def test_blocks_are_placed_ahead_of_use_and_in_order() -> None:
    placed = []
    taken = parallel.ahead(iter(range(5)), lambda x: placed.append(x) or 10 * x)
    assert next(taken) == 0 and placed == [0, 1]
    assert list(taken) == [10, 20, 30, 40] and placed == [0, 1, 2, 3, 4]
