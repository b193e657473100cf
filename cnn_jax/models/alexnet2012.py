"""AlexNet of the ILSVRC paper: Krizhevsky, Sutskever and Hinton (2012), ImageNet classification
with deep convolutional neural networks, NeurIPS 25.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax.models.layers import Conv, Dense, Dropout, LocalResponseNorm, MaxPool, check_image_size

Layer = Callable[[jax.Array], jax.Array]
Order = Callable[[jax.Array, Layer, Layer], jax.Array]


def relu_norm_pool(x: jax.Array, norm: Layer, pool: Layer) -> jax.Array:
    """The paper's order of what follows conv1 and conv2 (sections 3.3 and 3.4)."""
    return pool(norm(nn.relu(x)))


def relu_pool_norm(x: jax.Array, norm: Layer, pool: Layer) -> jax.Array:
    """CaffeNet's order."""
    return norm(pool(nn.relu(x)))


def norm_pool_relu(x: jax.Array, norm: Layer, pool: Layer) -> jax.Array:
    """The order after conv1 in cuda-convnet2."""
    return nn.relu(pool(norm(x)))


def relu_pool(x: jax.Array, norm: Layer, pool: Layer) -> jax.Array:
    """The comparison without normalisation (section 3.3)."""
    del norm
    return pool(nn.relu(x))


