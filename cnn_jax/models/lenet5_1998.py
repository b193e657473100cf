"""LeNet-5 as printed: LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to
document recognition, Proceedings of the IEEE 86(11), section II.B.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax.errors import UserError
from cnn_jax.models.layers import Conv
from cnn_jax.models.lecun_layers import (
    EuclideanRBF,
    Subsample,
    TableConv,
    scaled_tanh,
    uniform_fan_in,
)

# Table I: the maps of S2 that each map of C3 sees.
C3_TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

# The digits of figure 3, 12 rows of 7, as public transcriptions agree to read them: the paper only
# prints a picture. A stroke over a digit tells it from a letter of the same form.
FIGURE_3 = """
.#####. ...##.. .#####. ####### .#####. .#####. ..####. ####### .#####. .#####.
....... ..###.. ....... .....## ....... ....... .##.... .....## ##...## ##..###
..###.. .####.. .#####. ....##. ....... ####### ##..... .....## ##...## ##...##
.##.##. ...##.. ##...## ...##.. .##..## ##..... ##..... ....##. ##...## ##...##
##...## ...##.. #....## ..####. .##..## ##..... ######. ...##.. .#####. ##..###
##...## ...##.. ....##. .....## ###..## .####.. ###..## ...##.. ##...## .######
##...## ...##.. ..###.. .....## ##...## ..####. ##...## ..##... ##...## .....##
##...## ...##.. .##.... .....## ##...## .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... ##...## ##..### ##...## ###..## ..##... ##...## ....##.
..###.. .###### ####### .#####. .###### .#####. .#####. ..##... .#####. .####..
....... ....... ....... ....... .....## ....... ....... ....... ....... .......
....... ....... ....... ....... .....## ....... ....... ....... ....... .......
"""


def bitmaps() -> tuple[tuple[float, ...], ...]:
    """The targets of F6 [10][84]: the drawing of each digit row by row, ink 1 and paper -1."""
    rows = [line.split() for line in FIGURE_3.split("\n") if line]
    return tuple(
        tuple(1.0 if point == "#" else -1.0 for row in rows for point in row[digit])
        for digit in range(10)
    )


class LeNet5_1998(nn.Module):
    """LeNet-5 with everything that later readings leave out: 60,000 parameters at 32x32x1.

    | layer  | what                                          | output   | parameters | connections |
    |--------|-----------------------------------------------|----------|------------|-------------|
    | C1     | 5x5 convolution                               | 28x28x6  | 156        | 122,304     |
    | S2     | sum of 2x2, one coefficient and bias per map  | 14x14x6  | 12         | 5,880       |
    | C3     | 5x5 convolution over the maps of table I      | 10x10x16 | 1,516      | 151,600     |
    | S4     | as S2                                         | 5x5x16   | 32         | 2,000       |
    | C5     | 5x5 convolution over all maps                 | 120      | 48,120     | 48,120      |
    | F6     | fully connected                               | 84       | 10,164     | 10,164      |
    | output | squared distances to the digits of figure 3   | 10       | 0          | 840         |
    | total  |                                               |          | 60,000     | 340,908     |

    C5's convolution covers its 5x5 maps and is written as the fully connected layer that it is.
    1.7159 tanh(2x / 3) follows every layer but the last. The paper's penalties y_i are the negated
    logits; train with `losses.discriminative_map`. Subsampling starts as a mean of its four inputs,
    biases at 0, of which the paper says nothing.

    Kernels start uniform with variance 1 / fan-in, after LeCun, Bottou, Orr and Müller (1998),
    Efficient BackProp, section 4.6. The paper prints uniform within 2.4 / fan-in (appendix A) so
    that all sums spread alike, which that does not achieve: the first activations, and with them
    the curvatures that set the paper's rates, are so small that training diverges in its first
    pass.

    squash: the activation. dtype: what the network computes in; parameters are float32 regardless.

    Raises UserError for images other than 32x32.
    """

    squash: Callable[[jax.Array], jax.Array] = scaled_tanh
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, 10] of images float32 [B, 32, 32, 1], background -0.1, ink 1.175."""
        if images.shape[1:3] != (32, 32):
            raise UserError(f"LeNet5_1998 needs images of 32x32 pixels, got {images.shape[1:3]}")
        init = uniform_fan_in(3**0.5, power=0.5)
        x = Conv(6, 5, dtype=self.dtype, kernel_init=init, name="C1")(images)
        x = Subsample(self.dtype, name="S2")(self.squash(x))
        x = TableConv(C3_TABLE, 5, dtype=self.dtype, kernel_init=init, name="C3")(self.squash(x))
        x = Subsample(self.dtype, name="S4")(self.squash(x))
        x = self.squash(x).reshape(x.shape[0], -1)
        x = self.squash(nn.Dense(120, dtype=self.dtype, kernel_init=init, name="C5")(x))
        x = self.squash(nn.Dense(84, dtype=self.dtype, kernel_init=init, name="F6")(x))
        return EuclideanRBF(bitmaps(), name="output")(x).astype(jnp.float32)
