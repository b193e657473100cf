"""Layers that Flax lacks, or that it does not make fast on a CPU.

First the pure functions, then the Linen modules around them. Images and feature maps are
[B, H, W, C], kernels [height, width, input channels / groups, output channels].

Convolution, pooling, response normalisation and large dense products have two forms with the same
values: those here, XLA's own operators, for accelerators, and those of `cpu_forms`. `forms` alone
chooses between them.
"""

import contextlib
import math
import os
import zlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Initializer
from jax import lax
from jax.typing import DTypeLike

from cnn_jax.errors import UserError
from cnn_jax.models import cpu_forms
from cnn_jax.models.cpu_forms import Pads, Pair


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
    """Largest value of each window x window patch of every map; no padding."""
    return nn.max_pool(x, (window, window), (stride, stride))


def avg_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Mean of each window x window patch of every map; no padding."""
    sums = nn.pool(x, 0.0, lax.add, (window, window), (stride, stride), "VALID")
    return sums / (window * window)


def local_response_norm(x: jax.Array, k: float, n: int, alpha: float, beta: float) -> jax.Array:
    """Divide x [B, H, W, C] by (k + alpha * sum of squares over n adjacent maps) ** beta.

    The sum is not divided by n, as printed in Krizhevsky et al. (2012), section 3.3. Caffe and
    cuda-convnet2 divide it, so that their alpha is n times as large as here. At the first and last
    maps it has fewer terms. Computed in float32.
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

    As products with one matrix for the rows and one for the columns: on two CPU cores sums of
    shifted slices and XLA's convolution with a group per map took longer, gradients included.
    """
    rows, columns = (
        jnp.asarray(_blur_matrix(size, taps, stride), x.dtype) for size in x.shape[1:3]
    )
    x = jnp.einsum("yh,bhwc->bywc", rows, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum("xw,bywc->byxc", columns, x, precision=lax.Precision.HIGHEST)


def _blur_matrix(size: int, taps: int, stride: int) -> np.ndarray:
    """[ceil(size / stride), size]: what each pixel of a line gives to each blurred one."""
    weights = [math.comb(taps - 1, i) / 2 ** (taps - 1) for i in range(taps)]
    reflected = np.pad(np.arange(size), ((taps - 1) // 2, taps // 2), mode="reflect")
    matrix = np.zeros((-(-size // stride), size))
    for row, start in zip(matrix, range(0, size, stride), strict=True):
        np.add.at(row, reflected[start : start + taps], weights)
    return matrix


def dropout(x: jax.Array, keys: jax.Array, rate: float, salt: int) -> jax.Array:
    """Zero each value with probability `rate` and divide the others by 1 - rate.

    The mask of example i is drawn from keys[i] and `salt` alone, so it does not depend on the rest
    of the batch, nor on how the batch is spread over devices.
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


_counted: ContextVar[bool] = ContextVar("counted", default=False)


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
    """Inside, networks are traced with the plain forms: to count work, and not to run fast."""
    token = _counted.set(True)
    try:
        yield
    finally:
        _counted.reset(token)


def forms(backend: str | None = None) -> Forms:
    """The fast forms for a backend ("cpu", "gpu", ...), by default the one JAX is running on."""
    if (backend or jax.default_backend()) == "cpu" and not _counted.get():
        return Forms(
            cpu_forms.convolve,
            cpu_forms.max_pool,
            cpu_forms.avg_pool,
            cpu_forms.dense_product,
            cpu_forms.local_response_norm,
        )
    # The gradient of `max_pool` selects and scatters, of which XLA has no deterministic kernel for
    # GPUs: it refuses to compile it when told to be deterministic (openxla/xla, determinism.md).
    deterministic = "--xla_gpu_deterministic_ops=true" in os.environ.get("XLA_FLAGS", "")
    pool = cpu_forms.max_pool if deterministic else max_pool
    return Forms(convolve, pool, avg_pool, jnp.matmul, local_response_norm)


