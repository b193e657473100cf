"""TFDS builders that prepare without TensorFlow; only `preparation` imports this file."""

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import checksums, resource

from cnn_jax.data import order
from cnn_jax.data.prepared import IDX_FILES


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The 1,797 scans of handwritten digits that scikit-learn embeds, 8 x 8 grey pixels.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository
    1998 (its test part). Pixels count the set points in a 4 x 4 block, 0 .. 16; they are stored as
    round(value * 255 / 16), so 16 is white. The split is our own, stratified and fixed: of each
    class a fifth (rounded so that the sum is 360) is "test", the other 1,437 are "train".
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # where TFDS would look for addresses and checksums of downloads

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=Digits.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
        test = stratified_test_split(digits.target, 360)
        train = np.setdiff1d(np.arange(len(pixels)), test)
        return {
            split: self._generate_examples(pixels, digits.target, members)
            for split, members in (("train", train), ("test", test))
        }

    def _generate_examples(
        self, pixels: np.ndarray, labels: np.ndarray, members: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for i in members.tolist():
            yield i, {"image": Image.fromarray(pixels[i]), "label": int(labels[i])}


def stratified_test_split(labels: np.ndarray, size: int) -> np.ndarray:
    """`size` indices into `labels`, sorted, in which every class has its share within one.

    All indices, shuffled by `order.epoch_permutation`, are sorted by class, and of this sequence
    every n/size-th is taken. It depends on nothing but `labels`: neither on a version of
    scikit-learn nor of NumPy.
    """
    n = len(labels)
    shuffled = order.epoch_permutation(seed=0, epoch=0, n=n)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_class[np.arange(size) * n // size])


def idx_files(name: str) -> dict[str, Any]:
    """TFDS's addresses of the files of "mnist" or "fashion_mnist": {url: its UrlInfo}."""
    stock: Any = tfds.builder_cls(name)
    known = checksums.get_all_url_infos()
    return {stock.URL + file: known[stock.URL + file] for file in IDX_FILES}


def to_download(name: str, files: Mapping[str, Any], downloads: Path) -> list[str]:
    """The addresses of those `files` that TFDS has not downloaded before."""
    return [
        url
        for url, info in files.items()
        if not (downloads / name / resource.get_dl_fname(url, info.checksum)).exists()
    ]


def idx_builder(name: str) -> type[tfds.core.GeneratorBasedBuilder]:
    """TFDS's own builder class of "mnist" or "fashion_mnist", made to work without TensorFlow.

    Addresses, checksums, counts and keys are the stock builder's, hence its order too.
    """
    stock = cast(type[tfds.core.GeneratorBasedBuilder], tfds.builder_cls(name))

    class Idx(stock, skip_registration=True):
        code_path = None

        def _split_generators(self, dl_manager: Any) -> list:
            # TFDS's extractor needs TensorFlow. It also names what it extracts from a manual
            # folder without the dataset, so that Fashion-MNIST after MNIST finds MNIST's files
            # and takes them. Nothing is extracted here.
            downloads: Any = SimpleNamespace(download_and_extract=dl_manager.download)
            return super()._split_generators(downloads)

        def _generate_examples(
            self, num_examples: int, data_path: Path, label_path: Path
        ) -> Iterator[tuple[int, dict]]:
            pixels = np.frombuffer(gzip.decompress(Path(data_path).read_bytes()), np.uint8, -1, 16)
            labels = np.frombuffer(gzip.decompress(Path(label_path).read_bytes()), np.uint8, -1, 8)
            images = pixels.reshape(num_examples, 28, 28)
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield i, {"image": Image.fromarray(image), "label": int(label)}

    Idx.name = name
    return Idx
