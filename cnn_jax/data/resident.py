"""Loads a whole split as one array, which is decoded once and kept beside the prepared dataset."""

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cnn_jax.atomic_write import atomic_write
from cnn_jax.data import cache
from cnn_jax.data.datasets import Batch, Dataset

_CHUNK = 512  # examples decoded by one thread at a time


def load_resident(dataset: Dataset, split: str) -> Batch:
    """All examples of `split` in stored order: {"image": uint8 [N,H,W,C], "label": int32 [N]}.

    The arrays may be read-only views of files. They are decoded the first time and saved beside the
    prepared dataset if its folder can be written; where the saved files are stale or damaged, the
    examples are decoded again. Raises UserError if there is no such split, an image is broken or a
    label is none of the classes.
    """
    source = dataset.open(split)
    if dataset.folder is None:
        return source.read(np.arange(len(source)))
    parts = [_saved(dataset, *part) or _decode_and_save(dataset, *part) for part in source.ranges]
    whole = parts[0]
    if len(parts) > 1:
        whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    source.check_labels(whole["label"], range(len(source)))  # files may be older than this check
    return whole


def is_saved(dataset: Dataset, split: str) -> bool:
    """Whether `load_resident` would read files instead of decoding."""
    ranges = dataset.open(split).ranges
    return dataset.folder is not None and all(_saved(dataset, *part) for part in ranges)


def _saved(dataset: Dataset, split: str, start: int, stop: int) -> Batch | None:
    total = sum(dataset.shard_lengths[split])
    for first, last in ((0, total), (start, stop)):  # a slice of the saved whole split is free
        if saved := _load(dataset, split, first, last):
            return {key: values[start - first : stop - first] for key, values in saved.items()}
    return None


def _load(dataset: Dataset, split: str, start: int, stop: int) -> Batch | None:
    paths = _paths(dataset, split, start, stop)
    expected = {
        "image": (np.dtype(np.uint8), (stop - start, *dataset.image_shape)),
        "label": (np.dtype(np.int32), (stop - start,)),
    }
    try:
        receipt = cache.unsealed(paths["receipt"].read_bytes(), paths["receipt"].name)
        arrays = {key: np.load(paths[key], mmap_mode="r") for key in expected}
        intact = receipt["stamp"] == cache.stamp(_folder_of(dataset)) and all(
            (arrays[key].dtype, arrays[key].shape) == expected[key]
            and receipt[key] == _checksum(arrays[key])
            for key in expected
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None  # absent or damaged: decoded again
    return arrays if intact else None


def _decode_and_save(dataset: Dataset, split: str, start: int, stop: int) -> Batch:
    source = dataset.open(split)
    arrays = source.empty(stop - start)

    def fill(begin: int) -> None:
        end = min(begin + _CHUNK, stop)
        rows = {key: values[begin - start : end - start] for key, values in arrays.items()}
        source.read(np.arange(begin, end), rows)

    with ThreadPoolExecutor() as threads:
        for _ in threads.map(fill, range(start, stop, _CHUNK)):
            pass  # raises what a thread has raised
    paths = _paths(dataset, split, start, stop)
    try:
        for key, values in arrays.items():
            with atomic_write(paths[key]) as file:
                np.save(file, values)
        receipt = {key: _checksum(values) for key, values in arrays.items()}
        stamped = {**receipt, "stamp": cache.stamp(_folder_of(dataset))}
        with atomic_write(paths["receipt"]) as file:
            file.write(cache.sealed(stamped, paths["receipt"].name))
    except OSError:
        pass  # the folder cannot be written or the disk is full: decoded again next time
    return arrays


def _paths(dataset: Dataset, split: str, start: int, stop: int) -> dict[str, Path]:
    height, width, channels = dataset.image_shape
    stem = f"{split}-{start}-{stop}-{height}x{width}x{channels}"
    folder = _folder_of(dataset) / cache.FOLDER
    return {
        "image": folder / f"{stem}-images.npy",
        "label": folder / f"{stem}-labels.npy",
        "receipt": folder / f"{stem}.json",
    }


def _folder_of(dataset: Dataset) -> Path:
    assert dataset.folder is not None  # datasets in memory save nothing
    return dataset.folder


def _checksum(values: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data)