class Conv(nn.Module):
    """Convolution (cross-correlation) with a bias per output map.

    features: output maps D. kernel_size and strides: one number, or (height, width).
    padding: "VALID", "SAME", one number for all four sides, or ((top, bottom), (left, right)).
    groups: input and output maps fall into this many groups that do not see each other.
    Parameters: kernel [height, width, C / groups, D] and bias [D], float32; `dtype` is what the
    convolution computes in and returns.

    Raises ValueError if the kernel does not fit into the padded maps, or the groups do not divide
    the maps.
    """

    features: int
    kernel_size: int | Pair
    strides: int | Pair = 1
    padding: str | int | Pads = "VALID"
    groups: int = 1
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to maps [B, H', W', features]."""
        channels = x.shape[-1]
        if channels % self.groups or self.features % self.groups:
            raise ValueError(
                f"{self.name}: {self.groups} groups do not divide "
                f"{channels} input and {self.features} output maps"
            )
        size, strides = _pair(self.kernel_size), _pair(self.strides)
        pads = _pads(self.padding, x.shape[1:3], size, strides)
        _check_fits(self, x, size, pads)
        kernel_shape = (*size, channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, kernel_shape, jnp.float32)
        y = forms().convolve(
            x.astype(self.dtype), kernel.astype(self.dtype), strides, pads, self.groups
        )
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            y += bias.astype(self.dtype)[None, None, None]
        return y


def _product(x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any) -> jax.Array:
    """What `nn.Dense` asks `lax.dot_general` for: x [B, inputs] times kernel [inputs, outputs]."""
    if x.ndim != 2 or options.get("precision") is not None:
        return lax.dot_general(x, kernel, dimensions, **options)
    return forms().dense_product(x, kernel)


class Dense(nn.Dense):
    """Flax's fully connected layer, for large kernels: its product is in the form for the backend.

    Fields and parameters are those of `nn.Dense`.
    """

    dot_general: Any = _product


class MaxPool(nn.Module):
    """Maximum over window x window patches, `stride` apart; no padding.

    The gradient of a maximum that occurs twice in a window goes to the first place, row by row.
    Raises ValueError if the window is larger than the map.
    """

    window: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, (H - window) // stride + 1, ..., C]."""
        _check_fits(self, x, (self.window, self.window))
        return forms().max_pool(x, self.window, self.stride)


class AvgPool(nn.Module):
    """Mean over window x window patches, `stride` apart; no padding.

    Raises ValueError if the window is larger than the map.
    """

    window: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, (H - window) // stride + 1, ..., C]."""
        _check_fits(self, x, (self.window, self.window))
        return forms().avg_pool(x, self.window, self.stride)


class BlurPool(nn.Module):
    """Downsampling by `stride` after a binomial blur, against aliasing. No parameters.

    taps: length of the filter, 1 to 7: 1 only subsamples, 2 is the paper's Rect-2, 3 Tri-3, 5
    Bin-5. Source: Zhang (2019), Making convolutional networks shift-invariant again, section 3;
    the padding by reflection and 4 taps are those of its code (adobe/antialiased-cnns).

    Raises ValueError for other taps, and for maps too small to be reflected.
    """

    taps: int = 3
    stride: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to maps [B, ceil(H / stride), ceil(W / stride), C]."""
        if not 1 <= self.taps <= 7:
            raise ValueError(f"{self.name}: a blur has 1 to 7 taps, got {self.taps}")
        _check_fits(self, x, (self.taps // 2 + 1, self.taps // 2 + 1))
        return blur_pool(x, self.taps, self.stride)


class LocalResponseNorm(nn.Module):
    """Competition between adjacent maps at the same position, with the paper's constants.

    b_i = a_i / (k + alpha * sum of a_j^2 for |j - i| <= n // 2) ^ beta, the sum not divided by n.
    Source: Krizhevsky, Sutskever and Hinton (2012), section 3.3. Where the sum is divided by n
    (Caffe, cuda-convnet2), write alpha=1e-4 / 5. Raises ValueError if n is even.
    """

    k: float = 2.0
    n: int = 5
    alpha: float = 1e-4
    beta: float = 0.75

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to maps of the same shape and dtype."""
        if self.n % 2 == 0:
            raise ValueError(f"{self.name}: n must be odd, a map and its neighbours; got {self.n}")
        return forms().local_response_norm(x, self.k, self.n, self.alpha, self.beta)


class Dropout(nn.Module):
    """Zero values with probability `rate` while training, and divide the others by 1 - rate.

    The division in training stands for the multiplication by 1 - rate at test time of Krizhevsky
    et al. (2012), section 4.2. Each module draws its own masks: its path in the model is mixed into
    the keys. Raises ValueError unless 0 <= rate < 1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Values [B, ...] with one typed key per example [B]; the identity if `keys` is None."""
        if not 0 <= self.rate < 1:
            raise ValueError(f"{self.name}: rate must be in [0, 1), got {self.rate}")
        if keys is None or self.rate == 0:
            return x
        return dropout(x, keys, self.rate, salt=zlib.crc32("/".join(self.path).encode()))


def check_image_size(model: nn.Module, images: jax.Array, smallest: int) -> None:
    """Raise UserError if images [B, H, W, C] are smaller than the model's layers can take."""
    height, width = images.shape[1:3]
    if min(height, width) < smallest:
        raise UserError(
            f"{type(model).__name__} needs images of at least {smallest}x{smallest} pixels, "
            f"got {height}x{width}"
        )


def _check_fits(layer: nn.Module, x: jax.Array, window: Pair, pads: Pads = ((0, 0), (0, 0))):
    height, width = (size + sum(pad) for size, pad in zip(x.shape[1:3], pads, strict=True))
    if height < window[0] or width < window[1]:
        raise ValueError(
            f"{layer.name}: a {window[0]}x{window[1]} window does not fit maps of {height}x{width}"
        )


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def _pads(padding: str | int | Pads, size: tuple[int, ...], window: Pair, strides: Pair) -> Pads:
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    if isinstance(padding, str):
        rows, columns = lax.padtype_to_pads(size, window, strides, padding)
        return (rows, columns)
    return padding
