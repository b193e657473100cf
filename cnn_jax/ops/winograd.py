"""Convolution of small kernels with fewer multiplications, as matrix products.

Sources: Winograd (1980), Arithmetic complexity of computations; Lavin and Gray (2016), Fast
algorithms for convolutional neural networks, CVPR, sections 4 and 5.

The output is cut into tiles of `tile` pixels a side. Two polynomials of degrees tile - 1 and r - 1
multiply by their values at tile + r - 1 points; a tile of the output of a kernel of r taps is the
transpose of that product. So tile + r - 1 multiplications do for a tile and an axis, where sums
over the taps take tile * r: 16 in place of 36 for 2 x 2 pixels and 3 x 3 taps. Each of them is a
matrix product over all tiles, input maps and output maps. Inputs and outputs pass through small
constant matrices, which cost additions of whole maps.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.geometry import Pads, Pair, adjoint, output_size

# The points besides infinity. The first three are the usual ones, the others chosen for 5 taps
# among small fractions, by what float32 loses.
_POINTS = (0.0, 1.0, -1.0, 0.5, 2.0, -1.5)


class _Matrices(NamedTuple):
    """tile = output.T @ ((kernel @ taps) * (input @ pixels)), for n = tile + taps - 1 products."""

    output: np.ndarray  # [n, tile]
    kernel: np.ndarray  # [n, taps]
    input: np.ndarray  # [n, n]


def matrices(tile: int, taps: int) -> _Matrices:
    """The Cook-Toom algorithm for a tile of outputs of a kernel; Lavin and Gray's F(tile, taps).

    Raises ValueError if it needs more than `_POINTS`.
    """
    points = _POINTS[: tile + taps - 2]
    if len(points) < tile + taps - 2:
        raise ValueError(f"no points for tiles of {tile} pixels and {taps} taps")
    others = [[q for q in points if q != p] for p in points]
    scale = [np.prod([p - q for q in rest]) for p, rest in zip(points, others, strict=True)]

    def values(count: int) -> np.ndarray:  # of polynomials with so many coefficients
        infinity = np.eye(1, count, count - 1)
        return np.concatenate([np.vander(points, count, increasing=True), infinity])

    bases = [np.append(np.poly(rest)[::-1], 0) for rest in others] + [np.poly(points)[::-1]]
    return _Matrices(values(tile), values(taps) / [[s] for s in (*scale, 1)], np.stack(bases))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_winograd(x: jax.Array, kernel: jax.Array, pads: Pads, tile: int) -> jax.Array:
    """Convolution of stride 1 with a square kernel: `operators.convolve`, but for rounding.

    In float32 the largest error, as a share of the largest value, is some 1e-6 for tiles of 2 and
    3 x 3 taps, as in plain sums, and for tiles of 3 and 5 x 5 taps some 5e-6, or 2e-5 in the
    kernel's gradient. The gradients, written out, take as many products by the same matrices.

    Args:
        x: maps [B, H, W, C], of float32 or finer: sums of maps lose what bfloat16 does not hold.
        kernel: [r, r, C, D].
        tile: pixels a side, at most 8 - r.
    """
    m = matrices(tile, len(kernel))
    height, width = output_size(x, kernel, pads)
    taps = partial(jnp.unstack, axis=1)
    kernels = _transform(m.kernel, taps(kernel), by_row=taps)
    maps = _transform_tiles(m.input, x, pads, (height, width), tile)
    products = [_multiply(*pair) for pair in zip(maps, kernels, strict=True)]
    lines = _stack_sums(m.output.T, products, axis=3)  # [n, B, I, tile, J, D]
    y = _stack_sums(m.output.T, jnp.unstack(lines), axis=4)  # [B, I, tile, J, tile, D]
    batch, down, _, across, _, features = y.shape
    return y.reshape(batch, down * tile, across * tile, features)[:, :height, :width]


def _forward(x, kernel, pads: Pads, tile: int):
    return convolve_winograd(x, kernel, pads, tile), (x, kernel)


def _backward(pads: Pads, tile: int, residuals, dy: jax.Array):
    x, kernel = residuals
    dx = convolve_winograd(dy, *adjoint(x, kernel, dy, (1, 1), pads), tile)

    m, size = matrices(tile, len(kernel)), output_size(x, kernel, pads)
    maps = _transform_tiles(m.input, x, pads, size, tile)
    pixels = _transform_tiles(m.output, dy, ((0, 0), (0, 0)), size, tile)
    products = [_multiply_over_tiles(*pair) for pair in zip(maps, pixels, strict=True)]
    lines = _stack_sums(m.kernel.T, products, axis=0)  # [r, n, C, D]
    return dx, _stack_sums(m.kernel.T, jnp.unstack(lines, axis=1), axis=1)


convolve_winograd.defvjp(_forward, _backward)


def _multiply(maps: jax.Array, kernels: jax.Array) -> jax.Array:
    """Products [n, B, I, J, D] of maps [n, B, I, J, C] and kernels [n, C, D]."""
    products = maps.reshape(len(maps), -1, maps.shape[-1]) @ kernels
    return products.reshape(*maps.shape[:-1], kernels.shape[-1])


def _multiply_over_tiles(maps: jax.Array, pixels: jax.Array) -> jax.Array:
    """Sums [n, C, D] over all tiles of products of maps [n, B, I, J, C], pixels [n, B, I, J, D].

    `einsum` over more than one axis does not merge them, which is slower.
    """
    maps, pixels = (x.reshape(len(x), -1, x.shape[-1]) for x in (maps, pixels))
    return jnp.einsum("mtc,mtd->mcd", maps, pixels)


def _transform_tiles(
    matrix: np.ndarray, x: jax.Array, pads: Pads, size: Pair, tile: int
) -> list[jax.Array]:
    """`_transform` the pixels of x [B, H, W, C] that each tile sees: n of [n, B, I, J, C].

    The I x J tiles cover an output of `size`. Zeros surround x: as many as `pads` says before it,
    and as many as the last tiles see after it.
    """
    down, across = (-(-length // tile) for length in size)
    seen = matrix.shape[1]  # pixels a side
    spans = [
        (before, (count - 1) * tile + seen - length - before, 0)
        for count, length, (before, _) in zip((down, across), x.shape[1:3], pads, strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *spans, (0, 0, 0)])

    def pixels(x: jax.Array, count: int) -> list[jax.Array]:
        """The first pixel that each of `count` tiles sees along axis 2, the second, ...."""
        end = (count - 1) * tile + 1
        return [lax.slice_in_dim(x, i, i + end, tile, axis=2) for i in range(seen)]

    return _transform(matrix, pixels(x, across), by_row=partial(pixels, count=down))


def _transform(
    matrix: np.ndarray,
    x: Sequence[jax.Array],
    by_row: Callable[[jax.Array], Sequence[jax.Array]],
) -> list[jax.Array]:
    """The n rows [n, ...] of matrix [n, r] @ x [r, r] @ matrix.T, where x has arrays as entries.

    x is passed as its columns. Their sums are stacked as a first axis, and `by_row` takes these
    apart into r rows. The barrier has them computed once, not in each row's sum.
    """
    lines = lax.optimization_barrier(_stack_sums(matrix, x, axis=0))
    return [_sum(weights, by_row(lines)) for weights in matrix]


def _sum(weights: np.ndarray, arrays: Sequence[jax.Array]) -> jax.Array:
    return reduce(jnp.add, [x * float(w) for w, x in zip(weights, arrays, strict=True) if w])


def _stack_sums(weights: np.ndarray, arrays: Sequence[jax.Array], axis: int) -> jax.Array:
    """The sums by each row of weights [n, len(arrays)], stacked along a new axis.

    The same as stacking the `_sum` of each row, but one operator and not n, which compiles in a
    fraction of the time and copies nothing.
    """
    shape = [1] * (arrays[0].ndim + 1)
    shape[axis] = len(weights)
    columns = [jnp.asarray(column.reshape(shape), arrays[0].dtype) for column in weights.T]
    parts = [jnp.expand_dims(x, axis) * w for w, x in zip(columns, arrays, strict=True)]
    return reduce(jnp.add, parts)
