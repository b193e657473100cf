"""Losses and metrics against scikit-learn and against the rule written out."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as reference

from cnn_jax.experiment import PerExample
from cnn_jax.losses import discriminative_map, mean_squared_error, softmax_cross_entropy
from cnn_jax.metrics import accuracy, top_k

CLASSES = 7
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, CLASSES, 200).astype(np.int32)
LOGITS = RANDOM.normal(size=(200, CLASSES)).astype(np.float32)
TIED = np.round(LOGITS)  # five values over seven classes: ties in every row


def values_of(function: PerExample, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    values = np.asarray(function(jnp.asarray(logits), jnp.asarray(labels)))
    assert values.shape == labels.shape and values.dtype == np.float32
    return values


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


def test_accuracy_is_that_of_scikit_learn() -> None:
    values = values_of(accuracy, LOGITS, LABELS)
    np.testing.assert_array_equal(values, LOGITS.argmax(-1) == LABELS)
    assert values.mean() == pytest.approx(reference.accuracy_score(LABELS, LOGITS.argmax(-1)))


@pytest.mark.parametrize("k", range(1, CLASSES))
def test_top_k_is_that_of_scikit_learn(k: int) -> None:
    values = values_of(top_k(k), LOGITS, LABELS)
    expected = reference.top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(CLASSES))
    assert values.mean() == pytest.approx(expected)


@pytest.mark.parametrize("k", range(1, CLASSES))
def test_the_lower_class_wins_a_tie(k: int) -> None:
    ranking = [sorted(range(CLASSES), key=lambda c, row=row: (-row[c], c)) for row in TIED]
    right = [label in best[:k] for label, best in zip(LABELS, ranking, strict=True)]
    np.testing.assert_array_equal(values_of(top_k(k), TIED, LABELS), right)


def test_accuracy_is_top_1_in_ties_too() -> None:
    top1 = values_of(top_k(1), TIED, LABELS)
    np.testing.assert_array_equal(values_of(accuracy, TIED, LABELS), top1)


@pytest.mark.parametrize("k", [CLASSES, CLASSES + 1])
def test_all_classes_always_hold_the_label(k: int) -> None:
    assert np.all(values_of(top_k(k), TIED, LABELS) == 1)


@pytest.mark.parametrize("metric", [accuracy, top_k(1), top_k(3)], ids=["accuracy", "top1", "top3"])
@pytest.mark.parametrize("broken", [[0], [3], list(range(CLASSES))], ids=["first", "one", "all"])
def test_logits_that_are_not_numbers_are_never_right(metric: PerExample, broken: list[int]) -> None:
    logits = np.zeros((CLASSES, CLASSES), np.float32)
    np.fill_diagonal(logits, 1)  # each label is right but for the broken logits
    logits[:, broken] = np.nan
    assert np.all(values_of(metric, logits, np.arange(CLASSES)) == 0)


@pytest.mark.parametrize("logits", [LOGITS, TIED], ids=["random", "tied"])
def test_the_loss_is_that_of_scikit_learn(logits: np.ndarray) -> None:
    values = values_of(softmax_cross_entropy, logits, LABELS)
    right = probabilities(logits)[np.arange(len(LABELS)), LABELS]
    np.testing.assert_allclose(values, -np.log(right), rtol=1e-5)
    expected = reference.log_loss(LABELS, probabilities(logits), labels=range(CLASSES))
    assert values.mean() == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_huge_logits_is_finite() -> None:
    logits = np.array([[1e4, -1e4], [1e4, -1e4]], np.float32)
    losses = values_of(softmax_cross_entropy, logits, np.array([0, 1]))
    np.testing.assert_allclose(losses, [0, 2e4])


def test_mean_squared_error_is_that_of_scikit_learn() -> None:
    targets = np.where(np.eye(CLASSES)[LABELS] > 0, 1.5, -0.5)
    values = values_of(mean_squared_error(on=1.5, off=-0.5), LOGITS, LABELS)
    expected = [reference.mean_squared_error(t, y) for t, y in zip(targets, LOGITS, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", (1, 60))
def test_discriminative_map_is_the_papers_formula(scale: float) -> None:
    penalties = scale * np.square(LOGITS.astype(np.float64))
    right = penalties[np.arange(len(LABELS)), LABELS]
    expected = right + np.log(np.exp(-0.7) + np.exp(-penalties).sum(-1))
    values = values_of(discriminative_map(0.7), -penalties.astype(np.float32), LABELS)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_discriminative_map_stays_finite_far_from_every_class() -> None:
    far = np.full((1, CLASSES), -1e6, np.float32)
    assert values_of(discriminative_map(0.1), far, LABELS[:1]) == pytest.approx(1e6)
