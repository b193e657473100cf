"""Reading: arrays, the embedded digits, slices, statistics, resident and streamed batches."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from cnn_jax import data
from cnn_jax.data import cache, decode, read, resident, statistics
from cnn_jax.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def prepared_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    data.load_dataset("digits", root)
    return root


@pytest.fixture
def digits_dir(prepared_digits: Path, tmp_path: Path) -> Path:
    """A copy of the prepared digits that a test may damage."""
    return Path(shutil.copytree(prepared_digits, tmp_path / "tfds"))


@pytest.fixture
def digits(digits_dir: Path) -> data.Dataset:
    return data.load_dataset("digits", digits_dir)


def arrays(n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(n)
    return random.integers(0, 256, (n, 4, 6, 3)).astype(np.uint8), np.arange(n) % 3


def small() -> data.Dataset:
    return data.array_dataset("small", {"train": arrays(20), "test": arrays(7)}, "abc")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_shape(path: Path) -> None:
    np.save(path, np.load(path)[1:])


# ---- datasets in memory ----


def test_array_dataset_says_what_it_is() -> None:
    dataset = small()
    pixels = arrays(20)[0] / 255.0
    assert dataset.image_shape == (4, 6, 3) and dataset.class_names == ("a", "b", "c")
    assert (dataset.num_examples("train"), dataset.num_examples("test")) == (20, 7)
    np.testing.assert_allclose(dataset.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std((0, 1, 2)), rtol=1e-12)


def test_read_gives_the_examples_in_the_order_asked_for() -> None:
    pixels, labels = arrays(20)
    batch = small().open("train").read(np.array([3, 0, 3, 19]))
    np.testing.assert_array_equal(batch["image"], pixels[[3, 0, 3, 19]])
    np.testing.assert_array_equal(batch["label"], labels[[3, 0, 3, 19]])
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)


@pytest.mark.parametrize("indices", [[-1], [20], [0, 5, 99]])
def test_read_refuses_what_is_outside(indices: list[int]) -> None:
    with pytest.raises(IndexError, match=r"not all in 0 \.\. 19"):
        small().open("train").read(indices)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": arrays()}, "needs a split 'train'"),
        ({"train": (arrays()[0].astype(float), arrays()[1])}, "need uint8"),
        ({"train": (arrays()[0], arrays()[1][:-1])}, "20 images, labels"),
        ({"train": (arrays()[0], arrays()[1] + 1)}, "outside 0 .. 2"),
        ({"train": (arrays()[0][..., 0], arrays()[1])}, "must be"),
        ({"train": arrays(), "test": (arrays()[0][:, 1:], arrays()[1])}, "one shape"),
    ],
)
def test_array_dataset_refuses_other_arrays(splits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.array_dataset("wrong", splits, "abc")


def test_statistics_are_exact_and_do_not_depend_on_batches() -> None:
    # Sums of squares of this many bright pixels don't fit 32 bits, nor float32's 24.
    pixels = np.full((300, 32, 32, 1), 255, np.uint8)
    pixels[0, 0, 0] = 254
    labels = np.arange(300, dtype=np.int32)
    whole = [{"image": pixels, "label": labels}]
    cut = [{"image": pixels[i : i + 7], "label": labels[i : i + 7]} for i in range(0, 300, 7)]
    measured = statistics.measure(whole, "test")
    n = pixels.size
    assert measured == statistics.measure(cut, "test")
    assert measured.mean[0] == (255 * n - 1) / (255 * n)
    np.testing.assert_allclose(measured.std[0], np.sqrt((n - 1) / n**2) / 255, rtol=1e-12)
    constant = statistics.measure([{"image": pixels[1:], "label": labels[1:]}], "test")
    assert constant.std == (1.0,)  # one may divide by it
    relabelled = [{"image": pixels, "label": labels[::-1]}]
    assert measured.sha256 != statistics.measure(relabelled, "test").sha256


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
    monkeypatch.setattr(decode, "decode", None)
    assert data.load_dataset("digits", digits_dir).statistics == digits.statistics


def test_size_resizes_after_decoding(digits_dir: Path) -> None:
    dataset = data.load_dataset("digits", digits_dir, size=12)
    stored = data.load_dataset("digits", digits_dir).open("test").read([5])["image"][0, ..., 0]
    assert dataset.image_shape == (12, 12, 1)
    expected = np.asarray(Image.fromarray(stored).resize((12, 12), Image.Resampling.BICUBIC))
    image = dataset.open("test").read([5])["image"]
    np.testing.assert_array_equal(image[0, ..., 0], expected)
    np.testing.assert_array_equal(data.load_resident(dataset, "test")["image"][5], image[0])


# ---- what is not there, or not readable ----


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("mnist", "prepare mnist --manual-dir .*train-images-idx3-ubyte.gz"),
        ("folder/birds", "prepare folder/birds --manual-dir"),
        ("cifar10", "prepare cifar10"),
    ],
)
def test_what_is_not_prepared_is_said_at_once(tmp_path: Path, name: str, command: str) -> None:
    begin = time.monotonic()
    with pytest.raises(
        UserError, match=f"not prepared.*python -m cnn_jax data {command}.*{tmp_path}"
    ):
        data.load_dataset(name, tmp_path)
    assert time.monotonic() - begin < 1


def test_the_data_folder_is_tfds_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(UserError, match=f"in {tmp_path}/tensorflow_datasets;"):
        data.load_dataset("mnist")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match=f"in {tmp_path}/elsewhere;"):
        data.load_dataset("mnist")


def test_tfrecord_is_refused_with_what_to_do(digits_dir: Path, digits: data.Dataset) -> None:
    assert digits.folder is not None
    info = digits.folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="stored as tfrecord.*data prepare digits --data-dir DIR"):
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
def test_damaged_files_are_said_to_be(
    digits_dir: Path, digits: data.Dataset, file: str, damage: Any
) -> None:
    assert digits.folder is not None
    (path,) = digits.folder.glob(file)
    damage(path)
    with pytest.raises(UserError, match="dataset 'digits' (in .* are damaged|is not prepared)"):
        digits = data.load_dataset("digits", digits_dir)
        digits.open("train").read(np.arange(1437))


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


def test_images_need_not_be_square(tmp_path: Path) -> None:
    Wide(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    dataset = data.load_dataset("wide", tmp_path)
    assert dataset.image_shape == (6, 10, 3)
    batch = dataset.open("train").read(np.arange(5))["image"]
    assert batch.shape == (5, 6, 10, 3) and np.all(batch[3] == (30, 0, 1))


@pytest.fixture
def odd_dir(tmp_path: Path) -> Path:
    Odd(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    return tmp_path


def test_other_builders_are_read_by_their_supervised_keys(odd_dir: Path) -> None:
    with pytest.raises(UserError, match="vary in size; say which"):
        data.load_dataset("odd", odd_dir)
    dataset = data.load_dataset("odd", odd_dir, size=16)
    assert (dataset.version, dataset.class_names) == ("1.2.3", ("cat", "dog"))
    batch = dataset.open("train").read(np.arange(5))
    assert batch["image"].shape == (5, 16, 16, 3)
    assert batch["image"][:, 0, 0].tolist() == [[10 * i, 0, 1] for i in range(5)]
    assert batch["label"].tolist() == [0, 1, 0, 1, 0]
    # A grey photograph is delivered in three equal channels.
    assert dataset.open("test").read([3])["image"][0, 0, 0].tolist() == [30, 30, 30]


def test_a_broken_image_is_named(odd_dir: Path) -> None:
    source = data.load_dataset("odd", odd_dir, size=16).open("test[1:]")
    broken = "image 5 of split 'test' of dataset 'odd' is broken"
    with pytest.raises(UserError, match=broken):
        source.read([0, 4])
    for readers in (0, 2):
        with pytest.raises(UserError, match=broken):
            list(data.stream(source, [(0, 3), (3, 5)], lambda step: np.array([step]), readers))


def test_a_broken_image_of_the_right_size_is_named(tmp_path: Path) -> None:
    """Where nothing is resized, images are decoded in another way."""
    Wide(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = data.load_dataset("wide", tmp_path).open("test")
    with pytest.raises(UserError, match="image 5 of split 'test' of dataset 'wide' is broken"):
        source.read([0, 5])


def test_records_of_several_files_are_counted_on(tmp_path: Path) -> None:
    files, lengths = [tmp_path / f"{i}.array_record" for i in range(3)], (2, 1, 4)
    names = iter(range(7))
    for file, length in zip(files, lengths, strict=True):
        writer = ArrayRecordWriter(str(file), "group_size:1")
        for _ in range(length):
            writer.write(b"%d" % next(names))
        writer.close()
    records = read._Records(files, lengths)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(records.read, [6, 0, 2, 3, 1, 5, 4] * 9)) == [
            b"%d" % i for i in [6, 0, 2, 3, 1, 5, 4] * 9
        ]


# ---- resident ----


def same(one: data.Batch, other: data.Batch) -> bool:
    return all(
        one[key].dtype == other[key].dtype and np.array_equal(one[key], other[key])
        for key in ("image", "label")
    )


@pytest.mark.parametrize("split", ["train", "test[50:]", "train[:100]+test"])
def test_resident_is_the_split_in_stored_order(digits: data.Dataset, split: str) -> None:
    source = digits.open(split)
    expected = source.read(np.arange(len(source)))
    assert not resident.is_saved(digits, split)
    assert same(data.load_resident(digits, split), expected)
    assert resident.is_saved(digits, split)
    assert same(data.load_resident(digits, split), expected)


def test_resident_arrays_in_memory() -> None:
    pixels, labels = arrays(20)
    assert same(
        data.load_resident(small(), "train[5:]"),
        {"image": pixels[5:], "label": labels[5:].astype(np.int32)},
    )


def test_resident_decodes_once(digits: data.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load_resident(digits, "train")
    monkeypatch.setattr(decode, "decode", None)
    assert same(data.load_resident(digits, "train"), first)
    part = data.load_resident(digits, "train[10:30]")  # of the saved whole
    assert same(part, {key: values[10:30] for key, values in first.items()})


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *product(("images.npy", "labels.npy"), (cut_short, flip_one_bit, other_shape)),
        *product(("images.npy", "labels.npy", "json"), (Path.unlink, empty)),
    ],
)
def test_a_damaged_resident_file_is_decoded_again(
    digits: data.Dataset, file: str, damage: Any
) -> None:
    assert digits.folder is not None
    good = {key: values.copy() for key, values in data.load_resident(digits, "test").items()}
    (path,) = (digits.folder / cache.FOLDER).glob(f"test-0-360-*{file}")
    damage(path)
    assert not resident.is_saved(digits, "test")
    assert same(data.load_resident(digits, "test"), good)
    assert resident.is_saved(digits, "test")


def test_what_is_derived_from_other_files_is_not_used(
    digits_dir: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digits.folder is not None
    data.load_resident(digits, "test")
    (record,) = digits.folder.glob("*test.array_record*")
    record.write_bytes(record.read_bytes())  # written anew: might have another content
    assert not resident.is_saved(digits, "test")
    monkeypatch.setattr(statistics, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(pytest.fail.Exception, match="measured"):
        data.load_dataset("digits", digits_dir)


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    prepared_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(prepared_digits, tmp_path / "tfds"))
    (folder,) = root.glob("digits/*")
    shutil.rmtree(folder / cache.FOLDER)
    (folder / cache.FOLDER).write_text("a file, so that no folder can be made, not even by root")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    dataset = data.load_dataset("digits", root)
    batch = data.load_resident(dataset, "test")
    assert same(batch, dataset.open("test").read(np.arange(360)))
    assert not resident.is_saved(dataset, "test")
    # The statistics are kept elsewhere, so that the next run needn't read 60,000 images again.
    monkeypatch.setattr(decode, "decode", None)
    assert data.load_dataset("digits", root).statistics == dataset.statistics
    assert list((tmp_path / "home/.cache/cnn_jax/digits").rglob("*.json"))


# ---- streamed ----


@pytest.mark.parametrize("readers", [0, 1, 2, 5])
def test_streamed_and_resident_batches_are_the_same_bytes(
    digits: data.Dataset, readers: int
) -> None:
    everything = data.load_resident(digits, "train")

    def indices_of(step: int) -> np.ndarray:
        return data.batch_indices(seed=3, step=step, batch_size=100, n=1437)

    blocks = [(10, 14), (14, 15), (15, 50)]  # from the middle of the first epoch into the fourth
    streamed = list(data.stream(digits.open("train"), blocks, indices_of, readers))
    assert len(streamed) == len(blocks)
    for (start, stop), block in zip(blocks, streamed, strict=True):
        indices = np.stack([indices_of(step) for step in range(start, stop)])
        assert same(block, {key: values[indices] for key, values in everything.items()})


def reader_threads() -> int:
    return sum(thread.name.startswith("stream") for thread in threading.enumerate())


def test_streaming_reads_a_little_ahead_and_ends_its_readers() -> None:
    asked = []

    def indices_of(step: int) -> np.ndarray:
        asked.append(step)
        return np.array([step % 20])

    blocks = [(start, start + 2) for start in range(0, 10**6, 2)]
    batches = data.stream(small().open("train"), blocks, indices_of, readers=2)
    assert not asked  # nothing before the first batch is wanted
    next(batches)
    next(batches)
    assert max(asked) < 10
    batches.close()
    deadline = time.monotonic() + 5
    while reader_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reader_threads() == 0


def test_closing_reads_no_more() -> None:
    begun, go_on = [], threading.Event()
    dataset = small()

    def fetch(split: str, positions: list[int], out: data.Batch) -> None:
        begun.append(positions)
        assert positions == [0] or go_on.wait(10)
        dataset._fetch(split, positions, out)

    source = dataclasses.replace(dataset, _fetch=fetch).open("train")
    blocks = [(step, step + 1) for step in range(10)]
    batches = data.stream(source, blocks, lambda step: np.array([step]), readers=1)
    next(batches)
    batches.close()
    go_on.set()
    time.sleep(0.2)
    assert len(begun) <= 2  # the first, and the one that was being read


def test_no_steps_no_batches() -> None:
    for readers in (0, 2):
        assert list(data.stream(small().open("train"), [], np.array, readers)) == []


def test_a_negative_number_of_readers_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        data.stream(small().open("train"), [(0, 5)], np.array, -1)


# ---- describing ----


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


# ---- the whole, in a process of its own ----


def test_nothing_imports_tensorflow(tmp_path: Path) -> None:
    script = """
