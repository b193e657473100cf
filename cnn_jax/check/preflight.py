"""What a run will cost, said before it starts: work, memory, disk. Nothing is compiled or written.

FLOPs are the model's: twice the multiply-adds of its matrix products and convolutions, read from
its jaxpr. A network has one number: everywhere the plain operators are counted, since the fast ones
(`models/fast_*.py`) multiply by zeros. Zeros that are part of the network count: padding, the
maps that a `TableConv` does not connect, the matrices of a blur. Left out are the loss, the
transforms, and what has no products (pooling, normalisation, activations, biases). The body of a
`while` loop counts once.

Memory is an estimate for a training step, before XLA's fusions, which keep less of the activations;
the operation at work needs some more.
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

from cnn_jax.devices import feed as feeds
from cnn_jax.devices import parallel
from cnn_jax.experiment import Experiment
from cnn_jax.models import count_parameters
from cnn_jax.ops.operators import plain_forms
from cnn_jax.step import TrainState, example_keys, init_state, prepare_images
from cnn_jax.train import Cadence, Options

_BLOCKS = 3  # of streamed examples on a device: computed on, handed out, and read ahead of that


def preflight(experiment: Experiment, options: Options, folder: Path) -> dict[str, Any]:
    """Say what training `experiment` in `folder` takes. Touches neither the folder nor the data.

    Returns:
        JSON values in groups. Sizes are in bytes, work in FLOPs.
        "data": name, version, image shape, and both splits, each with its number of examples.
        "model": parameters, and FLOPs of an example forward and in training, of a step, of all.
        "memory": of one device, by use, their total, what the device has, and whether it fits.
        "run": steps (to `stop_at` if that is set), epochs, and how a batch is divided.
        "checkpoints": how many are written and kept, their size, and whether those kept and the
        next one fit on the disk of `folder`, or of the nearest folder above it that exists.

    Raises:
        UserError: the batch does not divide by the devices, there is no such split, or the images
            are too small for the model.
    """
    parallel.check_divides(experiment.batch_size, options.accumulate)
    data, cadence = experiment.dataset, Cadence.of(experiment, options)
    examples = data.num_examples(experiment.train_split)
    state: TrainState = jax.eval_shape(lambda: init_state(experiment))
    forward, training = _flops_per_example(experiment, state)
    share = experiment.batch_size // jax.device_count()
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
            "devices": jax.device_count(),
            "batch_per_device": share,
            "accumulate": options.accumulate,
        },
        "checkpoints": _checkpoints(experiment, options, cadence, _bytes(state), folder),
    }


def table(report: dict[str, Any]) -> Table:
    """The report of `preflight` for a reader: a group per topic, names and quantities."""
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
            "forward, an example": _quantity(model["flops_forward"], "FLOP"),
            "forward and backward, an example": _quantity(model["flops_training"], "FLOP"),
            "a step": _quantity(model["flops_step"], "FLOP"),
            "all steps": _quantity(model["flops_run"], "FLOP"),
        },
        "memory of a device (estimate, before XLA's fusions)": {
            **{use.replace("_", " "): _quantity(n, "B") for use, n in memory["by"].items() if n},
            "together": _quantity(memory["total"], "B"),
            "the device has": _quantity(memory["device"], "B") + _verdict(memory["fits"]),
        },
        "run": {
            "steps": f"{run['steps']:,}",
            "epochs": f"{run['epochs']:.4g}",
            "batch": f"{run['batch_size']:,}",
            "devices": f"{run['devices']:,}",
            "batch of a device": f"{run['batch_per_device']:,}"
            + f" in {run['accumulate']} pieces" * (run["accumulate"] > 1),
        },
        "checkpoints": {
            "written": f"{checkpoints['written']:,}, one in {checkpoints['every']:,} steps",
            "kept": f"{checkpoints['kept']:,}",
            "each": _quantity(checkpoints["each"], "B"),
            "at most": _quantity(checkpoints["needed"], "B"),
            "free disk": _quantity(checkpoints["free"], "B") + _verdict(checkpoints["fits"]),
        },
    }
    shown = Table(box=box.SIMPLE, show_header=False)
    shown.add_column()
    shown.add_column(justify="right")
    for title, rows in groups.items():
        shown.add_row(f"[bold]{title}[/bold]", "")
        for name, text in rows.items():
            shown.add_row(f"  {name}", text)
        shown.add_section()
    return shown


def _quantity(value: float, unit: str) -> str:
    """Three digits and an SI prefix: 714188480 FLOP is 714 MFLOP."""
    power = 0
    while value >= 999.5:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {('', *'kMGTPEZY')[power]}{unit}"


def _verdict(fits: bool) -> str:
    return "" if fits else ": [bold red]too little[/bold red]"


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _checkpoints(
    experiment: Experiment, options: Options, cadence: Cadence, each: int, folder: Path
) -> dict[str, Any]:
    """How many checkpoints of `each` bytes, and whether the disk holds them."""
    written = -(-cadence.stop // cadence.checkpoint)  # the last step has one too
    kept = min(written, options.keep + bool(experiment.metrics))  # the last ones and the best
    needed = each * min(written, kept + 1)  # one goes when the next is whole
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    free = shutil.disk_usage(existing).free
    return {
        "every": cadence.checkpoint,
        "written": written,
        "kept": kept,
        "each": each,
        "needed": needed,
        "free": free,
        "fits": needed <= free,
    }


def _memory(
    experiment: Experiment, options: Options, state: TrainState, share: int
) -> dict[str, Any]:
    """Bytes on one device by use, with `share` examples of each batch."""
    params = _bytes(state.params)
    uses = {
        "parameters": params,
        "optimizer_state": _bytes(state.opt_state),
        "model_state": _bytes(state.model_state),
        "gradients": params if options.accumulate == 1 else 2 * params,  # and their sum
        "activations": _kept_for_backward(experiment, state, share // options.accumulate),
        **_data_bytes(experiment, options, share),
    }
    total, device = sum(uses.values()), parallel.device_memory()
    return {"by": uses, "total": total, "device": device, "fits": total <= device}


def _data_bytes(experiment: Experiment, options: Options, share: int) -> dict[str, int]:
    """Splits that the feeds would hold on the device, and blocks that training would stream."""
    data, label = experiment.dataset, jnp.dtype(jnp.int32).itemsize
    splits = (experiment.train_split, experiment.eval_split)
    held = [x for x in splits if feeds.choose(data, x, options.feed) == "resident"]
    resident = sum(feeds.split_bytes(data, x) + data.num_examples(x) * label for x in held)
    steps = 0 if experiment.train_split in held else options.steps_per_dispatch
    block = min(steps, experiment.steps) * share * (math.prod(data.image_shape) + label)
    return {"resident_data": resident, "streamed_data": _BLOCKS * block}


def _kept_for_backward(experiment: Experiment, state: TrainState, examples: int) -> int:
    """Bytes that the forward pass of `examples` hands to the backward pass, without the state."""

    def forward(params: Any, model_state: Any, *batch: Any) -> Any:
        return jax.vjp(lambda params: _loss(experiment, params, model_state, *batch), params)[1]

    own = (state.params, state.model_state)
    jaxpr = jax.make_jaxpr(forward)(*own, *_batch(experiment, examples)).jaxpr
    # By variable: what two operations keep is there once, and the state is counted elsewhere.
    kept = set(_computed(jaxpr, jaxpr.invars)) - set(jaxpr.invars[: len(jax.tree.leaves(own))])
    return _bytes([x.aval for x in kept])


def _computed(jaxpr: Jaxpr, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a jaxpr that depend on `inputs`; others, such as zeros, XLA makes anew."""
    known = {id(x) for x in inputs}  # a literal has no hash
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
    """Model FLOPs of one example: forward in evaluation, and forward and backward in training."""

    def forward(params: Any, model_state: Any, images: Any, *_: Any) -> Any:
        variables = {"params": params, **model_state}
        return experiment.model.apply(variables, images, train=False, keys=None, mutable=[])

    def training(params: Any, model_state: Any, *batch: Any) -> Any:
        return jax.grad(lambda params: _loss(experiment, params, model_state, *batch))(params)

    def flops(function: Callable[..., Any], examples: int) -> int:
        arguments = (state.params, state.model_state, *_batch(experiment, examples))
        return 2 * _multiply_adds(jax.make_jaxpr(function)(*arguments).jaxpr)

    # The difference leaves out what is done once for a batch, such as to expand kernels.
    with plain_forms():
        one, both = (flops(f, 3) - flops(f, 2) for f in (forward, training))
    return one, both


def _multiply_adds(jaxpr: Jaxpr) -> int:
    """Of all matrix products and convolutions in a jaxpr, those inside its equations too."""
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
        # Each output has its inputs, and each input goes to its outputs. The second number is that
        # of a gradient by x, which reads zeros between and around what it is given.
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
    """The mean loss that `step` differentiates, of images that are prepared."""
    variables, mutable = {"params": params, **model_state}, list(model_state)
    logits, _ = experiment.model.apply(variables, images, train=True, keys=keys, mutable=mutable)
    return experiment.loss(logits, labels).mean()


def _batch(experiment: Experiment, examples: int) -> Any:
    """Shapes of prepared images, labels and keys of some training examples."""

    def prepare() -> Any:
        keys = example_keys(experiment.seed, 0, jnp.arange(examples))
        stored = jnp.zeros((examples, *experiment.dataset.image_shape), jnp.uint8)
        labels = jnp.zeros(examples, jnp.int32)
        images = prepare_images(experiment, experiment.train_transforms, stored, keys, labels)
        return images, labels, keys

    return jax.eval_shape(prepare)
