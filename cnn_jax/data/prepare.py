"""Prepares a dataset once, as ArrayRecord files that open without TensorFlow.

TFDS is imported where it is used, since this takes half a second that `--help` need not spend.
"""

import contextlib
import io
import itertools
import os
import re
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnn_jax.data import read
from cnn_jax.data.datasets import Dataset
from cnn_jax.errors import UserError
from cnn_jax.errors.wording import message

_PROBE_SECONDS = 5.0


def load_dataset(
    name: str, data_dir: str | os.PathLike | None = None, size: int | None = None
) -> Dataset:
    """Open a prepared dataset: its description, and access to its examples. Reads no example.

    `size` resizes images after decoding: the shorter side to `size`, then the central square.
    (The first time, it reads up to 60,000 training examples for mean and std.) The dataset
    "digits" is embedded and prepares itself. Raises UserError if the dataset is not prepared, not
    stored as ArrayRecord, or does not hold labelled images.
    """
    root = read.data_root(data_dir)
    if name == read.EMBEDDED and read.find(name, root) is None:
        _prepare_embedded(root)
    return read.read_dataset(name, data_dir, size)


def prepare(
    name: str,
    manual_dir: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    size: int | None = None,
    channels: int = 3,
) -> Dataset:
    """Prepare `name` for `load_dataset`. If it is prepared already, only say so.

    "mnist" and "fashion_mnist" read their original files from `manual_dir`, or download them.
    "usps" reads usps.h5 from `manual_dir`. "folder/NAME" reads photographs from there:
    split/class/*.jpg, or tars of them, stored at `size` (256 unless given) with `channels` 1 or 3.
    Any other name is one of TFDS's own builders, and needs TensorFlow this once. Raises UserError
    if anything is missing or broken, and then leaves nothing behind that could be taken for a
    prepared dataset.
    """
    root = read.data_root(data_dir)
    is_folder = name.startswith("folder/")
    if not is_folder and (size is not None or channels != 3):
        raise UserError(f"size and channels are for folder/NAME; {name!r} has its own")
    if prepared_in := read.find(name, root):
        dataset = read.read_dataset(name, data_dir, size_if_varying=read.PHOTOGRAPH_SIZE)
        stored_size, _, stored_channels = dataset.image_shape
        if size not in (None, stored_size) or channels not in (3, stored_channels):
            raise UserError(
                f"{name!r} is already prepared in {prepared_in} with shape {dataset.image_shape}; "
                "delete that folder or choose another name"
            )
        print(f"{name} {dataset.version} is already prepared in {prepared_in}")
        return dataset

    manual = None if manual_dir is None else Path(manual_dir).expanduser()
    if name == read.EMBEDDED:
        _prepare_embedded(root)
    elif is_folder:
        _prepare_folder(name, manual, root, size, channels)
    elif name == "usps":
        _prepare_usps(name, manual, root)
    elif name in read.FILES:
        _prepare_idx(name, manual, root)
    else:
        try:
            _prepare_stock(name, manual, root)
        except ModuleNotFoundError as error:
            raise UserError(f"{name!r} needs one more package to prepare: {error}") from error
    dataset = read.read_dataset(name, data_dir, size_if_varying=read.PHOTOGRAPH_SIZE)
    counts = ", ".join(f"{sum(n):,} {split}" for split, n in dataset.shard_lengths.items())
    print(f"{name} {dataset.version} is prepared in {dataset.folder}: {counts}")
    return dataset


def _prepare_embedded(root: Path) -> None:
    """Prepare "digits" silently: it takes a second, and nobody has asked for it."""
    from cnn_jax.data import builders

    with contextlib.redirect_stderr(io.StringIO()):
        _generate(builders.Digits, read.EMBEDDED, root)


def _prepare_folder(
    name: str, manual: Path | None, root: Path, size: int | None, channels: int
) -> None:
    size = read.PHOTOGRAPH_SIZE if size is None else size
    if not re.fullmatch(r"folder/\w[\w.-]*", name):
        raise UserError(f"{name!r}: the name after folder/ may contain letters, digits, _, - and .")
    read.check_size(size)
    if channels not in (1, 3):
        raise UserError(f"channels must be 1 or 3, got {channels}")
    if manual is None:
        raise UserError(f"{name!r} needs its photographs: {read.prepare_command(name, None)}")
    from cnn_jax.data import folder, photos

    listed = photos.list_photos(manual)
    _generate(folder.builder(name.removeprefix("folder/"), listed, size, channels), name, root)


