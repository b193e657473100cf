"""Refuse, before anything is written, a training that could not make its first step."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from cnn_jax import losses, metrics
from cnn_jax.devices import feed as feeds
from cnn_jax.devices import parallel
from cnn_jax.errors import UserError
from cnn_jax.experiment import Experiment, per_member
from cnn_jax.options import Options
from cnn_jax.step import TrainState, example_keys, init_state, prepare_images

BLOCKS = 3  # of a streamed split on a device: being computed, dispatched next, and read ahead


def check_start(experiment: Experiment, options: Options) -> None:
    """Trace the network, its loss and its metrics; compute nothing.

    Raises:
        UserError: the batch does not divide by the devices; the images are too small; the network
            has fewer outputs than there are classes; the loss or a metric is not one number per
            example; or what a device must hold is more than its memory.
    """
    parallel.check_divides(experiment.batch_size, options.accumulate)
    state: TrainState = jax.eval_shape(lambda: init_state(experiment))
    seen = _seen(experiment, state)
    _check_outputs(experiment, seen)
    for flag, size in _least_memory(experiment, options, state, seen["image"]):
        if size > parallel.device_memory():
            raise UserError(
                f"{flag} needs at least {size / 1e9:.3g} GB on a device that has "
                f"{parallel.device_memory() / 1e9:.3g} GB: choose a smaller one"
            )


def bytes_of(tree: Any) -> int:
    """The bytes that the arrays of a tree take, or arrays of its shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _seen(experiment: Experiment, state: TrainState) -> dict[str, tuple[int, ...]]:
    """The shapes of prepared images, logits, loss and metrics in training, by name.

    For one more example than there are classes, so that the two cannot be confused.
    """
    count = len(experiment.dataset.class_names) + 1
    images = jax.ShapeDtypeStruct((1, count, *experiment.dataset.image_shape), jnp.uint8)
    step = jax.vmap(partial(_forward, experiment), (None, 0), axis_name=parallel.AXIS)
    axes = 1 if experiment.members is None else 2  # of the devices, and of the members
    return {name: x.shape[axes:] for name, x in jax.eval_shape(step, state, images).items()}


@per_member(0, None)
def _forward(experiment: Experiment, state: TrainState, images: Array) -> dict[str, Array]:
    labels = jnp.zeros(len(images), jnp.int32)
    keys = example_keys(experiment.seed, 0, jnp.arange(len(images)))
    prepared = prepare_images(experiment, experiment.train_transforms, images, keys, labels)
    variables = {"params": state.params, **state.model_state}
    logits, _ = experiment.model.apply(
        variables, prepared, train=True, keys=keys, mutable=list(state.model_state)
    )
    values = {"the loss": experiment.loss(logits, labels)}
    values |= {f"the metric {n}": f(logits, labels) for n, f in experiment.metrics.items()}
    return {"image": prepared, "logits": logits, **values}


def _check_outputs(experiment: Experiment, seen: dict[str, tuple[int, ...]]) -> None:
    _, logits, *values = seen.values()
    classes = len(experiment.dataset.class_names)
    if _labels_index_outputs(experiment) and (outputs := logits[-1]) < classes:
        raise UserError(
            f"{outputs} output{'s' * (outputs != 1)}, {classes} classes: the network of this "
            f"experiment needs an output for each class of {experiment.dataset.name}"
        )
    for name, shape in zip(list(seen)[2:], values, strict=True):
        if shape != (classes + 1,):
            raise UserError(
                f"{name} must be one number per example: for {classes + 1} examples its shape is "
                f"{shape}"
            )


def _labels_index_outputs(experiment: Experiment) -> bool:
    """Whether the loss or a metric is one of the package's, which take a label for the number of
    an output; one of the user's own may take it for anything.
    """
    functions: list[Any] = [experiment.loss, *experiment.metrics.values()]
    modules = {getattr(getattr(f, "func", f), "__module__", None) for f in functions}
    return not modules.isdisjoint((losses.__name__, metrics.__name__))


def _least_memory(
    experiment: Experiment, options: Options, state: TrainState, image: tuple[int, ...]
) -> Iterator[tuple[str, int]]:
    """Bytes that one device must hold at the least, each with the flag that decides them."""
    data, devices = experiment.dataset, len(parallel.devices())
    stored, prepared = math.prod(data.image_shape), 4 * math.prod(image[1:])
    share = experiment.trainings * experiment.batch_size // devices
    streamed = feeds.choose(data, experiment.train_split, options.feed) == "stream"

    yield "the network with the state of its optimizer", bytes_of(state)
    batch = share * stored + share // options.accumulate * prepared
    yield f"--batch-size {experiment.batch_size}", batch
    steps = min(options.steps_per_dispatch, experiment.steps)
    # An index is 8 bytes where it is drawn, and 4 where it is used.
    block = BLOCKS * steps * share * (stored if streamed else 12)
    yield f"--steps-per-dispatch {options.steps_per_dispatch}", block
    if streamed:
        yield f"--readers {options.readers}", options.readers * share * stored
    examples = data.num_examples(experiment.eval_split)
    evaluated = parallel.round_up(min(options.eval_batch_size, examples)) // devices
    size = experiment.trainings * evaluated * (stored + prepared)
    yield f"--eval-batch-size {options.eval_batch_size}", size
