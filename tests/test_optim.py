"""Each optimizer against its rule in NumPy, step by step, as the training loop runs it: compiled,
scanned, its state donated.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from cnn_jax import optim
from cnn_jax.errors import UserError
from cnn_jax.optim import (
    alexnet_momentum,
    diagonal_levenberg_marquardt,
    observe,
    observe_accuracy,
    plateau,
    with_curvature,
)
from cnn_jax.runs.checkpoint import Checkpoints

STEPS = 12
SHAPES = {
    "conv1/kernel": (3, 3, 2, 4),
    "conv1/bias": (4,),
    "S2/coefficient": (4,),
    "S2/bias": (4,),
    "column/fc/kernel": (5, 3),
    "column/fc/bias": (3,),
}
Flat = dict[str, np.ndarray]


def normal(seed: int, *leading: int) -> Flat:
    draw = np.random.default_rng(seed)
    return {k: draw.normal(size=(*leading, *s)).astype(np.float32) for k, s in SHAPES.items()}


START = normal(0)
GRADS = normal(1, STEPS)
CURVATURE = {name: np.square(h) for name, h in normal(2).items()}


def tree(flat: Flat) -> dict[str, Any]:
    """Fresh device arrays, nested as Flax nests them."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *layer, parameter = name.split("/")
        inside = nested
        for module in layer:
            inside = inside.setdefault(module, {})
        inside[parameter] = jnp.array(value)
    return nested


def compiled(optimizer: optax.GradientTransformation) -> Any:
    """((params, state), grads [n, ...]) -> the same after n steps, and the params of each step."""

    def step(carry: Any, grads: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(partial(lax.scan, step), donate_argnums=0)


def trained(
    optimizer: optax.GradientTransformation,
    renew: Callable[[Any], Any] = lambda state: state,
) -> dict[str, Any]:
    """Parameters of all steps; the state is renewed before the first and after half of them."""
    params = tree(START)
    advance, carry, outcomes = compiled(optimizer), (params, optimizer.init(params)), []
    for half in np.split(np.arange(STEPS), 2):
        carry = (carry[0], renew(carry[1]))
        carry, outcome = advance(carry, tree({name: g[half] for name, g in GRADS.items()}))
        outcomes.append(outcome)
    return jax.tree.map(lambda *halves: np.concatenate(halves), *outcomes)


def velocity_rule(
    rate: Callable[[str, int], float], decay: Callable[[str], float], momentum: float = 0.9
) -> Flat:
    """Krizhevsky et al. (2012), section 5, in float64; rate(name, step), decay(name)."""
    outcome = {}
    for name, start in START.items():
        w, v, outcome[name] = start.astype(np.float64), 0.0, []
        for step, g in enumerate(GRADS[name]):
            v = momentum * v - decay(name) * rate(name, step) * w - rate(name, step) * g
            w = w + v
            outcome[name].append(w)
        outcome[name] = np.stack(outcome[name])
    return outcome


def assert_same(outcome: Any, expected: Flat) -> None:
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=2e-6, atol=2e-6),
        outcome,
        jax.tree.map(np.asarray, tree(expected)),
    )


def falling(rate: float) -> optax.Schedule:
    return optax.piecewise_constant_schedule(rate, {4: 0.1, 7: 0.5})


def fallen(rate: float, step: int) -> float:
    return rate * (1 if step < 4 else 0.1 if step < 7 else 0.05)


# Rates and decays are large, so that a term too few or too many is seen.
MOMENTUM = {
    "paper": (alexnet_momentum(0.1), velocity_rule(lambda name, t: 0.1, lambda name: 0.0005)),
    "other constants": (
        alexnet_momentum(0.2, momentum=0.7, weight_decay=0.3),
        velocity_rule(lambda name, t: 0.2, lambda name: 0.3, momentum=0.7),
    ),
    "schedule": (
        alexnet_momentum(falling(0.2), weight_decay=0.3),
        velocity_rule(lambda name, t: fallen(0.2, t), lambda name: 0.3),
    ),
}


@pytest.mark.parametrize("case", MOMENTUM)
def test_alexnet_momentum(case: str) -> None:
    optimizer, expected = MOMENTUM[case]
    assert_same(trained(optimizer), expected)


