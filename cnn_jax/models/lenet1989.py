"""The first convolutional network trained by backpropagation on a real task: LeCun, Boser, Denker,
Henderson, Howard, Hubbard and Jackel (1989), Backpropagation applied to handwritten zip code
recognition, Neural Computation 1(4), 541-551.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax.models.lecun_layers import TableConv, scaled_tanh, uniform_fan_in

# Of each map of H2, the eight maps of H1 that it sees.
H2_TABLE = (
    *[(0, 1, 2, 3, 4, 5, 6, 7)] * 4,
    *[(4, 5, 6, 7, 8, 9, 10, 11)] * 4,
    *[(0, 1, 2, 3, 8, 9, 10, 11)] * 4,
)


class LeNet1989(nn.Module):
    """The zip code network: 9,760 parameters and 64,660 connections at 16x16x1 and 10 classes.

    | layer  | what                                    | output | parameters | connections |
    |--------|-----------------------------------------|--------|------------|-------------|
    | H1     | 5x5, stride 2, padding 2, bias per unit | 8x8x12 | 1,068      | 19,968      |
    | H2     | as H1, each map over 8 of H1's 12       | 4x4x12 | 2,592      | 38,592      |
    | H3     | fully connected                         | 30     | 5,790      | 5,790       |
    | output | fully connected                         | 10     | 310        | 310         |

    With the 256 pixels these are the paper's 1,256 units. 1.7159 tanh(2x / 3) follows every
    layer, the output too: train towards 1 for the right class and -1 for the others, with
    `losses.mean_squared_error`. Pixels are meant to lie between -1, the background, and 1; beyond
    the border a window sees background.

    What the paper leaves open: which maps H2 sees ("according to a scheme that will not be
    discussed here"); and whether the border of H2 holds -1 as that of H1 does. Both are read here
    as in Karpathy's reproduction of 2022 (github.com/karpathy/lecun1989-repro). Biases start at 0.

    classes: number of outputs. squash: the activation. pad_value: what lies beyond the border, in
    H1 and H2. kernel_init: uniform within 2.4 / F in the paper, F a unit's inputs; Karpathy
    suspects a lost square root and takes `uniform_fan_in(power=0.5)`. dtype: what the network
    computes in; parameters are float32 regardless.
    """

    classes: int = 10
    squash: Callable[[jax.Array], jax.Array] = scaled_tanh
    pad_value: float = -1.0
    kernel_init: Initializer = uniform_fan_in()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Outputs float32 [B, classes] of images float32 [B, H, W, C]."""
        conv = partial(
            TableConv,
            kernel_size=5,
            strides=2,
            padding=2,
            pad_value=self.pad_value,
            bias="unit",
            dtype=self.dtype,
            kernel_init=self.kernel_init,
        )
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init)
        whole_image = tuple(range(images.shape[-1]))

        x = self.squash(conv((whole_image,) * 12, name="H1")(images))
        x = self.squash(conv(H2_TABLE, name="H2")(x))
        x = x.reshape(x.shape[0], -1)
        x = self.squash(dense(30, name="H3")(x))
        x = self.squash(dense(self.classes, name="output")(x))
        return x.astype(jnp.float32)
