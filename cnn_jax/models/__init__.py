"""The networks, one file each, and the layers that Flax lacks.

A model is any object with pure `init` and `apply`; these four are Flax Linen modules with

    __call__(images, train=False, keys=None) -> logits

images: float32 [B, H, W, C], standardised. logits: float32 [B, classes] whatever `dtype` the
network computes in. keys: one typed PRNG key per example [B], or None in evaluation; they alone
switch dropout on, so `train` changes nothing in networks without other training behaviour.

Layers carry their papers' names, so `model.apply(variables, images, capture_intermediates=True)`
hands every feature map out by the name a reader knows, convolutions before their activation.
"""

import math
from typing import Any

import jax

from cnn_jax.models import layers
from cnn_jax.models.alexnet2012 import AlexNet2012
from cnn_jax.models.alexnet2014 import AlexNet2014
from cnn_jax.models.lenet5 import LeNet5
from cnn_jax.models.mlp import MLP

__all__ = ["MLP", "AlexNet2012", "AlexNet2014", "LeNet5", "count_parameters", "layers"]


def count_parameters(params: Any) -> int:
    """Number of scalars in a tree of arrays, or of the shapes that `jax.eval_shape` gives."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