def test_a_plateau_scales_the_rate_and_leaves_the_velocity() -> None:
    optimizer = alexnet_momentum(0.2, weight_decay=0.3, scaled_by=plateau(1))
    expected = velocity_rule(lambda name, t: 0.2 if t < STEPS // 2 else 0.02, lambda name: 0.3)
    assert_same(trained(optimizer, renew=lambda state: observe(state, 0.5)), expected)


PLATEAUS = {  # patience, reductions, errors, how often the rate was divided by 10 after each
    "improves": (1, 3, [5, 4, 3, 2], [0, 0, 0, 0]),
    "patience 1": (1, 3, [5, 6, 4, 4.5], [0, 1, 1, 2]),
    "patience 3": (3, 3, [5, 6, 7, 8, 6, 7, 8], [0, 0, 0, 1, 1, 1, 2]),
    "an improvement starts the wait anew": (2, 3, [5, 6, 4, 5, 4], [0, 0, 0, 0, 1]),
    "only the best counts": (2, 3, [5, 9, 8, 7, 6], [0, 0, 1, 1, 2]),
    "equal is no improvement": (2, 3, [5, 5, 5, 5, 5], [0, 0, 1, 1, 2]),
    "NaN is no improvement": (2, 3, [5, np.nan, np.nan, 4, np.nan], [0, 0, 1, 1, 1]),
    "NaN at first": (2, 3, [np.nan, 5, 5, 5], [0, 0, 0, 1]),
    "at most so many": (1, 2, [5, 5, 5, 5, 5, 4, 4], [0, 1, 2, 2, 2, 2, 2]),
    "none": (1, 0, [5, 5, 5], [0, 0, 0]),
}


@pytest.mark.parametrize("case", PLATEAUS)
def test_plateau(case: str) -> None:
    patience, reductions, errors, expected = PLATEAUS[case]
    state = plateau(patience, reductions=reductions).init({})
    scales = []
    for error in errors:
        state = observe(state, float(error))
        scales.append(state.scale)
    np.testing.assert_allclose(scales, 0.1 ** np.array(expected), rtol=1e-6)


def test_a_plateau_observes_what_is_left_of_the_accuracy() -> None:
    class State(NamedTuple):
        opt_state: Any

    state = State(plateau(1).init({}))
    for accuracy in (0.25, 0.5, 0.5):
        state = observe_accuracy(state, lambda accuracy=accuracy: {"accuracy": accuracy, "loss": 0})
    assert float(state.opt_state.best) == 0.5
    assert float(state.opt_state.scale) == pytest.approx(0.1)


def test_plateau_factor() -> None:
    rule = plateau(1, factor=0.25)
    state = observe(observe(rule.init({}), 0.5), 0.5)
    updates, _ = rule.update(tree(START), state)
    assert_same(updates, {name: 0.25 * value for name, value in START.items()})


@pytest.mark.parametrize(
    "wrong",
    [{"patience": 0}, {"patience": 2**31}, {"reductions": -1}, {"factor": 1.0}, {"factor": 0.0}],
)
def test_a_plateau_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"the {next(iter(wrong))} of a plateau must be"):
        plateau(**{"patience": 2, **wrong})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: alexnet_momentum(-0.1), "learning rate must be at least 0"),
        (lambda: alexnet_momentum(np.inf), "learning rate must be a finite number"),
        (lambda: alexnet_momentum(0.1, momentum=1.0), "momentum must be at least 0 and below 1"),
        (lambda: alexnet_momentum(0.1, weight_decay=-1e-4), "weight decay must be at least 0"),
        (lambda: diagonal_levenberg_marquardt(0.1, mu=0.0), "mu must be above 0"),
        (lambda: optim.shrinking(0.0, 0.1, 3, 5), "first learning rate must be above 0"),
        (lambda: optim.shrinking(0.1, -0.1, 3, 5), "last learning rate must be above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def curved_rule(rate: Callable[[int], float], mu: float, curvature: Callable[[int], Flat]) -> Flat:
    """LeCun et al. (1998), appendix C, in float64."""
    outcome = {}
    for name, start in START.items():
        w, outcome[name] = start.astype(np.float64), []
        for step, g in enumerate(GRADS[name]):
            w = w - rate(step) / (mu + curvature(step)[name]) * g
            outcome[name].append(w)
        outcome[name] = np.stack(outcome[name])
    return outcome


def test_diagonal_levenberg_marquardt() -> None:
    estimates = iter([CURVATURE, {name: 2 * h for name, h in CURVATURE.items()}])
    outcome = trained(
        diagonal_levenberg_marquardt(falling(0.01)),
        renew=lambda state: with_curvature(state, tree(next(estimates))),
    )
    expected = curved_rule(
        lambda t: fallen(0.01, t),
        0.02,
        lambda t: {name: (1 if t < STEPS // 2 else 2) * h for name, h in CURVATURE.items()},
    )
    assert_same(outcome, expected)


def test_without_an_estimate_every_rate_is_the_highest() -> None:
    nothing = {name: np.zeros_like(h) for name, h in CURVATURE.items()}
    expected = curved_rule(lambda t: 0.01, 0.5, lambda t: nothing)
    assert_same(trained(diagonal_levenberg_marquardt(0.01, mu=0.5)), expected)


def test_negative_curvature_counts_as_none() -> None:
    estimate = normal(3)
    outcome = trained(
        diagonal_levenberg_marquardt(0.01), lambda state: with_curvature(state, tree(estimate))
    )
    clipped = {name: np.maximum(h, 0) for name, h in estimate.items()}
    assert min(h.min() for h in estimate.values()) < 0
    assert_same(outcome, curved_rule(lambda t: 0.01, 0.02, lambda t: clipped))


def test_curvature_of_other_parameters_is_refused() -> None:
    state = diagonal_levenberg_marquardt(0.01).init(tree(START))
    with pytest.raises(ValueError, match=r"\(3,\) for a parameter \(4,\)"):
        with_curvature(state, tree(CURVATURE | {"S2/bias": np.ones(3, np.float32)}))
    with pytest.raises(ValueError):
        with_curvature(state, tree({"conv1/kernel": CURVATURE["conv1/kernel"]}))


def test_a_state_without_what_is_renewed_is_refused() -> None:
    state = alexnet_momentum(0.1).init(tree(START))
    with pytest.raises(ValueError, match="no PlateauState"):
        observe(state, 0.5)
    with pytest.raises(ValueError, match="no CurvatureState"):
        with_curvature(state, tree(CURVATURE))


# States at several depths, two of a kind.
WHOLE = optax.chain(
    optax.chain(plateau(2), diagonal_levenberg_marquardt(falling(0.01))),
    alexnet_momentum(falling(0.1), scaled_by=plateau(1)),
)


def renewed(state: Any) -> Any:
    return with_curvature(observe(observe(state, 0.5), 0.5), tree(CURVATURE))


def test_the_state_stays_of_one_structure_and_compiles_once() -> None:
    params = tree(START)
    state = WHOLE.init(params)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    advance, grads = compiled(WHOLE), tree(GRADS)
    carry = (params, state)
    for _ in range(3):
        carry, _ = advance(carry, grads)
        carry = (carry[0], renewed(carry[1]))
        assert jax.tree.map(lambda x: (x.shape, x.dtype), carry[1]) == shapes
    assert advance._cache_size() == 1


def test_renewing_is_pure_and_the_same_when_compiled() -> None:
    state = WHOLE.init(tree(START))
    before = jax.tree.map(np.array, state)
    outcome = renewed(state)
    jax.tree.map(np.testing.assert_array_equal, state, before)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(renewed)(state), outcome)
    scales = [x.scale for x in jax.tree.leaves(outcome, is_leaf=is_plateau) if is_plateau(x)]
    np.testing.assert_allclose(sorted(scales), [0.1, 1.0], rtol=1e-6)


def is_plateau(node: Any) -> bool:
    return isinstance(node, optim.PlateauState)


def test_the_state_survives_a_checkpoint(tmp_path: Path) -> None:
    state = renewed(WHOLE.init(tree(START)))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    checkpoints.wait()
    restored = checkpoints.restore(1, like=WHOLE.init(tree(START)))
    checkpoints.close()
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    jax.tree.map(np.testing.assert_array_equal, renewed(restored), renewed(state))


def table(schedule: optax.Schedule, steps: list[int]) -> np.ndarray:
    """The schedule as the optimizers call it: compiled, at int32 steps."""
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.array(steps, jnp.int32)))


