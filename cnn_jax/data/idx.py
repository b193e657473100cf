"""MNIST and Fashion-MNIST: their files as people have them, and TFDS's builders of them."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums, resource

from cnn_jax.data.builders import examples
from cnn_jax.data.read import FILES
from cnn_jax.errors import UserError
from cnn_jax.errors.machine_limits import unreadable

# Bytes and SHA-256 of what is in the .gz files that TFDS has the checksums of.
CONTENTS: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "mnist": {
        "train-images-idx3-ubyte": (
            47_040_016,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        "train-labels-idx1-ubyte": (
            60_008,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        "t10k-images-idx3-ubyte": (
            7_840_016,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        "t10k-labels-idx1-ubyte": (
            10_008,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": (
            47_040_016,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        "train-labels-idx1-ubyte": (
            60_008,
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "t10k-images-idx3-ubyte": (
            7_840_016,
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        "t10k-labels-idx1-ubyte": (
            10_008,
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
}


def find_files(name: str, manual: Path) -> dict[str, Path]:
    """The files of "mnist" or "fashion_mnist" in a folder, by their addresses in TFDS.

    They may be compressed or not, and have a dot in place of the hyphen before "idx" (as at
    Kaggle); the folder may be that in which torchvision keeps MNIST/raw. Raises UserError for a
    file that is missing, or whose decompressed content is not that of the original.
    """
    try:
        files = [_find(name, file, manual) for file in CONTENTS[name]]
    except OSError as error:
        raise unreadable(error.filename or manual, error) from error
    return dict(zip(url_infos(name), files, strict=True))


def _find(name: str, file: str, manual: Path) -> Path:
    dotted = file.replace("-idx", ".idx")
    names = (f"{file}.gz", file, dotted, f"{dotted}.gz", f"{file}/{file}", f"{dotted}/{dotted}")
    folders = (manual, manual / "raw", manual / "MNIST/raw", manual / "FashionMNIST/raw")
    objections = []
    for path in (folder / candidate for folder in folders for candidate in names):
        if path.is_file():
            if not (objection := _objection(path, name, file)):
                return path
            objections.append(objection)
    if objections:
        raise UserError(f"{objections[0]}; {name!r} needs the original files, compressed or not")
    needed = ", ".join(FILES[name])
    raise UserError(f"{manual / names[0]} is missing; {name!r} needs {needed}, compressed or not")


def _objection(path: Path, name: str, file: str) -> str:
    """Say why a file is not the original `file` of a dataset; empty if it is."""
    size, sha256 = CONTENTS[name][file]
    try:
        content = _content(path, size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return f"{path} cannot be decompressed: {error}"
    if len(content) != size:
        length = f"more than {size:,}" if len(content) > size else f"{len(content):,}"
        return f"{path} is not {name}'s {file}: its content has {length} bytes, not {size:,}"
    if (digest := hashlib.sha256(content).hexdigest()) == sha256:
        return ""
    what = f"its content has the sha256 {digest}, not the expected {sha256}"
    for dataset, files in CONTENTS.items():
        for original, (_, known) in files.items():
            if digest == known:
                what = f"its content is {dataset}'s {original}"
    return f"{path} is not {name}'s {file}: {what}"


def _content(path: Path, most: int = -1) -> bytes:
    """At most so many bytes of a file, decompressed if it is compressed."""
    with path.open("rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not is_compressed:
            return file.read(most)
        with gzip.open(file) as content:
            return content.read(most)


def url_infos(name: str) -> dict[str, Any]:
    """The files of "mnist" or "fashion_mnist" at their addresses in TFDS: {url: its UrlInfo}."""
    stock: Any = tfds.builder_cls(name)
    infos = checksums.get_all_url_infos()
    return {stock.URL + file: infos[stock.URL + file] for file in FILES[name]}


def to_download(name: str, files: Mapping[str, Any], downloads: Path) -> list[str]:
    """The addresses of those `files` that TFDS has not downloaded yet."""
    return [
        url
        for url, info in files.items()
        if not (downloads / name / resource.get_dl_fname(url, info.checksum)).exists()
    ]


def builder(
    name: str, files: Mapping[str, Path] | None = None
) -> type[tfds.core.GeneratorBasedBuilder]:
    """TFDS's own builder class of "mnist" or "fashion_mnist", made to work without TensorFlow.

    Addresses, checksums, counts and keys are those of the stock builder, hence also the order.

    Args:
        files: the file in place of each address; None downloads them.
    """
    stock = cast(type[tfds.core.GeneratorBasedBuilder], tfds.builder_cls(name))

    def files_at(addresses: Mapping[str, str]) -> dict[str, Path]:
        assert files is not None
        return {key: files[address] for key, address in addresses.items()}

    class Idx(stock, skip_registration=True):
        code_path = None

        def _split_generators(self, dl_manager: Any) -> list:
            # TFDS's extractor needs TensorFlow. Also, its names for files extracted from a manual
            # folder do not contain the dataset, so that Fashion-MNIST after MNIST would take
            # MNIST's files. Nothing is extracted here.
            get = dl_manager.download if files is None else files_at
            downloads: Any = SimpleNamespace(download_and_extract=get)
            return super()._split_generators(downloads)

        def _generate_examples(
            self, num_examples: int, data_path: Path, label_path: Path
        ) -> Iterator[tuple[int, dict]]:
            pixels = np.frombuffer(_content(Path(data_path)), np.uint8, -1, 16)
            labels = np.frombuffer(_content(Path(label_path)), np.uint8, -1, 8)
            images = pixels.reshape(num_examples, 28, 28)
            return examples(range(num_examples), images, labels)

    Idx.name = name
    return Idx
