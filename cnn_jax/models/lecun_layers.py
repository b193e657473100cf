"""The layers of LeCun's networks of 1989 and 1998 and of their heirs.

Every layer here has a method `connections`, which counts the connections that one image passes
through, a unit's bias as one of them: beside parameters the papers' measure of a network's size.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Initializer
from jax import lax
from jax.typing import DTypeLike

from cnn_jax.ops.operators import forms, tanh

Table = Sequence[Sequence[int]]  # for each output map, the input maps that it sees


def scaled_tanh(x: jax.Array) -> jax.Array:
    """1.7159 tanh(2x / 3), which takes 1 to 1 and -1 to -1, where its curvature is largest.

    Source: LeCun et al. (1989), section 3; LeCun et al. (1998), section II.B and appendix A.
    """
    return 1.7159 * tanh(x * (2 / 3))


def uniform_fan_in(limit: float = 2.4, power: float = 1.0) -> Initializer:
    """Return an initializer that draws uniformly between -limit / F^power and +limit / F^power.

    F is the number of a unit's inputs, without the bias: the product of all dimensions of the
    kernel but the last. 2.4 / F is LeCun et al. (1989), section 3, and (1998), appendix A.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype=jnp.float32, **_) -> jax.Array:
        bound = limit / np.prod(shape[:-1]) ** power
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class TableConv(nn.Module):
    """Convolution (cross-correlation) in which each output map sees only some of the input maps.

    table: for each output map, the numbers of the input maps that it sees.
    kernel_size, strides, padding: of both dimensions; padding is on all four sides.
    pad_value: what the padding holds. bias: one per "map", or one per "unit" (map and position: the
    weights are shared, the thresholds are not). Biases start at 0.
    kernel_init: draws the kernels of neighbours in the table with equally many inputs together, in
    the shape [height, width, inputs, maps], so that the fan-in is that of these maps.
    Parameters, float32: kernel [height, width, pairs], the pairs of `table` in its order, and bias
    [D] or [H', W', D]; `dtype` is what the convolution computes in and returns.

    Raises ValueError if the table names a map twice for one output, or a map that does not exist,
    or if the kernel does not fit into the padded maps.
    """

    table: Table
    kernel_size: int
    strides: int = 1
    padding: int = 0
    pad_value: float = 0.0
    bias: Literal["map", "unit"] = "map"
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = uniform_fan_in()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to maps [B, H', W', len(table)]."""
        matrix = self._expansion(x.shape[-1])
        kernel = self.param("kernel", self._init_kernel)
        # A product with zeros and ones: as exact as an indexed copy, and faster both ways.
        dense = jnp.dot(kernel, matrix, precision=lax.Precision.HIGHEST)
        dense = dense.reshape(*kernel.shape[:2], x.shape[-1], len(self.table))

        x = x.astype(self.dtype)
        if self.padding:
            sides = (self.padding, self.padding)
            x = jnp.pad(x, ((0, 0), sides, sides, (0, 0)), constant_values=self.pad_value)
        if min(x.shape[1:3]) < self.kernel_size:
            raise ValueError(f"{self.name}: the kernel does not fit maps of {x.shape[1:3]}")
        strides, no_pads = (self.strides, self.strides), ((0, 0), (0, 0))
        y = forms().convolve(x, dense.astype(self.dtype), strides, no_pads, 1)
        shape = y.shape[1:] if self.bias == "unit" else y.shape[-1:]
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        return y + bias.astype(self.dtype)

    @nn.nowrap
    def connections(self, inputs_shape: Sequence[int], outputs_shape: Sequence[int]) -> int:
        """Connections for one image, from the shapes [B, H, W, C] of input and output."""
        positions = outputs_shape[1] * outputs_shape[2]
        pairs = sum(len(inputs) for inputs in self.table)
        return positions * (self.kernel_size**2 * pairs + len(self.table))

    def _init_kernel(self, key: jax.Array) -> jax.Array:
        size = self.kernel_size
        groups = [(inputs, len(list(rows))) for inputs, rows in groupby(self.table, len)]
        kernels = [
            self.kernel_init(group_key, (size, size, inputs, maps), jnp.float32)
            for group_key, (inputs, maps) in zip(
                jax.random.split(key, len(groups)), groups, strict=True
            )
        ]
        return jnp.concatenate([k.swapaxes(2, 3).reshape(size, size, -1) for k in kernels], -1)

    def _expansion(self, channels: int) -> np.ndarray:
        """Zeros and ones [pairs, channels * maps], one where a pair stands in a full kernel."""
        places = [i * len(self.table) + j for j, inputs in enumerate(self.table) for i in inputs]
        seen = {i for inputs in self.table for i in inputs}
        if len(set(places)) < len(places) or not seen <= set(range(channels)):
            raise ValueError(
                f"{self.name}: each row of the table must name some of {channels} maps once"
            )
        return np.eye(channels * len(self.table), dtype=np.float32)[places]


class Subsample(nn.Module):
    """Sum of each 2x2 patch, times a trainable coefficient per map, plus a trainable bias per map.

    Patches do not overlap, and a row or column left over at the far sides is dropped. The paper
    squashes the result, which is left to the caller. The coefficient starts at 1 / 4, so that a
    unit is the mean of its inputs, and the bias at 0; the paper does not say. (LeCun's later
    library, EBLearn, starts all coefficients of a layer at one value too.)
    Parameters, float32: coefficient [C] and bias [C].

    Source: LeCun et al. (1998), section II.B, layers S2 and S4.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H // 2, W // 2, C]."""
        maps = x.shape[-1:]
        quarter = nn.initializers.constant(0.25)
        coefficient = self.param("coefficient", quarter, maps, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, maps, jnp.float32)
        sums = 4 * forms().avg_pool(x.astype(self.dtype), 2, 2)
        return sums * coefficient.astype(self.dtype) + bias.astype(self.dtype)

    @nn.nowrap
    def connections(self, inputs_shape: Sequence[int], outputs_shape: Sequence[int]) -> int:
        """Connections for one image, from the shapes [B, H, W, C] of input and output."""
        del inputs_shape
        return int(np.prod(outputs_shape[1:])) * (4 + 1)


class EuclideanRBF(nn.Module):
    """Minus the squared distance to each of a few fixed points; nothing is trained.

    points: [classes][n]. With the negated distances as logits, the nearest point is the answer.

    Source: LeCun et al. (1998), section II.B, equation 7.
    """

    points: Sequence[Sequence[float]]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Values [B, n] to [B, classes]."""
        points = np.asarray(self.points, np.float32).astype(x.dtype)
        return -jnp.square(x[:, None] - points[None]).sum(-1)

    @nn.nowrap
    def connections(self, inputs_shape: Sequence[int], outputs_shape: Sequence[int]) -> int:
        """Connections for one image, from the shapes [B, n] of input and [B, classes] of output."""
        return inputs_shape[-1] * outputs_shape[-1]
