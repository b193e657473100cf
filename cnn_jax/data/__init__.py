"""Datasets: from files on disk to batches in memory, on the host and without TensorFlow.

How a batch comes to be: `load_dataset(name)` gives a `Dataset`, `dataset.open(split)` a `Source` of
its examples, and `batch_indices(seed, step, …)` says which of them step `step` trains on. They are
read by `load_resident` (the whole split at once) or `stream` (batch by batch, ahead of use). What
is random about an image is drawn later, on the device (`cnn_jax.augment`).

prepare.py      prepares a dataset once; `load_dataset`
builders.py     TFDS builders of digits and USPS
idx.py          the files of MNIST and Fashion-MNIST, and TFDS's builders of them
photos.py       finds your own photographs in a folder or in tars
folder.py       the TFDS builder of them
read.py         opens prepared datasets, lists and describes them
records.py      single examples of their files
shards.py       any record of many files, in either of TFDS's formats
tfrecord.py     records of TFRecord files
decode.py       JPEG and PNG to pixels
datasets.py     the types: Dataset, Source, Batch
order.py        which examples a step trains on
resident.py     a whole split as one array
stream.py       batches read ahead of use
statistics.py   mean and standard deviation of the pixels, SHA-256 of the examples
cache.py        results kept beside a prepared dataset
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
