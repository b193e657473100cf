"""Datasets: prepared once, read without TensorFlow, in an order that is a function of the seed.

The story of a batch: `load_dataset` → `Dataset.open(split)` → `batch_indices(seed, step, …)` →
`load_resident` (all at once) or `stream` (as asked for) → on the device, `cnn_jax.augment`.
"""

from cnn_jax.data.datasets import Batch, Dataset, Source, array_dataset, content_sha256
from cnn_jax.data.order import batch_indices, epoch_permutation
from cnn_jax.data.prepare import load_dataset
from cnn_jax.data.read import describe, list_datasets
from cnn_jax.data.resident import load_resident
from cnn_jax.data.stream import stream

__all__ = [
    "Batch",
    "Dataset",
    "Source",
    "array_dataset",
    "batch_indices",
    "content_sha256",
    "describe",
    "epoch_permutation",
    "list_datasets",
    "load_dataset",
    "load_resident",
    "stream",
]
