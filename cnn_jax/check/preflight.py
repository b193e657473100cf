"""Estimate the work, memory and disk of a run before it starts, compiling and writing nothing.

FLOPs are the model's: twice the multiply-adds of its matrix products and convolutions, read from
its jaxpr. To give a network the same number on every device, the plain operators are counted; the
fast ones (`ops/fast.py`) also multiply by zeros. Zeros that are part of the network count: padding,
the maps that a `TableConv` does not connect, the matrices of a blur. The loss, the transforms, and
operations without products (pooling, normalisation, activations, biases) do not count. The body of
a `while` loop counts once.

Memory is estimated for a training step before XLA's fusions, which keep fewer activations. The
operation that is being computed needs some more.
"""

import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from rich import box
from rich.table import Table

from cnn_jax.check.start import BLOCKS, bytes_of
from cnn_jax.devices import feed as feeds
from cnn_jax.devices import parallel
from cnn_jax.experiment import Experiment
from cnn_jax.models import count_parameters
from cnn_jax.ops.operators import plain_forms
from cnn_jax.options import Cadence, Options
from cnn_jax.step import TrainState, example_keys, init_state, prepare_images


def preflight(experiment: Experiment, options: Options, folder: Path) -> dict[str, Any]:
    """Estimate what training `experiment` in `folder` takes, touching neither folder nor data.

    Returns:
        groups of JSON values, sizes in bytes and work in FLOPs:
        "data": name, version, image shape, and each split with its number of examples.
        "model": parameters; FLOPs of one example forward and in training, of a step, of the run.
        "memory": bytes on one device by use, their total, what the device has, whether it fits.
        "run": steps (up to `stop_at`), epochs, and how a batch is divided.
        "checkpoints": how many are written and kept, their size, and whether those kept and the
        next one fit on the disk of `folder`, or of its nearest parent that exists.

    Raises:
        UserError: the batch does not divide by the devices, a split does not exist, or the images
            are too small for the model.
    """
    parallel.check_divides(experiment.batch_size, options.accumulate)
    data, cadence = experiment.dataset, Cadence.of(experiment, options)
    examples = data.num_examples(experiment.train_split)
    state: TrainState = jax.eval_shape(lambda: init_state(experiment))
    forward, training = _flops_per_example(experiment, state)
    share = experiment.batch_size // len(parallel.devices())
    return {
        "data": {
            "name": data.name,
            "version": data.version,
            "image": list(data.image_shape),
            "train": [experiment.train_split, examples],
            "eval": [experiment.eval_split, data.num_examples(experiment.eval_split)],
        },
        "model": {
            "parameters": count_parameters(state.params),
            "flops_forward": forward,
            "flops_training": training,
            "flops_step": training * experiment.batch_size,
            "flops_run": training * experiment.batch_size * cadence.stop,
        },
        "memory": _memory(experiment, options, state, share),
        "run": {
            "steps": cadence.stop,
            "epochs": cadence.stop * experiment.batch_size / examples,
            "batch_size": experiment.batch_size,
            "devices": len(parallel.devices()),
            "batch_per_device": share,
            "accumulate": options.accumulate,
        },
        "checkpoints": _checkpoints(experiment, options, cadence, bytes_of(state), folder),
    }


