"""One training step, one evaluation step, and many training steps in one dispatch.

The functions are pure and written per device: each device calls them with its share of the batch,
inside the mapped axis of `devices/parallel.py`. State goes in and comes out the same on every
device.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from cnn_jax.augment import ByLabel, Transform
from cnn_jax.devices.dispatch import Advance, compile_steps
from cnn_jax.devices.parallel import batch_positions, mean_over_devices, sum_over_devices
from cnn_jax.experiment import Experiment, per_member

# "image" uint8 [b, H, W, C], "label" int32 [b]; in evaluation also "mask" and "position" [b]
DeviceBatch = dict[str, Array]


class TrainState(NamedTuple):
    """Everything that a checkpoint holds. Random draws follow from (seed, step, position)."""

    step: Array  # int32, steps done
    params: Any
    model_state: Any  # collections besides the parameters, {} for most models
    opt_state: Any
    metrics: dict[str, Array]  # sums since the last log line, so that a resumed run logs the same


@per_member()
def init_state(experiment: Experiment) -> TrainState:
    """Make the state before step 0 from the experiment's seed."""
    init_key, _ = _root_keys(experiment.seed)
    blank = jnp.zeros((1, *experiment.dataset.image_shape), jnp.uint8)
    images = prepare_images(experiment, experiment.eval_transforms, blank, keys=None)
    variables = dict(experiment.model.init(init_key, images))
    params = variables.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=variables,
        opt_state=experiment.optimizer.init(params),
        metrics=zero_metrics(experiment),
    )


def make_advance(experiment: Experiment, accumulate: int = 1) -> Advance:
    """Compile `advance(state, resident, items) -> (state, done)`, one training step for each item.

    See `devices.dispatch.compile_steps` for the arguments.
    """
    return compile_steps(partial(train_step, experiment, accumulate=accumulate))


@per_member(0, 1)  # the batches of M members are [b, M, ...]
def train_step(
    experiment: Experiment, state: TrainState, batch: DeviceBatch, accumulate: int = 1
) -> TrainState:
    """Make one optimizer step on the global batch, of which `batch` is this device's equal share.

    With `accumulate` > 1 the global batch is computed in that many pieces, whose gradients are
    averaged: less memory for activations and, for models without batch statistics, the same step.
    The share is then this device's part of each piece, in the order of `batch_positions`.
    """
    positions = batch_positions(len(batch["label"]), accumulate)
    keys = example_keys(experiment.seed, state.step, positions)
    grads, model_state, sums = _gradients(experiment, accumulate, state, batch, keys)
    # All devices hold the same number of examples, so the mean of their means is the batch mean.
    grads, model_state = mean_over_devices((grads, model_state))
    updates, opt_state = experiment.optimizer.update(grads, state.opt_state, state.params)
    return TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        model_state=model_state,
        opt_state=opt_state,
        metrics=_add_to_metrics(state.metrics, sum_over_devices(sums), state.step),
    )


