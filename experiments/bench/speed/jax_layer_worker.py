"""The worker that times this package's layers one by one, forward and backward."""

import json
import sys
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from cnn_jax.devices.process import keep_freed_memory
from cnn_jax.step import prepare_images
from experiments.bench.speed.jax_networks import experiment
from experiments.bench.speed.task import Task, noise
from experiments.bench.speed.worker import Benchmark, serve


def benchmarks(task: Task) -> dict[str, Benchmark]:
    """A benchmark per layer, by name and in the network's order, on its input for a batch of noise.

    Activations are not layers of their own, and dropout, which needs keys, is left out.
    """
    own = experiment(task)
    modules: dict[str, nn.Module] = {}

    def initial(images: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        """Return the parameters and the input of each layer, and put the layers into `modules`."""
        inputs = {}

        def note(
            call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext
        ) -> Any:
            module, is_call = context.module, context.method_name == "__call__"
            if is_call and len(module.path) == 1 and len(arguments) == 1:
                modules[module.path[0]] = module.clone(parent=None)
                inputs[module.path[0]] = arguments[0]
            return call(*arguments, **options)

        with nn.intercept_methods(note):
            variables = own.model.init(
                jax.random.key(0), prepare_images(own, [], images, keys=None)
            )
        return variables["params"], inputs

    params, inputs = jax.jit(initial)(noise(task)[0][: task.batch_size])
    return {
        name: benchmark(module, params.get(name, {}), inputs[name], first=position == 0)
        for position, (name, module) in enumerate(modules.items())
    }


def benchmark(layer: nn.Module, params: Any, x: jax.Array, *, first: bool) -> Benchmark:
    """Compute the layer's output, and its gradients from a gradient of the output."""
    shape = jax.eval_shape(lambda: layer.apply({"params": params}, x))
    dy = jax.random.normal(jax.random.key(1), shape.shape, shape.dtype)
    both_ways = jax.jit(partial(forward_and_backward, layer, first))

    def run(calls: int) -> None:
        results = None
        for _ in range(calls):
            results = both_ways(params, x, dy)
        jax.block_until_ready(results)

    return Benchmark(run, len(x))


def forward_and_backward(
    layer: nn.Module, first: bool, params: Any, x: jax.Array, dy: jax.Array
) -> tuple[Any, ...]:
    """The output, the gradient of the parameters and, unless the layer is the first, that of x."""
    y, backward = jax.vjp(lambda params, x: layer.apply({"params": params}, x), params, x)
    dparams, dx = backward(dy)
    return (y, dparams) if first else (y, dparams, dx)


def main(task: Task) -> None:
    keep_freed_memory()  # as every training does
    about = {"version": jax.__version__, "platform": jax.default_backend()}
    serve(benchmarks(task), about)


if __name__ == "__main__":
    main(Task(**json.loads(sys.argv[1])))
