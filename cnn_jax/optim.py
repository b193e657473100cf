"""The optimizers and learning rates of 1998 to 2012, as optax transformations and schedules.

A rate is a float or a schedule, a function of the step. All state is arrays of fixed shape and
dtype in the optimizer's state, so it is checkpointed with the rest. Pure functions put in what a
recipe renews between epochs, outside the compiled step: `observe` the validation error that
`plateau` waits for, `with_curvature` the curvature of `diagonal_levenberg_marquardt`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from cnn_jax.errors.ranges import INT32_MAX, check_range


def alexnet_momentum(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    weight_decay: float = 0.0005,
    scaled_by: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """v <- momentum * v - weight_decay * rate * w - rate * g; w <- w + v.

    Source: Krizhevsky, Sutskever and Hinton (2012), section 5; all parameters have one rate and
    decay. The rate is inside the velocity, so a new rate leaves what the velocity already holds as
    it is; in `optax.sgd` it is outside.

    `scaled_by` multiplies the rate, as `plateau` does. Chained before this transformation it would
    miss the decay, after it, it would scale the velocity.

    Raises:
        UserError: a rate or decay is negative, or `momentum` not in [0, 1).
    """
    check_range("the learning rate", learning_rate, least=0)
    check_range("the momentum", momentum, least=0, below=1)
    check_range("the weight decay", weight_decay, least=0)
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.identity() if scaled_by is None else scaled_by,
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(momentum),
    )


class PlateauState(NamedTuple):
    scale: Array  # float32, what updates are multiplied by
    best: Array  # float32, the lowest error so far, infinity before the first
    waited: Array  # int32, errors since then or since the last reduction
    reductions_left: Array  # int32
    # The rule's constants, since `observe` has only the state.
    factor: Array  # float32
    patience: Array  # int32


def plateau(
    patience: int, factor: float = 0.1, reductions: int = 3
) -> optax.GradientTransformation:
    """Scale updates by 1, and by `factor` once more whenever the observed error stops falling.

    It stops falling when `patience` errors in a row (see `observe`) are not lower than all errors
    before; this counts at most `reductions` times. For `scaled_by` of `alexnet_momentum`.
    Krizhevsky et al. (2012), section 5: the rate is divided by 10 when the validation error stops
    improving, three times in all; the paper gives no patience.

    Raises:
        UserError: `patience` is not at least 1, `reductions` is negative or `factor` not in (0, 1).
    """
    check_range("the patience of a plateau", patience, least=1, most=INT32_MAX)
    check_range("the reductions of a plateau", reductions, least=0, most=INT32_MAX)
    check_range("the factor of a plateau", factor, above=0, below=1)

    def init(params: Any) -> PlateauState:
        del params
        return PlateauState(
            scale=jnp.ones((), jnp.float32),
            best=jnp.full((), jnp.inf, jnp.float32),
            waited=jnp.zeros((), jnp.int32),
            reductions_left=jnp.full((), reductions, jnp.int32),
            factor=jnp.full((), factor, jnp.float32),
            patience=jnp.full((), patience, jnp.int32),
        )

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        return optax.tree.scale(state.scale, updates), state

    return optax.GradientTransformation(init, update)


def observe(opt_state: Any, error: float | Array) -> Any:
    """Return `opt_state` after every `plateau` in it has seen a validation error.

    Only an error that is lower in float32 is an improvement, not an equal one and not NaN.

    Raises:
        ValueError: there is no `plateau` in `opt_state`.
    """
    error = jnp.asarray(error, jnp.float32)

    def observed(state: PlateauState) -> PlateauState:
        improves = error < state.best
        waited = jnp.where(improves, 0, state.waited + 1)
        reduces = (waited >= state.patience) & (state.reductions_left > 0)
        return state._replace(
            scale=jnp.where(reduces, state.scale * state.factor, state.scale),
            best=jnp.where(improves, error, state.best),
            waited=jnp.where(reduces, 0, waited),
            reductions_left=state.reductions_left - reduces.astype(jnp.int32),
        )

    return _change(opt_state, PlateauState, observed)


def observe_accuracy(state: Any, evaluate: Callable[[], Mapping[str, float]]) -> Any:
    """Let every `plateau` observe the error rate: an `Experiment.before_epoch`."""
    return state._replace(opt_state=observe(state.opt_state, 1 - evaluate()["accuracy"]))


class CurvatureState(NamedTuple):
    curvature: Any  # a tree like the parameters, at least 0


def diagonal_levenberg_marquardt(
    rate: optax.ScalarOrSchedule, mu: float = 0.02
) -> optax.GradientTransformation:
    """w <- w - rate / (mu + h) * g, where h is the curvature of the loss along each parameter.

    Sources: LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document
    recognition, appendix C; LeCun, Bottou, Orr and Müller (1998), Efficient BackProp, section 9.1.
    h is the mean over some training examples of the diagonal of the Gauss-Newton matrix, which has
    no negative values. The paper estimates it before each pass from 500 examples and keeps it
    during the pass, with rates as in `lecun1998_rates` and one example per step.

    `with_curvature` puts the estimate in, before the first step too: until then h is 0 and every
    parameter has the highest rate, rate / mu. Raises UserError if `mu` is not positive.
    """
    check_range("mu", mu, above=0)

    def init(params: Any) -> CurvatureState:
        return CurvatureState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(lambda g, h: g / (mu + h), updates, state.curvature), state

    precondition = optax.GradientTransformation(init, update)
    return optax.chain(precondition, optax.scale_by_learning_rate(rate))


def with_curvature(opt_state: Any, curvature: Any) -> Any:
    """Return `opt_state` with a new curvature in every `diagonal_levenberg_marquardt` in it.

    Args:
        curvature: a tree like the parameters. Negative values count as 0.

    Raises:
        ValueError: there is no such optimizer in `opt_state`, or the trees or the shapes of their
            arrays differ.
    """

    def renewed(old: Array, new: Array) -> Array:
        if old.shape != new.shape:
            raise ValueError(f"curvature {new.shape} for a parameter {old.shape}")
        return jnp.maximum(new, 0).astype(old.dtype)

    def renew(state: CurvatureState) -> CurvatureState:
        return CurvatureState(jax.tree.map(renewed, state.curvature, curvature))

    return _change(opt_state, CurvatureState, renew)


def lecun1998_rates(steps_per_pass: int) -> optax.Schedule:
    """0.0005 for two passes, 0.0002 for three, 0.0001 for three, 0.00005 for four, then 0.00001.

    Source: LeCun et al. (1998), section III.B, for `diagonal_levenberg_marquardt`.
    """
    rates = map(optax.constant_schedule, (0.0005, 0.0002, 0.0001, 0.00005, 0.00001))
    return optax.join_schedules([*rates], [passes * steps_per_pass for passes in (2, 5, 8, 12)])


def shrinking(start: float, stop: float, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """`start` in the first epoch, lower by the same factor in each later one, `stop` in the last.

    Source: Ciresan, Meier, Gambardella and Schmidhuber (2010), Deep big simple neural nets, from
    1e-3 to 1e-6. Constant within an epoch; `stop` also after the last.

    Raises:
        UserError: a rate is not positive, or `epochs` or `steps_per_epoch` not at least 1.
    """
    check_range("the first learning rate", start, above=0)
    check_range("the last learning rate", stop, above=0)
    check_range("the number of epochs", epochs, least=1)
    check_range("the steps per epoch", steps_per_epoch, least=1)
    if epochs == 1:
        return optax.constant_schedule(start)
    by_epoch = optax.exponential_decay(start, epochs - 1, stop / start, end_value=stop)

    def schedule(step: Any) -> Any:
        # Whole numbers: Ciresan's 48 million steps are too many for float32 to tell apart.
        return by_epoch(step // steps_per_epoch)

    return schedule


def _change(opt_state: Any, kind: type, change: Any) -> Any:
    """Replace each state of this kind, at any depth, by `change(state)`."""

    def is_kind(node: Any) -> bool:
        return isinstance(node, kind)

    if not any(map(is_kind, jax.tree.leaves(opt_state, is_leaf=is_kind))):
        raise ValueError(f"the optimizer's state holds no {kind.__name__}")
    return jax.tree.map(
        lambda node: change(node) if is_kind(node) else node, opt_state, is_leaf=is_kind
    )
