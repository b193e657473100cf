"""What a network's layers hold and give, by the papers' names of the layers."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax import Array

from cnn_jax.errors import UserError
from cnn_jax.models.layers import Conv
from cnn_jax.models.lecun_layers import TableConv


def layer_outputs(model: Any, variables: Any, images: Array) -> tuple[Array, dict[str, Array]]:
    """What every layer makes of images, in the order in which they compute; and the logits.

    Flax's `capture_intermediates`, so that layers give what they return: convolutions come before
    their activation. A layer that is called several times has its last output. Nested layers are
    named "outer/inner".

    Args:
        model: a Flax Linen module, called as in evaluation.
        images: float32 [B, H, W, C], standardised.

    Returns:
        logits [B, classes], and {name: [B, H', W', D] or [B, n]}.

    Raises:
        UserError: the model is no Flax module, whose layers have names.
    """
    _check_flax(model)
    names: list[str] = []

    def noted(name: str) -> bool:
        names.append(name)
        return True

    @jax.jit
    def compute(variables: Any, images: Array) -> tuple[Array, dict[str, Any]]:
        names.clear()
        return _captured(model, variables, images, noted)

    logits, tree = compute(variables, images)
    found = {name: tree[name] for name in names}
    return logits, {name: x for name, x in found.items() if isinstance(x, jax.Array)}


def layer_output(model: Any, variables: Any, images: Array, layer: str) -> Array:
    """What one layer makes of images [B, ...]; to be compiled, which leaves out all that follows.

    Arguments and errors: `layer_outputs`'s; there must be such a layer.
    """
    _check_flax(model)
    return _captured(model, variables, images, lambda name: name == layer)[1][layer]


def layer_shapes(model: Any, variables: Any, images: Any) -> dict[str, tuple[int, ...]]:
    """Of every layer the shape that it gives of one image; computes nothing.

    Arguments, of which the shapes alone matter, and errors: `layer_outputs`'s.
    """
    _check_flax(model)
    names: list[str] = []

    def noted(name: str) -> bool:
        names.append(name)
        return True

    _, tree = jax.eval_shape(lambda v, x: _captured(model, v, x, noted), variables, images)
    found = {name: tree[name] for name in names}
    return {name: x.shape[1:] for name, x in found.items() if hasattr(x, "shape")}


def _captured(
    model: Any, variables: Any, images: Any, wanted: Callable[[str], bool]
) -> tuple[Array, dict[str, Any]]:
    """The logits, and {name: output} of the layers that are wanted, in no order."""

    def inside(module: nn.Module, method: str) -> bool:
        return method == "__call__" and bool(module.path) and wanted("/".join(module.path))

    logits, state = model.apply(
        variables,
        images,
        train=False,
        keys=None,
        capture_intermediates=inside,
        mutable=["intermediates"],
    )
    found: dict[str, Any] = {}

    def collect(tree: Any, path: tuple[str, ...]) -> None:
        for name, branch in tree.items():
            if name == "__call__":
                found["/".join(path)] = branch[-1]
            else:
                collect(branch, (*path, name))

    collect(state["intermediates"], ())
    return logits, found


def layer_kernels(model: Any, variables: Any, images: Array) -> dict[str, np.ndarray]:
    """The kernels of every convolution, in the order in which they compute.

    A dense layer on the image itself counts as one that is as large as the image.

    Args:
        images: [B, H, W, C], of which the shape alone matters.

    Returns:
        {name: float32 [height, width, input maps, output maps]}, NaN where an output does not see
        an input. Of a convolution in groups the input maps are those of one group.

    Raises:
        UserError: as for `layer_outputs`, or there is no such layer.
    """
    _check_flax(model)
    found: dict[str, np.ndarray] = {}

    def note(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        layer = context.module
        if context.method_name == "__call__" and isinstance(layer, (Conv, TableConv, nn.Dense)):
            name, channels = "/".join(layer.path), arguments[0].shape[-1]
            kernel = np.asarray(layer.variables["params"]["kernel"])
            if isinstance(layer, TableConv):
                found[name] = _expanded(kernel, layer.table, channels)
            elif isinstance(layer, Conv):
                found[name] = kernel
            elif not found and len(kernel) == np.prod(images.shape[1:]):
                found[name] = kernel.reshape(*images.shape[1:], -1)
        return call(*arguments, **keywords)

    with nn.intercept_methods(note):
        # The variables are no arguments, so that they are numbers while the rest is traced.
        jax.eval_shape(lambda x: model.apply(variables, x, train=False, keys=None), images)
    if not found:
        raise UserError(f"{type(model).__name__} has no kernels to be seen")
    return found


def _expanded(kernel: np.ndarray, table: Any, channels: int) -> np.ndarray:
    """A kernel of pairs [h, w, pairs] as [h, w, channels, maps]."""
    full = np.full((*kernel.shape[:2], channels, len(table)), np.nan, np.float32)
    pairs = [(source, target) for target, sources in enumerate(table) for source in sources]
    for number, (source, target) in enumerate(pairs):
        full[:, :, source, target] = kernel[:, :, number]
    return full


def _check_flax(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"{type(model).__name__} is no Flax module: its layers have no names")
