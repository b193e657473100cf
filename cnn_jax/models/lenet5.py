"""LeNet-5: LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document
recognition, Proceedings of the IEEE 86(11), section II.B.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax.models.layers import AvgPool, Conv, check_image_size
from cnn_jax.ops.operators import tanh


class LeNet5(nn.Module):
    """LeNet-5 in its common modern reading: 61,706 parameters at 28x28x1.

    | layer  | what                        | output   | parameters |
    |--------|-----------------------------|----------|------------|
    | C1     | 5x5 convolution, padding 2  | 28x28x6  | 156        |
    | S2     | 2x2 mean                    | 14x14x6  | 0          |
    | C3     | 5x5 convolution             | 10x10x16 | 2,416      |
    | S4     | 2x2 mean                    | 5x5x16   | 0          |
    | C5     | all of S4 to each unit      | 120      | 48,120     |
    | F6     | fully connected             | 84       | 10,164     |
    | output | fully connected             | 10       | 850        |

    The activation follows C1, C3, C5 and F6. In the paper C5 is a 5x5 convolution over 5x5 maps,
    which is a fully connected layer on the flattened maps; it is written as one, so that images of
    another size work, and C5's fan-in follows.

    Departures from the paper: S2 and S4 have no trainable coefficient, bias and squashing (12 + 32
    parameters there); C3 sees all six maps of S2 instead of table I's subsets (1,516 parameters
    there); the output is a linear layer for a softmax instead of Euclidean distances to fixed 7x12
    bitmaps; kernels start from a truncated normal of variance 1 / fan-in, biases from zero.

    classes: number of logits. activation: the paper's is 1.7159 tanh(2x / 3). padding: zeros on
    each side of the image, 2 for 28x28 images, 0 for the paper's 32x32. dtype: what the network
    computes in; parameters are float32 regardless.

    Raises UserError for images smaller than 16 pixels, padding included.
    """

    classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = tanh
    padding: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, classes] of images float32 [B, H, W, C]."""
        check_image_size(self, images, smallest=16 - 2 * self.padding)
        x = Conv(6, 5, padding=self.padding, dtype=self.dtype, name="C1")(images)
        x = AvgPool(2, 2, name="S2")(self.activation(x))
        x = Conv(16, 5, dtype=self.dtype, name="C3")(x)
        x = AvgPool(2, 2, name="S4")(self.activation(x))
        x = x.reshape(x.shape[0], -1)
        x = self.activation(nn.Dense(120, dtype=self.dtype, name="C5")(x))
        x = self.activation(nn.Dense(84, dtype=self.dtype, name="F6")(x))
        logits = nn.Dense(self.classes, dtype=self.dtype, name="output")(x)
        return logits.astype(jnp.float32)
