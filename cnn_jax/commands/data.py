"""`data`: datasets, before a run."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from cnn_jax import data
from cnn_jax.commands.arguments import DataDir, show
from cnn_jax.data.prepare import prepare as prepare_dataset

Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]


def prepare(
    name: Name,
    manual_dir: Path | None = None,
    data_dir: DataDir = None,
    size: int | None = None,
    channels: int = 3,
) -> None:
    """Prepare a dataset once, so that it can be read without network or TensorFlow.

    Args:
        name: mnist, fashion_mnist, usps, a TFDS name, or folder/NAME for a directory or tar of
            split/class/*.jpg.
        manual_dir: Folder of the original files, instead of a download.
        data_dir: Where prepared datasets lie. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        size: For folder/NAME: store photographs as SIZE × SIZE pixels.
        channels: For folder/NAME: 3 for colour, 1 for grey.
    """
    prepare_dataset(name, manual_dir, data_dir, size, channels)
    show(data.describe(name, data_dir), json=False)


def list_all(data_dir: DataDir = None) -> None:
    """List the datasets that are prepared, and those that can be.

    Args:
        data_dir: Where prepared datasets lie. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    """
    table = Table("dataset", "version", "splits")
    for name, version, splits in data.list_datasets(data_dir):
        table.add_row(name, version, splits)
    Console().print(table)


def info(name: Name, data_dir: DataDir = None, json: bool = False) -> None:
    """Describe a prepared dataset: splits, classes, image shape, mean and deviation.

    Args:
        name: Dataset, as `data list` shows it.
        data_dir: Where prepared datasets lie. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        json: Print JSON instead of a table.
    """
    show(data.describe(name, data_dir), json)
