"""Multilayer perceptron: the baseline that a convolutional network has to beat."""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax.errors.ranges import check_range


class MLP(nn.Module):
    """A fully connected network on the flattened image: fc1, fc2, ..., output.

    | layer  | output       | parameters (28x28x1, default widths) |
    |--------|--------------|--------------------------------------|
    | fc1    | widths[0]    | 784 * 800 + 800 = 628,000            |
    | output | classes      | 800 * 10 + 10 = 8,010                |
    | total  |              | 636,010                              |

    The default, 800 hidden units, is the two-layer network of Simard, Steinkraus and Platt (2003),
    with ReLU in place of their sigmoid units. `widths=()` is multinomial logistic regression.

    widths: units of each hidden layer. classes: number of logits. activation: after every hidden
    layer. dtype: what the network computes in; parameters are float32 regardless. kernel_init and
    bias_init: of all layers. Raises UserError for a width below 1.
    """

    widths: Sequence[int] = (800,)
    classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, classes] of images float32 [B, H, W, C]."""
        dense = partial(
            nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init, bias_init=self.bias_init
        )
        x = images.reshape(images.shape[0], -1)
        for number, width in enumerate(self.widths, start=1):
            check_range(f"the width of fc{number}", width, least=1)
            x = self.activation(dense(width, name=f"fc{number}")(x))
        logits = dense(self.classes, name="output")(x)
        return logits.astype(jnp.float32)
