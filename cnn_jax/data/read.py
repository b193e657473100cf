"""Opens, lists and describes datasets that TFDS prepared on disk, as ArrayRecord or TFRecord."""

import contextlib
import io
import json
import math
import os
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from cnn_jax.data import cache, records, resident, statistics
from cnn_jax.data.datasets import Dataset, Source
from cnn_jax.data.shards import check_readable
from cnn_jax.errors import UserError
from cnn_jax.errors.ranges import check_range
from cnn_jax.errors.wording import message

PHOTOGRAPH_SIZE = 256  # unless another is given: Krizhevsky et al. 2012, section 2
MAX_SIZE = 4096  # 64 MiB for one square of colour; what is larger is a slip of the finger

# The datasets that the package prepares by itself, with the files needed for it. Any other name is
# one of TFDS's own builders, which needs TensorFlow to prepare.
EMBEDDED = "digits"
_IDX_FILES = tuple(
    f"{part}-ubyte.gz"
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)
FILES = {"mnist": _IDX_FILES, "fashion_mnist": _IDX_FILES, "usps": ("usps.h5",)}


def check_size(size: int) -> None:
    """Raise UserError for a size that images cannot be brought to."""
    check_range("the images' size", size, least=1, most=MAX_SIZE)


def data_root(data_dir: str | os.PathLike | None) -> Path:
    """`data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets, as in TFDS."""
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    try:
        return root.expanduser()
    except RuntimeError as error:
        raise UserError(f"{root}: there is no such home folder; set --data-dir") from error


def find(name: str, root: Path) -> Path | None:
    """The folder of the newest prepared version of `name`; None if there is none.

    TFDS prepares in a folder of another name and renames it when everything is written, so a folder
    that is named after a version is complete.
    """
    versions = [
        (tuple(map(int, info.parent.name.split("."))), info.parent)
        for info in (root / name).glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    ]
    return max(versions)[1] if versions else None


def read_dataset(
    name: str,
    data_dir: str | os.PathLike | None = None,
    size: int | None = None,
    size_if_varying: int | None = None,
) -> Dataset:
    """`prepare.load_dataset` for a dataset that is already prepared.

    `size_if_varying` takes the place of `size` where images vary in size.
    """
    if size is not None:
        check_size(size)
    root = data_root(data_dir)
    folder = find(name, root)
    if folder is None:
        for place in (root, root / name):
            _check_listable(place)  # else `find` would not see what lies there
        raise UserError(
            f"dataset {name!r} is not prepared in {root}; prepare it once with: "
            + prepare_command(name, data_dir)
        )
    info = _read_info(name, folder)
    file_format = getattr(info.file_format, "value", "an unknown format")
    if file_format not in ("array_record", "tfrecord"):
        raise UserError(
            f"dataset {name!r} in {folder} is stored as {file_format}, which has no random "
            "access; prepare it as array_record or tfrecord in another folder: "
            + prepare_command(name, data_dir="DIR")
        )
    keys, image, label = _labelled_image(name, info)
    height, width, channels = cast(tuple[int, int, int], image.shape)
    if size is None and (height is None or width is None):
        size = size_if_varying
    if size is not None:
        height = width = size
    if height is None or width is None:
        raise UserError(f"images of dataset {name!r} vary in size; give the size to deliver")
    shard_lengths = {split: tuple(stored.shard_lengths) for split, stored in info.splits.items()}
    if "train" not in shard_lengths:
        raise UserError(f"dataset {name!r} has no split 'train', only {', '.join(shard_lengths)}")

    shape = (height, width, channels)
    fetch = records.fetch_from(name, info, keys, shape, resize=size is not None)
    total, classes = sum(shard_lengths["train"]), tuple(label.names)
    if total < 1:
        raise UserError(f"split 'train' of dataset {name!r} has no examples")
    measured = ("train", 0, min(total, statistics.MAX_EXAMPLES))
    train = Source(name, (measured,), shape, len(classes), fetch)
    description = {
        "classes": list(classes),
        "image shape": list(image.shape),
        "numbers of examples": {split: list(lengths) for split, lengths in shard_lengths.items()},
    }
    cache.check_description(name, folder, description)
    origin = f"the first {len(train):,} of {total:,} stored training examples"
    return Dataset(
        name=name,
        version=str(info.version),
        class_names=classes,
        image_shape=shape,
        statistics=_cached_statistics(name, folder, shape, train, origin),
        shard_lengths=shard_lengths,
        folder=folder,
        _fetch=fetch,
    )


def _check_listable(folder: Path) -> None:
    """Raise UserError for a folder whose files this user may not see."""
    if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{folder} cannot be read: Permission denied")


