"""Prepared datasets: splits, the embedded digits, other builders, damage, listing."""

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cnn_jax import data
from cnn_jax.data import decode
from cnn_jax.errors import UserError

ROOT = Path(__file__).parents[2]


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# ---- splits ----


SPECS = ("train", "train[:90%]", "train[90%:]", "train[-13%:]", "train[5:17]", "train[:-7]")
SPECS += ("test+train", "train[10:20]+test[:3]", "train[33%:67%]")


@pytest.mark.parametrize("spec", SPECS)
def test_slices_are_those_of_tfds(digits: data.Dataset, spec: str) -> None:
    assert digits.folder is not None
    builder: Any = tfds.builder_from_directory(digits.folder)
    theirs = builder.as_data_source(split=spec)
    source = digits.open(spec)
    assert len(source) == len(theirs) == digits.num_examples(spec)
    positions = np.array([len(theirs) - 1, 0, 2, len(theirs) // 2])
    batch = source.read(positions)
    for i, position in enumerate(positions.tolist()):
        np.testing.assert_array_equal(batch["image"][i], theirs[position]["image"])
        assert batch["label"][i] == theirs[position]["label"]


@pytest.mark.parametrize("spec", ["valid", "train[", "train[:200%]", "train[5000:]", ""])
def test_unknown_splits_are_refused_with_those_there_are(digits: data.Dataset, spec: str) -> None:
    with pytest.raises(UserError, match="no split .* it has train .1,437 examples., test .360"):
        digits.num_examples(spec)


def test_an_empty_slice_is_refused(digits: data.Dataset) -> None:
    with pytest.raises(UserError, match="no examples"):
        digits.open("train[20:10]")


# ---- the embedded digits ----


def test_digits_are_scikit_learns_in_a_fixed_stratified_split(digits: data.Dataset) -> None:
    from sklearn.datasets import load_digits

    original: Any = load_digits()
    train, test = (data.load_resident(digits, split) for split in ("train", "test"))
    assert (len(train["label"]), len(test["label"])) == (1437, 360)
    assert digits.image_shape == (8, 8, 1)
    pixels = np.concatenate([train["image"], test["image"]])[..., 0]
    labels = np.concatenate([train["label"], test["label"]])
    scaled = np.round(original.images * 255 / 16).astype(np.uint8)
    ours = sorted(zip(map(bytes, pixels), labels.tolist(), strict=True))
    theirs = sorted(zip(map(bytes, scaled), original.target.tolist(), strict=True))
    assert ours == theirs and pixels.max() == 255
    share = np.bincount(original.target) * 360 / 1797
    assert np.all(np.abs(np.bincount(test["label"]) - share) < 1)


def test_digits_never_change(digits: data.Dataset) -> None:
    # Written down once. If this fails, results on digits can't be compared with those before.
    assert (
        digits.statistics.sha256
        == "d60083da69d6ed18acd8d05c864d3eae9f50c6893827f07adc9c3563fcf26c9b"
    )
    assert digits.open("test").read(np.arange(8))["label"].tolist() == [0, 3, 8, 4, 8, 2, 0, 3]


def test_a_second_load_reads_no_example(
    digits_dir: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "decode_into", None)
    assert data.load_dataset("digits", digits_dir).statistics == digits.statistics


def test_size_resizes_after_decoding(digits_dir: Path) -> None:
    dataset = data.load_dataset("digits", digits_dir, size=12)
    stored = data.load_dataset("digits", digits_dir).open("test").read([5])["image"][0, ..., 0]
    assert dataset.image_shape == (12, 12, 1)
    expected = np.asarray(Image.fromarray(stored).resize((12, 12), Image.Resampling.BICUBIC))
    image = dataset.open("test").read([5])["image"]
    np.testing.assert_array_equal(image[0, ..., 0], expected)
    np.testing.assert_array_equal(data.load_resident(dataset, "test")["image"][5], image[0])


# ---- missing or unreadable ----


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("mnist", "prepare mnist --manual-dir .*train-images-idx3-ubyte.gz"),
        ("folder/birds", "prepare folder/birds --manual-dir"),
        ("cifar10", "prepare cifar10"),
    ],
)
def test_missing_datasets_are_refused_with_the_command(
    tmp_path: Path, name: str, command: str
) -> None:
    with pytest.raises(
        UserError, match=f"not prepared.*python -m cnn_jax data {command}.*{tmp_path}"
    ):
        data.load_dataset(name, tmp_path)


def test_the_data_folder_is_tfds_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(UserError, match=f"in {tmp_path}/tensorflow_datasets;"):
        data.load_dataset("mnist")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match=f"in {tmp_path}/elsewhere;"):
        data.load_dataset("mnist")


def test_another_format_is_refused_with_what_to_do(digits_dir: Path, digits: data.Dataset) -> None:
    assert digits.folder is not None
    info = digits.folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "riegeli"))
    with pytest.raises(UserError, match="stored as riegeli.*data prepare digits --data-dir DIR"):
        data.load_dataset("digits", digits_dir)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("*train.array_record*", flip_one_bit),
        *product(
            ("*train.array_record*", "dataset_info.json", "features.json"),
            (cut_in_half, Path.unlink),
        ),
    ],
)
def test_damaged_files_are_refused_by_name(
    digits_dir: Path, digits: data.Dataset, file: str, damage: Any
) -> None:
    assert digits.folder is not None
    (path,) = digits.folder.glob(file)
    damage(path)
    message = "dataset 'digits' (in .* are (damaged|not what TFDS)|is not prepared|is missing)"
    with pytest.raises(UserError, match=message):
        digits = data.load_dataset("digits", digits_dir)
        digits.open("train").read(np.arange(1437))


