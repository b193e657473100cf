"""A whole split at once: decoded once, saved, and decoded again where the files are unusable."""

import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import arrays, same, small

from cnn_jax import data
from cnn_jax.data import cache, decode, resident, statistics


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def open_a_bracket(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"(" + content[101:])  # in the header, which NumPy evaluates


def noise(path: Path) -> None:
    random = np.random.default_rng(0)
    path.write_bytes(path.read_bytes()[:10] + random.bytes(path.stat().st_size - 10))


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def becomes_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_shape(path: Path) -> None:
    np.save(path, np.load(path)[1:])


@pytest.mark.parametrize("split", ["test", "test[50:]", "train[:100]+test[:50]"])
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
    first = data.load_resident(digits, "test")
    monkeypatch.setattr(decode, "decode_into", None)
    assert same(data.load_resident(digits, "test"), first)
    part = data.load_resident(digits, "test[10:30]")  # of the saved whole split
    assert same(part, {key: values[10:30] for key, values in first.items()})


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *product(("images.npy", "labels.npy"), (cut_short, flip_one_bit, other_shape)),
        *product(("images.npy", "labels.npy"), (open_a_bracket, noise)),
        *product(("images.npy", "labels.npy", "json"), (Path.unlink, empty, zeros)),
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
    becomes_a_folder(path)  # which nothing can be written in place of
    assert same(data.load_resident(digits, "test"), good)


def test_stale_files_are_not_used(
    digits_dir: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert digits.folder is not None
    data.load_resident(digits, "test")
    (record,) = digits.folder.glob("*test.array_record*")
    record.write_bytes(record.read_bytes())  # rewritten: the content may differ
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
    monkeypatch.setattr(decode, "decode_into", None)
    assert data.load_dataset("digits", root).statistics == dataset.statistics
    assert list((tmp_path / "home/.cache/cnn_jax/digits").rglob("*.json"))