def _gradients(
    experiment: Experiment, accumulate: int, state: TrainState, batch: DeviceBatch, keys: Array
) -> tuple[Any, Any, dict[str, Array]]:
    """Gradients of this device's mean loss, the new model state, and the metric sums."""

    def mean_loss(params: Any, model_state: Any, batch: DeviceBatch, keys: Array):
        transform_keys, model_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        images = prepare_images(
            experiment, experiment.train_transforms, batch["image"], transform_keys, batch["label"]
        )
        variables = {"params": params, **model_state}
        logits, model_state = experiment.model.apply(
            variables, images, train=True, keys=model_keys, mutable=list(model_state)
        )
        losses = experiment.loss(logits, batch["label"])
        sums = _metric_sums(experiment, losses, logits, batch["label"], jnp.ones_like(losses))
        return losses.mean(), (dict(model_state), sums)

    gradient = jax.grad(mean_loss, has_aux=True)
    if accumulate == 1:
        grads, (model_state, sums) = gradient(state.params, state.model_state, batch, keys)
        return grads, model_state, sums

    def add_piece(carry: Any, piece: Any):
        model_state, totals = carry
        grads, (model_state, sums) = gradient(state.params, model_state, *piece)
        model_state = mean_over_devices(model_state)  # the next piece begins with the whole piece's
        return (model_state, jax.tree.map(jnp.add, totals, (grads, sums))), None

    pieces = jax.tree.map(
        lambda x: x.reshape(accumulate, len(x) // accumulate, *x.shape[1:]), (batch, keys)
    )
    zeros = (jax.tree.map(jnp.zeros_like, state.params), _zero_sums(experiment))
    (model_state, (grads, sums)), _ = lax.scan(add_piece, (state.model_state, zeros), pieces)
    return jax.tree.map(lambda g: g / accumulate, grads), model_state, sums


@per_member(0, 0, None)
def eval_step(
    experiment: Experiment, params: Any, model_state: Any, batch: DeviceBatch
) -> dict[str, Array]:
    """Sum loss, metrics and count over the examples of the global batch whose mask is 1."""
    logits = evaluation_logits(experiment, params, model_state, batch["image"])
    losses = experiment.loss(logits, batch["label"])
    sums = _metric_sums(experiment, losses, logits, batch["label"], batch["mask"])
    return sum_over_devices(sums)


def evaluation_logits(
    experiment: Experiment,
    params: Any,
    model_state: Any,
    images: Array,
    transforms: Sequence[Transform | ByLabel] | None = None,
) -> Array:
    """Compute the logits, float32 [b, classes], of images as they are stored.

    Args:
        images: [b, H, W, C], 0..255.
        transforms: in place of the experiment's own for evaluation.
    """
    transforms = experiment.eval_transforms if transforms is None else transforms
    prepared = prepare_images(experiment, transforms, images, keys=None)
    logits, _ = experiment.model.apply(
        {"params": params, **model_state}, prepared, train=False, keys=None, mutable=[]
    )
    return logits


def prepare_images(
    experiment: Experiment,
    transforms: Sequence[Transform | ByLabel],
    images: Array,
    keys: Array | None,
    labels: Array | None = None,
) -> Array:
    """Transform each image under its own key, then standardise by the dataset's mean and deviation.

    Args:
        images: uint8 [b, H, W, C], 0..255.
        keys: one key per example [b]; None in evaluation, where transforms must not draw.
        labels: int32 [b], for transforms `ByLabel`; None in evaluation, which must not see them.

    Returns:
        float32 [b, H', W', C'].
    """
    for index, transform in enumerate(transforms):
        transform_keys = None if keys is None else _fold_in_each(keys, jnp.asarray(index))
        if not isinstance(transform, ByLabel):
            axes = (None if transform_keys is None else 0, 0)
            images = jax.vmap(transform, axes)(transform_keys, images)
        elif transform_keys is None or labels is None:
            raise ValueError("a transform by label has no place in evaluation")
        else:
            images = jax.vmap(transform.transform)(transform_keys, images, labels)
    mean, std = (
        jnp.asarray(x, jnp.float32) for x in (experiment.dataset.mean, experiment.dataset.std)
    )
    return (images.astype(jnp.float32) / 255 - mean) / std


def example_keys(seed: int, step: Array | int, positions: Array) -> Array:
    """One PRNG key for each position in the global batch of `step`: the randomness law.

    Args:
        positions: integers [b], places in the global batch.

    Returns:
        keys [b], the same however the batch is split over devices and processes.
    """
    _, step_root = _root_keys(seed)
    return _fold_in_each(jax.random.fold_in(step_root, step), positions)


def _root_keys(seed: int) -> Array:
    """Two keys: for the initial parameters, and for the steps."""
    # The generator is named, so that a JAX setting cannot change what a seed means.
    return jax.random.split(jax.random.key(seed, impl="threefry2x32"))


def _fold_in_each(key: Array, data: Array) -> Array:
    """Fold each of `data` [b] into one key, or one number into each of many keys [b]."""
    return jax.vmap(jax.random.fold_in, (0 if key.ndim else None, 0 if data.ndim else None))(
        key, data
    )


@per_member()
def zero_metrics(experiment: Experiment) -> dict[str, Array]:
    """Empty sums; `nonfinite_step` is the first step whose loss was not finite, -1 for none."""
    return _zero_sums(experiment) | {"nonfinite_step": jnp.full((), -1, jnp.int32)}


def mean_metrics(experiment: Experiment, sums: Mapping[str, Any]) -> dict[str, Any]:
    """Divide sums by their count: the loss first, then the metrics as the experiment lists them.

    For an experiment with members these are means over the members, and "members" lists the figures
    of each.
    """
    count = np.asarray(sums["count"], np.float64)
    means = {n: np.asarray(sums[n], np.float64) / count for n in ("loss", *experiment.metrics)}
    means_over_members = {name: float(x.mean()) for name, x in means.items()}
    if experiment.members is None:
        return means_over_members
    return means_over_members | {"members": {n: x.tolist() for n, x in means.items()}}


def _zero_sums(experiment: Experiment) -> dict[str, Array]:
    return {name: jnp.zeros((), jnp.float32) for name in ("loss", *experiment.metrics, "count")}


def _metric_sums(
    experiment: Experiment, losses: Array, logits: Array, labels: Array, mask: Array
) -> dict[str, Array]:
    """Sum loss and metrics over this device's examples, leaving out those whose mask is 0."""
    values = {"loss": losses, **{k: f(logits, labels) for k, f in experiment.metrics.items()}}
    # `where`, not a product: what a padded example computes may be infinite.
    sums = {name: jnp.where(mask > 0, value, 0).sum() for name, value in values.items()}
    return sums | {"count": mask.sum()}


def _add_to_metrics(
    metrics: dict[str, Array], sums: dict[str, Array], step: Array
) -> dict[str, Array]:
    total = {name: metrics[name] + value for name, value in sums.items()}
    is_first = (metrics["nonfinite_step"] < 0) & ~jnp.isfinite(sums["loss"])
    return total | {"nonfinite_step": jnp.where(is_first, step, metrics["nonfinite_step"])}
