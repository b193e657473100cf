"""Errors, log-loss and calibration of predictions, with intervals: NumPy in float64, on the host.

Everywhere `log_probabilities` is [n, classes], natural logarithms, and `labels` is int [n], each in
`[0, classes)`; n is at least 1. The predicted class is the most probable one, the lowest if several
tie; a row that holds NaN predicts nothing and is wrong (`metrics.top_k` decides in the same way).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BINS = 15  # of Guo et al. (2017)
RESAMPLES = 1000


class Estimate(NamedTuple):
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """The scores of a network on `count` examples; errors and calibration error in 0 .. 1."""

    count: int
    top1_error: Estimate
    top5_error: Estimate
    log_loss: Estimate  # nats
    calibration_error: Estimate


@dataclass(frozen=True)
class Calibration:
    """Examples by the probability of the predicted class, in `BINS` bins of equal width."""

    count: np.ndarray  # int [BINS]
    confidence: np.ndarray  # mean probability of the predicted class, NaN in an empty bin
    accuracy: np.ndarray  # share that is right, NaN in an empty bin


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class; NaN where a figure is 0 / 0."""

    name: str
    count: int
    recall: float  # share of the class that is predicted as the class
    precision: float  # share of the predictions of the class that are right
    f1: float  # harmonic mean of the two
    confused_with: str  # the class most often predicted in its place, "" if there is none
    confused: int  # how often it was


def score(log_probabilities: np.ndarray, labels: np.ndarray, seed: int = 0) -> Scores:
    """Compute top-1 and top-5 error, log-loss and calibration error, with 95 % intervals.

    Errors have Wilson's interval. The others have the basic bootstrap's over examples (Davison and
    Hinkley 1997, section 5.2): 2 x figure - the 97.5th and 2.5th percentile of the figures of
    `RESAMPLES` samples, drawn by `seed`; not below 0. Noise within bins raises a calibration error,
    and resampling raises it once more: this interval corrects for that, so it may lie below its
    figure. NaN among the probabilities makes log-loss and calibration error NaN.

    The calibration error is the expected one of Guo, Pleiss, Sun and Weinberger (2017), On
    calibration of modern neural networks, equation 3: the mean over examples of the distance of
    their bin's accuracy from its mean confidence.
    """
    losses = losses_of(log_probabilities, labels)
    bins, gaps = _gaps(log_probabilities, labels)

    def figures(times: np.ndarray) -> tuple[float, float]:
        """The two figures of a sample that has each example so many `times`."""
        by_bin = np.bincount(bins, weights=times * gaps, minlength=BINS)
        return float(losses @ times) / len(losses), float(np.abs(by_bin).sum()) / len(losses)

    whole = figures(np.ones(len(losses)))
    random, n = np.random.default_rng(seed), len(losses)
    resampled = np.array(
        [figures(np.bincount(random.integers(n, size=n), minlength=n)) for _ in range(RESAMPLES)]
    )
    log_loss, calibration_error = map(_basic_bootstrap, whole, resampled.T)
    return Scores(
        count=n,
        top1_error=proportion(~is_right(log_probabilities, labels)),
        top5_error=proportion(~is_right(log_probabilities, labels, 5)),
        log_loss=log_loss,
        calibration_error=calibration_error,
    )


def is_right(log_probabilities: np.ndarray, labels: np.ndarray, k: int = 1) -> np.ndarray:
    """Whether fewer than `k` classes are more probable than the label's, bool [n]."""
    right = np.take_along_axis(log_probabilities, labels[:, None], axis=-1)
    lower_index = np.arange(log_probabilities.shape[-1]) < labels[:, None]
    above = (log_probabilities > right) | ((log_probabilities == right) & lower_index)
    return (above.sum(-1) < k) & ~np.isnan(log_probabilities).any(-1)


def losses_of(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Minus the logarithm of the right class's probability: float64 [n], nats."""
    right = np.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    return -right.astype(np.float64)


def predictions(log_probabilities: np.ndarray) -> np.ndarray:
    """The predicted classes, int [n]; -1 for a row that holds NaN."""
    return np.where(np.isnan(log_probabilities).any(-1), -1, log_probabilities.argmax(-1))


def proportion(holds: np.ndarray) -> Estimate:
    """The share of bool [n] that is true, with Wilson's interval (1927)."""
    from scipy import stats  # takes seconds to import

    test = stats.binomtest(int(holds.sum()), len(holds))
    interval = test.proportion_ci(method="wilson")
    return Estimate(float(holds.mean()), float(interval.low), float(interval.high))


def calibration(log_probabilities: np.ndarray, labels: np.ndarray) -> Calibration:
    """Sort examples into bins by confidence; bin m of 1 .. BINS is ((m - 1) / BINS, m / BINS].

    Rows that hold NaN are left out.
    """
    keep = ~np.isnan(log_probabilities).any(-1)
    bins, gaps = _gaps(log_probabilities[keep], labels[keep])
    right = is_right(log_probabilities[keep], labels[keep])
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(bins, weights=right, minlength=BINS) / count
        confidence = np.bincount(bins, weights=right - gaps, minlength=BINS) / count
    return Calibration(count, confidence, accuracy)


def confusion(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count examples by [true, predicted], int [classes, classes]; rows with NaN are left out."""
    classes, predicted = log_probabilities.shape[-1], predictions(log_probabilities)
    keep = predicted >= 0
    cells = np.bincount(labels[keep] * classes + predicted[keep], minlength=classes**2)
    return cells.reshape(classes, classes)


def per_class(
    log_probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> list[ClassScores]:
    """The scores of each class in the order of the labels; `names` [classes]."""
    table = confusion(log_probabilities, labels)
    count = np.bincount(labels, minlength=len(names))
    right, predicted = table.diagonal(), table.sum(0)
    with np.errstate(invalid="ignore"):
        recall, precision = right / count, right / predicted
        f1 = 2 * right / (count + predicted)
    wrong = table - np.diag(right)
    most = wrong.argmax(-1)
    return [
        ClassScores(
            name=name,
            count=int(count[i]),
            recall=float(recall[i]),
            precision=float(precision[i]),
            f1=float(f1[i]),
            confused_with=names[int(most[i])] if wrong[i, most[i]] else "",
            confused=int(wrong[i, most[i]]),
        )
        for i, name in enumerate(names)
    ]


def _gaps(log_probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each example's bin, int [n], and its gap: 1 or 0 for right or wrong, less its confidence."""
    confidence = np.exp(log_probabilities.max(-1).astype(np.float64))
    # Rounding may take a probability past 1; NaN may go into any bin.
    bins = np.ceil(np.nan_to_num(confidence) * BINS).astype(int) - 1
    return bins.clip(0, BINS - 1), is_right(log_probabilities, labels) - confidence


def _basic_bootstrap(value: float, resampled: np.ndarray) -> Estimate:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(value, max(0.0, float(2 * value - high)), max(0.0, float(2 * value - low)))
