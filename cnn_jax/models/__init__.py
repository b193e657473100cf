"""The networks, one file each, and the layers that Flax lacks.

A model is any object with pure `init` and `apply`; these are Flax Linen modules with

    __call__(images, train=False, keys=None) -> logits

images: float32 [B, H, W, C], standardised. logits: float32 [B, classes], whatever `dtype` the
network computes in. keys: one typed PRNG key per example [B], or None in evaluation. Keys alone
switch dropout on; `train` changes nothing in networks without other training behaviour.

Layers carry their papers' names: `model.apply(variables, images, capture_intermediates=True)`
returns every feature map under the name that a reader knows, convolutions before their activation.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax.errors import UserError
from cnn_jax.errors.ranges import check_range
from cnn_jax.models import layers
from cnn_jax.models.alexnet2012 import AlexNet2012
from cnn_jax.models.alexnet2014 import AlexNet2014
from cnn_jax.models.alexnet2019 import AlexNet2019
from cnn_jax.models.ciresan2010 import Ciresan2010
from cnn_jax.models.layer_calls import record_layer_calls
from cnn_jax.models.lenet5 import LeNet5
from cnn_jax.models.lenet5_1998 import LeNet5_1998
from cnn_jax.models.lenet1989 import LeNet1989
from cnn_jax.models.mlp import MLP
from cnn_jax.models.simard2003 import SimardConvNet, SimardMLP

__all__ = [
    "MLP",
    "AlexNet2012",
    "AlexNet2014",
    "AlexNet2019",
    "Ciresan2010",
    "LeNet1989",
    "LeNet5",
    "LeNet5_1998",
    "SimardConvNet",
    "SimardMLP",
    "count_connections",
    "count_parameters",
    "layers",
    "narrowed",
]

MOST_WIDTH = 100  # times the width of a published network


def count_parameters(params: Any) -> int:
    """The number of scalars in a tree of arrays, or of shapes from `jax.eval_shape`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def count_connections(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Count the connections of each layer, by its name, for one image [H, W, C].

    Connections are the early papers' measure of a network. A unit of a layer with weights has one
    per input in its window, padding included, and one for its bias. Layers without weights have
    none, unless they have a method `connections(inputs_shape, outputs_shape)`. The network is only
    traced, not computed.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with record_layer_calls() as calls:
        jax.eval_shape(model.init, jax.random.key(0), images)
    connections: dict[str, int] = {}
    for name, layer, x, y, _ in calls:
        if hasattr(layer, "connections"):
            connections[name] = layer.connections(x.shape, y.shape)
        elif isinstance(layer, (layers.Conv, nn.Dense)):
            kernel = layer.variables["params"]["kernel"]
            inputs = math.prod(kernel.shape[:-1]) + layer.use_bias
            connections[name] = math.prod(y.shape[1:]) * inputs
    return connections


def narrowed(network: Any, width: float) -> dict[str, Any]:
    """Return the fields `maps` and `units` of an AlexNet, each number times `width` and rounded.

    `AlexNet2014(classes=10, **narrowed(AlexNet2014, 0.25))` has a quarter of the features. Raises
    UserError if some layer would be left without any, or `width` is above `MOST_WIDTH`.
    """
    check_range("--width", width, above=0, most=MOST_WIDTH)
    if round(width * min(*network.maps, *network.units)) < 1:
        raise UserError(f"a width of {width} leaves a layer without maps: choose a larger width")
    return {
        name: tuple(round(width * n) for n in getattr(network, name)) for name in ("maps", "units")
    }
