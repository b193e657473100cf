"""Exact mean and standard deviation of training pixels, and the SHA-256 of the examples."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import numpy as np

# At most so many examples are measured: all of MNIST. TFDS stores examples in the order of a hash,
# so the first ones of a larger set are a random sample, and this many photographs of 256 x 256 give
# each channel 4 * 10^9 pixels.
MAX_EXAMPLES = 60_000


@dataclass(frozen=True)
class Statistics:
    """Statistics of the training examples as they are delivered, before any augmentation."""

    mean: tuple[float, ...]  # per channel, in units of [0, 1]
    std: tuple[float, ...]  # of the population; 1.0 for a constant channel
    sha256: str  # of the pixels, then the labels as little-endian int32
    origin: str  # in words, which examples were measured


def from_json(values: dict[str, Any], channels: int) -> Statistics:
    """Statistics from `dataclasses.asdict` of them, as JSON gives it back.

    Raises ValueError, TypeError or KeyError for values that no measurement of so many channels can
    give.
    """
    mean, std = (tuple(values[key]) for key in ("mean", "std"))
    for numbers in (mean, std):
        if len(numbers) != channels or not all(
            type(number) is float and isfinite(number) for number in numbers
        ):
            raise ValueError(f"{numbers} are not {channels} numbers")
    if not all(0 <= number <= 1 for number in mean) or not all(0 < number <= 1 for number in std):
        raise ValueError(f"no pixels have the mean {mean} and the deviation {std}")
    origin = values["origin"]
    if not isinstance(origin, str):
        raise TypeError(f"{origin!r} is no text")
    return Statistics(mean, std, sha256_from_json(values), origin)


def sha256_from_json(values: dict[str, Any]) -> str:
    """The digest under "sha256". Raises ValueError, TypeError or KeyError if it is none."""
    if not re.fullmatch("[0-9a-f]{64}", values["sha256"]):
        raise ValueError(f"{values['sha256']!r} is no SHA-256")
    return values["sha256"]


class Fingerprint:
    """The SHA-256 of examples: of their pixels, then of their labels as little-endian int32.

    It does not depend on how the examples are stored or divided into batches.
    """

    def __init__(self) -> None:
        self._pixels = hashlib.sha256()
        self._labels: list[np.ndarray] = []

    def add(self, batch: dict[str, np.ndarray]) -> None:
        """Add the next examples, {"image": uint8 [n,H,W,C], "label": int32 [n]}."""
        self._pixels.update(np.ascontiguousarray(batch["image"]).data)
        self._labels.append(batch["label"])

    def sha256(self) -> str:
        """The digest of all examples added so far."""
        whole = self._pixels.copy()
        whole.update(np.concatenate(self._labels).astype("<i4").tobytes())
        return whole.hexdigest()


def measure(batches: Iterable[dict[str, np.ndarray]], origin: str) -> Statistics:
    """Statistics of all examples of `batches` ({"image": uint8 [n,H,W,C], "label": int32 [n]}).

    The sums are integers, so they don't depend on how the examples are divided into batches.
    """
    content, counts = Fingerprint(), None
    for batch in batches:
        images = np.ascontiguousarray(batch["image"])
        content.add(batch)
        histograms = np.stack(
            [
                np.bincount(images[..., channel].reshape(-1), minlength=256)
                for channel in range(images.shape[-1])
            ]
        )
        counts = histograms if counts is None else counts + histograms
    if counts is None:
        raise ValueError("no examples to measure")

    mean, std = [], []
    for histogram in counts.tolist():  # Python integers: no overflow, no rounding
        n = sum(histogram)
        total = sum(value * count for value, count in enumerate(histogram))
        squares = sum(value * value * count for value, count in enumerate(histogram))
        mean.append(total / (255 * n))
        std.append(sqrt(n * squares - total * total) / (255 * n) or 1.0)
    return Statistics(tuple(mean), tuple(std), content.sha256(), origin)
