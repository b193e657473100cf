"""What is prepared in a folder, in words and numbers; what a split holds, in one number."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.data import cache, read, resident
from cnn_jax.data.datasets import Dataset
from cnn_jax.data.statistics import EXAMPLES, Fingerprint


class Listing(NamedTuple):
    """One line of `data list`."""

    name: str
    version: str  # "" if it is not prepared
    splits: str  # examples in each, in words


def list_datasets(data_dir: str | os.PathLike | None = None) -> list[Listing]:
    """The newest version of every dataset prepared in `data_dir`, then what is not but can be."""
    root = read.data_root(data_dir)
    infos = [*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]
    names = sorted({info.parent.parent.relative_to(root).as_posix() for info in infos})
    found = {name: folder for name in names if (folder := read.find(name, root))}
    listings = [Listing(name, folder.name, _splits(folder)) for name, folder in found.items()]
    able: dict[str, str] = dict.fromkeys((*read.FILES, "folder/NAME"), "not prepared")
    able[read.EMBEDDED] = "prepares itself"
    return listings + [Listing(name, "", text) for name, text in able.items() if name not in found]


def describe(name: str, data_dir: str | os.PathLike | None = None) -> dict[str, Any]:
    """All that is known of a prepared dataset, ready to print or to write as JSON.

    Images that vary in size are described as `load_dataset` with size 256 delivers them. Raises
    UserError if it is not prepared.
    """
    dataset = read.read_dataset(name, data_dir, size_if_varying=read.PHOTOGRAPH_SIZE)
    folder = dataset.folder
    assert folder is not None  # load_dataset reads from a folder
    splits = {split: sum(lengths) for split, lengths in dataset.shard_lengths.items()}
    return {
        "name": dataset.name,
        "version": dataset.version,
        "splits": splits,
        "classes": list(dataset.class_names),
        "image_shape": list(dataset.image_shape),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "mean_and_std_of": dataset.statistics.origin,
        "sha256": dataset.statistics.sha256,
        "bytes": sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        "resident_cache": {split: resident.is_saved(dataset, split) for split in splits},
        "location": str(folder),
    }


def content_sha256(dataset: Dataset, split: str) -> str:
    """Fingerprint of the pixels and labels of a split, of its first 60,000 examples if it has more.

    Measured once, in about the time that decoding takes, and kept beside the prepared dataset.
    """

    def measure() -> dict[str, Any]:
        source, content = dataset.open(split), Fingerprint()
        for start in range(0, min(len(source), EXAMPLES), 1024):
            content.add(source.read(np.arange(start, min(start + 1024, len(source), EXAMPLES))))
        return {"split": split, "sha256": content.sha256()}

    if dataset.folder is None:
        return measure()["sha256"]
    shape = "x".join(map(str, dataset.image_shape))
    name = f"content-{hashlib.sha256(split.encode()).hexdigest()[:8]}-{shape}.json"
    return cache.remember(dataset.name, dataset.folder, name, measure)["sha256"]


def _splits(folder: Path) -> str:
    info = json.loads((folder / "dataset_info.json").read_text())
    counts = {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]}
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())
