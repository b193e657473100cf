"""Per-example metrics: `(logits [B, classes], labels [B]) -> float32 [B]`. `step.py` averages."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array


def accuracy(logits: Array, labels: Array) -> Array:
    """1 where the largest logit is the label's (the lowest class wins a tie): `top_k(1)`."""
    return top_k(1)(logits, labels)


def top_k(k: int) -> Callable[[Array, Array], Array]:
    """Return a metric: 1 where fewer than `k` classes score above the label's class, else 0.

    A class that ties with the label counts above it when its index is lower, so that `top_k(1)`
    is `accuracy`. With `k` classes or fewer the metric is always 1.
    """

    def metric(logits: Array, labels: Array) -> Array:
        of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)  # [B, 1]
        lower_index = jnp.arange(logits.shape[-1]) < labels[:, None]  # [B, classes]
        above = (logits > of_label) | ((logits == of_label) & lower_index)
        # A logit that is not a number beats nothing and is beaten by nothing: without this line a
        # broken network would score 100 %.
        return ((above.sum(-1) < k) & ~jnp.isnan(logits).any(-1)).astype(jnp.float32)

    return metric
