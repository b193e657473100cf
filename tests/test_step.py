"""One step: whose randomness it is, what it adds up, and that compiling it once is enough."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import programs
import pytest
import tiny

from cnn_jax.augment.basic import ByLabel, random_shift
from cnn_jax.data import array_dataset, batch_indices
from cnn_jax.devices import feed as feeds
from cnn_jax.devices import parallel
from cnn_jax.devices.dispatch import split_into_blocks
from cnn_jax.experiment import Experiment, epochs_to_steps
from cnn_jax.ops.operators import dropout
from cnn_jax.step import (
    TrainState,
    eval_step,
    example_keys,
    init_state,
    make_advance,
    prepare_images,
    zero_metrics,
)

RANDOM = np.random.default_rng(0)
DATASET = array_dataset(
    "noise",
    {"train": (RANDOM.integers(1, 256, (40, 6, 6, 1)).astype(np.uint8), np.arange(40) % 3)},
    "abc",
)


class Functions(NamedTuple):
    """A model that is no Flax module: two functions."""

    init: Callable[..., Any]
    apply: Callable[..., Any]


def perceptron(images: jax.Array, params: Any, keys: jax.Array | None, rate: float) -> jax.Array:
    x = jnp.tanh(images.reshape(len(images), -1) @ params["hidden"])
    x = x if keys is None else dropout(x, keys, rate, salt=1)
    return x @ params["output"]


def make_model(rate: float = 0.3) -> Functions:
    def init(key: jax.Array, images: jax.Array) -> Any:
        hidden, output = jax.random.split(key)
        return {
            "params": {
                "hidden": jax.random.normal(hidden, (images[0].size, 12)) / 6,
                "output": jax.random.normal(output, (12, 3)),
            }
        }

    def apply(variables, images, *, train, keys, mutable):
        return perceptron(images, variables["params"], keys, rate), {}

    return Functions(init, apply)


BASE = Experiment(
    model=make_model(),
    optimizer=optax.sgd(0.1),
    dataset=DATASET,
    train_split="train",
    eval_split="train",
    batch_size=16,
    steps=6,
    seed=0,
    train_transforms=[random_shift(1)],
)


def initial(experiment: Experiment) -> TrainState:
    return parallel.replicate(jax.jit(lambda: init_state(experiment))())


def trained(
    experiment: Experiment, blocks: Iterable[feeds.Block] = ((0, 6),), accumulate: int = 1
) -> TrainState:
    feed = feeds.open_feed(experiment.dataset, "train", "resident", readers=0)
    items = feeds.training_blocks(feed, experiment.seed, experiment.batch_size, blocks, accumulate)
    advance = make_advance(experiment, accumulate)
    state = initial(experiment)
    for item in items:
        state, _ = advance(state, feed.resident, parallel.share_out(item))
    return state


@cache
def six_steps_at_once() -> TrainState:
    return trained(BASE)


# Without chance there is less to compile.
CALM = dataclasses.replace(BASE, model=make_model(rate=0.0), train_transforms=())


def assert_close(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance), one, other)


# ---- the randomness law ----


def test_the_keys_of_a_share_are_a_slice_of_the_batchs() -> None:
    whole = jax.random.key_data(example_keys(3, 5, jnp.arange(24)))
    for start in (0, 6, 12, 18):
        share = jax.random.key_data(example_keys(3, 5, jnp.arange(start, start + 6)))
        np.testing.assert_array_equal(share, whole[start : start + 6])


def test_keys_differ_by_seed_step_and_position() -> None:
    keys = [
        jax.random.key_data(example_keys(seed, step, jnp.arange(5)))
        for seed in (0, 1, 2)
        for step in (0, 1, 10**9)
    ]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 3 * 3 * 5


def test_the_state_holds_no_generator() -> None:
    assert TrainState._fields == ("step", "params", "model_state", "opt_state", "metrics")
    leaves = jax.tree.leaves(jax.eval_shape(lambda: init_state(BASE)))
    assert {leaf.dtype.name for leaf in leaves} == {"float32", "int32"}


class Camera(NamedTuple):
    """A model whose parameters, after a step of plain descent, are the images that it was shown."""

    batch: int

    def init(self, key: jax.Array, images: jax.Array) -> Any:
        return {"params": jnp.zeros((self.batch, *images.shape[1:]))}

    def apply(self, variables, images, *, train, keys, mutable):
        shown = images if keys is None else dropout(images, keys, 0.25, salt=7)
        if len(shown) == 1:  # init's blank image
            return jnp.zeros((1, 3)), {}
        return (variables["params"] * shown).sum((1, 2, 3))[:, None] * jnp.ones(3), {}


@cache
def make_camera(seed: int) -> Callable[[np.ndarray, int], np.ndarray]:
    """What the network sees of `images` [B, H, W, C] at a step: shifted, standardised, masked."""
    camera = dataclasses.replace(
        BASE,
        model=Camera(len(PICTURES)),
        optimizer=optax.sgd(-float(len(PICTURES))),
        seed=seed,
        train_transforms=[random_shift(2)],
        loss=lambda logits, labels: logits[:, 0],
        metrics={},
    )
    advance = make_advance(camera)

    def photograph(images: np.ndarray, step: int) -> np.ndarray:
        state = initial(camera)._replace(step=parallel.replicate(jnp.asarray(step, jnp.int32)))
        labels = np.zeros((1, len(images)), np.int32)
        batch = parallel.share_out({"image": images[None], "label": labels})
        return np.asarray(advance(state, {}, batch)[0].params)

    return photograph


PICTURES = RANDOM.integers(100, 256, (8, 6, 6, 1)).astype(np.uint8)


def test_an_example_is_drawn_for_by_its_position_alone() -> None:
    photograph = make_camera(seed=0)
    others = PICTURES.copy()
    others[[0, 1, 3, 4, 5, 7]] = 255 - others[[0, 1, 3, 4, 5, 7]]
    one, other = photograph(PICTURES, 41), photograph(others, 41)
    np.testing.assert_array_equal(one[[2, 6]], other[[2, 6]])
    assert not np.array_equal(one[0], other[0])


def test_draws_differ_between_positions_steps_and_seeds() -> None:
    same = np.repeat(PICTURES[:1], 8, axis=0)
    cases = [(0, 0), (0, 1), (1, 0)]
    seen = np.concatenate([make_camera(seed)(same, step) for seed, step in cases])
    assert len({picture.tobytes() for picture in seen}) == 24
    assert 0.15 < (seen == 0).mean() < 0.35  # dropout's quarter of the pixels


# ---- the step ----


def test_a_step_follows_the_gradient_of_the_mean_loss() -> None:
    batch = DATASET.open("train").read(batch_indices(0, 0, 16, 40))
    images = jnp.asarray((batch["image"] / 255 - DATASET.mean[0]) / DATASET.std[0], jnp.float32)

    def mean_loss(params: Any) -> jax.Array:
        logits = perceptron(images, params, None, 0.0)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=1)
        return -chosen.mean()

    before = initial(CALM).params
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before, jax.grad(mean_loss)(before))
    after = trained(CALM, blocks=[(0, 1)])
    assert_close(after.params, expected, 1e-6)
    assert float(after.metrics["loss"]) / 16 == pytest.approx(float(mean_loss(before)), rel=1e-6)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_pieces_are_the_whole_batch(accumulate: int) -> None:
    pieces = trained(BASE, accumulate=accumulate)
    assert_close(six_steps_at_once(), pieces)
    assert int(pieces.step) == 6 and float(pieces.metrics["count"]) == 6 * 16


class Normalised(nn.Module):
    """A perceptron that standardises by the statistics of all examples that are computed at once,
    and centres them by a running mean, which each piece of a batch changes for the next.
    """

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        x = nn.Dense(8)(images.reshape(len(images), -1))
        mean = self.variable("running", "mean", lambda: x.mean(0))
        centred = nn.sigmoid(x - mean.value)
        if train:
            mean.value = 0.5 * mean.value + 0.5 * x.mean(0)
        normalise = nn.BatchNorm(not train, axis_name=parallel.AXIS if train else None)
        return nn.Dense(3)(nn.relu(normalise(centred)))


@pytest.mark.parametrize("devices", [2, 4])
def test_accumulated_pieces_have_the_same_statistics_on_several_devices(devices: int) -> None:
    """Each piece is cut from the global batch, not from a device's share."""
    normalised = dataclasses.replace(BASE, model=Normalised())
    alone = jax.tree.map(np.asarray, trained(normalised, accumulate=2))
    with programs.simulated_devices(devices):
        shared = jax.tree.map(np.asarray, trained(normalised, accumulate=2))
    assert_close(alone, shared, 2e-5)


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_places_on_the_host_are_the_positions_on_the_devices(pieces: int) -> None:
    with programs.simulated_devices(4):
        positions = parallel.map_replicated(
            lambda x: jax.lax.all_gather(
                parallel.batch_positions(x.shape[1], pieces), parallel.AXIS
            ),
            replicated=0,
        )(parallel.share_out(np.zeros((1, 24))))
        places = parallel.batch_places(24, pieces)
    np.testing.assert_array_equal(positions, places)
    for piece in np.split(places, pieces, axis=1):  # each is a stretch of the global batch
        np.testing.assert_array_equal(np.diff(piece.reshape(-1)), 1)