def table(report: dict[str, Any]) -> Table:
    """The report of `preflight` as a table to read: one group of rows per topic."""
    data, model, memory, run, checkpoints = report.values()
    height, width, channels = data["image"]
    groups = {
        f"data: {data['name']} {data['version']}": {
            "image": f"{height} × {width} × {channels}",
            "examples to train on": "{1:,} in {0}".format(*data["train"]),
            "examples to evaluate": "{1:,} in {0}".format(*data["eval"]),
        },
        "model": {
            "parameters": f"{model['parameters']:,}",
            "forward, per example": _quantity(model["flops_forward"], "FLOP"),
            "forward and backward, per example": _quantity(model["flops_training"], "FLOP"),
            "per step": _quantity(model["flops_step"], "FLOP"),
            "all steps": _quantity(model["flops_run"], "FLOP"),
        },
        "memory per device (estimate, before XLA's fusions)": {
            **{use.replace("_", " "): _quantity(n, "B") for use, n in memory["by"].items() if n},
            "total": _quantity(memory["total"], "B"),
            "available": _quantity(memory["device"], "B") + _verdict(memory["fits"]),
        },
        "run": {
            "steps": f"{run['steps']:,}",
            "epochs": f"{run['epochs']:.4g}",
            "batch": f"{run['batch_size']:,}",
            "devices": f"{run['devices']:,}",
            "batch per device": f"{run['batch_per_device']:,}"
            + f" in {run['accumulate']} pieces" * (run["accumulate"] > 1),
        },
        "checkpoints": {
            "written": f"{checkpoints['written']:,}, every {checkpoints['every']:,} steps",
            "kept": f"{checkpoints['kept']:,}",
            "size of one": _quantity(checkpoints["each"], "B"),
            "space needed": _quantity(checkpoints["needed"], "B"),
            "space free": _quantity(checkpoints["free"], "B") + _verdict(checkpoints["fits"]),
        },
    }
    lines = Table(box=box.SIMPLE, show_header=False)
    lines.add_column()
    lines.add_column(justify="right")
    for title, rows in groups.items():
        lines.add_row(f"[bold]{title}[/bold]", "")
        for name, text in rows.items():
            lines.add_row(f"  {name}", text)
        lines.add_section()
    return lines


def _quantity(value: float, unit: str) -> str:
    """A number with three digits and an SI prefix: 714188480 FLOP is 714 MFLOP."""
    power = 0
    while value >= 999.5:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {('', *'kMGTPEZY')[power]}{unit}"


def _verdict(fits: bool) -> str:
    return "" if fits else ": [bold red]too little[/bold red]"


