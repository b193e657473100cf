"""AlexNet as most people know it today: the single tower of Krizhevsky (2014), One weird trick for
parallelizing convolutional neural networks, arXiv 1404.5997, in torchvision's reading.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax.models.layers import Conv, Dense, Dropout, MaxPool, check_image_size


class AlexNet2014(nn.Module):
    """The one-tower AlexNet: 61,100,840 parameters at 224x224x3 and 1000 classes.

    | layer | what                                 | output    | parameters |
    |-------|--------------------------------------|-----------|------------|
    | conv1 | 11x11, stride 4, padding 2           | 55x55x64  | 23,296     |
    | pool1 | 3x3 maximum, stride 2                | 27x27x64  | 0          |
    | conv2 | 5x5, padding 2                       | 27x27x192 | 307,392    |
    | pool2 | 3x3 maximum, stride 2                | 13x13x192 | 0          |
    | conv3 | 3x3, padding 1                       | 13x13x384 | 663,936    |
    | conv4 | 3x3, padding 1                       | 13x13x256 | 884,992    |
    | conv5 | 3x3, padding 1                       | 13x13x256 | 590,080    |
    | pool5 | 3x3 maximum, stride 2                | 6x6x256   | 0          |
    | fc6   | drop6, then fully connected          | 4096      | 37,752,832 |
    | fc7   | drop7, then fully connected          | 4096      | 16,781,312 |
    | fc8   | fully connected                      | 1000      | 4,097,000  |

    A ReLU follows every layer with parameters except fc8. torchvision's adaptive average pooling to
    6x6 before fc6 is left out: at 224 pixels it is the identity, and for images of another size
    fc6's fan-in follows here. The code of the paper's author, cuda-convnet2, which also normalises,
    is `alexnet2012.CudaConvnet2`.

    classes: number of logits.
    maps: of conv1 to conv5. The paper's footnote has 384 in conv4; cuda-convnet2 and torchvision
        have 256. units: of fc6 and fc7.
    dropout_rate: of drop6 and drop7, which come before fc6 and fc7; in the paper of 2012, after.
    kernel_init: None is torchvision's initialisation, kernels and biases uniform in
        +-1 / sqrt(fan-in); an initializer, such as `nn.initializers.he_normal()`, draws the
        kernels, and biases start at 0.
    dtype: what the network computes in; parameters are float32 regardless.

    Raises UserError for images smaller than 63x63.
    """

    classes: int = 1000
    maps: tuple[int, ...] = (64, 192, 384, 256, 256)
    units: tuple[int, ...] = (4096, 4096)
    dropout_rate: float = 0.5
    kernel_init: Initializer | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, classes] of images float32 [B, H, W, C]; dropout only with keys."""
        check_image_size(self, images, smallest=63)
        conv, dense = torchvision_layers(self.dtype, self.kernel_init)
        pool, drop = partial(MaxPool, 3, 2), partial(Dropout, self.dropout_rate)

        x = nn.relu(conv(images, self.maps[0], 11, strides=4, padding=2, name="conv1"))
        x = pool(name="pool1")(x)
        x = nn.relu(conv(x, self.maps[1], 5, padding=2, name="conv2"))
        x = pool(name="pool2")(x)
        x = nn.relu(conv(x, self.maps[2], 3, padding=1, name="conv3"))
        x = nn.relu(conv(x, self.maps[3], 3, padding=1, name="conv4"))
        x = nn.relu(conv(x, self.maps[4], 3, padding=1, name="conv5"))
        x = pool(name="pool5")(x)

        x = x.reshape(x.shape[0], -1)
        x = drop(name="drop6")(x, keys)
        x = nn.relu(dense(x, self.units[0], name="fc6"))
        x = drop(name="drop7")(x, keys)
        x = nn.relu(dense(x, self.units[1], name="fc7"))
        return dense(x, self.classes, name="fc8").astype(jnp.float32)


def torchvision_layers(
    dtype: DTypeLike, kernel_init: Initializer | None
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """Return `conv(x, features, size, **fields of Conv)` and `dense(x, features, name=...)`.

    Both are for use inside a module's `__call__`, compute in `dtype` and, if `kernel_init` is None,
    start as in torchvision, whose biases depend on the fan-in.
    """

    def conv(x: jax.Array, features: int, size: int, **fields: Any) -> jax.Array:
        initial = initializers(fan_in=size * size * x.shape[-1])
        return Conv(features, size, dtype=dtype, **initial, **fields)(x)

    def dense(x: jax.Array, features: int, name: str) -> jax.Array:
        return Dense(features, dtype=dtype, name=name, **initializers(fan_in=x.shape[-1]))(x)

    def initializers(fan_in: int) -> dict[str, Any]:
        if kernel_init is not None:
            return {"kernel_init": kernel_init, "bias_init": nn.initializers.zeros}
        limit = fan_in**-0.5

        def uniform(key, shape, dtype=jnp.float32, out_sharding=None):
            return jax.random.uniform(key, shape, dtype, -limit, limit, out_sharding=out_sharding)

        return {"kernel_init": uniform, "bias_init": uniform}

    return conv, dense
