"""What a trained network makes of one image, layer by layer, and the kernels that it learned."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.errors import UserError
from cnn_jax.evaluate.predict import log_softmax
from cnn_jax.see.layers import layer_kernels, layer_outputs
from cnn_jax.step import prepare_images
from cnn_jax.trained import Trained

T = TypeVar("T")


class Seen(NamedTuple):
    """One image on its way through a network."""

    logits: np.ndarray  # float32 [classes]
    layers: dict[str, np.ndarray]  # maps [H, W, D] or units [n], in order

    @property
    def probabilities(self) -> np.ndarray:
        """The softmax of the logits, float64 [classes]."""
        return np.exp(log_softmax(self.logits))


def look(trained: Trained, image: np.ndarray) -> Seen:
    """Show a network an image, uint8 [H, W, C] as its dataset stores them, as in evaluation.

    Raises:
        UserError: the network is no Flax module.
    """
    images = prepared(trained, image)
    variables = trained.variables
    logits, layers = layer_outputs(trained.experiment.model, variables, images)
    return Seen(np.asarray(logits)[0], {name: np.asarray(x)[0] for name, x in layers.items()})


def kernels(trained: Trained) -> dict[str, np.ndarray]:
    """A network's kernels, {name: [height, width, input maps, output maps]}, in order.

    Raises:
        UserError: the network is no Flax module, or has none.
    """
    blank = np.zeros(trained.experiment.dataset.image_shape, np.uint8)
    variables = trained.variables
    return layer_kernels(trained.experiment.model, variables, prepared(trained, blank))


def chosen(found: dict[str, T], names: Sequence[str]) -> dict[str, T]:
    """The layers of these names, in the network's order; of none, all.

    Raises:
        UserError: there is no layer of a name.
    """
    unknown = [name for name in names if name not in found]
    if unknown:
        raise UserError(f"there is no layer {unknown[0]!r} here; there are {', '.join(found)}")
    return {name: x for name, x in found.items() if name in names or not names}


def prepared(trained: Trained, image: np.ndarray) -> jax.Array:
    """An image, uint8 [H, W, C], as the network sees it in evaluation: float32 [1, H', W', C]."""
    experiment = trained.experiment
    images = jnp.asarray(image)[None]
    return prepare_images(experiment, experiment.eval_transforms, images, keys=None)
