"""The output, shape and kernels of every layer of a network, by the papers' names of the layers.

`layer_outputs`, `layer_output`, `layer_shapes` and `layer_kernels` take any Flax Linen module;
`look` and `kernels` take the network of a run.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax import Array

from cnn_jax.errors import UserError
from cnn_jax.errors.wording import brief, nearest
from cnn_jax.evaluate.predict import log_softmax
from cnn_jax.models.layer_calls import record_layer_calls
from cnn_jax.models.layers import Conv
from cnn_jax.models.lecun_layers import Table, TableConv
from cnn_jax.step import prepare_images
from cnn_jax.trained import Trained

T = TypeVar("T")


class Response(NamedTuple):
    """What a network computes for one image."""

    logits: np.ndarray  # float32 [classes]
    layers: dict[str, np.ndarray]  # maps [H, W, D] or units [n], in order

    @property
    def probabilities(self) -> np.ndarray:
        """The softmax of the logits, float64 [classes]."""
        return np.exp(log_softmax(self.logits))


def look(trained: Trained, image: np.ndarray) -> Response:
    """Show a network an image, uint8 [H, W, C] as its dataset stores them, as in evaluation.

    Raises:
        UserError: the network is not a Flax module.
    """
    images = prepared(trained, image)
    logits, layers = layer_outputs(trained.experiment.model, trained.variables, images)
    return Response(np.asarray(logits)[0], {name: np.asarray(y)[0] for name, y in layers.items()})


def kernels(trained: Trained) -> dict[str, np.ndarray]:
    """The kernels of a trained network: `layer_kernels`, for images of its dataset.

    Raises:
        UserError: the network is not a Flax module, or has no kernels.
    """
    blank = np.zeros(trained.experiment.dataset.image_shape, np.uint8)
    images = prepared(trained, blank)
    return layer_kernels(trained.experiment.model, trained.variables, images)


def prepared(trained: Trained, image: np.ndarray) -> Array:
    """An image, uint8 [H, W, C], as the network sees it in evaluation: float32 [1, H', W', C]."""
    experiment = trained.experiment
    images = jnp.asarray(image)[None]
    return prepare_images(experiment, experiment.eval_transforms, images, keys=None)


def chosen(layers: Mapping[str, T], names: Sequence[str]) -> dict[str, T]:
    """The layers with these names, in the network's order; all layers if there are no names.

    Raises:
        UserError: no layer has one of the names.
    """
    unknown = [name for name in names if name not in layers]
    if unknown:
        raise UserError(
            f"there is no layer {brief(unknown[0])} here: {nearest(unknown[0], layers)}"
        )
    return {name: layer for name, layer in layers.items() if name in names or not names}


def layer_outputs(model: Any, variables: Any, images: Array) -> tuple[Array, dict[str, Array]]:
    """Run a network, and return its logits and the output of every layer.

    The layers come in the order in which they compute. Outputs are what the layers return:
    convolutions come before their activation. A layer that is called several times has its last
    output. Nested layers are named "outer/inner". Layers inside `nn.scan` or `nn.vmap`, which keep
    their outputs to themselves, are left out.

    Args:
        model: a Flax Linen module, called as in evaluation.
        images: float32 [B, H, W, C], standardised.

    Returns:
        logits [B, classes], and {name: [B, H', W', D] or [B, n]}.

    Raises:
        UserError: the model is not a Flax module, so that its layers have no names.
    """
    names: list[str] = []

    @jax.jit
    def compute(variables: Any, images: Array) -> tuple[Array, list[Array]]:
        logits, outputs = _run(model, variables, images)
        names[:] = outputs  # beside the arrays, since JAX would sort the keys of a dictionary
        return logits, list(outputs.values())

    logits, outputs = compute(variables, images)
    return logits, dict(zip(names, outputs, strict=True))


def layer_output(model: Any, variables: Any, images: Array, layer: str) -> Array:
    """The output of one layer, [B, ...]; compile it, which leaves out all that follows the layer.

    Arguments and errors are those of `layer_outputs`; there must be such a layer.
    """
    return _run(model, variables, images)[1][layer]


def layer_shapes(model: Any, variables: Any, images: Any) -> dict[str, tuple[int, ...]]:
    """The output shape of every layer for one image, without computing it.

    Arguments, of which only the shapes matter, and errors are those of `layer_outputs`.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def trace(variables: Any, images: Array) -> None:
        _, outputs = _run(model, variables, images)
        shapes.update((name, y.shape[1:]) for name, y in outputs.items())

    jax.eval_shape(trace, variables, images)
    return shapes


def _run(model: Any, variables: Any, images: Any) -> tuple[Array, dict[str, Array]]:
    """The logits, and {name: output} of the layers in their order."""
    _check_flax(model)
    with record_layer_calls() as calls:
        logits, state = model.apply(
            variables, images, train=False, keys=None, mutable=["intermediates"]
        )
    sown: dict[str, Any] = flatten_dict(state.get("intermediates", {}), sep="/")  # pyright: ignore
    outputs = {call.name: sown.get(f"{call.name}/__call__", [None])[-1] for call in calls}
    return logits, {name: y for name, y in outputs.items() if isinstance(y, jax.Array)}


def layer_kernels(model: Any, variables: Any, images: Array) -> dict[str, np.ndarray]:
    """The kernels of every convolution, in the order in which they compute.

    A dense layer on the image itself counts as a convolution with kernels as large as the image.

    Args:
        images: [B, H, W, C]; only the shape matters.

    Returns:
        {name: float32 [height, width, input maps, output maps]}, NaN where an output does not see
        an input. For a convolution in groups the input maps are those of one group.

    Raises:
        UserError: as for `layer_outputs`, or the network has no such layer.
    """
    _check_flax(model)
    with record_layer_calls() as calls:
        jax.eval_shape(lambda x: model.apply(variables, x, train=False, keys=None), images)
    by_layer: dict[str, np.ndarray] = {}
    for name, layer, x, *_ in calls:
        if not isinstance(layer, (Conv, TableConv, nn.Dense)):
            continue
        params = variables["params"]
        for key in layer.path:
            params = params[key]
        kernel = np.asarray(params["kernel"])
        if isinstance(layer, TableConv):
            by_layer[name] = _expanded(kernel, layer.table, x.shape[-1])
        elif isinstance(layer, Conv):
            by_layer[name] = kernel
        elif not by_layer and len(kernel) == np.prod(images.shape[1:]):
            by_layer[name] = kernel.reshape(*images.shape[1:], -1)
    if not by_layer:
        raise UserError(f"{type(model).__name__} has no kernels to show")
    return by_layer


def _expanded(kernel: np.ndarray, table: Table, channels: int) -> np.ndarray:
    """A kernel of pairs [h, w, pairs] as [h, w, channels, maps], NaN where there is no pair."""
    full = np.full((*kernel.shape[:2], channels, len(table)), np.nan, np.float32)
    pairs = [(source, target) for target, sources in enumerate(table) for source in sources]
    for number, (source, target) in enumerate(pairs):
        full[:, :, source, target] = kernel[:, :, number]
    return full


def _check_flax(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"{type(model).__name__} is no Flax module: its layers have no names")
