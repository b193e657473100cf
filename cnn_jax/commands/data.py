"""`data`: prepare datasets, list them, or describe one."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cnn_jax import data
from cnn_jax.commands.arguments import DataDir, Flag, argument, show
from cnn_jax.data.prepare import prepare as prepare_dataset

Name = Annotated[tyro.conf.Positional[str], argument("NAME")]


def prepare(
    name: Name,
    manual_dir: Annotated[Path | None, argument("DIR", default="download them")] = None,
    data_dir: DataDir = None,
    size: Annotated[int | None, argument("PIXELS", default="256")] = None,
    channels: int = 3,
) -> None:
    """Prepare a dataset once; from then on it is read without a network or TensorFlow.

    Args:
        name: One of mnist, fashion_mnist and usps; or a TFDS name; or folder/NAME for a folder or
            tar of your own that contains SPLIT/CLASS/*.jpg or *.png (transparent is white).
        manual_dir: Folder of the original files, compressed or not; required for folder/NAME.
        size: For folder/NAME: scale the shorter side to this and crop the central square.
        channels: For folder/NAME: 3 for colour, 1 for grey.
    """
    prepare_dataset(name, manual_dir, data_dir, size, channels)
    show(data.describe(name, data_dir), json=False)


def list_all(data_dir: DataDir = None) -> None:
    """List the datasets that are prepared, and those that can be."""
    table = Table("dataset", "version", "splits")
    for name, version, splits in data.list_datasets(data_dir):
        table.add_row(*map(escape, (name, version, splits)))
    Console().print(table)


def info(name: Name, data_dir: DataDir = None, json: Flag = False) -> None:
    """Describe a prepared dataset: splits, classes, image shape, mean, deviation.

    Args:
        name: A dataset as `data list` shows it.
        json: Print JSON instead of a table.
    """
    show(data.describe(name, data_dir), json)
