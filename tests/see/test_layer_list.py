"""A network as a list of layers gives what the network gives."""

import numpy as np
import pages
import pytest

from cnn_jax.see.layer_list import ACTIVATIONS, layer_list, run_list

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_the_list_gives_jaxs_logits() -> None:
    images = np.random.default_rng(1).normal(size=(7, 32, 32, 1)).astype(np.float32)
    for network in pages.networks().values():
        size = {"1998": 32, "MLP": 8, "ReLU": 22, "small": 8}.get(network.run, 28)
        x, model = images[:, :size, :size], network.experiment.model
        layers = layer_list(model, {"params": network.params}, x)
        expected = model.apply({"params": network.params}, x, train=False, keys=None, mutable=False)  # pyright: ignore
        np.testing.assert_allclose(run_list(layers, x), expected, rtol=1e-4, atol=1e-4)
        used = [layer["function"] for layer in layers if layer["type"] == "activation"]
        own = {"LeNet-5": {"tanh"}, "1998": {"scaled_tanh"}, "small": {"sigmoid", "relu"}}
        assert set(used) == own.get(network.run, {"relu"}) <= set(ACTIVATIONS)
