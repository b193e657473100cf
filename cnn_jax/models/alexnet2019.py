"""AlexNet without aliasing: Zhang (2019), Making convolutional networks shift-invariant again,
ICML, arXiv 1904.11486, as its code (adobe/antialiased-cnns) changes torchvision's AlexNet.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax.models.alexnet2014 import torchvision_layers
from cnn_jax.models.layers import BlurPool, Dropout, MaxPool, check_image_size


class AlexNet2019(nn.Module):
    """AlexNet2014, downsampled by blurring: 61,100,840 parameters at 224x224x3 and 1000 classes.

    | layer      | what                            | output     | parameters |
    |------------|---------------------------------|------------|------------|
    | conv1      | 11x11, stride 2, padding 2      | 109x109x64 | 23,296     |
    | blur_conv1 | blur, stride 2                  | 55x55x64   | 0          |
    | pool1      | 3x3 maximum, stride 1           | 53x53x64   | 0          |
    | blur_pool1 | blur, stride 2                  | 27x27x64   | 0          |
    | conv2      | 5x5, padding 2                  | 27x27x192  | 307,392    |
    | pool2      | 3x3 maximum, stride 1           | 25x25x192  | 0          |
    | blur_pool2 | blur, stride 2                  | 13x13x192  | 0          |
    | conv3      | 3x3, padding 1                  | 13x13x384  | 663,936    |
    | conv4      | 3x3, padding 1                  | 13x13x256  | 884,992    |
    | conv5      | 3x3, padding 1                  | 13x13x256  | 590,080    |
    | pool5      | 3x3 maximum, stride 1           | 11x11x256  | 0          |
    | blur_pool5 | blur, stride 2                  | 6x6x256    | 0          |
    | fc6        | drop6, then fully connected     | 4096       | 37,752,832 |
    | fc7        | drop7, then fully connected     | 4096       | 16,781,312 |
    | fc8        | fully connected                 | 1000       | 4,097,000  |

    A ReLU follows every layer with parameters except fc8, before any blur. Where AlexNet2014 skips
    pixels, this network computes every position and blurs before it skips; only half of conv1's
    stride of 4 is replaced so. Shapes after each downsampling, and parameters, are AlexNet2014's.

    classes, maps, units, dtype: as in AlexNet2014.
    taps: length of the blur, 2 for the paper's Rect-2, 3 for Tri-3, 5 for Bin-5; the code also has
        4, its default since 2020. 1 does not blur.
    blur_conv1: False leaves conv1 at stride 4, without blur_conv1: a quarter of its work, and the
        `pool_only` of the code, whose default is to blur.

    Raises UserError for images smaller than 63 + 16 * (taps // 2) pixels: 95x95 for 5 taps.
    """

    classes: int = 1000
    maps: tuple[int, ...] = (64, 192, 384, 256, 256)
    units: tuple[int, ...] = (4096, 4096)
    taps: int = 5
    blur_conv1: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits float32 [B, classes] of images float32 [B, H, W, C]; dropout only with keys."""
        check_image_size(self, images, smallest=63 + 16 * (self.taps // 2))
        conv, dense = torchvision_layers(self.dtype, kernel_init=None)
        pool, blur = partial(MaxPool, 3, 1), partial(BlurPool, self.taps, 2)
        stride = 2 if self.blur_conv1 else 4

        x = nn.relu(conv(images, self.maps[0], 11, strides=stride, padding=2, name="conv1"))
        if self.blur_conv1:
            x = blur(name="blur_conv1")(x)
        x = blur(name="blur_pool1")(pool(name="pool1")(x))
        x = nn.relu(conv(x, self.maps[1], 5, padding=2, name="conv2"))
        x = blur(name="blur_pool2")(pool(name="pool2")(x))
        x = nn.relu(conv(x, self.maps[2], 3, padding=1, name="conv3"))
        x = nn.relu(conv(x, self.maps[3], 3, padding=1, name="conv4"))
        x = nn.relu(conv(x, self.maps[4], 3, padding=1, name="conv5"))
        x = blur(name="blur_pool5")(pool(name="pool5")(x))

        x = x.reshape(x.shape[0], -1)
        x = Dropout(0.5, name="drop6")(x, keys)
        x = nn.relu(dense(x, self.units[0], name="fc6"))
        x = Dropout(0.5, name="drop7")(x, keys)
        x = nn.relu(dense(x, self.units[1], name="fc7"))
        return dense(x, self.classes, name="fc8").astype(jnp.float32)
