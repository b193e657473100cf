"""Convolution in the forms that XLA runs fast on a CPU and on a GPU.

The arguments and, within rounding, the values are those of `operators.convolve`. The forms for a
CPU were chosen by timing whole training steps of LeNet-5 and AlexNet, with JAX 0.10, on two cores,
unless they say otherwise; the forms for a GPU with JAX 0.11 in bfloat16 on an H100.
"""

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.geometry import Pads, Pair, adjoint, output_size
from cnn_jax.ops.winograd import convolve_winograd


def convolve_on_cpu(
    x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, groups: int
) -> jax.Array:
    """Choose the form of a convolution by its shape.

    Groups become convolutions of their own: XLA's grouped convolution takes several times as long.
    XLA hands convolutions to a fast library unless they have at most 16 input and 16 output maps;
    those (LeNet-5's C1 and C3) become matrix products over bands of columns. With many maps and
    3 x 3 or 5 x 5 taps, Winograd's products take two thirds of the time (AlexNet's conv2 to conv5).
    All others, and the strided ones, stay convolutions, each of a part of the batch.
    """
    if groups > 1:
        return _in_groups(convolve_on_cpu, x, kernel, strides, pads, groups)
    if strides == (1, 1) and max(kernel.shape[2:]) <= 16:
        return convolve_bands(x, kernel, pads)
    if strides == (1, 1) and (tile := _winograd_tile(x, kernel, pads)):
        return convolve_winograd(x, kernel, pads, tile)
    return convolve_chunks(x, kernel, strides, pads)


def _winograd_tile(x: jax.Array, kernel: jax.Array, pads: Pads) -> int:
    """The side of a tile, or 0 where `convolve_winograd` is no faster or, in bfloat16, inexact.

    With few maps, the sums that transform them take longer than the products that they save. With
    few pixels, too many are zeros that fill up the last tiles: on 5 x 5 (AlexNet's conv3 to conv5
    for images of 96) the whole step took up to a fifth longer.
    """
    height, width, *maps = kernel.shape
    if x.dtype == jnp.bfloat16 or min(maps) < 48 or min(output_size(x, kernel, pads)) < 7:
        return 0
    return {(3, 3): 2, (5, 5): 3}.get((height, width), 0)


def convolve_on_gpu(
    x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, groups: int
) -> jax.Array:
    """Choose the form of a convolution by its shape.

    cuDNN is made for many maps and one group. Convolutions of at most 16 input and 16 output maps
    become matrix products over bands of columns, which doubles LeNet-5's speed; strided ones of few
    input maps are folded, without which conv1 took a third of AlexNet's step; groups become
    convolutions of their own.
    """
    if groups > 1:
        return _in_groups(convolve_on_gpu, x, kernel, strides, pads, groups)
    if strides == (1, 1) and max(kernel.shape[2:]) <= 16:
        return convolve_bands(x, kernel, pads)
    if max(strides) > 1 and x.shape[-1] <= 4:
        return convolve_folded(x, kernel, strides, pads)
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_DIMENSIONS)


def _in_groups(
    convolve: Callable[..., jax.Array],
    x: jax.Array,
    kernel: jax.Array,
    strides: Pair,
    pads: Pads,
    groups: int,
) -> jax.Array:
    """Convolve each group of maps by a call of its own."""
    parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
    return jnp.concatenate([convolve(a, b, strides, pads, groups=1) for a, b in parts], -1)


