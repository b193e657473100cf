"""Write a trained network down as a list of layers, for programs without JAX and Flax.

`layer_list` runs a network once and lists what it computes. `run_list` computes the same in NumPy,
and stands for every other reader of the list: if it does not reproduce the logits, the network is
refused.

A layer is a dictionary; arrays are float32, maps [H, W, C]:

    {"type": "conv", "name", "kernel" [h, w, C, D], "bias" [D], "stride" [2],
     "padding" [[top, bottom], [left, right]]}       cross-correlation, zeros outside
    {"type": "pool", "name", "how": "mean" or "max", "window", "stride"}      no padding
    {"type": "subsample", "name", "coefficient" [C], "bias" [C]}              of sums of 2x2
    {"type": "activation", "function": one of ACTIVATIONS}
    {"type": "flatten"}                                                       [H, W, C] to [n]
    {"type": "dense", "name", "kernel" [n, m], "bias" [m]}
    {"type": "distance", "name", "points" [m, n]}                             minus the squared one
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.core import Tracer
from numpy.lib.stride_tricks import sliding_window_view

from cnn_jax.errors import UserError
from cnn_jax.models.layer_calls import LayerCall, record_layer_calls
from cnn_jax.models.layers import AvgPool, Conv, Dense, MaxPool, _pads, _pair
from cnn_jax.models.lecun_layers import EuclideanRBF, Subsample, TableConv
from cnn_jax.ops.operators import plain_forms

Layer = dict[str, Any]

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "scaled_tanh": lambda x: 1.7159 * np.tanh(x * (2 / 3)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
TOLERANCE = 1e-4  # of the logits, times the largest of them where that is more than 1


def layer_list(model: Any, variables: Mapping[str, Any], images: Any) -> list[Layer]:
    """List the layers through which a network computes its logits, in order.

    Args:
        model: a Flax Linen module, called as `experiment.Model` is, in evaluation.
        variables: its parameters and state.
        images: float32 [n, H, W, C], standardised, on which activations are told apart and the
            list is checked; they must differ from each other.

    Raises:
        UserError: the network is no Linen module, has a layer or computes something between
            layers for which the list has no word, or the list does not reproduce its logits.
    """
    if not isinstance(model, nn.Module):
        raise UserError("the network is no Flax module, so that its layers cannot be listed")
    # "highest", or a GPU multiplies in TF32, and the list is off by more than float32 rounds.
    with (
        record_layer_calls() as calls,
        jax.default_matmul_precision("highest"),
        plain_forms(),  # every operator is compiled by itself here, and these are fewer
    ):
        output = model.apply(variables, images, train=False, keys=None, mutable=False)
    logits, images = np.asarray(output), np.asarray(images)

    hidden = [call for call in calls if call.is_leaf and isinstance(call.output, Tracer)]
    if hidden:
        raise UserError(
            f"the values of {hidden[0].name} cannot be seen, since it runs inside nn.remat or "
            "another transformation: build the network without it"
        )

    layers: list[Layer] = []
    value, name = images, "the image"
    for call in filter(_computes, calls):
        inputs = np.asarray(call.input)
        layers += _between(value, inputs, name, call.name)
        layers.append(_description(call.layer, inputs))
        value, name = np.asarray(call.output), call.name
    layers += _between(value, logits, name, "the logits")

    error = np.abs(run_list(layers, images) - logits).max()
    if not error <= TOLERANCE * max(1, np.abs(logits).max()):
        raise UserError(
            f"the listed layers give logits that are off by {error:.2g}: this network computes "
            "something that the list cannot express, or computes in less than float32"
        )
    return layers


def run_list(layers: Sequence[Layer], images: np.ndarray) -> np.ndarray:
    """The logits [n, classes] of images [n, H, W, C], by NumPy alone."""
    x = images
    for layer in layers:
        x = _RUN[layer["type"]](layer, x)
    return x


def _computes(call: LayerCall) -> bool:
    """Whether a layer computes something itself: not dropout, nor a layer made of other layers."""
    return call.is_leaf and not np.array_equal(np.asarray(call.input), np.asarray(call.output))


def _description(module: nn.Module, inputs: np.ndarray) -> Layer:
    describe = _DESCRIBE.get(type(module))
    if describe is None:
        name = f"{module.name} ({type(module).__name__})"
        raise UserError(f"this network has a layer that cannot be listed: {name}")
    return describe(module, inputs)


def _between(x: np.ndarray, y: np.ndarray, name: str, next_name: str) -> list[Layer]:
    """The activation and the flattening, both or one or none, that take x to y."""
    if x.size == y.size and len(x) == len(y):
        flatten: list[Layer] = [{"type": "flatten"}] if y.ndim < x.ndim else []
        for function, f in {"": lambda x: x, **ACTIVATIONS}.items():
            if np.allclose(f(x).reshape(y.shape), y, rtol=1e-4, atol=1e-5):
                activation = {"type": "activation", "function": function}
                return [activation, *flatten] if function else flatten
    known = ", ".join(ACTIVATIONS)
    raise UserError(
        f"between {name} and {next_name} this network computes something that cannot be listed; "
        f"known are {known}, and flattening"
    )


def _describe_conv(module: Any, x: np.ndarray) -> Layer:
    if module.groups != 1:
        raise UserError(f"{module.name} has {module.groups} groups: that cannot be listed")
    size, strides = _pair(module.kernel_size), _pair(module.strides)
    return {
        "type": "conv",
        "name": module.name,
        **_weights(module, module.features),
        "stride": list(strides),
        "padding": [list(pad) for pad in _pads(module.padding, x.shape[1:3], size, strides)],
    }


def _describe_table_conv(module: Any, x: np.ndarray) -> Layer:
    if module.bias == "unit" or (module.padding and module.pad_value):
        raise UserError(f"{module.name} has a bias for each unit, or pads with more than zeros")
    params = _params(module)
    size, maps = module.kernel_size, len(module.table)
    kernel = params["kernel"] @ module._expansion(x.shape[-1])
    return {
        "type": "conv",
        "name": module.name,
        "kernel": kernel.reshape(size, size, x.shape[-1], maps),
        "bias": params.get("bias", np.zeros(maps, np.float32)),
        "stride": [module.strides] * 2,
        "padding": [[module.padding] * 2] * 2,
    }


def _describe_dense(module: Any, x: np.ndarray) -> Layer:
    del x
    return {"type": "dense", "name": module.name, **_weights(module, module.features)}


def _describe_pool(how: str) -> Callable[[Any, np.ndarray], Layer]:
    def describe(module: Any, x: np.ndarray) -> Layer:
        del x
        patches = {"window": module.window, "stride": module.stride}
        return {"type": "pool", "name": module.name, "how": how, **patches}

    return describe


def _describe_subsample(module: Any, x: np.ndarray) -> Layer:
    del x
    params = _params(module)
    scale = {"coefficient": params["coefficient"], "bias": params["bias"]}
    return {"type": "subsample", "name": module.name, **scale}


def _describe_distance(module: Any, x: np.ndarray) -> Layer:
    del x
    points = np.asarray(module.points, np.float32)
    return {"type": "distance", "name": module.name, "points": points}


def _weights(module: Any, features: int) -> Layer:
    params = _params(module)
    return {"kernel": params["kernel"], "bias": params.get("bias", np.zeros(features, np.float32))}


def _params(module: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(a, np.float32) for name, a in module.variables["params"].items()}


_DESCRIBE: dict[type, Callable[[Any, np.ndarray], Layer]] = {
    Conv: _describe_conv,
    TableConv: _describe_table_conv,
    nn.Dense: _describe_dense,
    Dense: _describe_dense,
    AvgPool: _describe_pool("mean"),
    MaxPool: _describe_pool("max"),
    Subsample: _describe_subsample,
    EuclideanRBF: _describe_distance,
}


def _windows(x: np.ndarray, window: Sequence[int], stride: Sequence[int]) -> np.ndarray:
    """All patches of x [n, H, W, C]: [n, H', W', C, *window]."""
    return sliding_window_view(x, tuple(window), (1, 2))[:, :: stride[0], :: stride[1]]


def _run_conv(layer: Layer, x: np.ndarray) -> np.ndarray:
    rows, columns = layer["padding"]
    kernel = layer["kernel"]
    patches = _windows(
        np.pad(x, ((0, 0), rows, columns, (0, 0))), kernel.shape[:2], layer["stride"]
    )
    return np.einsum("nyxchw,hwcd->nyxd", patches, kernel, optimize=True) + layer["bias"]


def _run_pool(layer: Layer, x: np.ndarray) -> np.ndarray:
    patches = _windows(x, [layer["window"]] * 2, [layer["stride"]] * 2)
    return (np.mean if layer["how"] == "mean" else np.max)(patches, axis=(-2, -1))


def _run_subsample(layer: Layer, x: np.ndarray) -> np.ndarray:
    return _windows(x, (2, 2), (2, 2)).sum((-2, -1)) * layer["coefficient"] + layer["bias"]


_RUN: dict[str, Callable[[Layer, np.ndarray], np.ndarray]] = {
    "conv": _run_conv,
    "pool": _run_pool,
    "subsample": _run_subsample,
    "activation": lambda layer, x: ACTIVATIONS[layer["function"]](x),
    "flatten": lambda _, x: x.reshape(len(x), -1),
    "dense": lambda layer, x: x @ layer["kernel"] + layer["bias"],
    "distance": lambda layer, x: -np.square(x[:, None] - layer["points"]).sum(-1),
}
