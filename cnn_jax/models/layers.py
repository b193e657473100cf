"""Layers that Flax lacks, or has in slower forms, as Linen modules around `ops.operators`."""

import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax import lax
from jax.typing import DTypeLike

from cnn_jax.errors import UserError
from cnn_jax.ops.geometry import Pads, Pair
from cnn_jax.ops.operators import blur_pool, dropout, forms


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
    """`nn.Dense`'s call of `lax.dot_general`: x [B, inputs] times kernel [inputs, outputs]."""
    if x.ndim != 2 or options.get("precision") is not None:
        return lax.dot_general(x, kernel, dimensions, **options)
    return forms().dense_product(x, kernel)


class Dense(nn.Dense):
    """Flax's fully connected layer with a product that is faster for large kernels.

    Fields and parameters are those of `nn.Dense`.
    """

    dot_general: Any = _product


class MaxPool(nn.Module):
    """The maximum of each window x window patch; patches are `stride` apart, without padding.

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
    """The mean of each window x window patch; patches are `stride` apart, without padding.

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
    """Downsample by `stride` after a binomial blur, which prevents aliasing. No parameters.

    taps: length of the filter, 1 to 7: 1 only subsamples, 2 is the paper's Rect-2, 3 Tri-3, 5
    Bin-5. Source: Zhang (2019), Making convolutional networks shift-invariant again, section 3;
    the padding by reflection and 4 taps are those of its code (adobe/antialiased-cnns).

    Raises UserError for other taps, ValueError for maps too small to be reflected.
    """

    taps: int = 3
    stride: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to maps [B, ceil(H / stride), ceil(W / stride), C]."""
        if not 1 <= self.taps <= 7:
            raise UserError(f"{self.name}: a blur has 1 to 7 taps, got {self.taps}")
        _check_fits(self, x, (self.taps // 2 + 1, self.taps // 2 + 1))
        return blur_pool(x, self.taps, self.stride)


class LocalResponseNorm(nn.Module):
    """Divide every map by a power of the squares of its neighbours at the same position.

    b_i = a_i / (k + alpha * sum of a_j^2 for |j - i| <= n // 2) ^ beta, with the paper's constants;
    the sum is not divided by n. Source: Krizhevsky, Sutskever and Hinton (2012), section 3.3. Where
    the sum is divided by n (Caffe, cuda-convnet2), write alpha=1e-4 / 5. Raises ValueError if n is
    even.
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

    Krizhevsky et al. (2012), section 4.2, instead multiply by 1 - rate at test time. Each module
    draws its own masks, since its path in the model is mixed into the keys. Raises UserError unless
    0 <= rate < 1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Values [B, ...] with one typed key per example [B]; unchanged if `keys` is None."""
        if not 0 <= self.rate < 1:
            raise UserError(f"{self.name}: dropout rate must be in [0, 1), got {self.rate}")
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