def test_several_steps_a_dispatch_are_the_same_steps() -> None:
    singles = trained(BASE, blocks=[(t, t + 1) for t in range(6)])
    assert_close(six_steps_at_once(), singles, 1e-6)


def test_stricter_rules_of_promotion_change_nothing() -> None:
    """JAX_NUMPY_RANK_PROMOTION=raise and JAX_NUMPY_DTYPE_PROMOTION=strict help with code that
    keeps to them.
    """
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        state = trained(BASE)
    jax.tree.map(np.testing.assert_array_equal, state, six_steps_at_once())


def test_a_dispatch_is_compiled_once() -> None:
    traced = []

    def apply(*args: Any, **kwargs: Any) -> Any:
        traced.append(1)
        return CALM.model.apply(*args, **kwargs)

    experiment = dataclasses.replace(CALM, model=Functions(CALM.model.init, apply))
    feed = feeds.open_feed(DATASET, "train", "resident", readers=0)
    blocks = list(feeds.training_blocks(feed, 0, 16, [(0, 2), (2, 4), (4, 6)]))
    advance = make_advance(experiment)
    state, _ = advance(initial(experiment), feed.resident, parallel.share_out(blocks[0]))
    once = len(traced)
    state, _ = advance(state, feed.resident, parallel.share_out(blocks[1]))
    # As the loop does after a line of metrics.
    state = state._replace(metrics=parallel.replicate(zero_metrics(experiment)))
    advance(state, feed.resident, parallel.share_out(blocks[2]))
    assert once > 0 and len(traced) == once