def _checkpoints(
    experiment: Experiment, options: Options, cadence: Cadence, size: int, folder: Path
) -> dict[str, Any]:
    """The number of checkpoints, of `size` bytes each, and whether they fit on the disk."""
    written = -(-cadence.stop // cadence.checkpoint)  # the last step has one too
    kept = min(written, options.keep + bool(experiment.metrics))  # the last ones and the best
    needed = size * min(written, kept + 1)  # one is deleted once the next is complete
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    free = shutil.disk_usage(existing).free
    return {
        "every": cadence.checkpoint,
        "written": written,
        "kept": kept,
        "each": size,
        "needed": needed,
        "free": free,
        "fits": needed <= free,
    }


def _memory(
    experiment: Experiment, options: Options, state: TrainState, share: int
) -> dict[str, Any]:
    """Bytes on one device by use, if it computes `share` examples of each batch."""
    params = bytes_of(state.params)
    uses = {
        "parameters": params,
        "optimizer_state": bytes_of(state.opt_state),
        "model_state": bytes_of(state.model_state),
        "gradients": params if options.accumulate == 1 else 2 * params,  # a piece's and the sum
        "activations": _kept_for_backward(experiment, state, share // options.accumulate),
        **_data_bytes(experiment, options, share),
    }
    total, device = sum(uses.values()), parallel.device_memory()
    return {"by": uses, "total": total, "device": device, "fits": total <= device}


def _data_bytes(experiment: Experiment, options: Options, share: int) -> dict[str, int]:
    """Bytes of the splits that are resident on the device, and of the blocks that are streamed."""
    data, label = experiment.dataset, jnp.dtype(jnp.int32).itemsize
    splits = (experiment.train_split, experiment.eval_split)
    on_device = [x for x in splits if feeds.choose(data, x, options.feed) == "resident"]
    resident = sum(feeds.split_bytes(data, x) + data.num_examples(x) * label for x in on_device)
    steps = 0 if experiment.train_split in on_device else options.steps_per_dispatch
    block = min(steps, experiment.steps) * share * (math.prod(data.image_shape) + label)
    return {"resident_data": resident, "streamed_data": BLOCKS * block}


def _kept_for_backward(experiment: Experiment, state: TrainState, examples: int) -> int:
    """Bytes that the forward pass of `examples` keeps for the backward pass, besides the state."""

    def forward(params: Any, model_state: Any, *batch: Any) -> Any:
        return jax.vjp(lambda params: _loss(experiment, params, model_state, *batch), params)[1]

    variables = (state.params, state.model_state)
    jaxpr = jax.make_jaxpr(forward)(*variables, *_batch(experiment, examples)).jaxpr
    # As sets, since what two operations keep exists once, and the state is counted elsewhere.
    inputs = set(jaxpr.invars[: len(jax.tree.leaves(variables))])
    kept = set(_computed(jaxpr, jaxpr.invars)) - inputs
    return bytes_of([x.aval for x in kept])


def _computed(jaxpr: Jaxpr, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a jaxpr that depend on `inputs`; XLA makes others, such as zeros, anew."""
    known = {id(x) for x in inputs}  # ids, since a literal cannot be hashed
    for equation in jaxpr.eqns:
        places = [i for i, x in enumerate(equation.invars) if id(x) in known]
        outputs = equation.outvars if places else []
        if places and equation.primitive.name == "jit":
            inner = equation.params["jaxpr"].jaxpr
            computed = {id(x) for x in _computed(inner, [inner.invars[i] for i in places])}
            outputs = [y for y, x in zip(outputs, inner.outvars, strict=True) if id(x) in computed]
        known |= {id(y) for y in outputs}
    return [x for x in jaxpr.outvars if id(x) in known]


def _flops_per_example(experiment: Experiment, state: TrainState) -> tuple[int, int]:
    """FLOPs of one example: forward in evaluation, and forward and backward in training."""

    def forward(params: Any, model_state: Any, images: Any, *_: Any) -> Any:
        variables = {"params": params, **model_state}
        return experiment.model.apply(variables, images, train=False, keys=None, mutable=[])

    def training(params: Any, model_state: Any, *batch: Any) -> Any:
        return jax.grad(lambda params: _loss(experiment, params, model_state, *batch))(params)

    def flops(function: Callable[..., Any], examples: int) -> int:
        arguments = (state.params, state.model_state, *_batch(experiment, examples))
        return 2 * _multiply_adds(jax.make_jaxpr(function)(*arguments).jaxpr)

    # The difference leaves out work that is done once per batch, such as expanding kernels.
    with plain_forms():
        return flops(forward, 3) - flops(forward, 2), flops(training, 3) - flops(training, 2)


def _multiply_adds(jaxpr: Jaxpr) -> int:
    """The multiply-adds of all matrix products and convolutions in a jaxpr, nested ones too."""
    return sum(_multiply_adds_of(equation) for equation in jaxpr.eqns)


def _multiply_adds_of(equation: JaxprEqn) -> int:
    name, parameters = equation.primitive.name, equation.params
    variables: list[Any] = [*equation.invars, *equation.outvars]
    shapes: list[tuple[int, ...]] = [getattr(x.aval, "shape", ()) for x in variables]
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left, _, y = shapes
        return math.prod(y) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        x, kernel, y = shapes
        outputs, inputs, *window = (kernel[i] for i in parameters["dimension_numbers"][1])
        groups = parameters["feature_group_count"] * parameters["batch_group_count"]
        # Counted by outputs, or by inputs where that is less: the gradient by x reads zeros between
        # and around the numbers that it is given.
        return math.prod(window) * min(math.prod(y) * inputs, math.prod(x) * outputs // groups)
    values = jax.tree.leaves(parameters, is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr))
    closed = (value.jaxpr if isinstance(value, ClosedJaxpr) else value for value in values)
    inside = [_multiply_adds(value) for value in closed if isinstance(value, Jaxpr)]
    if name == "cond":
        return max(inside)
    return sum(inside) * (parameters["length"] if name == "scan" else 1)


def _loss(
    experiment: Experiment, params: Any, model_state: Any, images: Any, labels: Any, keys: Any
) -> Any:
    """The mean loss of prepared images, which `step` differentiates."""
    variables, mutable = {"params": params, **model_state}, list(model_state)
    logits, _ = experiment.model.apply(variables, images, train=True, keys=keys, mutable=mutable)
    return experiment.loss(logits, labels).mean()


def _batch(experiment: Experiment, examples: int) -> Any:
    """The shapes of the prepared images, labels and keys of some training examples."""

    def prepare() -> Any:
        keys = example_keys(experiment.seed, 0, jnp.arange(examples))
        stored = jnp.zeros((examples, *experiment.dataset.image_shape), jnp.uint8)
        labels = jnp.zeros(examples, jnp.int32)
        images = prepare_images(experiment, experiment.train_transforms, stored, keys, labels)
        return images, labels, keys

    return jax.eval_shape(prepare)
