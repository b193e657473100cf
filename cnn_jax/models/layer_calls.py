"""Look into a network while it runs: record what its layers are called with and return."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import flax.linen as nn


class LayerCall(NamedTuple):
    """One call of a layer.

    If the layer ran inside a transformation that is over (`jax.eval_shape`, `nn.remat`), input and
    output are tracers: their shape and dtype alone can be read.
    """

    name: str  # "C1"; "outer/inner" for a nested layer, "" for the network itself
    layer: nn.Module  # bound, so that it has `path` and `variables`
    input: Any  # its first argument
    output: Any
    is_leaf: bool  # it called no other layer


@contextmanager
def record_layer_calls() -> Iterator[list[LayerCall]]:
    """Record every call of a layer's `__call__` in the `with` block, in the order of returning.

    Outputs are also sown into Flax's collection "intermediates", {layer: {"__call__": (output, of
    each call)}}. Whoever makes it mutable gets them out of `nn.remat` as arrays.
    """
    calls: list[LayerCall] = []

    def record(call_next: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
        if context.method_name != "__call__":
            return call_next(*args, **kwargs)
        earlier = len(calls)
        output = call_next(*args, **kwargs)
        layer, argument = context.module, (*args, *kwargs.values(), None)[0]
        is_leaf = len(calls) == earlier
        calls.append(LayerCall("/".join(layer.path), layer, argument, output, is_leaf))
        layer.sow("intermediates", "__call__", output)
        return output

    with nn.intercept_methods(record):
        yield calls
