"""Read one image from a file or from a dataset."""

from pathlib import Path

import numpy as np

from cnn_jax.data import Dataset, load_dataset
from cnn_jax.data.decode import DECODE_ERRORS, decode, read_encoded
from cnn_jax.errors import UserError
from cnn_jax.errors.wording import message


def open_image(where: str, data_dir: Path | None = None) -> np.ndarray:
    """Read an image file or an example of a dataset, uint8 [H, W, C].

    Args:
        where: an image file, or DATASET:SPLIT:INDEX such as "digits:test:3". A file whose three
            colours are equal everywhere is grey, C = 1; all others have C = 3.
        data_dir: the folder of prepared datasets; None is TFDS's folder.

    Raises:
        UserError: there is no such file, dataset, split or example, or the file is not an image.
    """
    path, parts = Path(where), where.split(":")
    if not path.exists() and len(parts) >= 3:
        # A slice of a split, "test[:20]", has a colon of its own.
        name, split, index = parts[0], ":".join(parts[1:-1]), parts[-1]
        if not index.isdecimal():
            raise UserError(f"{where}: the index must be a whole number, got {index!r}")
        return example(load_dataset(name, data_dir), split, int(index))[0]
    pixels = open_file(path, channels=3)
    return pixels[..., :1] if np.all(pixels == pixels[..., :1]) else pixels


def open_file(path: Path, channels: int, size: int | None = None) -> np.ndarray:
    """Read an image file as uint8 [H, W, channels], and crop it to a square of `size` if given.

    The image is resized first, so that its shorter side is `size`. What is transparent shows white.

    Raises:
        UserError: there is no such file, or it is not an image.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path} is neither an image file nor DATASET:SPLIT:INDEX")
        with path.open("rb") as file:
            encoded = read_encoded(file, path.stat().st_size)
        return decode(encoded, channels, size)
    except DECODE_ERRORS as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read as an image: {message(error)}") from error


def example(dataset: Dataset, split: str, index: int) -> tuple[np.ndarray, int]:
    """Read an example of a split: its image, uint8 [H, W, C], and its label.

    Raises:
        UserError: there is no such split or example.
    """
    count = dataset.num_examples(split)
    if not 0 <= index < count:
        raise UserError(f"{split} of {dataset.name} has the examples 0 to {count - 1}, not {index}")
    batch = dataset.open(split).read([index])
    return batch["image"][0], int(batch["label"][0])