class AlexNet2012(nn.Module):
    """The two-tower AlexNet as printed: 60,965,224 parameters at 224x224x3 and 1000 classes.

    | layer | what                                 | output    | parameters |
    |-------|--------------------------------------|-----------|------------|
    | conv1 | 11x11, stride 4                      | 55x55x96  | 34,944     |
    | norm1 | local response normalisation         | 55x55x96  | 0          |
    | pool1 | 3x3 maximum, stride 2                | 27x27x96  | 0          |
    | conv2 | 5x5, padding 2, two groups           | 27x27x256 | 307,456    |
    | norm2 | local response normalisation         | 27x27x256 | 0          |
    | pool2 | 3x3 maximum, stride 2                | 13x13x256 | 0          |
    | conv3 | 3x3, padding 1                       | 13x13x384 | 885,120    |
    | conv4 | 3x3, padding 1, two groups           | 13x13x384 | 663,936    |
    | conv5 | 3x3, padding 1, two groups           | 13x13x256 | 442,624    |
    | pool5 | 3x3 maximum, stride 2                | 6x6x256   | 0          |
    | fc6   | fully connected, then drop6          | 4096      | 37,752,832 |
    | fc7   | fully connected, then drop7          | 4096      | 16,781,312 |
    | fc8   | fully connected                      | 1000      | 4,097,000  |

    A ReLU follows every layer with parameters except fc8. The two groups are the paper's two GPUs.
    Images of other sizes work, and fc6's fan-in follows. The paper gives 224 pixels, from which
    windows of 11 pixels, 4 apart, do not make 55 outputs: here zeros complete the last window of
    conv1 at the right and bottom, 3 at 224 pixels and none at 227, as in cuda-convnet2. Caffe crops
    227 pixels instead.

    The defaults are the paper's. The other values that it compares, and those of the two
    implementations closest to it (the partials below), are:

    classes: number of logits.
    maps: of conv1 to conv5. units: of fc6 and fc7.
    groups: 1 is the single tower. The paper's one-GPU network has groups=1 and
        maps=(48, 128, 192, 192, 256): all but conv5 halved (section 3.2).
    orders: what follows conv1 and what follows conv2, functions (maps, norm, pool) -> maps such as
        the four above; (relu_pool, relu_pool) leaves the normalisation out.
    norm: makes norm1 and norm2, called with their name. Caffe and cuda-convnet2 divide the sum over
        5 maps by 5, which is alpha=1e-4 / 5; Caffe's k is 1.
    pool_window: 2, as wide as the stride, is the comparison without overlap (section 3.4).
    dropout_rate: of drop6 and drop7.
    kernel_init: of all layers, N(0, 0.01^2). conv345_init, fc67_init: of conv3 to conv5 and of fc6
        and fc7 in its place, unless they are None.
    hidden_bias: initial bias of conv2, conv4, conv5, fc6 and fc7. 0.1 in Caffe, where 1 did not
        train. fc8_bias: of fc8, -7 in cuda-convnet2. conv1 and conv3 start at 0.
    dtype: what the network computes in; parameters are float32 regardless.

    He initialisation: `kernel_init=nn.initializers.he_normal(), hidden_bias=0.0`.

    Raises UserError for images smaller than 64x64.
    """

    classes: int = 1000
    maps: tuple[int, ...] = (96, 256, 384, 384, 256)
    units: tuple[int, ...] = (4096, 4096)
    groups: int = 2
    orders: tuple[Order, ...] = (relu_norm_pool, relu_norm_pool)
    norm: Callable[..., Layer] = LocalResponseNorm
    pool_window: int = 3
    dropout_rate: float = 0.5
    kernel_init: Initializer = nn.initializers.normal(0.01)
    conv345_init: Initializer | None = None
    fc67_init: Initializer | None = None
    hidden_bias: float = 1.0
    fc8_bias: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, classes] of images float32 [B, H, W, C]; dropout only with keys."""
        check_image_size(self, images, smallest=64)
        (height, width), maps, groups = images.shape[1:3], self.maps, self.groups
        hidden, last = map(nn.initializers.constant, (self.hidden_bias, self.fc8_bias))
        conv = partial(Conv, dtype=self.dtype, kernel_init=self.kernel_init)
        conv3x3 = partial(
            conv, kernel_size=3, padding=1, kernel_init=self.conv345_init or self.kernel_init
        )
        dense = partial(Dense, dtype=self.dtype, kernel_init=self.fc67_init or self.kernel_init)
        pool, drop = partial(MaxPool, self.pool_window, 2), partial(Dropout, self.dropout_rate)
        after_conv1, after_conv2 = self.orders
        pads = ((0, (11 - height) % 4), (0, (11 - width) % 4))  # complete the last windows

        x = conv(maps[0], 11, strides=4, padding=pads, name="conv1")(images)
        x = after_conv1(x, self.norm(name="norm1"), pool(name="pool1"))
        x = conv(maps[1], 5, padding=2, groups=groups, bias_init=hidden, name="conv2")(x)
        x = after_conv2(x, self.norm(name="norm2"), pool(name="pool2"))
        x = nn.relu(conv3x3(maps[2], name="conv3")(x))
        x = nn.relu(conv3x3(maps[3], groups=groups, bias_init=hidden, name="conv4")(x))
        x = nn.relu(conv3x3(maps[4], groups=groups, bias_init=hidden, name="conv5")(x))
        x = pool(name="pool5")(x)

        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense(self.units[0], bias_init=hidden, name="fc6")(x))
        x = drop(name="drop6")(x, keys)
        x = nn.relu(dense(self.units[1], bias_init=hidden, name="fc7")(x))
        x = drop(name="drop7")(x, keys)
        x = dense(self.classes, kernel_init=self.kernel_init, bias_init=last, name="fc8")(x)
        return x.astype(jnp.float32)


CaffeAlexNet = partial(
    AlexNet2012,
    norm=partial(LocalResponseNorm, k=1.0, alpha=1e-4 / 5),
    fc67_init=nn.initializers.normal(0.005),
    hidden_bias=0.1,
)
"""Caffe's bvlc_alexnet, for images of 227x227."""

CaffeNet = partial(CaffeAlexNet, orders=(relu_pool_norm, relu_pool_norm), hidden_bias=1.0)
"""Caffe's bvlc_reference_caffenet, for images of 227x227."""

CudaConvnet2 = partial(
    AlexNet2012,
    maps=(64, 192, 384, 256, 256),
    groups=1,
    orders=(norm_pool_relu, relu_norm_pool),
    norm=partial(LocalResponseNorm, alpha=1e-4 / 5),
    conv345_init=nn.initializers.normal(0.03),
    fc8_bias=-7.0,
)
"""The network of cuda-convnet2, the author's own later code: one tower, `AlexNet2014`'s shapes."""
