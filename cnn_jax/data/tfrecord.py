"""Reads TFRecord files in any order without TensorFlow, by an index made once of their headers.

A record is its length (uint64), the masked CRC-32C of these 8 bytes (uint32), the data, and the
masked CRC-32C of the data; all little-endian. The masks are those of TensorFlow's
`core/lib/hash/crc32c.h`.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from cnn_jax.atomic_write import atomic_write
from cnn_jax.data import cache

_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")


class Reader:
    """An open file. Threads may share it."""

    def __init__(self, path: Path, ends: np.ndarray) -> None:
        """Open `path`, whose record k lies between the bytes `ends[k]` and `ends[k + 1]`."""
        self._path, self._ends = path, ends
        self._file = os.open(path, os.O_RDONLY)

    def read(self, number: int) -> bytes:
        """Read one record. Raises RuntimeError if it does not have the checksums it came with."""
        start, stop = int(self._ends[number]), int(self._ends[number + 1])
        content = os.pread(self._file, stop - start, start)
        data = content[_HEADER.size : -_FOOTER.size]
        expected = _HEADER.pack(len(data), _masked_crc(content[:8])) + data
        if content != expected + _FOOTER.pack(_masked_crc(data)):
            raise RuntimeError(f"record {number} of {self._path} does not have its checksum")
        return data

    def close(self) -> None:
        os.close(self._file)


def load_index(folder: Path, split: str, files: Sequence[Path], lengths: Sequence[int]) -> list:
    """The `ends` of each file of a split, for `Reader`; int64 [records + 1] each.

    They are kept beside the dataset, and made again where they are stale or damaged.

    Args:
        lengths: the number of records that each file should have.

    Raises:
        RuntimeError: a file is cut or damaged, or has another number of records.
        OSError: a file is missing or cannot be read.
    """
    path = folder / cache.FOLDER / f"tfrecord-{split}.index"
    receipt = path.with_suffix(".json")
    stamp, bounds = cache.stamp(folder), np.cumsum([length + 1 for length in lengths])
    try:
        noted = cache.unsealed(receipt.read_bytes(), receipt.name)
        whole = np.frombuffer(path.read_bytes(), "<i8")
        if noted == {"stamp": stamp, "crc32": zlib.crc32(whole.data)} and len(whole) == bounds[-1]:
            return np.split(whole, bounds[:-1])
    except (OSError, ValueError):
        pass  # absent or damaged
    ends = [_index(file, length) for file, length in zip(files, lengths, strict=True)]
    whole = np.concatenate(ends).astype("<i8")
    try:
        with atomic_write(path) as file:
            file.write(whole.tobytes())
        with atomic_write(receipt) as file:
            file.write(
                cache.sealed({"stamp": stamp, "crc32": zlib.crc32(whole.data)}, receipt.name)
            )
    except OSError:
        pass  # the folder cannot be written: made again next time
    return ends


def _index(path: Path, length: int) -> np.ndarray:
    """Read the headers of a file: where its records end, int64 [records + 1], the first at 0.

    Raises RuntimeError if the file is cut or damaged, or does not have `length` records.
    """
    ends = [0]
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while ends[-1] < size:
            header = os.pread(file.fileno(), _HEADER.size, ends[-1])
            if len(header) < _HEADER.size:
                raise RuntimeError(f"{path} ends within a record")
            ends.append(ends[-1] + _HEADER.size + _HEADER.unpack(header)[0] + _FOOTER.size)
            if _HEADER.unpack(header)[1] != _masked_crc(header[:8]):
                raise RuntimeError(f"{path} is damaged at byte {ends[-2]:,}")
    if ends[-1] != size:
        raise RuntimeError(f"{path} ends within a record")
    if len(ends) != length + 1:
        raise RuntimeError(f"{path} has {len(ends) - 1:,} records, not {length:,}")
    return np.array(ends, np.int64)


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