# ---- other builders ----


class Odd(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Photographs of varying size; the last image of "test" is none."""

    VERSION = tfds.core.Version("1.2.3")
    code_path = None

    shape: tuple = (None, None, 3)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "picture": tfds.features.Image(shape=self.shape),
            "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
            "comment": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("picture", "kind"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {
            "train": self._generate_examples("RGB", b""),
            "test": self._generate_examples("L", b"no"),
        }

    def _generate_examples(self, mode: str, last: bytes) -> Iterator[tuple[int, dict]]:
        for i in range(5):
            height, width = self.shape[:2] if self.shape[0] else (30 - i, 20 + i)
            picture = Image.new(mode, (width, height), 10 * i if mode == "L" else (10 * i, 0, 1))
            yield i, {"picture": picture, "kind": i % 2, "comment": "none"}
        if last:
            yield 5, {"picture": last, "kind": 0, "comment": "broken"}


class Wide(Odd, skip_registration=True):
    """Images of one shape that is no square."""

    shape = (6, 10, 3)


@pytest.fixture(scope="module")
def builders_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with "odd" and "wide", which tests only read."""
    root = tmp_path_factory.mktemp("builders")
    for builder in (Odd, Wide):
        builder(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def test_images_need_not_be_square(builders_dir: Path) -> None:
    dataset = data.load_dataset("wide", builders_dir)
    assert dataset.image_shape == (6, 10, 3)
    batch = dataset.open("train").read(np.arange(5))["image"]
    assert batch.shape == (5, 6, 10, 3) and np.all(batch[3] == (30, 0, 1))


def test_other_builders_are_read_by_their_supervised_keys(builders_dir: Path) -> None:
    with pytest.raises(UserError, match="vary in size; give the size"):
        data.load_dataset("odd", builders_dir)
    dataset = data.load_dataset("odd", builders_dir, size=16)
    assert (dataset.version, dataset.class_names) == ("1.2.3", ("cat", "dog"))
    batch = dataset.open("train").read(np.arange(5))
    assert batch["image"].shape == (5, 16, 16, 3)
    assert batch["image"][:, 0, 0].tolist() == [[10 * i, 0, 1] for i in range(5)]
    assert batch["label"].tolist() == [0, 1, 0, 1, 0]
    # A grey photograph is delivered in three equal channels.
    assert dataset.open("test").read([3])["image"][0, 0, 0].tolist() == [30, 30, 30]


def test_a_broken_image_is_named(builders_dir: Path) -> None:
    source = data.load_dataset("odd", builders_dir, size=16).open("test[1:]")
    broken = "image 5 of split 'test' of dataset 'odd' is broken"
    with pytest.raises(UserError, match=broken):
        source.read([0, 4])
    for readers in (0, 2):
        with pytest.raises(UserError, match=broken):
            list(data.stream(source, [(0, 3), (3, 5)], lambda step: np.array([step]), readers))


def test_a_broken_image_of_the_right_size_is_named(builders_dir: Path) -> None:
    """Where nothing is resized, images are decoded in another way."""
    source = data.load_dataset("wide", builders_dir).open("test")
    with pytest.raises(UserError, match="image 5 of split 'test' of dataset 'wide' is broken"):
        source.read([0, 5])


# ---- listing and describing ----


def test_list_and_describe(digits_dir: Path, digits: data.Dataset) -> None:
    (digits_dir / "digits/incomplete.ABC_1.0.1").mkdir()
    (digits_dir / "digits/incomplete.ABC_1.0.1/dataset_info.json").write_text("{}")
    listed = {name: (version, splits) for name, version, splits in data.list_datasets(digits_dir)}
    assert listed["digits"] == ("1.0.0", "train 1,437, test 360")
    assert listed["mnist"] == ("", "not prepared")
    described = data.describe("digits", digits_dir)
    assert described["splits"] == {"train": 1437, "test": 360}
    assert described["resident_cache"] == {"train": False, "test": False}
    assert described["mean_and_std_of"] == "the first 1,437 of 1,437 stored training examples"
    assert described["location"] == str(digits.folder)
    assert json.loads(json.dumps(described)) == described


def test_list_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    versions = {version for _, version, _ in data.list_datasets(tmp_path / "nothing")}
    assert versions == {""}


def test_nothing_imports_tensorflow(digits_dir: Path) -> None:
    script = """
import sys
from cnn_jax import data
assert not {"tensorflow_datasets", "sklearn", "PIL"} & set(sys.modules), "slow import"
dataset = data.load_dataset("digits", sys.argv[1])
data.load_resident(dataset, "train[:90%]")
batches = data.stream(dataset.open("test"), [(0, 2), (2, 3)], lambda step: [step], 2)
assert [batch["image"].shape for batch in batches] == [(2, 1, 8, 8, 1), (1, 1, 8, 8, 1)]
data.describe("digits", sys.argv[1]), data.list_datasets(sys.argv[1])
from cnn_jax.data.prepare import prepare
prepare("digits", data_dir=sys.argv[1])
print([name for name in sys.modules if name.split(".")[0] == "tensorflow"])
"""
    command = [sys.executable, "-c", script, str(digits_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"digits 1.0.0 is already prepared in {digits_dir}/digits/1.0.0\n[]\n"
