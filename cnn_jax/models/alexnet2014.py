"""AlexNet as most people know it today: the single tower of Krizhevsky (2014), One weird trick for
parallelizing convolutional neural networks, arXiv 1404.5997, in torchvision's reading.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax.models.layers import Conv, Dropout, MaxPool, check_image_size


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

    A ReLU follows every layer with parameters except fc8. As in torchvision, dropout comes before
    fc6 and fc7, there is no response normalisation, and conv4 has 256 maps where the paper's
    footnote has 384. torchvision's adaptive average pooling to 6x6 before fc6 is left out: at 224
    pixels it is the identity, and for images of another size fc6's fan-in follows here.

    classes: number of logits. dropout_rate: of drop6 and drop7. kernel_init: None is torchvision's
    initialisation, kernels and biases uniform in +-1 / sqrt(fan-in); an initializer, such as
    `nn.initializers.he_normal()`, draws the kernels, and biases start at 0. dtype: what the network
    computes in; parameters are float32 regardless.

    Raises UserError for images smaller than 63x63.
    """

    classes: int = 1000
    dropout_rate: float = 0.5
    kernel_init: Initializer | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, classes] of images float32 [B, H, W, C]; dropout only with keys."""
        check_image_size(self, images, smallest=63)

        def conv(x: jax.Array, features: int, size: int, padding: int, name: str, stride: int = 1):
            kernel_init, bias_init = self._initializers(fan_in=size * size * x.shape[-1])
            return Conv(
                features,
                size,
                stride,
                padding,
                dtype=self.dtype,
                kernel_init=kernel_init,
                bias_init=bias_init,
                name=name,
            )(x)

        def dense(x: jax.Array, features: int, name: str):
            kernel_init, bias_init = self._initializers(fan_in=x.shape[-1])
            return nn.Dense(
                features,
                dtype=self.dtype,
                kernel_init=kernel_init,
                bias_init=bias_init,
                name=name,
            )(x)

        x = nn.relu(conv(images, 64, 11, padding=2, name="conv1", stride=4))
        x = MaxPool(3, 2, name="pool1")(x)
        x = nn.relu(conv(x, 192, 5, padding=2, name="conv2"))
        x = MaxPool(3, 2, name="pool2")(x)
        x = nn.relu(conv(x, 384, 3, padding=1, name="conv3"))
        x = nn.relu(conv(x, 256, 3, padding=1, name="conv4"))
        x = nn.relu(conv(x, 256, 3, padding=1, name="conv5"))
        x = MaxPool(3, 2, name="pool5")(x)

        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense(Dropout(self.dropout_rate, name="drop6")(x, keys), 4096, name="fc6"))
        x = nn.relu(dense(Dropout(self.dropout_rate, name="drop7")(x, keys), 4096, name="fc7"))
        return dense(x, self.classes, name="fc8").astype(jnp.float32)

    def _initializers(self, fan_in: int) -> tuple[Initializer, Initializer]:
        """Of the kernel and of the bias of a layer whose units see `fan_in` values each."""
        if self.kernel_init is not None:
            return self.kernel_init, nn.initializers.zeros
        limit = fan_in**-0.5

        def uniform(key, shape, dtype=jnp.float32, out_sharding=None):
            return jax.random.uniform(key, shape, dtype, -limit, limit, out_sharding=out_sharding)

        return uniform, uniform