def test_clipping_bounds_the_step() -> None:
    def length_of_a_step(optimizer: optax.GradientTransformation) -> float:
        experiment = dataclasses.replace(CALM, optimizer=optimizer)
        before = initial(experiment).params
        after = trained(experiment, blocks=[(0, 1)]).params
        return float(optax.tree.norm(jax.tree.map(jnp.subtract, after, before)))

    assert length_of_a_step(optax.sgd(1.0)) > 0.2
    clipped = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0))
    assert length_of_a_step(clipped) == pytest.approx(0.1, rel=1e-5)


def test_one_batch_can_be_learned_by_heart() -> None:
    experiment = dataclasses.replace(CALM, optimizer=optax.adam(0.03), batch_size=40)
    state = trained(experiment, blocks=split_into_blocks(0, 150, 50))
    state = state._replace(metrics=parallel.replicate(zero_metrics(experiment)))
    feed = feeds.open_feed(DATASET, "train", "resident", readers=0)
    block = next(feeds.evaluation_blocks(feed, 40))
    sums = evaluated(experiment, state.params, feeds.fetch(feed.resident, _first(block)))
    assert sums["accuracy"] == sums["count"] == 40
    assert sums["loss"] / 40 < 0.05


def test_metrics_are_summed_over_steps() -> None:
    still = dataclasses.replace(CALM, optimizer=optax.sgd(0.0))
    state = trained(still)
    batch = DATASET.open("train").read(
        np.concatenate([batch_indices(0, step, 16, 40) for step in range(6)])
    )
    sums = evaluated(still, state.params, batch | {"mask": np.ones(96, np.float32)})
    assert_close({name: state.metrics[name] for name in sums}, sums)


