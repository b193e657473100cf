"""Reads single records of prepared datasets: an encoded image and its label."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from cnn_jax.data.datasets import Batch, Dataset, Fetch, wrong_label
from cnn_jax.data.shards import Shards, open_shards
from cnn_jax.errors import UserError
from cnn_jax.errors.wording import message


def fetch_from(
    name: str, info: Any, keys: tuple[str, str], shape: tuple[int, int, int], resize: bool
) -> Fetch:
    """Return a function that reads a dataset's examples and decodes them, to `shape` with `resize`.

    Args:
        info: TFDS's description of the dataset.
        keys: the names of the image and of the label.
    """
    from cnn_jax.data import decode

    # TFDS could parse and decode too, but it takes ten times as long to parse, its pixels depend on
    # whether OpenCV is installed, and it does not name an image that is broken.
    parse = _parser(*keys)
    shards = {split: _open(name, info, split) for split in info.splits}

    def fetch(split: str, positions: list[int], out: Batch) -> None:
        for i, position in enumerate(positions):
            try:
                data, label = parse(shards[split].read(position))
            except (RuntimeError, IndexError) as error:
                raise _damaged(name, Path(info.data_dir), error) from error
            except _RecordError as error:
                raise UserError(
                    f"example {position} of split {split!r} of dataset {name!r} {error}"
                ) from error
            try:
                out["label"][i] = label
            except OverflowError as error:  # beyond 32 bits; all other labels, `Source` checks
                classes = info.features[keys[1]].num_classes
                raise wrong_label(name, split, position, label, classes) from error
            try:
                if resize:
                    out["image"][i] = decode.decode(data, shape[-1], shape[0])
                else:
                    decode.decode_into(data, out["image"][i])
            except decode.DECODE_ERRORS as error:
                raise UserError(
                    f"image {position} of split {split!r} of dataset {name!r} is broken "
                    f"({message(error)}); prepare the dataset again without it"
                ) from error

    return fetch


def encoded(dataset: Dataset, split: str, positions: Iterable[int]) -> list[bytes]:
    """The images at `positions` of a stored split as they are stored, not decoded."""
    import tensorflow_datasets as tfds

    assert dataset.folder is not None  # datasets in memory store nothing
    info: Any = tfds.builder_from_directory(dataset.folder).info
    parse = _parser(*(info.supervised_keys or ("image", "label")))
    shards = _open(dataset.name, info, split)
    return [parse(shards.read(position))[0] for position in positions]


def _open(name: str, info: Any, split: str) -> Shards:
    return open_shards(name, Path(info.data_dir), split, info.splits[split], info.file_format.value)


class _RecordError(ValueError):
    """A record that is no labelled image. The message follows the words that name the example."""


def _parser(image_key: str, label_key: str) -> Callable[[bytes], tuple[bytes, int]]:
    """A function from a record to its encoded image and label; it raises _RecordError."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    from_string = cast(Any, tf_example_pb2).Example.FromString

    def parse(record: bytes) -> tuple[bytes, int]:
        try:
            features = from_string(record).features.feature
        except DecodeError as error:
            raise _RecordError("is no record of TFDS") from error
        images = features[image_key].bytes_list.value
        labels = features[label_key].int64_list.value
        if len(images) != 1 or len(labels) != 1:
            raise _RecordError(
                f"has {len(images)} images in {image_key!r} and {len(labels)} whole numbers in "
                f"{label_key!r}, not one of each"
            )
        return images[0], labels[0]

    return parse


def _damaged(name: str, folder: Path, error: Exception) -> UserError:
    """The refusal of a dataset whose files do not have the checksums in them."""
    text = message(error)
    if failed := re.search(r"\w+\(\) failed: ([^;]*)", text):  # the machine's, not the content's
        return UserError(f"the files of dataset {name!r} in {folder} cannot be read: {failed[1]}")
    return UserError(
        f"the files of dataset {name!r} in {folder} are damaged ({text}); "
        "delete that folder and prepare the dataset again"
    )
