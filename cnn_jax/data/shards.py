"""Random access to the records of a split, which may lie in a thousand files."""

import bisect
import itertools
import resource
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from cnn_jax.data import tfrecord
from cnn_jax.errors import UserError
from cnn_jax.errors.machine_limits import unreadable

MOST_OPEN = 1024  # files of a split that stay open; ArrayRecord takes 0.25 MB for each


class Reader(Protocol):
    """An open file of records."""

    def read(self, number: int) -> bytes:
        """Read one record. Raises RuntimeError or IndexError if the file is damaged."""
        ...

    def close(self) -> None: ...


class Shards:
    """The records of a split in the order of its files; threads may share it.

    Readers stay open for the next record, each for one thread at a time. When they are more than an
    eighth of the files that this process may open, the one that was used longest ago is closed.
    """

    def __init__(self, lengths: Sequence[int], open_file: Callable[[int], Reader]) -> None:
        """Read from `open_file(k)`, which has `lengths[k]` records."""
        self._starts = [0, *itertools.accumulate(lengths)]
        self._open_file = open_file
        self._idle: OrderedDict[int, list[Reader]] = OrderedDict()  # by file, last used last
        self._lock = threading.Lock()
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(1, min(MOST_OPEN, allowed // 8))
        self._count = 0  # of idle readers

    def read(self, position: int) -> bytes:
        """Read one record.

        Raises RuntimeError or IndexError if its file is damaged, UserError if it cannot be read.
        """
        file = bisect.bisect_right(self._starts, position) - 1
        reader = self._take(file) or self._open_file(file)
        try:
            record = reader.read(position - self._starts[file])
        except BaseException:
            reader.close()
            raise
        self._put_back(file, reader)
        return record

    def _take(self, file: int) -> Reader | None:
        with self._lock:
            readers = self._idle.get(file)
            if not readers:
                return None
            self._count -= 1
            return readers.pop()

    def _put_back(self, file: int, reader: Reader) -> None:
        with self._lock:
            self._idle.setdefault(file, []).append(reader)
            self._idle.move_to_end(file)
            self._count += 1
            surplus = self._oldest() if self._count > self._most else None
        if surplus is not None:
            surplus.close()

    def _oldest(self) -> Reader:
        """Take the idle reader whose file was used longest ago."""
        while not next(iter(self._idle.values())):
            self._idle.popitem(last=False)
        self._count -= 1
        return next(iter(self._idle.values())).pop()


def open_shards(dataset: str, folder: Path, split: str, stored: Any, file_format: str) -> Shards:
    """Random access to a split as TFDS describes it.

    Args:
        stored: TFDS's description of the split.
        file_format: "array_record" or "tfrecord".
    """
    files, lengths = [Path(path) for path in stored.filepaths], list(stored.shard_lengths)
    index: list[Any] = []
    lock = threading.Lock()

    def open_array_record(file: int) -> Reader:
        check_readable(files[file], dataset)
        return _ArrayRecord(files[file], lengths[file])

    def open_tfrecord(file: int) -> Reader:
        with lock:  # the first thread makes the index of all files
            if not index:
                for path in files:
                    check_readable(path, dataset)
                index.extend(tfrecord.load_index(folder, split, files, lengths))
        check_readable(files[file], dataset)
        return tfrecord.Reader(files[file], index[file])

    return Shards(lengths, open_tfrecord if file_format == "tfrecord" else open_array_record)


class _ArrayRecord:
    """An open ArrayRecord file.

    ArrayRecord's own data source starts threads for every call, and in C++ others that busily wait
    for work: three times the processor time of the `seek` and `read` below.
    """

    def __init__(self, path: Path, length: int) -> None:
        from array_record.python.array_record_module import ArrayRecordReader

        # Read in the caller's thread, nothing ahead.
        options = "readahead_buffer_size:0,max_parallelism:0"
        reader: Any = ArrayRecordReader(str(path), options=options, file_reader_buffer_size=16384)
        if (count := reader.num_records()) != length:
            raise RuntimeError(f"{path} has {count:,} records, not {length:,}")
        self._reader = reader

    def read(self, number: int) -> bytes:
        self._reader.seek(number)
        return self._reader.read()

    def close(self) -> None:
        self._reader.close()


def check_readable(path: Path, dataset: str) -> None:
    """Raise UserError if `path`, of that dataset, is no file that can be opened.

    This tells a machine's limit or a lack of permission from damage.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} of dataset {dataset!r} is not a file; prepare it again")
        path.open("rb").close()
    except FileNotFoundError as error:
        raise UserError(
            f"{path} of dataset {dataset!r} is missing; restore it, or delete {path.parent} "
            "and prepare the dataset again"
        ) from error
    except OSError as error:
        raise unreadable(f"{path} of dataset {dataset!r}", error) from error
