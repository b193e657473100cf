"""AlexNet of the ILSVRC paper: Krizhevsky, Sutskever and Hinton (2012), ImageNet classification
with deep convolutional neural networks, NeurIPS 25.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax.models.layers import Conv, Dropout, LocalResponseNorm, MaxPool, check_image_size


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

    A ReLU follows every layer with parameters except fc8, before the normalisation. The two groups
    are the paper's two GPUs. 224 pixels and 55 outputs fit only if zeros complete the last window:
    conv1 pads the right and bottom, by 3 at 224 and by 0 at 227, as the author's own later code
    (cuda-convnet2) does. Images of other sizes work, and fc6's fan-in follows.

    classes: number of logits. dropout_rate: of drop6 and drop7. kernel_init: the paper's is
    N(0, 0.01^2) in all layers. hidden_bias: initial bias of conv2, conv4, conv5, fc6 and fc7, 1 in
    the paper; the other biases start at 0. He initialisation:
    `kernel_init=nn.initializers.he_normal(), hidden_bias=0.0`. dtype: what the network computes in;
    parameters are float32 regardless.

    Raises UserError for images smaller than 64x64.
    """

    classes: int = 1000
    dropout_rate: float = 0.5
    kernel_init: Initializer = nn.initializers.normal(0.01)
    hidden_bias: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, classes] of images float32 [B, H, W, C]; dropout only with keys."""
        check_image_size(self, images, smallest=64)
        conv = partial(Conv, dtype=self.dtype, kernel_init=self.kernel_init)
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init)
        hidden = nn.initializers.constant(self.hidden_bias)

        height, width = images.shape[1:3]
        far_side = ((0, (11 - height) % 4), (0, (11 - width) % 4))
        x = nn.relu(conv(96, 11, strides=4, padding=far_side, name="conv1")(images))
        x = MaxPool(3, 2, name="pool1")(LocalResponseNorm(name="norm1")(x))
        x = nn.relu(conv(256, 5, padding=2, groups=2, bias_init=hidden, name="conv2")(x))
        x = MaxPool(3, 2, name="pool2")(LocalResponseNorm(name="norm2")(x))
        x = nn.relu(conv(384, 3, padding=1, name="conv3")(x))
        x = nn.relu(conv(384, 3, padding=1, groups=2, bias_init=hidden, name="conv4")(x))
        x = nn.relu(conv(256, 3, padding=1, groups=2, bias_init=hidden, name="conv5")(x))
        x = MaxPool(3, 2, name="pool5")(x)

        x = x.reshape(x.shape[0], -1)
        x = nn.relu(dense(4096, bias_init=hidden, name="fc6")(x))
        x = Dropout(self.dropout_rate, name="drop6")(x, keys)
        x = nn.relu(dense(4096, bias_init=hidden, name="fc7")(x))
        x = Dropout(self.dropout_rate, name="drop7")(x, keys)
        return dense(self.classes, name="fc8")(x).astype(jnp.float32)
