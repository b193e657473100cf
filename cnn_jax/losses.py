"""Per-example losses: `(logits [B, classes], labels [B]) -> [B]`. `step.py` does the averaging."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array


def softmax_cross_entropy(logits: Array, labels: Array) -> Array:
    """The negative log-likelihood, in nats, of the right class under a softmax.

    Args:
        logits: float32 [B, classes], unnormalised.
        labels: int32 [B], in `[0, classes)`.

    Returns:
        float32 [B], at least 0.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def mean_squared_error(on: float = 1.0, off: float = -1.0) -> Callable[[Array, Array], Array]:
    """Return a loss: the mean over the classes of the squared difference of output and target.

    The target is `on` for the right class and `off` for the others. LeCun et al. (1989): the
    targets lie in the quasi-linear range of the output units, at 1 and -1.
    """

    def loss(logits: Array, labels: Array) -> Array:
        is_right = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.bool_)
        return jnp.square(logits - jnp.where(is_right, on, off)).mean(-1)

    return loss


def discriminative_map(rejection: float) -> Callable[[Array, Array], Array]:
    """Return a loss: y_right + log(exp(-rejection) + sum_i exp(-y_i)), logits being -y_i.

    Besides lowering the penalty y of the right class it raises those of the others, the less the
    further they are above `rejection`, the penalty of a class "none of these". Source: LeCun et al.
    (1998), section III.C, equation 9; `rejection` is its positive constant j, whose value the paper
    does not give.
    """

    def loss(logits: Array, labels: Array) -> Array:
        nothing = jnp.full((*logits.shape[:-1], 1), -rejection, logits.dtype)
        right = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(jnp.concatenate([logits, nothing], -1), axis=-1) - right

    return loss