def convolve_folded(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """Strided convolution as one of stride 1 over maps that hold a block of pixels each.

    Every block of strides[0] x strides[1] pixels of a map becomes as many maps of one pixel. So it
    does in the kernel, which zeros fill up to whole blocks: 11x11 pixels of 3 maps, 4 apart, become
    3x3 of 48. Also known as space-to-depth. On two CPU cores conv1 took twice as long in this form.
    """
    axes = list(zip(kernel.shape, x.shape[1:3], strides, pads, strict=False))
    windows = [-(-size // stride) for size, _, stride, _ in axes]  # in blocks
    counts = [
        (length + sum(pad) - size) // stride + window
        for (size, length, stride, pad), window in zip(axes, windows, strict=True)
    ]
    maps = _fold(x, counts, strides, before=[pad[0] for pad in pads])
    kernels = _fold(jnp.moveaxis(kernel, -1, 0), windows, strides, before=[0, 0])
    return lax.conv_general_dilated(
        maps, jnp.moveaxis(kernels, 0, -1), (1, 1), "VALID", dimension_numbers=_DIMENSIONS
    )


def _fold(x: jax.Array, counts: list[int], size: Pair, before: list[int]) -> jax.Array:
    """Cut maps [B, H, W, C] into blocks of pixels [B, *counts, size[0] * size[1] * C].

    So many zeros stand `before` the maps; after them zeros fill up the blocks, or what is in excess
    is cut off.
    """
    (down, across), (batch, *lengths, channels) = size, x.shape
    after = [
        count * n - length - first
        for count, n, length, first in zip(counts, size, lengths, before, strict=True)
    ]
    pads = [(0, 0, 0), *((a, b, 0) for a, b in zip(before, after, strict=True)), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    x = x.reshape(batch, counts[0], down, counts[1], across, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *counts, down * across * channels)


def convolve_bands(x: jax.Array, kernel: jax.Array, pads: Pads) -> jax.Array:
    """Stride-1 convolution as one matrix product for a block of neighbouring columns.

    A row of the left matrix is a patch as high as the kernel and wide enough for the whole block,
    gathered in long contiguous pieces; the right matrix holds the kernel once per column of the
    block, shifted and surrounded by zeros (a banded Toeplitz matrix). The product has block times
    as many columns as there are maps, which suits a matrix unit where 6 or 16 columns do not, and
    the patches overlap less, at the price of (block + kernel width - 1) / kernel width times the
    multiplications.

    Up to 10 columns are one block (C3). More are cut into equal blocks of 4 to 8 columns, as few as
    possible in each (C1: 28 columns, 7 blocks). Where none divides them, blocks have 4 columns and
    the columns in excess are dropped.
    """
    kernel_height, kernel_width, _, features = kernel.shape
    batch, _, _, channels = x.shape
    rows, columns = output_size(x, kernel, pads)
    block = columns if columns <= 10 else next((n for n in range(4, 9) if columns % n == 0), 4)
    blocks = -(-columns // block)
    left, right = pads[1]
    x = jnp.pad(x, ((0, 0), pads[0], (left, right + blocks * block - columns), (0, 0)))

    span = block + kernel_width - 1
    pieces = jnp.stack(
        [
            x[:, :, start : start + span].reshape(batch, x.shape[1], span * channels)
            for start in range(0, blocks * block, block)
        ],
        axis=2,
    )
    patches = jnp.concatenate([pieces[:, row : row + rows] for row in range(kernel_height)], -1)
    copies = [
        jnp.pad(kernel, ((0, 0), (shift, block - 1 - shift), (0, 0), (0, 0)))
        for shift in range(block)
    ]
    length = kernel_height * span * channels
    left_matrix = patches.reshape(batch * rows * blocks, length)
    right_matrix = jnp.stack(copies, axis=3).reshape(length, block * features)
    y = (left_matrix @ right_matrix).reshape(batch, rows, blocks * block, features)
    return y[:, :, :columns]


def convolve_chunks(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """Convolution of up to 8 equal parts of the batch, as many as divide it.

    XLA's library runs some convolutions of large maps on one core; independent ones share the
    cores, and the smaller intermediate results stay in the cache.
    """
    count = next(n for n in range(8, 0, -1) if x.shape[0] % n == 0)
    return jnp.concatenate([_convolve(part, kernel, strides, pads) for part in jnp.split(x, count)])


_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """XLA's convolution with gradients that stay fast inside `lax.scan`.

    JAX writes the gradients of a convolution as convolutions with permuted dimensions. XLA's CPU
    compiler brings these into the order that its library takes, but only outside of loops: in the
    body of a scan they become plain loops, 4 to 30 times slower (jax-ml/jax issue 12868).
    Here the permutations are explicit transpositions and every convolution is in the right order.
    The price is forward-mode differentiation, which custom_vjp functions do not have.
    """
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_DIMENSIONS)


def _convolve_forward(x, kernel, strides: Pair, pads: Pads):
    return _convolve(x, kernel, strides, pads), (x, kernel)


def _convolve_backward(strides: Pair, pads: Pads, residuals, dy: jax.Array):
    x, kernel = residuals
    turned, x_pads = adjoint(x, kernel, dy, strides, pads)
    dx = lax.conv_general_dilated(
        dy, turned, (1, 1), x_pads, lhs_dilation=strides, dimension_numbers=_DIMENSIONS
    )
    kernel_pads = [
        (size - 1 - before, size - 1 - after)  # what x was padded by, less what no window reached
        for size, (before, after) in zip(kernel.shape[:2], x_pads, strict=True)
    ]
    count = _gradient_parts(x.shape[0], dy.shape[1] * dy.shape[2])
    parts = [
        lax.conv_general_dilated(
            # The maps of x are the batch here, the examples are the maps, and dy is the kernel.
            images.transpose(3, 1, 2, 0),
            dmaps.transpose(1, 2, 0, 3),
            (1, 1),
            kernel_pads,
            rhs_dilation=strides,
            dimension_numbers=_DIMENSIONS,
        )
        for images, dmaps in zip(jnp.split(x, count), jnp.split(dy, count), strict=True)
    ]
    dkernel = reduce(jnp.add, parts)
    return dx, dkernel.transpose(1, 2, 0, 3)


def _gradient_parts(images: int, positions: int) -> int:
    """The number of parts, up to 4, in which to sum the gradient of a kernel.

    The gradient is a sum over the `positions` of all `images`. The library's convolution is fastest
    where the sum has a few thousand terms, and slow below several hundred: the parts are equal and
    have at least 512. Chosen by the CPU time of AlexNet's layers one by one, at a batch of 32, and
    not of whole steps. The price is up to 4 times as many operators to compile and, in bfloat16, a
    rounding more per part.
    """
    return next(
        n for n in (4, 3, 2, 1) if n == 1 or images % n == 0 and images // n * positions >= 512
    )


_convolve.defvjp(_convolve_forward, _convolve_backward)