import sys, time
begin = time.monotonic()
from cnn_jax import data
assert not {"tensorflow_datasets", "sklearn", "PIL"} & set(sys.modules), "slow import"
dataset = data.load_dataset("digits", sys.argv[1])
data.load_resident(dataset, "train[:90%]")
batches = data.stream(dataset.open("test"), [(0, 2), (2, 3)], lambda step: [step], 2)
assert [batch["image"].shape for batch in batches] == [(2, 1, 8, 8, 1), (1, 1, 8, 8, 1)]
data.describe("digits", sys.argv[1]), data.list_datasets(sys.argv[1])
from cnn_jax.data import augment
data.prepare("digits", data_dir=sys.argv[1])
print([name for name in sys.modules if name.split(".")[0] == "tensorflow"])
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # Not a word about preparing digits, on either stream.
    assert done.stdout == f"digits 1.0.0 is already prepared in {tmp_path}/digits/1.0.0\n[]\n"


# ---- ranges ----


def test_a_scaled_dataset_takes_pixels_to_its_range(digits: data.Dataset) -> None:
    scaled = digits.scaled(-0.1, 1.175)
    pixels = np.array([0, 255, 51]) / 255
    np.testing.assert_allclose((pixels - scaled.mean[0]) / scaled.std[0], [-0.1, 1.175, 0.155])
    assert scaled.statistics.sha256 == digits.statistics.sha256
    assert len(scaled.mean) == 1 and "-0.1 to 1.175" in scaled.statistics.origin


def test_a_centred_dataset_subtracts_the_mean_from_pixels_and_no_more(digits: data.Dataset) -> None:
    centred = digits.centred()
    pixels = np.array([0, 255, 51])
    shown = (pixels / 255 - centred.mean[0]) / centred.std[0]
    np.testing.assert_allclose(shown, pixels - 255 * digits.mean[0])
    assert "no deviation" in centred.statistics.origin


def test_a_fingerprint_is_of_the_pixels_and_labels_of_a_split(digits: data.Dataset) -> None:
    examples = digits.open("test").read(np.arange(360))
    expected = hashlib.sha256(examples["image"].tobytes())
    expected.update(examples["label"].astype("<i4").tobytes())
    assert data.content_sha256(digits, "test") == expected.hexdigest()
    in_memory = data.array_dataset(
        "copy", {"train": (examples["image"], examples["label"])}, digits.class_names
    )
    assert data.content_sha256(in_memory, "train") == expected.hexdigest()
    assert data.content_sha256(digits, "test[:359]") != expected.hexdigest()
    assert data.content_sha256(digits, "train") == digits.statistics.sha256
