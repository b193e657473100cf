"""Opens, lists and describes datasets that are prepared on disk in TFDS's ArrayRecord format."""

import bisect
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from cnn_jax.data import cache, resident, statistics
from cnn_jax.data.datasets import Batch, Dataset, Fetch, Source
from cnn_jax.errors import UserError

PHOTOGRAPH_SIZE = 256  # unless another is given: Krizhevsky et al. 2012, section 2

# The datasets that the package prepares by itself, with the files needed for it. Any other name is
# one of TFDS's own builders, which needs TensorFlow to prepare.
EMBEDDED = "digits"
_IDX_FILES = tuple(
    f"{part}-ubyte.gz"
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)
FILES = {"mnist": _IDX_FILES, "fashion_mnist": _IDX_FILES, "usps": ("usps.h5",)}


def data_root(data_dir: str | os.PathLike | None) -> Path:
    """`data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets, as in TFDS."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


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
    if size is not None and size < 1:
        raise UserError(f"size must be positive, got {size}")
    root = data_root(data_dir)
    folder = find(name, root)
    if folder is None:
        raise UserError(
            f"dataset {name!r} is not prepared in {root}; prepare it once with: "
            + prepare_command(name, data_dir)
        )
    import tensorflow_datasets as tfds

    try:
        info: Any = tfds.builder_from_directory(folder).info
    except Exception as error:  # of many kinds, JSON's and protobuf's among them
        raise _damaged(name, folder, error) from error
    file_format = getattr(info.file_format, "value", "an unknown format")
    if file_format != "array_record":
        raise UserError(
            f"dataset {name!r} in {folder} is stored as {file_format}, which has no random "
            "access; prepare it as array_record in another folder: "
            + prepare_command(name, data_dir="DIR")
        )
    image_key, label_key = info.supervised_keys or ("image", "label")
    features = dict(info.features.items())
    image, label = features.get(image_key), features.get(label_key)
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
        raise UserError(f"{image_key!r} of dataset {name!r} is not an 8-bit image but {image}")
    if not isinstance(label, tfds.features.ClassLabel):
        raise UserError(f"{label_key!r} of dataset {name!r} is not a class label but {label}")
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
    fetch = _fetch_from(name, info, image_key, label_key, shape, resize=size is not None)
    total = sum(shard_lengths["train"])
    train = Source((("train", 0, min(total, statistics.MAX_EXAMPLES)),), shape, fetch)
    origin = f"the first {len(train):,} of {total:,} stored training examples"
    return Dataset(
        name=name,
        version=str(info.version),
        class_names=tuple(label.names),
        image_shape=shape,
        statistics=_cached_statistics(name, folder, shape, train, origin),
        shard_lengths=shard_lengths,
        folder=folder,
        _fetch=fetch,
    )


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
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    counts = {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]}
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())


def _fetch_from(
    name: str, info: Any, image_key: str, label_key: str, shape: tuple[int, int, int], resize: bool
) -> Fetch:
    from tensorflow_datasets.proto import tf_example_pb2

    from cnn_jax.data import decode

    # TFDS could parse and decode too, but it takes ten times as long to parse, its pixels depend on
    # whether OpenCV is installed, and it does not name an image that is broken.
    parse = cast(Any, tf_example_pb2).Example.FromString
    records = {
        split: _Records(stored.filepaths, stored.shard_lengths)
        for split, stored in info.splits.items()
    }

    def fetch(split: str, positions: list[int], out: Batch) -> None:
        for i, position in enumerate(positions):
            try:
                record = records[split].read(position)
            except (RuntimeError, IndexError) as error:
                raise _damaged(name, Path(info.data_dir), error) from error
            features = parse(record).features.feature
            (data,) = features[image_key].bytes_list.value
            (out["label"][i],) = features[label_key].int64_list.value
            try:
                if resize:
                    out["image"][i] = decode.decode(data, shape[-1], shape[0])
                else:
                    decode.decode_into(data, out["image"][i])
            except decode.DECODE_ERRORS as error:
                raise UserError(
                    f"image {position} of split {split!r} of dataset {name!r} is broken "
                    f"({error}); delete the dataset's folder and prepare it again"
                ) from error

    return fetch


def encoded(dataset: Dataset, split: str, positions: Iterable[int]) -> list[bytes]:
    """The images at `positions` of a stored split as they are stored, not decoded."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    assert dataset.folder is not None  # datasets in memory store nothing
    info: Any = tfds.builder_from_directory(dataset.folder).info
    image_key, _ = info.supervised_keys or ("image", "label")
    stored, parse = info.splits[split], cast(Any, tf_example_pb2).Example.FromString
    records = _Records(stored.filepaths, stored.shard_lengths)
    features = (parse(records.read(position)).features.feature for position in positions)
    return [feature[image_key].bytes_list.value[0] for feature in features]


class _Records:
    """Random access to the records of a split's ArrayRecord files; threads may share it.

    ArrayRecord's own data source starts threads for every call, and in C++ others that busily wait
    for work: three times the processor time of the `seek` and `read` below.
    """

    def __init__(self, files: Sequence[Any], lengths: Sequence[int]) -> None:
        self._files = files
        self._starts = [0, *itertools.accumulate(lengths)]
        self._idle: list[list[Any]] = [[] for _ in files]  # open readers that no thread is using

    def read(self, position: int) -> bytes:
        """Read one record. Raises RuntimeError or IndexError if its file is damaged or absent."""
        file = bisect.bisect_right(self._starts, position) - 1
        try:
            reader = self._idle[file].pop()
        except IndexError:
            reader = self._open(file)
        reader.seek(position - self._starts[file])
        record = reader.read()
        self._idle[file].append(reader)
        return record

    def _open(self, file: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        # Read in the caller's thread, nothing ahead.
        options = "readahead_buffer_size:0,max_parallelism:0"
        path = str(self._files[file])
        return ArrayRecordReader(path, options=options, file_reader_buffer_size=16384)


def _damaged(name: str, folder: Path, error: Exception) -> UserError:
    return UserError(
        f"the files of dataset {name!r} in {folder} are damaged ({error}); "
        "delete that folder and prepare the dataset again"
    )


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
    measured = cache.remember(name, folder, file_name, measure)
    mean, std = tuple(measured.pop("mean")), tuple(measured.pop("std"))
    return statistics.Statistics(mean=mean, std=std, **measured)
