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

    Raises ValueError for images smaller than 63x63.
    """

    classes: int = 1000
    dropout_rate: float = 0.5
    kernel_init: Initializer | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, classes] of images float32 [B, H, W, C]; dropout if `keys` is given."""
        check_image_size(self, images, smallest=63)

        def conv(x, features, size, name, **geometry):
            inits = self._inits(fan_in=size * size * x.shape[-1])
            return Conv(features, size, name=name, dtype=self.dtype, **geometry, **inits)(x)

        def dense(x, features, name):
            inits = self._inits(fan_in=x.shape[-1])
            return nn.Dense(features, name=name, dtype=self.dtype, **inits)(x)

        x = nn.relu(conv(images, 64, 11, "conv1", strides=4, padding=2))
        x = MaxPool(3, 2, name="pool1")(x)
        x = nn.relu(conv(x, 192, 5, "conv2", padding=2))
        x = MaxPool(3, 2, name="pool2")(x)
        x = nn.relu(conv(x, 384, 3, "conv3", padding=1))
        x = nn.relu(conv(x, 256, 3, "conv4", padding=1))
        x = nn.relu(conv(x, 256, 3, "conv5", padding=1))
        x = MaxPool(3, 2, name="pool5")(x)

        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense(Dropout(self.dropout_rate, name="drop6")(x, keys), 4096, "fc6"))
        x = nn.relu(dense(Dropout(self.dropout_rate, name="drop7")(x, keys), 4096, "fc7"))
        return dense(x, self.classes, "fc8").astype(jnp.float32)

    def _inits(self, fan_in: int) -> dict[str, Initializer]:
        if self.kernel_init is not None:
            return dict(kernel_init=self.kernel_init, bias_init=nn.initializers.zeros)
        limit = fan_in**-0.5

        def uniform(key, shape, dtype=jnp.float32, *unused):
            return jax.random.uniform(key, shape, dtype, -limit, limit)

        return dict(kernel_init=uniform, bias_init=uniform)
