"""The types: `Dataset` (names, shapes, statistics) and `Source` (random access to a split)."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data import cache, statistics
from cnn_jax.errors import UserError

Batch = dict[str, np.ndarray]  # {"image": uint8 [n, H, W, C], "label": int32 [n]}
# (stored split, positions in it, out): writes the examples at these positions to `out`.
Fetch = Callable[[str, list[int], Batch], None]


@dataclass(frozen=True)
class Source:
    """Random access to the examples of one split or slice; threads may share it."""

    dataset: str  # its name, for messages
    ranges: tuple[tuple[str, int, int], ...]  # (stored split, start, stop), one after the other
    image_shape: tuple[int, int, int]
    num_classes: int
    _fetch: Fetch = field(repr=False)

    def __len__(self) -> int:
        return sum(stop - start for _, start, stop in self.ranges)

    def empty(self, *shape: int) -> Batch:
        """Arrays to read into: {"image": uint8 [*shape, H, W, C], "label": int32 [*shape]}."""
        images = np.empty((*shape, *self.image_shape), np.uint8)
        return {"image": images, "label": np.empty(shape, np.int32)}

    def read(self, indices: np.ndarray | Sequence[int], out: Batch | None = None) -> Batch:
        """The examples at `indices` [n]: {"image": uint8 [n, H, W, C], "label": int32 [n]}.

        They are written to `out` if given, a batch of that form. Raises IndexError for an index
        outside 0 .. len-1, UserError for an image that cannot be decoded and for a label that is
        none of the classes.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if indices.ndim != 1 or indices.size == 0:
            raise ValueError(f"indices must be a list of one or more, got shape {indices.shape}")
        if indices.min() < 0 or indices.max() >= len(self):
            raise IndexError(
                f"indices {indices.min()} .. {indices.max()} are not all in 0 .. {len(self) - 1}"
            )
        batch, begin = out or self.empty(indices.size), 0
        for split, start, stop in self.ranges:
            end = begin + stop - start
            (inside,) = np.nonzero((begin <= indices) & (indices < end))
            positions = (indices[inside] - begin + start).tolist()
            if inside.size == indices.size:
                self._fetch(split, positions, batch)
            elif inside.size:
                part = self.empty(inside.size)
                self._fetch(split, positions, part)
                for key, values in part.items():
                    batch[key][inside] = values
            begin = end
        self.check_labels(batch["label"], indices)
        return batch

    def check_labels(self, labels: np.ndarray, indices: np.ndarray | Sequence[int]) -> None:
        """Raise UserError if one of `labels`, those of the examples at `indices`, is no class."""
        (wrong,) = np.nonzero((labels < 0) | (labels >= self.num_classes))
        if wrong.size:
            split, position = self._place(int(indices[wrong[0]]))
            label = int(labels[wrong[0]])
            raise wrong_label(self.dataset, split, position, label, self.num_classes)

    def _place(self, index: int) -> tuple[str, int]:
        """The stored split that an example lies in, and its position there."""
        for split, start, stop in self.ranges:
            if index < stop - start:
                return split, start + index
            index -= stop - start
        raise IndexError(f"{index} is beyond the last example")

    def chunks(self, size: int = 1024, limit: int | None = None) -> Iterator[Batch]:
        """The examples in stored order, `size` at a time; at most `limit` in all."""
        count = len(self) if limit is None else min(len(self), limit)
        for start in range(0, count, size):
            yield self.read(np.arange(start, min(start + size, count)))


def wrong_label(dataset: str, split: str, position: int, label: int, classes: int) -> UserError:
    """The refusal of an example whose label is none of the classes 0 .. classes-1."""
    unlabelled = "; -1 marks examples without a label: choose a split that has them"
    return UserError(
        f"example {position} of split {split!r} of dataset {dataset!r} has the label {label}, "
        f"outside 0 .. {classes - 1} of its {classes} classes" + (unlabelled if label == -1 else "")
    )


