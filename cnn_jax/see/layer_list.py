"""A trained network as a plain list of layers, for programs that know neither JAX nor Flax.

`layer_list` runs a network once and writes down what it does; `run_list` does the same in NumPy,
and stands for every other reader of the list: what it cannot reproduce is not handed out.

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
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cnn_jax.errors import UserError
from cnn_jax.models.layers import AvgPool, Conv, Dense, MaxPool, _pads, _pair
from cnn_jax.models.lecun_layers import EuclideanRBF, Subsample, TableConv

Layer = dict[str, Any]

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "scaled_tanh": lambda x: 1.7159 * np.tanh(x * (2 / 3)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
TOLERANCE = 1e-4  # of the logits, times the largest of them where that is more than 1


class _Call(NamedTuple):
    layer: list[Layer]
    name: str
    inputs: np.ndarray
    outputs: np.ndarray


def layer_list(model: Any, variables: Mapping[str, Any], images: Any) -> list[Layer]:
    """The layers through which a network makes logits of images, in order.

    Args:
        model: a Flax Linen module, called as `experiment.Model` is, in evaluation.
        variables: its parameters and state.
        images: float32 [n, H, W, C], standardised: different ones, on which activations are told
            apart and the list is checked.

    Raises:
        UserError: the network is no Linen module, holds a layer or computes something between
            layers that the list has no word for, or the list does not reproduce its logits.
    """
    if not isinstance(model, nn.Module):
        raise UserError("the network is no Flax module, so that its layers cannot be listed")
    calls, logits = _record(model, variables, images)
    layers: list[Layer] = []
    value, name = np.asarray(images), "the image"
    for call in calls:
        layers += _between(value, call.inputs, name, call.name) + call.layer
        value, name = call.outputs, call.name
    layers += _between(value, logits, name, "the logits")

    off = np.abs(run_list(layers, np.asarray(images)) - logits).max()
    if not off <= TOLERANCE * max(1, np.abs(logits).max()):
        raise UserError(
            f"this network's layers, listed, give logits that are off by {off:.2g}: it computes "
            "something that the list does not know, or in less than float32"
        )
    return layers


def run_list(layers: Sequence[Layer], images: np.ndarray) -> np.ndarray:
    """Logits [n, classes] of images [n, H, W, C] by NumPy alone."""
    x = images
    for layer in layers:
        x = _RUN[layer["type"]](layer, x)
    return x


def _record(
    model: nn.Module, variables: Mapping[str, Any], images: Any
) -> tuple[list[_Call], np.ndarray]:
    """The calls of all modules that compute something by themselves, and the logits."""
    calls: list[_Call] = []

    def write_down(call_next: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
        module = context.module
        if context.method_name != "__call__" or module is model:
            return call_next(*args, **kwargs)
        before = len(calls)
        y = call_next(*args, **kwargs)
        if len(calls) > before and type(module) not in _DESCRIBE:
            return y  # made of modules that are written down already
        x, y_array = np.asarray(args[0]), np.asarray(y)
        if x.shape == y_array.shape and np.array_equal(x, y_array):
            return y  # dropout, in evaluation
        if type(module) not in _DESCRIBE:
            name = f"{module.name} ({type(module).__name__})"
            raise UserError(f"this network has a layer that cannot be listed: {name}")
        del calls[before:]
        calls.append(_Call([_DESCRIBE[type(module)](module, x)], str(module.name), x, y_array))
        return y

    # Else a GPU multiplies in TF32, and the list would be off by more than float32's rounding.
    with nn.intercept_methods(write_down), jax.default_matmul_precision("highest"):
        logits = model.apply(variables, images, train=False, keys=None, mutable=False)
    return calls, np.asarray(logits)


def _between(value: np.ndarray, wanted: np.ndarray, name: str, next_name: str) -> list[Layer]:
    """The activation, or none, and the flattening, or none, that take one value to the next."""
    if value.size == wanted.size and len(value) == len(wanted):
        flat: list[Layer] = [{"type": "flatten"}] if wanted.ndim < value.ndim else []
        for function, f in {"": lambda x: x, **ACTIVATIONS}.items():
            if np.allclose(f(value).reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5):
                named = {"type": "activation", "function": function}
                return [named, *flat] if function else flat
    known = ", ".join(ACTIVATIONS)
    raise UserError(
        f"between {name} and {next_name} this network computes something that cannot be listed; "
        f"known are {known}, and flattening"
    )


def _describe_conv(module: Any, x: np.ndarray) -> Layer:
    if module.groups != 1:
        raise UserError(f"{module.name} convolves in {module.groups} groups: that cannot be listed")
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
        raise UserError(f"{module.name} has a bias for each unit, or pads by other than zeros")
    own = {name: np.asarray(a, np.float32) for name, a in module.variables["params"].items()}
    size, maps = module.kernel_size, len(module.table)
    kernel = own["kernel"] @ module._expansion(x.shape[-1])
    return {
        "type": "conv",
        "name": module.name,
        "kernel": kernel.reshape(size, size, x.shape[-1], maps),
        "bias": own.get("bias", np.zeros(maps, np.float32)),
        "stride": [module.strides] * 2,
        "padding": [[module.padding] * 2] * 2,
    }


def _describe_dense(module: Any, x: np.ndarray) -> Layer:
    del x
    return {"type": "dense", "name": module.name, **_weights(module, module.features)}


def _describe_pool(how: str) -> Callable[[Any, np.ndarray], Layer]:
    def describe(module: Any, x: np.ndarray) -> Layer:
        del x
        own = {"how": how, "window": module.window, "stride": module.stride}
        return {"type": "pool", "name": module.name, **own}

    return describe


def _describe_subsample(module: Any, x: np.ndarray) -> Layer:
    del x
    own = module.variables["params"]
    return {
        "type": "subsample",
        "name": module.name,
        "coefficient": np.asarray(own["coefficient"], np.float32),
        "bias": np.asarray(own["bias"], np.float32),
    }


def _describe_distance(module: Any, x: np.ndarray) -> Layer:
    del x
    points = np.asarray(module.points, np.float32)
    return {"type": "distance", "name": module.name, "points": points}


def _weights(module: Any, features: int) -> Layer:
    own = {name: np.asarray(a, np.float32) for name, a in module.variables["params"].items()}
    return {"kernel": own["kernel"], "bias": own.get("bias", np.zeros(features, np.float32))}


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
