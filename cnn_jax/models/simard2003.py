"""The two networks of Simard, Steinkraus and Platt (2003), Best practices for convolutional neural
networks applied to visual document analysis, ICDAR, pages 958-962.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax.models.layers import Conv, check_image_size
from cnn_jax.models.mlp import MLP
from cnn_jax.ops.operators import tanh


class SimardMLP(MLP):
    """One hidden layer of 800 units: 636,010 parameters and as many connections at 28x28x1.

    | layer  | what            | output | parameters |
    |--------|-----------------|--------|------------|
    | fc1    | fully connected | 800    | 628,000    |
    | output | fully connected | 10     | 8,010      |

    The logits are for a softmax and the cross-entropy, the better of the paper's two losses.

    The fields are those of `MLP`. activation and kernel_init: see `SimardConvNet`.
    """

    activation: Callable[[jax.Array], jax.Array] = tanh
    kernel_init: Initializer = nn.initializers.normal(0.05)


class SimardConvNet(nn.Module):
    """The convolutional network without pooling: 132,540 parameters and 305,580 connections at
    29x29x1 and 10 classes.

    | layer  | what                 | output  | parameters | connections |
    |--------|----------------------|---------|------------|-------------|
    | C1     | 5x5, stride 2        | 13x13x5 | 130        | 21,970      |
    | C2     | 5x5, stride 2        | 5x5x50  | 6,300      | 157,500     |
    | F3     | fully connected      | 100     | 125,100    | 125,100     |
    | output | fully connected      | 10      | 1,010      | 1,010       |

    The activation follows all but the output, whose logits are for a softmax. Without padding a
    layer takes n pixels to (n - 3) / 2, so 28x28 digits are extended by a row and a column to
    29x29, the next size at which no pixel is left over. Images of other sizes work, and F3's fan-in
    follows.

    classes: number of logits. activation: tanh is the usual reading, not checked in the paper.
    kernel_init: normal with a deviation of 0.05, likewise; biases start at 0. dtype: what the
    network computes in; parameters are float32 regardless.

    Raises UserError for images smaller than 13x13.
    """

    classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = tanh
    kernel_init: Initializer = nn.initializers.normal(0.05)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, classes] of images float32 [B, H, W, C]."""
        check_image_size(self, images, smallest=13)
        conv = partial(Conv, strides=2, dtype=self.dtype, kernel_init=self.kernel_init)
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init)
        x = self.activation(conv(5, 5, name="C1")(images))
        x = self.activation(conv(50, 5, name="C2")(x))
        x = x.reshape(x.shape[0], -1)
        x = self.activation(dense(100, name="F3")(x))
        return dense(self.classes, name="output")(x).astype(jnp.float32)
