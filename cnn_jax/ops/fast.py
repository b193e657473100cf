"""Pooling, normalisation, tanh and dense products in forms that XLA runs faster than its own.

The arguments and, within rounding, the values are those of the functions of the same names in
`operators`, whose docstrings say what they compute; the docstrings here say why another form is
faster. All forms were chosen by timing whole training steps of LeNet-5 and AlexNet, with JAX 0.10,
on two CPU cores; which of them suit a GPU was timed with JAX 0.11 in bfloat16 on an H100. For
convolutions see `convolution`.
"""

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax
from numpy.polynomial import Polynomial


@jax.custom_vjp
def dense_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The product of x [B, inputs] with a kernel [inputs, outputs] of many more rows than x has.

    XLA's library first copies such a kernel into an order of its own, which takes longer than the
    product. With both sides transposed the product goes to another library, which does not copy;
    the barrier keeps XLA from turning it back. The gradients are fast as they are, and written out
    to stay so.
    """
    if kernel.size < 1 << 20:
        return x @ kernel
    return lax.dot_general(kernel, lax.optimization_barrier(x.T), (((0,), (0,)), ((), ()))).T


def _dense_backward(residuals, dy: jax.Array):
    x, kernel = residuals
    return dy @ kernel.T, x.T @ dy


dense_product.defvjp(lambda x, kernel: (dense_product(x, kernel), (x, kernel)), _dense_backward)


def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """The maximum along the columns, then along the rows: 2 * window slices, not window ** 2.

    The place of the first maximum of each window is kept for the gradient: every pixel compares its
    own place with it, in each window that it is in. That is a fused selection, where
    `reduce_window` scatters and `jnp.maximum` pads and adds each slice.
    """
    return _max_pool(x, window, stride, x.shape[1:3])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, window: int, stride: int, size: tuple[int, ...]) -> jax.Array:
    return _pool(x, window, stride, jnp.maximum)


def _max_pool_forward(x, window: int, stride: int, size: tuple[int, ...]):
    # A place is row * reach + column, with reach the window's length rounded up to whole strides.
    reach = -(-window // stride) * stride
    largest, places = x, jnp.zeros(x.shape, jnp.int32)
    for axis, unit in ((2, 1), (1, reach)):
        values = _shifted(largest, window, stride, axis)
        candidates = _shifted(places, window, stride, axis)
        largest, places = reduce(jnp.maximum, values), candidates[0]
        for k in reversed(range(window)):  # so that the first of equal ones is what stays
            places = jnp.where(values[k] == largest, k * unit + candidates[k], places)
    return largest, places


def _max_pool_backward(window: int, stride: int, size: tuple[int, ...], places, dy: jax.Array):
    reach = -(-window // stride) * stride
    back = reach // stride - 1  # windows that a pixel is in, besides the last to begin before it
    pads = [(back, -(-n // stride) - m) for n, m in zip(size, dy.shape[1:3], strict=True)]
    pads = ((0, 0), *pads, (0, 0))
    dy, places = jnp.pad(dy, pads), jnp.pad(places, pads, constant_values=-1)
    rows, columns = (jnp.arange(length) % stride for length in size)

    def from_windows(up: int, left: int) -> jax.Array:
        """The gradient of each pixel from the windows so many strides before its last one."""

        def spread(x: jax.Array) -> jax.Array:
            x = x[:, back - up :, back - left :]
            return jnp.repeat(jnp.repeat(x, stride, 1), stride, 2)[:, : size[0], : size[1]]

        place = (rows[:, None] + up * stride) * reach + columns + left * stride
        return jnp.where(spread(places) == place[..., None], spread(dy), 0)

    parts = [from_windows(up, left) for up in range(back + 1) for left in range(back + 1)]
    return (reduce(jnp.add, parts),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def avg_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Sums of shifted slices along the rows, then the columns, which XLA fuses with neighbours."""
    return _pool(x, window, stride, jnp.add) / (window * window)


def _pool(x: jax.Array, window: int, stride: int, combine: Callable[..., jax.Array]) -> jax.Array:
    for axis in (1, 2):
        x = reduce(combine, _shifted(x, window, stride, axis))
    return x


def _shifted(x: jax.Array, window: int, stride: int, axis: int) -> list[jax.Array]:
    """The first, second, ... pixel of every window along an axis."""
    last = (x.shape[axis] - window) // stride * stride
    return [lax.slice_in_dim(x, k, k + last + 1, stride, axis) for k in range(window)]


def local_response_norm(x: jax.Array, k: float, n: int, alpha: float, beta: float) -> jax.Array:
    """Sums over adjacent maps as a product with a banded matrix of ones.

    The maps are the contiguous dimension, along which `reduce_window` and shifted sums are slow;
    the product does C / n times the additions and is still faster. For the paper's beta the power
    -0.75 is taken by square roots, which are vector instructions, unlike `pow`.
    """
    maps = jnp.arange(x.shape[-1])
    band = (jnp.abs(maps[:, None] - maps[None, :]) <= n // 2).astype(jnp.float32)
    scale = k + alpha * (jnp.square(x.astype(jnp.float32)) @ band)
    if beta == 0.75:
        root = lax.rsqrt(scale)
        factor = root * jnp.sqrt(root)
    else:
        factor = jnp.power(scale, -beta)
    return x * factor.astype(x.dtype)


def _lambert(terms: int) -> tuple[list[float], list[float]]:
    """Coefficients of P and Q, by rising powers of x squared, where tanh x is nearly x P / Q.

    It is Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...))) with so many terms.
    """
    p, q = Polynomial([1.0]), Polynomial([2.0 * terms - 1])
    for odd in range(2 * terms - 3, 0, -2):
        p, q = q, odd * q + Polynomial([0.0, 1.0]) * p
    return [float(c) for c in p.coef / q.coef[0]], [float(c) for c in q.coef / q.coef[0]]


LAMBERT = _lambert(13)


@jax.custom_jvp
def tanh(x: jax.Array) -> jax.Array:
    """The tanh of float32 by Lambert's continued fraction, of other types by XLA.

    It is within 4e-7 and never beyond 1; from 8 on, where 3e-7 is missing to 1, it is constant.
    XLA's tanh is as exact and takes two to four times as long where a bias is added on the way.
    """
    if x.dtype != jnp.float32:
        return jnp.tanh(x)
    x = lax.clamp(jnp.float32(-8), x, jnp.float32(8))
    square = x * x
    top, bottom = (reduce(lambda y, c: y * square + c, reversed(part)) for part in LAMBERT)
    return x * top / bottom


tanh.defjvps(lambda dx, y, x: dx * (1 - y * y))
