"""AlexNet of the ILSVRC paper: Krizhevsky, Sutskever and Hinton (2012), ImageNet classification
with deep convolutional neural networks, NeurIPS 25.
"""

from functools import partial
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax.models.layers import Conv, Dense, Dropout, LocalResponseNorm, MaxPool, check_image_size
from cnn_jax.ops.geometry import Pads

Order = Literal["relu norm pool", "relu pool norm", "norm pool relu", "relu pool"]


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
    Images of other sizes work, and fc6's fan-in follows. The defaults are the paper's; the fields
    say what else it compares, and what the two implementations closest to it do: Caffe's
    bvlc_alexnet, and cuda-convnet2, the author's own later code.

    classes: number of logits.
    maps: of conv1 to conv5. units: of fc6 and fc7.
    groups: 1 is the single tower. The paper's one-GPU network has groups=1 and
        maps=(48, 128, 192, 192, 256): all but conv5 halved (section 3.2).
    conv1_padding: None lets zeros complete the last window at the right and bottom, 3 at 224 pixels
        and none at 227, without which 224 pixels do not give the paper's 55 outputs. So does
        cuda-convnet2; Caffe crops 227 pixels instead. A number pads all four sides.
    orders: what follows conv1 and conv2. ("relu pool norm",) * 2 in CaffeNet, Caffe's variant;
        ("norm pool relu", "relu norm pool") in cuda-convnet2; ("relu pool",) * 2 is the comparison
        without normalisation (section 3.3).
    norm_k, norm_alpha: of the normalisation. Caffe and cuda-convnet2 divide the sum over 5 maps by
        5, which is norm_alpha=1e-4 / 5; Caffe's norm_k is 1.
    pool_window: 2, as wide as the stride, is the comparison without overlap (section 3.4).
    dropout_rate: of drop6 and drop7.
    kernel_init: of all layers, N(0, 0.01^2). kernel_inits: pairs of a layer's name and its own
        initializer in place of that: fc6 and fc7 have a deviation of 0.005 in Caffe, conv3 to conv5
        one of 0.03 in cuda-convnet2.
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
    conv1_padding: int | None = None
    orders: tuple[Order, ...] = ("relu norm pool", "relu norm pool")
    norm_k: float = 2.0
    norm_alpha: float = 1e-4
    pool_window: int = 3
    dropout_rate: float = 0.5
    kernel_init: Initializer = nn.initializers.normal(0.01)
    kernel_inits: tuple[tuple[str, Initializer], ...] = ()
    hidden_bias: float = 1.0
    fc8_bias: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, classes] of images float32 [B, H, W, C]; dropout only with keys."""
        check_image_size(self, images, smallest=64)
        conv, dense, hidden = self._conv, self._dense, self.hidden_bias
        norm = partial(LocalResponseNorm, k=self.norm_k, alpha=self.norm_alpha)
        pool = partial(MaxPool, self.pool_window, 2)

        x = conv("conv1", 11, strides=4, padding=self._conv1_pads(images))(images)
        x = in_order(self.orders[0], x, norm(name="norm1"), pool(name="pool1"))
        x = conv("conv2", 5, padding=2, groups=self.groups, bias=hidden)(x)
        x = in_order(self.orders[1], x, norm(name="norm2"), pool(name="pool2"))
        x = nn.relu(conv("conv3", 3, padding=1)(x))
        x = nn.relu(conv("conv4", 3, padding=1, groups=self.groups, bias=hidden)(x))
        x = nn.relu(conv("conv5", 3, padding=1, groups=self.groups, bias=hidden)(x))
        x = pool(name="pool5")(x)

        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense("fc6", self.units[0], bias=hidden)(x))
        x = Dropout(self.dropout_rate, name="drop6")(x, keys)
        x = nn.relu(dense("fc7", self.units[1], bias=hidden)(x))
        x = Dropout(self.dropout_rate, name="drop7")(x, keys)
        return dense("fc8", self.classes, bias=self.fc8_bias)(x).astype(jnp.float32)

    def _conv(self, name: str, size: int, bias: float = 0.0, **geometry: Any) -> Conv:
        features = self.maps[int(name.removeprefix("conv")) - 1]
        return Conv(features, size, **geometry, **self._start(name, bias))

    def _dense(self, name: str, units: int, bias: float) -> Dense:
        return Dense(units, **self._start(name, bias))

    def _start(self, name: str, bias: float) -> dict[str, Any]:
        return {
            "name": name,
            "dtype": self.dtype,
            "kernel_init": dict(self.kernel_inits).get(name, self.kernel_init),
            "bias_init": nn.initializers.constant(bias),
        }

    def _conv1_pads(self, images: jax.Array) -> Pads:
        if self.conv1_padding is not None:
            both_sides = (self.conv1_padding, self.conv1_padding)
            return (both_sides, both_sides)
        height, width = images.shape[1:3]
        return ((0, (11 - height) % 4), (0, (11 - width) % 4))


def in_order(order: Order, x: jax.Array, norm: LocalResponseNorm, pool: MaxPool) -> jax.Array:
    """ReLU, normalisation and pooling of maps x [B, H, W, C], as `order` lists them.

    Raises ValueError for an order that is not an `Order`.
    """
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {get_args(Order)}, got {order!r}")
    steps = {"relu": nn.relu, "norm": norm, "pool": pool}
    for step in order.split():
        x = steps[step](x)
    return x
