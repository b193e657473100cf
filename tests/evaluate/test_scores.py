"""Figures of merit against scikit-learn's and against ones written out by hand."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sklearn_metrics

from cnn_jax import metrics
from cnn_jax.evaluate import scores

NAMES = tuple("abcdefg")


def random_predictions(n: int = 400, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities that are right about half of the time, with every class in the labels."""
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(n) % classes).astype(np.int32)
    logits = 2 * random.normal(size=(n, classes)) + 2 * np.eye(classes)[labels]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), labels


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_is_scikit_learns(k: int) -> None:
    log_p, labels = random_predictions()
    expected = sklearn_metrics.top_k_accuracy_score(labels, log_p, k=k, labels=range(7))
    assert scores.is_right(log_p, labels, k).mean() == pytest.approx(expected, abs=1e-12)
    assert 0.3 < expected < 1


@pytest.mark.parametrize("k", [1, 2, 3])
def test_ties_and_what_is_no_number_count_as_in_training(k: int) -> None:
    random = np.random.default_rng(1)
    values = random.integers(0, 3, (200, 4)).astype(np.float32)  # most rows hold a tie
    values[::10, 1] = np.nan
    labels = random.integers(0, 4, 200).astype(np.int32)
    expected = np.asarray(metrics.top_k(k)(jnp.asarray(values), jnp.asarray(labels)))
    np.testing.assert_array_equal(scores.is_right(values, labels, k), expected)


def test_the_predicted_class_is_the_one_that_is_right() -> None:
    values = np.array([[0.0, 1.0, 1.0], [np.nan, 5.0, 1.0], [2.0, 1.0, 2.0]])
    np.testing.assert_array_equal(scores.predictions(values), [1, -1, 0])


def test_the_log_loss_is_scikit_learns() -> None:
    log_p, labels = random_predictions()
    expected = sklearn_metrics.log_loss(labels, np.exp(log_p), labels=range(7))
    assert scores.score(log_p, labels).log_loss.value == pytest.approx(expected, abs=1e-12)


def test_the_confusion_matrix_is_scikit_learns() -> None:
    log_p, labels = random_predictions()
    expected = sklearn_metrics.confusion_matrix(labels, log_p.argmax(-1), labels=range(7))
    np.testing.assert_array_equal(scores.confusion(log_p, labels), expected)
    assert not np.array_equal(expected, expected.T)


def test_the_figures_of_classes_are_scikit_learns() -> None:
    log_p, labels = random_predictions()
    log_p[:, 3] -= 100  # a class that is never predicted
    keep = labels != 5  # and one that never occurs
    log_p, labels = log_p[keep], labels[keep]
    undefined: Any = np.nan
    expected: Any = sklearn_metrics.precision_recall_fscore_support(
        labels, log_p.argmax(-1), labels=range(7), zero_division=undefined
    )
    precision, recall, f1, count = expected
    found = scores.per_class(log_p, labels, NAMES)
    np.testing.assert_allclose([row.precision for row in found], precision)
    np.testing.assert_allclose([row.recall for row in found], recall)
    np.testing.assert_allclose([row.f1 for row in found], f1)
    assert [row.count for row in found] == list(count)
    assert [row.name for row in found] == list(NAMES)
    assert np.isnan(precision[3]) and np.isnan(recall[5])


def test_the_most_frequent_confusion() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 2])
    predicted = np.array([0, 0, 0, 1, 2, 2, 1, 0])
    with np.errstate(divide="ignore"):
        found = scores.per_class(np.log(np.eye(3)[predicted]), labels, ["a", "b", "c"])
    assert [(row.confused_with, row.confused) for row in found] == [("c", 2), ("", 0), ("a", 1)]


def calibration_error_by_hand(log_p: np.ndarray, labels: np.ndarray) -> float:
    """Guo et al. (2017), equation 3, bin after bin."""
    confidence, right = np.exp(log_p.max(-1)), log_p.argmax(-1) == labels
    total = 0.0
    for m in range(1, 16):
        inside = ((m - 1) / 15 < confidence) & (confidence <= m / 15)
        if inside.any():
            gap = right[inside].mean() - confidence[inside].mean()
            total += inside.sum() / len(labels) * abs(gap)
    return total