def test_lecun1998_rates() -> None:
    expected = [5e-4] * 2 + [2e-4] * 3 + [1e-4] * 3 + [5e-5] * 4 + [1e-5] * 8
    steps = [7 * i for i in range(20)]
    rates = optim.lecun1998_rates(7)
    np.testing.assert_allclose(table(rates, steps), expected, rtol=1e-6)
    np.testing.assert_allclose(table(rates, [s + 6 for s in steps]), expected, rtol=1e-6)


def test_shrinking() -> None:
    expected = 1e-3 * (1e-6 / 1e-3) ** (np.arange(800) / 799)
    rates = optim.shrinking(1e-3, 1e-6, epochs=800, steps_per_epoch=60_000)
    first = [60_000 * i for i in range(800)]
    np.testing.assert_allclose(table(rates, first), expected, rtol=2e-6)
    np.testing.assert_array_equal(table(rates, [s + 59_999 for s in first]), table(rates, first))
    np.testing.assert_allclose(table(rates, [0, 48_000_000, 2**31 - 1]), [1e-3, 1e-6, 1e-6], 1e-6)


def test_shrinking_over_one_epoch_is_constant() -> None:
    rates = optim.shrinking(1e-3, 1e-6, epochs=1, steps_per_epoch=5)
    np.testing.assert_array_equal(table(rates, [0, 99]), np.float32(1e-3))


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(0, 5), (5, 0)])
def test_shrinking_over_nothing_is_refused(epochs: int, steps_per_epoch: int) -> None:
    with pytest.raises(UserError, match="at least 1"):
        optim.shrinking(1e-3, 1e-6, epochs, steps_per_epoch)