def _prepare_usps(name: str, manual: Path | None, root: Path) -> None:
    if manual is None:
        raise UserError(
            f"{name!r} has no download address; get usps.h5, which Kaggle has as "
            f"bistaumanga/usps-dataset, and run: {read.prepare_command(name, None)}"
        )
    from cnn_jax.data import builders

    (file,) = read.FILES[name]
    if not (manual / file).is_file():
        raise UserError(f"{manual / file} is missing; {name!r} needs {file}")
    _generate(partial(builders.Usps, manual / file), name, root)


def _prepare_idx(name: str, manual: Path | None, root: Path) -> None:
    from cnn_jax.data import idx

    if manual is not None:
        return _generate(idx.builder(name, idx.find_files(name, manual)), name, root)
    downloads = root / "downloads"
    _check_network(name, idx.to_download(name, idx.url_infos(name), downloads), read.FILES[name])
    _generate(idx.builder(name), name, root, downloads=downloads)


def _prepare_stock(name: str, manual: Path | None, root: Path) -> None:
    import tensorflow_datasets as tfds

    try:
        stock = tfds.builder_cls(name.partition("/")[0])
    except ValueError as error:
        raise UserError(
            f"there is no dataset {name!r}: neither {read.EMBEDDED}, "
            f"{', '.join(read.FILES)} or folder/NAME, nor one of TFDS's own"
        ) from error
    if find_spec("tensorflow") is None:
        raise UserError(
            f"TFDS's own builder of {name!r} needs TensorFlow: pip install tensorflow-cpu "
            "importlib_resources to prepare it once; training never needs them"
        )
    if manual is None and stock.url_infos:
        _check_network(name, list(stock.url_infos)[:1], ())
    _generate(partial(tfds.builder, name), name, root, manual, root / "downloads")


def _check_network(name: str, urls: list[str], files: tuple[str, ...]) -> None:
    """Ask for one address first, because TFDS retries for minutes before it gives up."""
    if not urls:
        return
    failures: list[Exception] = []

    def probe() -> None:
        try:
            request = urllib.request.Request(urls[0], method="HEAD")
            urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # not every server answers such a request, but this one is there
        except (OSError, ValueError) as error:
            failures.append(error)

    # In a thread, since no timeout covers looking up the name of a host.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS + 1)
    if thread.is_alive():
        failures.append(TimeoutError("no answer"))
    if failures:
        hint = f" with {', '.join(files)}" if files else " with its original files"
        raise UserError(
            f"cannot download {name!r} from {urls[0]} ({failures[0]}); "
            f"get the files elsewhere and set --manual-dir to a folder{hint}"
        )


def _generate(
    make_builder: Callable[..., Any],
    name: str,
    root: Path,
    manual: Path | None = None,
    downloads: Path | None = None,
) -> None:
    """Let TFDS write the dataset, in a folder that gets its name when everything is written.

    Where that fails, no new folder is left.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    with tempfile.TemporaryDirectory() as scratch, _new_folders_removed(root / name):
        downloads = downloads or Path(scratch)
        config = tfds.download.DownloadConfig(
            manual_dir=manual,
            # One for each dataset, since the names of extracted files don't contain the dataset.
            extract_dir=downloads / "extracted" / name,
            try_download_gcs=False,
        )
        tfds.display_progress_bar(sys.stderr.isatty())  # elsewhere it fills a log
        try:
            builder = make_builder(data_dir=root, file_format="array_record")
            with contextlib.redirect_stdout(io.StringIO()):  # what is prepared, we say ourselves
                builder.download_and_prepare(download_dir=downloads, download_config=config)
        except (DownloadError, NonMatchingChecksumError) as error:
            raise UserError(f"the download of {name!r} failed: {message(error)}") from error
        except AssertionError as error:  # from TFDS's own builders, for missing files
            raise UserError(
                f"cannot prepare {name!r}, see --manual-dir: {message(error)}"
            ) from error
        except OSError as error:
            # Another process may have prepared the same dataset meanwhile, which is as good.
            if read.find(name, root) is None:
                raise UserError(f"cannot prepare {name!r} in {root}: {error}") from error


@contextlib.contextmanager
def _new_folders_removed(folder: Path) -> Iterator[None]:
    """Remove `folder` and those around it that were not there, if the block raises, if empty."""
    new = list(itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # one that is not empty, nor are those around it
            for path in new:
                path.rmdir()
        raise
