"""The layers' functions in XLA's own operators, and the choice of their form by the hardware.

Images and feature maps are [B, H, W, C], kernels [height, width, input channels / groups, output
channels]. Convolution, pooling, response normalisation, tanh and large dense products have faster
forms of the same values in `convolution` and `fast`; `forms` alone chooses between them.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops import fast
from cnn_jax.ops.convolution import convolve_on_cpu, convolve_on_gpu
from cnn_jax.ops.geometry import Pads, Pair


def convolve(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, groups: int) -> jax.Array:
    """Cross-correlate x [B, H, W, C] with kernel [h, w, C / groups, D]; result [B, H', W', D]."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """The largest value of each window x window patch of every map; no padding."""
    return nn.max_pool(x, (window, window), (stride, stride))


def avg_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """The mean of each window x window patch of every map; no padding."""
    sums = nn.pool(x, 0.0, lax.add, (window, window), (stride, stride), "VALID")
    return sums / (window * window)


def local_response_norm(x: jax.Array, k: float, n: int, alpha: float, beta: float) -> jax.Array:
    """Divide x [B, H, W, C] by (k + alpha * sum of squares over n adjacent maps) ** beta.

    The sum is not divided by n, as printed in Krizhevsky et al. (2012), section 3.3. Caffe and
    cuda-convnet2 divide it, so their alpha is n times as large as here. At the first and last maps
    the sum has fewer terms. It is computed in float32.
    """
    squares = jnp.square(x.astype(jnp.float32))
    sums = lax.reduce_window(
        squares, 0.0, lax.add, (1, 1, 1, n), (1, 1, 1, 1), [(0, 0)] * 3 + [(n // 2, n // 2)]
    )
    return x * jnp.power(k + alpha * sums, -beta).astype(x.dtype)


def blur_pool(x: jax.Array, taps: int, stride: int) -> jax.Array:
    """Blur every map of x [B, H, W, C] by a binomial filter, then keep each `stride`-th pixel.

    The filter has taps x taps binomial coefficients, divided by their sum. The maps are padded by
    their reflection, (taps - 1) // 2 pixels before and taps // 2 after, so that the result is
    [B, ceil(H / stride), ceil(W / stride), C].

    Computed as products with one matrix for the rows and one for the columns: on two CPU cores,
    sums of shifted slices and XLA's convolution with a group per map took longer, gradients
    included.
    """
    rows, columns = (
        jnp.asarray(_blur_matrix(size, taps, stride), x.dtype) for size in x.shape[1:3]
    )
    x = jnp.einsum("yh,bhwc->bywc", rows, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum("xw,bywc->byxc", columns, x, precision=lax.Precision.HIGHEST)


def _blur_matrix(size: int, taps: int, stride: int) -> np.ndarray:
    """The weight [ceil(size / stride), size] of each pixel of a line in each blurred pixel."""
    weights = [math.comb(taps - 1, i) / 2 ** (taps - 1) for i in range(taps)]
    reflected = np.pad(np.arange(size), ((taps - 1) // 2, taps // 2), mode="reflect")
    matrix = np.zeros((-(-size // stride), size))
    for row, start in zip(matrix, range(0, size, stride), strict=True):
        np.add.at(row, reflected[start : start + taps], weights)
    return matrix


def dropout(x: jax.Array, keys: jax.Array, rate: float, salt: int) -> jax.Array:
    """Zero each value with probability `rate` and divide the others by 1 - rate.

    The mask of example i is drawn from keys[i] and `salt` alone. So it does not depend on the rest
    of the batch or on how the batch is spread over devices.
    """

    def mask(key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, salt), 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(mask)(keys), x / (1 - rate), jnp.zeros_like(x))


class Forms(NamedTuple):
    """The functions whose fastest form depends on the hardware, with the signatures above."""

    convolve: Callable[..., jax.Array]
    max_pool: Callable[..., jax.Array]
    avg_pool: Callable[..., jax.Array]
    dense_product: Callable[..., jax.Array]
    local_response_norm: Callable[..., jax.Array]
    tanh: Callable[[jax.Array], jax.Array]


PLAIN = Forms(convolve, max_pool, avg_pool, jnp.matmul, local_response_norm, jnp.tanh)
_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
    """Trace networks with the plain forms inside: to count their work or to compile them sooner."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def forms(backend: str | None = None) -> Forms:
    """The fast forms for a backend ("cpu", "gpu", ...), by default the one JAX is running on."""
    backend = backend or jax.default_backend()
    if _plain.get():
        return PLAIN
    if backend == "cpu":
        return Forms(
            convolve_on_cpu,
            fast.max_pool,
            fast.avg_pool,
            fast.dense_product,
            fast.local_response_norm,
            fast.tanh,
        )
    if backend == "gpu":
        # The gradient of the plain maximum selects and scatters, which XLA also refuses to compile
        # for GPUs if it must be deterministic (openxla/xla, determinism.md).
        pools = (fast.max_pool, fast.avg_pool)
        return Forms(convolve_on_gpu, *pools, jnp.matmul, local_response_norm, jnp.tanh)
    return PLAIN


def tanh(x: jax.Array) -> jax.Array:
    """The hyperbolic tangent, an activation, in the form that suits the hardware."""
    return forms().tanh(x)
