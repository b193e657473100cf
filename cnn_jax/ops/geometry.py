"""The size of a convolution's output, and the convolution that is its gradient."""

import jax
import jax.numpy as jnp

Pair = tuple[int, int]  # along rows and columns
Pads = tuple[Pair, Pair]  # (before, after) of each


def output_size(x: jax.Array, kernel: jax.Array, pads: Pads) -> Pair:
    """Rows and columns of the convolution of x [B, H, W, C] with kernel [h, w, C, D], stride 1."""
    height, width = (x.shape[1 + i] + sum(pads[i]) - kernel.shape[i] + 1 for i in (0, 1))
    return height, width


def adjoint(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, strides: Pair, pads: Pads
) -> tuple[jax.Array, Pads]:
    """The kernel [h, w, D, C] and the pads that convolve dy [B, H', W', D] to the gradient of x.

    Each pixel of x collects the outputs that it went into: the kernel is turned by 180 degrees, and
    the stride is 1. Where `strides` are larger, zeros stand between the pixels of dy
    (`lhs_dilation`).
    """
    x_pads = []
    for axis in (0, 1):
        size, window, before = x.shape[1 + axis], kernel.shape[axis], pads[axis][0]
        span = (dy.shape[1 + axis] - 1) * strides[axis] + 1
        x_pads.append((window - 1 - before, size + before - span))
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3), (x_pads[0], x_pads[1])