def test_model_state_is_carried_from_step_to_step() -> None:
    def init(key: jax.Array, images: jax.Array) -> Any:
        return dict(CALM.model.init(key, images)) | {"running": {"mean": jnp.zeros(())}}

    def apply(variables, images, *, train, keys, mutable):
        logits = perceptron(images, variables["params"], keys, 0.0)
        mean = 0.75 * variables["running"]["mean"] + 0.25 * images.mean()
        assert mutable == (["running"] if train else [])
        return logits, {"running": {"mean": mean}} if train else {}

    experiment = dataclasses.replace(CALM, model=Functions(init, apply))
    expected = 0.0
    for step in range(6):
        images = DATASET.open("train").read(batch_indices(0, step, 16, 40))["image"] / 255
        mean = np.mean((images - DATASET.mean[0]) / DATASET.std[0])
        expected = 0.75 * expected + 0.25 * mean
    state = trained(experiment)
    assert float(state.model_state["running"]["mean"]) == pytest.approx(expected, abs=1e-6)


# ---- evaluation of a batch ----


def _first(block: Any) -> Any:
    return jax.tree.map(lambda x: x[0], block)


def evaluated(experiment: Experiment, params: Any, batch: Any) -> dict[str, Any]:
    mapped = parallel.map_replicated(
        lambda params, items: eval_step(experiment, params, {}, _first(items)), replicated=1
    )
    return mapped(params, parallel.share_out(jax.tree.map(lambda x: np.asarray(x)[None], batch)))


def test_what_is_masked_counts_for_nothing_even_if_infinite() -> None:
    infinite_for_b = dataclasses.replace(
        BASE, loss=lambda logits, labels: jnp.where(labels == 1, jnp.inf, 2.0)
    )
    batch = DATASET.open("train").read(np.arange(6))
    mask = (batch["label"] != 1).astype(np.float32)
    sums = evaluated(infinite_for_b, initial(BASE).params, batch | {"mask": mask})
    assert float(sums["count"]) == 4 and float(sums["loss"]) == 8


@pytest.mark.parametrize(
    ("epochs", "examples", "batch_size", "steps"),
    [(1, 100, 10, 10), (1, 100, 30, 3), (2.5, 100, 10, 25), (0.001, 100, 10, 1), (3, 7, 7, 3)],
)
def test_epochs_in_steps(epochs: float, examples: int, batch_size: int, steps: int) -> None:
    assert epochs_to_steps(epochs, examples, batch_size) == steps


def test_a_transform_by_label_sees_its_own_examples_label() -> None:
    """And the key that a transform at its place would have."""

    def add_label(key: jax.Array, image: jax.Array, label: jax.Array) -> jax.Array:
        return image + 10 * label + jax.random.uniform(key)

    experiment = tiny.build(tiny.Config())
    images, labels = jnp.zeros((3, 8, 8, 1), jnp.uint8), np.array([7, 0, 3], np.int32)
    keys = example_keys(seed=0, step=0, positions=jnp.arange(3))

    def prepared(transform: Any) -> np.ndarray:
        outcome = prepare_images(experiment, [transform], images, keys, jnp.asarray(labels))
        (mean,), (std,) = experiment.dataset.mean, experiment.dataset.std
        return 255 * (np.asarray(outcome)[:, 0, 0, 0] * std + mean)

    plain = prepared(lambda key, image: image + jax.random.uniform(key))
    np.testing.assert_allclose(prepared(ByLabel(add_label)), plain + 10 * labels, atol=1e-4)
