"""The types of the package: a model, and the experiment that lists all parts of a training run.

`Config` (a few scalars, defined by each script) → `build(config, data_dir)` → `Experiment` →
`train.train` → a run folder. `build` touches no device and reads no more of the data than its
description. `data_dir` is an argument and not a field of the config, because where the data lie
does not change a run's numbers.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import optax
from jax import Array

from cnn_jax.augment.basic import ByLabel, Transform
from cnn_jax.data import Dataset
from cnn_jax.devices.process import usual_promotion
from cnn_jax.errors import UserError
from cnn_jax.errors.ranges import INT32_MAX, SEED_MAX, check_range
from cnn_jax.losses import softmax_cross_entropy
from cnn_jax.metrics import accuracy, top_k

Variables = Mapping[str, Any]  # {"params": …, and other collections: the model's state}
PerExample = Callable[[Array, Array], Array]  # (logits [B, classes], labels [B]) -> [B]
BeforeEpoch = Callable[[Any, Callable[[], Mapping[str, float]]], Any]


class Model(Protocol):
    """A pair of pure functions, such as a Flax Linen module whose `__call__` takes
    `(images, train=False, keys=None)`.

    `images` is float32 [B, H, W, C], standardised. `keys` is None in evaluation; in training it
    holds one PRNG key per example [B], so that a random draw (dropout, say) belongs to its example
    and not to the device that computes it. There are no other random streams.
    """

    def init(self, key: Array, images: Array, /) -> Variables:
        """Make `{"params": …}` and, for a model with state, further collections of floats."""
        ...

    def apply(
        self,
        variables: Variables,
        images: Array,
        /,
        *,
        train: bool,
        keys: Array | None,
        mutable: Any,
    ) -> Any:
        """Return `(logits [B, classes] float32, {collection: new value for each in mutable})`."""
        ...


def default_metrics() -> dict[str, PerExample]:
    return {"accuracy": accuracy, "top5": top_k(5)}


@dataclass(frozen=True)
class Members:
    """Experiments that differ only in numbers, trained side by side as one.

    `of({name: value})` builds a member, from traced values too; `values` holds the numbers of all
    M members: {field of the config: array [M]}.
    """

    of: "Callable[[Mapping[str, Any]], Experiment]"
    values: Mapping[str, Any]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what a run computes. How it is carried out is `options.Options`.

    The first of `metrics` (higher is better) chooses the best checkpoint.

    `before_epoch(state, evaluate) -> state` runs on the host before each epoch, the first included,
    for what a recipe changes once per epoch, such as a learning rate that waits for the validation
    error. It is a pure function of its arguments; `evaluate()` gives the metrics of the state on
    `eval_split`. Epochs begin at multiples of `epochs_to_steps(1, examples, batch_size)`.
    """

    model: Model
    optimizer: optax.GradientTransformation
    dataset: Dataset
    train_split: str
    eval_split: str
    batch_size: int  # examples per step, over all devices
    steps: int
    seed: int  # 0 .. 2^32 - 1
    train_transforms: Sequence[Transform | ByLabel] = ()
    eval_transforms: Sequence[Transform] = ()
    loss: PerExample = softmax_cross_entropy
    metrics: Mapping[str, PerExample] = field(default_factory=default_metrics)
    before_epoch: BeforeEpoch | None = None
    members: Members | None = None  # if set, their states are stacked on axis 0

    def __post_init__(self) -> None:
        check_range("--batch-size", self.batch_size, least=1, most=INT32_MAX)
        check_range("the number of steps", self.steps, least=1, most=INT32_MAX)
        check_range("--seed", self.seed, least=0, most=SEED_MAX)

    @property
    def trainings(self) -> int:
        """The number of members that are trained side by side; 1 without members."""
        return len(self.members.seeds) if self.members else 1


def per_member(*axes: int | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compute `function(experiment, *arguments)` for every member of an experiment that has them.

    The results of the members are stacked on axis 0. Without members the function is called as it
    is. Keyword arguments are the same for all members. Arrays are combined by JAX's default rules
    of promotion.

    Args:
        axes: for each argument the axis along which the members' values are stacked; None for an
            argument that they share.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        @usual_promotion()
        def for_all(experiment: Experiment, *arguments: Any, **shared: Any) -> Any:
            members = experiment.members
            if members is None:
                return function(experiment, *arguments, **shared)

            def for_one(values: Any, *arguments: Any) -> Any:
                return function(members.of(values), *arguments, **shared)

            return jax.vmap(for_one, (0, *axes))(members.values, *arguments)

        return for_all

    return decorate


def epochs_to_steps(epochs: float, num_examples: int, batch_size: int) -> int:
    """The number of steps that show `num_examples` examples `epochs` times, at least 1.

    It is rounded to the nearest whole number. Batches run on across the ends of epochs, so nothing
    is dropped and `epochs` may be a fraction.

    Raises:
        UserError: `epochs` or `batch_size` is not positive, or the steps are more than 2^31 - 1.
    """
    check_range("--epochs", epochs, above=0)
    check_range("--batch-size", batch_size, least=1, most=INT32_MAX)
    most = INT32_MAX * batch_size / num_examples
    if epochs > most:
        raise UserError(
            f"--epochs {epochs} are too many: a run has at most {INT32_MAX:,} steps, which are "
            f"{most:,.0f} epochs of {num_examples:,} examples in batches of {batch_size:,}"
        )
    return max(1, round(epochs * num_examples / batch_size))
