"""The first convolutional network trained by backpropagation on a real task: LeCun, Boser, Denker,
Henderson, Howard, Hubbard and Jackel (1989), Backpropagation applied to handwritten zip code
recognition, Neural Computation 1(4), 541-551.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax.models.lecun_layers import TableConv, scaled_tanh, uniform_fan_in

# For each map of H2, the eight maps of H1 that it sees.
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

    With the 256 pixels these are the paper's 1,256 units. 1.7159 tanh(2x / 3) follows every layer,
    the output too: train towards 1 for the right class and -1 for the others, with
    `losses.mean_squared_error`. Pixels are meant to lie between -1, the background, and 1; beyond
    the border a window sees background.

    The paper leaves open which maps H2 sees ("according to a scheme that will not be discussed
    here"), and whether the border of H2 holds -1 as that of H1 does. Both are read here as in
    Karpathy's reproduction of 2022 (github.com/karpathy/lecun1989-repro). Kernels start uniform
    within 2.4 / F as in the paper, F being a unit's inputs; Karpathy suspects a lost square root
    and takes 2.4 / F^0.5. Biases start at 0.

    classes: number of outputs. dtype: what the network computes in; parameters are float32
    regardless.
    """

    classes: int = 10
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
            pad_value=-1.0,
            bias="unit",
            dtype=self.dtype,
        )
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=uniform_fan_in())
        whole_image = tuple(range(images.shape[-1]))

        x = scaled_tanh(conv((whole_image,) * 12, name="H1")(images))
        x = scaled_tanh(conv(H2_TABLE, name="H2")(x))
        x = x.reshape(x.shape[0], -1)
        x = scaled_tanh(dense(30, name="H3")(x))
        x = scaled_tanh(dense(self.classes, name="output")(x))
        return x.astype(jnp.float32)
