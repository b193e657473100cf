"""TFDS builders of digits and USPS, which need no TensorFlow; for `prepare.py` alone."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cnn_jax.data import order
from cnn_jax.errors import UserError
from cnn_jax.errors.wording import message


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The 1,797 scans of handwritten digits that scikit-learn embeds, 8 x 8 grey pixels.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository
    1998 (its test part). Pixels count the set points in a 4 x 4 block, 0 .. 16; they are stored as
    round(value * 255 / 16), so 16 is white. The split is our own, stratified and fixed: of each
    class a fifth (rounded so that the sum is 360) is "test", the other 1,437 are "train".
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # where TFDS would look for the addresses and checksums of downloads

    def _info(self) -> tfds.core.DatasetInfo:
        return _info_of(self, 8, "https://archive.ics.uci.edu/dataset/80")

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
        return examples(members, pixels[members], labels[members])


class Usps(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """9,298 handwritten digits of zip codes on American envelopes, 16 x 16 grey pixels.

    Source: Y. LeCun et al., "Backpropagation Applied to Handwritten Zip Code Recognition", Neural
    Computation 1(4), 1989, whose 7,291 training and 2,007 test examples these are; published as the
    zip code data of Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning", with
    values -1 .. 1 in steps of 0.001, and distributed as usps.h5, with these mapped to 0 .. 1. They
    are stored as round(value * 255), so ink is white.
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = None
    class_counts: Mapping[str, tuple[int, ...]] = {  # of the digits 0 to 9, from the book's site
        "train": (1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644),
        "test": (359, 264, 198, 166, 200, 160, 170, 147, 166, 177),
    }

    def __init__(self, file: Path, **options: Any) -> None:
        """Read `file`, which is usps.h5. Raises UserError if it is anything else."""
        self._arrays = {
            split: _read_usps(file, split, counts) for split, counts in self.class_counts.items()
        }
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return _info_of(self, 16, "https://hastie.su.domains/ElemStatLearn/data.html")

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(*arrays) for split, arrays in self._arrays.items()}

    def _generate_examples(
        self, pixels: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        return examples(range(len(labels)), pixels, labels)


def stratified_test_split(labels: np.ndarray, size: int) -> np.ndarray:
    """`size` sorted indices into `labels`; each class has its share of them to within one.

    All indices, shuffled by `order.epoch_permutation`, are sorted by class, and every n/size-th of
    this sequence is taken. The split depends on `labels` alone, not on the version of scikit-learn
    or NumPy.
    """
    n = len(labels)
    shuffled = order.epoch_permutation(seed=0, epoch=0, n=n)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_class[np.arange(size) * n // size])


def _info_of(builder: Any, size: int, homepage: str) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=builder,
        description=type(builder).__doc__,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(size, size, 1), encoding_format="png"),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        ),
        supervised_keys=("image", "label"),
        homepage=homepage,
    )


def examples(
    keys: Iterable[int], images: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[int, dict]]:
    """Examples as TFDS writes them, with their keys, of images uint8 [n, H, W] and labels [n]."""
    for key, image, label in zip(keys, images, labels, strict=True):
        yield int(key), {"image": Image.fromarray(image), "label": int(label)}


def _read_usps(file: Path, split: str, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Read images uint8 [n, 16, 16] and labels [n] of a split that has `counts` of each class."""
    import h5py

    n, keys = sum(counts), ("data", "target")
    try:
        with h5py.File(file) as stored:
            shapes, kinds = zip(*(_header(stored[f"{split}/{key}"]) for key in keys), strict=True)
            if not all(kind in "fiu" for kind in kinds):
                raise TypeError("data and target are not both numbers")
            # Before they are read: a header may claim more than the memory holds.
            if shapes != ((n, 256), (n,)):
                raise UserError(
                    f"{file} is not USPS: data and target of {split} have the shapes "
                    f"{shapes[0]} and {shapes[1]}, not {(n, 256)} and {(n,)}"
                )
            values, labels = (np.asarray(stored[f"{split}/{key}"]) for key in keys)
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not a complete usps.h5: cannot read {split} ({message(error)})"
        ) from error
    values = values.astype(np.float32)
    if not np.all((values >= 0) & (values <= 1)):  # false for NaN too
        raise UserError(
            f"{file} is not USPS: {split}/data has values outside 0 .. 1, "
            f"from {values.min()} to {values.max()}"
        )
    actual = tuple(int(np.sum(labels == digit)) for digit in range(len(counts)))
    if actual != counts:
        raise UserError(
            f"{file} is not USPS: {split}/target has {actual} of the digits 0 to 9, not {counts}"
        )
    return np.round(values * 255).astype(np.uint8).reshape(n, 16, 16), labels


def _header(array: Any) -> tuple[tuple[int, ...], str]:
    """The shape of an array in an h5 file and the kind of its values, of which it reads none."""
    return array.shape, array.dtype.kind
