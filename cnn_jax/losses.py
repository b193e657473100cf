"""Per-example losses: `(logits [B, classes], labels [B]) -> [B]`. `step.py` does the averaging."""

import optax
from jax import Array


def softmax_cross_entropy(logits: Array, labels: Array) -> Array:
    """Negative log-likelihood in nats of the right class under a softmax.

    Args:
        logits: float32 [B, classes], unnormalised.
        labels: int32 [B], in `[0, classes)`.

    Returns:
        float32 [B], at least 0.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