def _read_info(name: str, folder: Path) -> Any:
    """TFDS's description of a prepared dataset. Raises UserError if it cannot be understood."""
    import tensorflow_datasets as tfds

    for file in ("dataset_info.json", "features.json"):
        check_readable(folder / file, name)
    _check_listable(folder)
    quiet = io.StringIO()  # for what TFDS prints of TensorFlow where it looks for a reason to fail
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            info: Any = tfds.builder_from_directory(folder).info
        for stored in info.splits.values():
            _ = stored.filepaths, stored.shard_lengths  # from a template, which may be damaged too
    except Exception as error:  # of many kinds, JSON's and protobuf's among them
        raise _not_understood(name, folder, error) from error
    if str(info.version) != folder.name:
        raise _not_understood(name, folder, f"its version is {info.version}")
    return info


def _not_understood(name: str, folder: Path, reason: Exception | str) -> UserError:
    """The refusal of a dataset whose descriptions TFDS does not understand."""
    return UserError(
        f"dataset_info.json and features.json of dataset {name!r} in {folder} are not what TFDS "
        f"writes ({message(reason)}); restore them, or prepare the dataset again in "
        "another folder"
    )


def _labelled_image(name: str, info: Any) -> tuple[tuple[str, str], Any, Any]:
    """The names of a dataset's image and label, and TFDS's descriptions of both.

    Raises UserError if the dataset does not hold labelled images.
    """
    import tensorflow_datasets as tfds

    from cnn_jax.data.decode import MODES

    keys = info.supervised_keys or ("image", "label")
    kinds = [type(key) for key in keys]
    if not isinstance(info.features, tfds.features.FeaturesDict) or kinds != [str, str]:
        raise UserError(f"dataset {name!r} does not hold images with one label each")
    image, label = (dict(info.features.items()).get(key) for key in keys)
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
        raise UserError(f"{keys[0]!r} of dataset {name!r} is not an 8-bit image but {image}")
    if cast(tuple, image.shape)[-1] not in MODES:
        raise UserError(f"images of dataset {name!r} have the shape {image.shape}")
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise UserError(f"{keys[1]!r} of dataset {name!r} is not a class label but {label}")
    return keys, image, label


def prepare_command(name: str, data_dir: str | os.PathLike | None) -> str:
    """The command line that prepares `name`."""
    files = FILES[name][0] if name in FILES else None
    if name.startswith("folder/"):
        files = "split/class/*.jpg_OR_TARS"
    return (
        f"python -m cnn_jax data prepare {name}"
        + (f" --manual-dir DIR_WITH_{files}" if files else "")
        + (f" --data-dir {data_dir}" if data_dir else "")
    )


class Listing(NamedTuple):
    """One line of `python -m cnn_jax data list`."""

    name: str
    version: str  # "" if it is not prepared
    splits: str  # the number of examples in each, in words


def list_datasets(data_dir: str | os.PathLike | None = None) -> list[Listing]:
    """The newest version of every dataset prepared in `data_dir`, then those that could be."""
    root = data_root(data_dir)
    infos = [*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]
    names = sorted({info.parent.parent.relative_to(root).as_posix() for info in infos})
    folders = {name: folder for name in names if (folder := find(name, root))}
    prepared = [Listing(name, folder.name, _counts(folder)) for name, folder in folders.items()]
    states: dict[str, str] = dict.fromkeys((*FILES, "folder/NAME"), "not prepared")
    states[EMBEDDED] = "prepares itself"
    return prepared + [Listing(name, "", s) for name, s in states.items() if name not in folders]


def describe(name: str, data_dir: str | os.PathLike | None = None) -> dict[str, Any]:
    """Everything known about a prepared dataset, ready to print or to write as JSON.

    Images that vary in size are described as `load_dataset` with size 256 delivers them. Raises
    UserError if the dataset is not prepared.
    """
    dataset = read_dataset(name, data_dir, size_if_varying=PHOTOGRAPH_SIZE)
    folder = dataset.folder
    assert folder is not None  # since it was read from one
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


def _counts(folder: Path) -> str:
    path = folder / "dataset_info.json"
    try:
        check_readable(path, folder.parent.name)
        info = json.loads(path.read_text(encoding="utf-8"))
        counts = {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]}
    except UserError as error:
        return str(error)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{path} is not what TFDS writes"
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())


def _cached_statistics(
    name: str, folder: Path, shape: tuple[int, int, int], train: Source, origin: str
) -> statistics.Statistics:
    def measure() -> dict[str, Any]:
        if len(train) * math.prod(shape) > 1e9:
            print(
                f"{name}: measuring mean and deviation of {len(train):,} images, once", flush=True
            )
        return asdict(statistics.measure(train.chunks(), origin))

    file_name = f"statistics-{'x'.join(map(str, shape))}.json"
    parse = partial(statistics.from_json, channels=shape[-1])
    return cache.remember(name, folder, file_name, measure, parse)
