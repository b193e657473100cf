"""A network as a list of layers gives what the network gives."""

from typing import Any

import jax
import numpy as np
import pages

from cnn_jax.see.layer_list import ACTIVATIONS, run_list
from cnn_jax.see.page import network_layers
from cnn_jax.step import prepare_images

USED = {
    **{"LeNet-5": {"tanh"}, "MLP, cropped": {"relu"}},
    **{"small": {"sigmoid", "relu"}, "1998": {"scaled_tanh"}},
}


def test_the_list_gives_jaxs_logits() -> None:
    """On images other than those that the list was made with."""
    images = np.random.default_rng(1).integers(0, 256, (7, 8, 8, 1)).astype(np.uint8)
    for name, network in pages.networks().items():
        layers = network_layers(network)
        kinds = [layer["type"] for layer in layers]
        layers = layers[kinds.index("standardise") + 1 :]
        experiment, model = network.experiment, network.experiment.model
        x: Any = prepare_images(experiment, experiment.eval_transforms, images, None)  # pyright: ignore
        apply = jax.jit(lambda x, model=model, v=network.variables: model.apply(v, x))  # pyright: ignore
        np.testing.assert_allclose(run_list(layers, np.asarray(x)), apply(x), rtol=1e-4, atol=1e-4)
        used = {layer["function"] for layer in layers if layer["type"] == "activation"}
        assert used == USED[name] <= set(ACTIVATIONS)
