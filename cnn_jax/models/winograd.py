"""Convolution of small kernels with fewer multiplications, as matrix products.

Sources: Winograd (1980), Arithmetic complexity of computations; Lavin and Gray (2016), Fast
algorithms for convolutional neural networks, CVPR, sections 4 and 5.

The output is cut into tiles of `tile` pixels a side. Two polynomials of degrees tile - 1 and r - 1
multiply by their values at tile + r - 1 points; a tile of the output of a kernel of r taps is the
transpose of that product. So as many multiplications do for a tile and an axis, where sums over the
taps take tile * r: 16 in place of 36 for 2 x 2 pixels and 3 x 3 taps. Each of them is, over all
tiles, input maps and output maps, a matrix product. What goes in and comes out passes through small
constant matrices, which cost additions of whole maps.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.models.geometry import Pads, backward, output_size

Grid = list[list[jax.Array]]  # arrays of one shape, by row and column

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
    """Convolution of stride 1, the same values as `operators.convolve` gives but for rounding.

    In float32 the largest error, as a share of the largest value, is some 1e-6 for tiles of 2 and
    3 x 3 taps, as in plain sums, and for tiles of 3 and 5 x 5 taps some 5e-6, of the kernel's
    gradient 2e-5. The gradients, written out, take as many products by the same matrices.

    Args:
        x: maps [B, H, W, C], of float32 or finer: sums of maps lose what bfloat16 does not hold.
        kernel: [h, w, C, D].
        tile: pixels a side, at most 8 less the kernel's larger side.
    """
    (rows, columns), (height, width) = _matrices_of(kernel, tile), output_size(x, kernel, pads)
    maps = _transform(rows.input, columns.input, _windows(x, kernel, pads, tile))
    kernels = _transform(rows.kernel, columns.kernel, [list(taps) for taps in kernel])
    products = _each(jnp.matmul, maps, kernels)
    tiles = _transform(rows.output.T, columns.output.T, products)
    # The pixels [tile][tile] of [B, I, J, D] tiles, side by side.
    y = jnp.stack([jnp.stack(line, axis=3) for line in tiles], axis=2)
    batch, down, _, across, _, features = y.shape
    return y.reshape(batch, down * tile, across * tile, features)[:, :height, :width]


def _forward(x, kernel, pads: Pads, tile: int):
    return convolve_winograd(x, kernel, pads, tile), (x, kernel)


def _backward(pads: Pads, tile: int, residuals, dy: jax.Array):
    x, kernel = residuals
    dx = convolve_winograd(dy, *backward(x, kernel, dy, (1, 1), pads), tile)

    rows, columns = _matrices_of(kernel, tile)
    maps = _transform(rows.input, columns.input, _windows(x, kernel, pads, tile))
    pixels = _transform(rows.output, columns.output, _tiles(dy, tile))
    products = _each(_over_positions, maps, pixels)
    dkernel = _transform(rows.kernel.T, columns.kernel.T, products)
    return dx, jnp.stack([jnp.stack(line) for line in dkernel])


convolve_winograd.defvjp(_forward, _backward)


def _over_positions(x: jax.Array, y: jax.Array) -> jax.Array:
    """[C, D], sums over all other axes of x [..., C] and y [..., D]; `einsum` leaves them apart."""
    return x.reshape(-1, x.shape[-1]).T @ y.reshape(-1, y.shape[-1])


def _matrices_of(kernel: jax.Array, tile: int) -> tuple[_Matrices, _Matrices]:
    return matrices(tile, kernel.shape[0]), matrices(tile, kernel.shape[1])


def _windows(x: jax.Array, kernel: jax.Array, pads: Pads, tile: int) -> Grid:
    """The pixels that tiles are computed from: [tile + h - 1][tile + w - 1] of [B, I, J, C]."""
    counts = [-(-size // tile) for size in output_size(x, kernel, pads)]
    windows = [tile + taps - 1 for taps in kernel.shape[:2]]
    spans = [
        (before, count * tile + window - tile - length - before, 0)
        for count, window, length, (before, _) in zip(
            counts, windows, x.shape[1:3], pads, strict=True
        )
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *spans, (0, 0, 0)])
    return _every(x, windows, counts, tile)


def _tiles(y: jax.Array, tile: int) -> Grid:
    """The pixels of tiles, which zeros complete: [tile][tile] of [B, I, J, D]."""
    counts = [-(-size // tile) for size in y.shape[1:3]]
    spans = [(0, n * tile - size) for n, size in zip(counts, y.shape[1:3], strict=True)]
    return _every(jnp.pad(y, ((0, 0), *spans, (0, 0))), [tile, tile], counts, tile)


def _every(x: jax.Array, starts: Sequence[int], counts: Sequence[int], stride: int) -> Grid:
    """So many pixels a `stride` apart along both axes of x [B, H, W, C], from each start on."""
    batch, _, _, maps = x.shape
    reach = [(n - 1) * stride + 1 for n in counts]
    return [
        [
            lax.slice(
                x, (0, i, j, 0), (batch, i + reach[0], j + reach[1], maps), (1, stride, stride, 1)
            )
            for j in range(starts[1])
        ]
        for i in range(starts[0])
    ]


def _transform(rows: np.ndarray, columns: np.ndarray, grid: Grid) -> Grid:
    """rows @ grid @ columns.T, where the entries of the grid are arrays."""
    lines = [[_combine(row, line) for line in zip(*grid, strict=True)] for row in rows]
    return [[_combine(column, line) for column in columns] for line in lines]


def _combine(weights: np.ndarray, arrays: Sequence[jax.Array]) -> jax.Array:
    parts = [x * float(w) for w, x in zip(weights, arrays, strict=True) if w]
    return reduce(jnp.add, parts)


def _each(function: Callable[..., jax.Array], one: Grid, other: Grid) -> Grid:
    return [[*map(function, *lines)] for lines in zip(one, other, strict=True)]
