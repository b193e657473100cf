"""Records of many files: in any order, from both formats, with a bound on the open files."""

import os
import resource
import shutil
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google_crc32c
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from samples import same

from cnn_jax import data
from cnn_jax.data import shards
from cnn_jax.data.shards import open_shards
from cnn_jax.errors import UserError


def masked(content: bytes) -> bytes:
    """The checksum that stands behind `content` in a TFRecord file, by its specification."""
    crc = google_crc32c.value(content)
    rotated = ((crc >> 15) | (crc << (32 - 15))) % 2**32
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def write_tfrecord(path: Path, records: Sequence[bytes]) -> None:
    lengths = [struct.pack("<Q", len(record)) for record in records]
    parts = [n + masked(n) + r + masked(r) for n, r in zip(lengths, records, strict=True)]
    path.write_bytes(b"".join(parts))


def write_array_record(path: Path, records: Sequence[bytes]) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def to_tfrecord(folder: Path) -> None:
    """Turn a prepared dataset into what TFDS writes by default."""
    for path in list(folder.glob("*.array_record-*")):
        records = ArrayRecordReader(str(path)).read_all()
        write_tfrecord(Path(str(path).replace("array_record", "tfrecord")), records)
        path.unlink()
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))


WRITERS = {"array_record": write_array_record, "tfrecord": write_tfrecord}


@pytest.mark.parametrize("file_format", WRITERS)
def test_records_of_several_files_are_counted_on(file_format: str, tmp_path: Path) -> None:
    split, names = write_split(tmp_path, file_format, (2, 1, 0, 4))
    order = [6, 0, 2, 3, 1, 5, 4] * 9
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(split.read, order)) == [names[i] for i in order]


def write_split(
    folder: Path, file_format: str, lengths: Sequence[int]
) -> tuple[shards.Shards, list[bytes]]:
    """A split whose records are their own numbers, and these."""
    names, files = [b"%d" % n for n in range(sum(lengths))], []
    for k, length in enumerate(lengths):
        files.append(folder / f"{k}.{file_format}")
        start = sum(lengths[:k])
        WRITERS[file_format](files[-1], names[start : start + length])
    stored = SimpleNamespace(filepaths=files, shard_lengths=lengths)
    return open_shards("counted", folder, "test", stored, file_format), names


@pytest.mark.parametrize("file_format", WRITERS)
def test_few_files_are_open_at_a_time(
    file_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread per open file, and the files that are kept."""
    monkeypatch.setattr(shards, "MOST_OPEN", 3)
    split, names = write_split(tmp_path, file_format, (2,) * 40)
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(2) as threads:
        order = np.random.default_rng(0).permutation(80).tolist() * 3
        assert list(threads.map(split.read, order)) == [names[i] for i in order]
    assert split._count == sum(map(len, split._idle.values())) == 3
    assert len(os.listdir("/proc/self/fd")) - before <= 3 * (2 if file_format[0] == "a" else 1)


def test_the_bound_follows_the_limit_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    split, _ = write_split(tmp_path, "tfrecord", (1,))
    assert split._most == 32


def test_a_dataset_in_tfrecord_is_the_same(digits_dir: Path, digits: data.Dataset) -> None:
    """The same examples in the same order, the same statistics and hash; and the index is kept."""
    folder = digits.folder
    assert folder is not None
    order = np.random.default_rng(0).permutation(360)
    before, content = digits.open("test").read(order), data.content_sha256(digits, "test")
    to_tfrecord(folder)
    shutil.rmtree(folder / "cnn_jax")
    again = data.load_dataset("digits", digits_dir)
    assert again.statistics == digits.statistics
    assert same(again.open("test").read(order), before)
    assert data.content_sha256(again, "test") == content
    index = folder / "cnn_jax" / "tfrecord-test.index"
    written = index.stat().st_mtime_ns
    assert same(data.load_dataset("digits", digits_dir).open("test").read(order), before)
    assert index.stat().st_mtime_ns == written


def flip(content: bytearray, place: int) -> bytes:
    content[place] ^= 0x10
    return bytes(content)


DAMAGES: dict[str, tuple[Callable[[bytearray], bytes], str]] = {
    "a flipped bit in the data": (lambda c: flip(c, 40), "record 0 of .* not have its checksum"),
    "a flipped bit in a length": (lambda c: flip(c, 0), "damaged|within a record"),
    "a flipped bit in its checksum": (lambda c: flip(c, 9), "is damaged at byte 0"),
    "a flipped bit in the last checksum": (lambda c: flip(c, -1), "record 359 of .* its checksum"),
    "cut within a record": (lambda c: bytes(c[:-30]), "ends within a record"),
    "cut within a header": (lambda c: bytes(c) + b"\0" * 5, "ends within a record"),
    "nothing": (lambda c: b"", "has 0 records, not 360"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_said_with_the_file(damage: str, digits_dir: Path, digits: data.Dataset) -> None:
    change, message = DAMAGES[damage]
    assert digits.folder is not None
    to_tfrecord(digits.folder)
    (path,) = digits.folder.glob("*test.tfrecord*")
    path.write_bytes(change(bytearray(path.read_bytes())))
    source = data.load_dataset("digits", digits_dir).open("test")
    with pytest.raises(UserError, match=message) as refusal:
        source.read([0, 359])
    assert path.name in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_missing_file_is_said(digits_dir: Path, digits: data.Dataset) -> None:
    assert digits.folder is not None
    to_tfrecord(digits.folder)
    (path,) = digits.folder.glob("*test.tfrecord*")
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name} of dataset 'digits' is missing"):
        data.load_dataset("digits", digits_dir).open("test").read([0])


@pytest.mark.parametrize("file", ["tfrecord-test.index", "tfrecord-test.json"])
def test_a_damaged_index_is_made_again(file: str, digits_dir: Path, digits: data.Dataset) -> None:
    assert digits.folder is not None
    to_tfrecord(digits.folder)
    before = data.load_dataset("digits", digits_dir).open("test").read([0, 359])
    path = digits.folder / "cnn_jax" / file
    content = bytearray(path.read_bytes())
    path.write_bytes(flip(content, len(content) // 2))
    assert same(data.load_dataset("digits", digits_dir).open("test").read([0, 359]), before)
    assert path.read_bytes() != content


def test_a_rewritten_file_is_indexed_again(digits_dir: Path, digits: data.Dataset) -> None:
    assert digits.folder is not None
    to_tfrecord(digits.folder)
    before: Any = data.load_dataset("digits", digits_dir).open("test").read([0, 1, 359])
    (path,) = digits.folder.glob("*test.tfrecord*")
    ends = np.fromfile(digits.folder / "cnn_jax" / "tfrecord-test.index", "<i8")
    content = path.read_bytes()  # the last record first
    path.write_bytes(content[ends[-2] :] + content[: ends[-2]])
    after = data.load_dataset("digits", digits_dir).open("test").read([1, 2, 0])
    assert same(after, before)