@dataclass(frozen=True)
class Dataset:
    """Labelled images of one shape, in named splits. Made by `load_dataset` or `array_dataset`.

    A `split` is a name in `shard_lengths` or one of TFDS's slices: "train[:90%]", "train[55000:]",
    "train+test".
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # (H, W, C) as delivered, uint8
    statistics: statistics.Statistics
    shard_lengths: Mapping[str, tuple[int, ...]]  # examples in each stored file of each split
    folder: Path | None  # where it is stored; None if it is only in memory
    _fetch: Fetch = field(repr=False)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training pixels per channel, in units of [0, 1]."""
        return self.statistics.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the training pixels per channel, in units of [0, 1]."""
        return self.statistics.std

    def scaled(self, low: float, high: float) -> "Dataset":
        """The same dataset, with a mean and deviation that map 0 .. 255 to `low` .. `high`.

        For recipes that state a range instead of standardising: LeCun et al. (1998) take the
        background to -0.1 and ink to 1.175.
        """
        channels, span = self.image_shape[-1], high - low
        range_as_statistics = replace(
            self.statistics,
            mean=(-low / span,) * channels,
            std=(1 / span,) * channels,
            origin=f"a range of {low:g} to {high:g}",
        )
        return replace(self, statistics=range_as_statistics)

    def centred(self) -> "Dataset":
        """The same dataset, with pixels of 0 .. 255 from which only the mean is subtracted.

        The raw, centred values of Krizhevsky et al. (2012), section 2: their initial weights and
        the constants of their response normalisation are made for this range.
        """
        mean_alone = replace(
            self.statistics,
            std=(1 / 255,) * self.image_shape[-1],
            origin=f"the mean of {self.statistics.origin}, no deviation",
        )
        return replace(self, statistics=mean_alone)

    def num_examples(self, split: str) -> int:
        """The number of examples in `split`. Raises UserError if there is no such split."""
        return len(self.open(split))

    def open(self, split: str) -> Source:
        """Random access to `split`. Raises UserError if there is no such split."""
        ranges = _ranges(self.name, split, self.shard_lengths)
        return Source(self.name, ranges, self.image_shape, len(self.class_names), self._fetch)


def array_dataset(
    name: str, splits: Mapping[str, tuple[np.ndarray, np.ndarray]], class_names: Sequence[str]
) -> Dataset:
    """A dataset of arrays in memory: {"train": (images uint8 [n,H,W,C], labels int [n]), ...}.

    Raises ValueError if the arrays are not of that form or there is no split "train".
    """
    if "train" not in splits:
        raise ValueError(f"dataset {name!r} needs a split 'train'; it has {sorted(splits)}")
    shapes = {np.shape(images)[1:] for images, _ in splits.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 3:
        raise ValueError(f"all images of dataset {name!r} must have one shape [H, W, C]")
    arrays: dict[str, Batch] = {}
    for split, (images, labels) in splits.items():
        images, labels = np.asarray(images), np.asarray(labels)
        if images.dtype != np.uint8 or len(images) == 0:
            raise ValueError(
                f"{name} {split}: need one or more uint8 images, got {len(images)} {images.dtype}"
            )
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{name} {split}: need {len(images)} integer labels, one for each image, "
                f"got shape {labels.shape} of {labels.dtype}"
            )
        (wrong,) = np.nonzero((labels < 0) | (labels >= len(class_names)))
        if wrong.size:
            position = int(wrong[0])
            raise wrong_label(name, split, position, int(labels[position]), len(class_names))
        arrays[split] = {"image": images, "label": labels.astype(np.int32)}

    def fetch(split: str, positions: list[int], out: Batch) -> None:
        for key, values in arrays[split].items():
            np.take(values, positions, axis=0, out=out[key], mode="clip")  # "raise" copies twice

    return Dataset(
        name=name,
        version="in memory",
        class_names=tuple(class_names),
        image_shape=shape,
        statistics=statistics.measure([arrays["train"]], "all of the split train"),
        shard_lengths={split: (len(batch["label"]),) for split, batch in arrays.items()},
        folder=None,
        _fetch=fetch,
    )


def content_sha256(dataset: Dataset, split: str) -> str:
    """The SHA-256 of the pixels and labels of a split; of the first 60,000 examples if it has more.

    Measured once, in about the time that decoding takes, and kept beside the prepared dataset.
    """

    def measure() -> dict[str, Any]:
        content = statistics.Fingerprint()
        for batch in dataset.open(split).chunks(limit=statistics.MAX_EXAMPLES):
            content.add(batch)
        return {"split": split, "sha256": content.sha256()}

    if dataset.folder is None:
        return measure()["sha256"]
    shape = "x".join(map(str, dataset.image_shape))
    file_name = f"content-{hashlib.sha256(split.encode()).hexdigest()[:8]}-{shape}.json"

    def parse(values: dict[str, Any]) -> str:
        if values["split"] != split:  # names of files are short hashes
            raise ValueError(f"of the split {values['split']!r}, not {split!r}")
        return statistics.sha256_from_json(values)

    return cache.remember(dataset.name, dataset.folder, file_name, measure, parse)


def _ranges(
    name: str, split: str, shard_lengths: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[str, int, int], ...]:
    if sum(shard_lengths.get(split, ())) > 0:
        return ((split, 0, sum(shard_lengths[split])),)
    import tensorflow_datasets as tfds  # takes half a second, which only slices must pay

    infos = {
        stored: tfds.core.SplitInfo(name=stored, shard_lengths=list(lengths), num_bytes=0)
        for stored, lengths in shard_lengths.items()
    }
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (ValueError, AssertionError, NotImplementedError) as error:
        known = ", ".join(f"{stored} ({sum(n):,} examples)" for stored, n in shard_lengths.items())
        raise UserError(
            f"dataset {name!r} has no split {split!r}; "
            f"it has {known}, and slices of them such as 'train[:90%]'"
        ) from error
    ranges = tuple(
        (
            part.splitname,
            part.from_ or 0,
            infos[part.splitname].num_examples if part.to is None else part.to,
        )
        for part in parts
    )
    if any(start >= stop for _, start, stop in ranges):
        raise UserError(f"split {split!r} of dataset {name!r} has no examples")
    return ranges