def test_the_calibration_error_is_the_papers() -> None:
    log_p, labels = random_predictions()
    expected = calibration_error_by_hand(log_p, labels)
    assert expected > 0.01
    found = scores.score(log_p, labels).calibration_error.value
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_bins_give_the_calibration_error() -> None:
    log_p, labels = random_predictions()
    bins = scores.calibration(log_p, labels)
    count, confidence, accuracy = bins.count, bins.confidence, bins.accuracy
    assert count.sum() == len(labels) and len(count) == 15
    edges = np.arange(16) / 15
    filled = count > 0
    assert np.all((edges[:-1] < confidence)[filled] & (confidence <= edges[1:])[filled])
    error = (count * np.abs(accuracy - confidence))[filled].sum() / len(labels)
    assert error == pytest.approx(calibration_error_by_hand(log_p, labels), abs=1e-12)
    assert np.isnan(confidence[0]) and count[0] == 0


@pytest.mark.parametrize(("wrong", "n"), [(0, 50), (7, 50), (50, 50), (85, 10000)])
def test_errors_have_wilsons_interval(wrong: int, n: int) -> None:
    z, p = scipy.stats.norm.ppf(0.975), wrong / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = scores.proportion(np.arange(n) < wrong)
    assert found == pytest.approx((p, max(0, middle - half), min(1, middle + half)), abs=1e-9)


def test_the_other_intervals_are_the_basic_bootstraps() -> None:
    """Within what 1,000 resamples are good for; of a mean also the normal interval."""
    log_p, labels = random_predictions()
    found = scores.score(log_p, labels)
    losses = scores.losses_of(log_p, labels)
    half = 1.96 * losses.std() / np.sqrt(len(losses))
    assert found.log_loss.low == pytest.approx(losses.mean() - half, abs=0.15 * half)
    assert found.log_loss.high == pytest.approx(losses.mean() + half, abs=0.15 * half)

    def error(which: np.ndarray) -> float:
        return calibration_error_by_hand(log_p[which.astype(int)], labels[which.astype(int)])

    expected = scipy.stats.bootstrap(
        (np.arange(len(labels)),), error, method="basic", n_resamples=300, vectorized=False, rng=1
    ).confidence_interval
    estimate = found.calibration_error
    width = expected.high - expected.low
    assert estimate.low == pytest.approx(max(0, expected.low), abs=0.15 * width)
    assert estimate.high == pytest.approx(expected.high, abs=0.15 * width)


def test_scores_are_a_function_of_predictions_and_seed() -> None:
    log_p, labels = random_predictions()
    assert scores.score(log_p, labels) == scores.score(log_p, labels)
    assert scores.score(log_p, labels).log_loss != scores.score(log_p, labels, seed=1).log_loss


def test_a_row_that_is_no_number_is_wrong_and_seen() -> None:
    log_p, labels = random_predictions()
    right = scores.is_right(log_p, labels).sum()
    first = int(np.flatnonzero(scores.is_right(log_p, labels))[0])
    log_p[first, (labels[first] + 1) % 7] = np.nan
    found = scores.score(log_p, labels)
    assert found.top1_error.value == pytest.approx(1 - (right - 1) / 400)
    assert np.isnan(found.calibration_error.value)
    assert scores.confusion(log_p, labels).sum() == scores.calibration(log_p, labels).count.sum()
    assert scores.confusion(log_p, labels).sum() == 399


def test_noise_in_the_calibration_error_is_not_taken_for_error() -> None:
    """Labels drawn by the very probabilities: what is found is noise, and resamples hold more."""
    log_p, _ = random_predictions(2000)
    draws = np.random.default_rng(2).random((2000, 1))
    labels = (np.exp(log_p).cumsum(-1) < draws).sum(-1).clip(0, 6)
    found = scores.score(log_p, labels).calibration_error
    assert found.value > 0.005 and found.low < found.value / 3
