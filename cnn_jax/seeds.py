"""Train one experiment several times: with several seeds, or several values of one field.

Small networks on resident data are trained side by side: their states are stacked, one program
makes the steps of all, and one run folder and checkpoint holds them. Trainings that cannot be
stacked, because a value decides a shape or a number of steps or because the network is large, run
one after the other, each in a run folder of its own.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import numpy as np

from cnn_jax.devices.feed import Kind, choose
from cnn_jax.devices.parallel import AXIS
from cnn_jax.errors import UserError
from cnn_jax.errors.ranges import check_range
from cnn_jax.experiment import Experiment, Members
from cnn_jax.models import count_parameters
from cnn_jax.step import TrainState, init_state, train_step

Build = Callable[[Any, Path | None], Experiment]
Variant = dict[str, Any]  # the fields of a config in which one training differs

MOST = 1000  # trainings of one command, which are all described before the first begins
SMALL = 2_000_000  # parameters; a larger network keeps the devices busy by itself


@dataclass(frozen=True)
class Several:
    """The seeds and values with which an experiment is trained."""

    # Train with this many seeds, from --seed on: side by side in one program if the network is
    # small, else one after the other.
    seeds: int = 1
    # Train with each value of one field: learning_rate=0.1,0.03,0.01; each with every seed.
    sweep: str | None = None

    def variants(self, config: Any) -> list[Variant]:
        """The fields in which each training differs from `config`; [{}] for a single training.

        Raises:
            UserError: --seeds is not positive, --sweep names no field or no values of its type, or
                the trainings are more than `MOST`.
        """
        check_range("--seeds", self.seeds, least=1, most=MOST)
        if self.seeds > 1 and not hasattr(config, "seed"):
            raise UserError("--seeds needs an experiment whose Config has a seed")
        numbers, swept = range(self.seeds), self._swept(config)
        if len(swept) * self.seeds > MOST:
            raise UserError(
                f"--sweep and --seeds ask for {len(swept) * self.seeds:,} trainings, and one "
                f"command takes at most {MOST:,}: give fewer values or seeds"
            )
        seeds = [{"seed": config.seed + n} for n in numbers] if self.seeds > 1 else [{}]
        return [{**values, **seed} for values in swept for seed in seeds]

    def _swept(self, config: Any) -> list[Variant]:
        if self.sweep is None:
            return [{}]
        flag, _, listed = self.sweep.partition("=")
        name = flag.replace("-", "_")
        fields = {field.name: field for field in dataclasses.fields(config)}
        if name not in fields or name == "seed" or not listed:
            raise UserError(
                f"--sweep is FIELD=VALUE,VALUE,... with a field of {', '.join(fields)} other than "
                f"seed, got {self.sweep!r}"
            )
        kind = get_type_hints(type(config))[name]
        names: tuple[Any, ...] = get_args(kind) if get_origin(kind) is Literal else ()
        if kind not in (int, float, str) and {type(value) for value in names} != {str}:
            raise UserError(f"--sweep takes numbers and names, and {name} is neither")
        read: Callable[[str], Any] = str if names else kind
        try:
            values: list[Any] = [read(value) for value in listed.split(",")]
        except ValueError as error:
            raise UserError(f"--sweep {name}: {error}") from None
        if names and (unknown := [value for value in values if value not in names]):
            raise UserError(
                f"--sweep {name}: no {', '.join(unknown)}; there are {', '.join(names)}"
            )
        if len(set(values)) < len(values):
            raise UserError(f"--sweep {name} names a value twice: {listed}")
        return [{name: value} for value in values]


def stack(
    build: Build, config: Any, variants: Sequence[Variant], data_dir: Path | None, feed: Kind
) -> Experiment | None:
    """The experiment whose members are the variants of `config`; None if they cannot be stacked."""
    experiments = [build(dataclasses.replace(config, **variant), data_dir) for variant in variants]
    first = experiments[0]
    if any(_outline(experiment) != _outline(first) for experiment in experiments):
        return None
    splits = (first.train_split, first.eval_split)
    if any(choose(first.dataset, split, feed) == "stream" for split in splits):
        return None
    values = {name: [variant[name] for variant in variants] for name in variants[0]}
    listed = [value for row in values.values() for value in row]
    # Names cannot be stacked, and JAX would take larger whole numbers for others.
    if first.before_epoch or any(isinstance(x, str) or abs(x) >= 2**31 for x in listed):
        return None

    def of(values: Mapping[str, Any]) -> Experiment:
        return build(dataclasses.replace(config, **values), data_dir)

    members = Members(
        of,
        {name: np.asarray(row) for name, row in values.items()},
        tuple(experiment.seed for experiment in experiments),
    )
    stacked = dataclasses.replace(first, members=members)

    try:
        parameters = count_parameters(_trace(stacked).params)
    except (TypeError, ValueError, UserError):  # a value decides what is compiled
        return None
    return stacked if parameters <= SMALL * len(variants) else None


def unstacked(result: Mapping[str, Any]) -> list[dict[str, float]]:
    """Split an evaluation that has "members" into the metrics of each member."""
    members = result["members"]
    count = len(next(iter(members.values())))
    return [{name: values[k] for name, values in members.items()} for k in range(count)]


def folder_name(variant: Variant) -> str:
    """The name of a variant's run folder: "learning_rate-0.1,seed-3"."""
    return ",".join(f"{name}-{value}" for name, value in variant.items())


def _trace(stacked: Experiment) -> TrainState:
    """Trace a training step without computing it."""
    assert stacked.members is not None
    # For two devices: on a single one nothing is reduced, and results would count as its own.
    places = (2, stacked.batch_size, len(stacked.members.seeds))
    batch = {
        "image": jax.ShapeDtypeStruct((*places, *stacked.dataset.image_shape), np.uint8),
        "label": jax.ShapeDtypeStruct(places, np.int32),
    }
    step = partial(train_step, stacked)
    state = jax.eval_shape(lambda: init_state(stacked))
    return jax.eval_shape(jax.vmap(step, (None, 0), None, axis_name=AXIS), state, batch)


def _outline(experiment: Experiment) -> tuple[Any, ...]:
    """The parts that all members must share."""
    return (
        experiment.batch_size,
        experiment.steps,
        experiment.train_split,
        experiment.eval_split,
        experiment.dataset.name,
        experiment.dataset.statistics.sha256,
        tuple(experiment.metrics),
        len(experiment.train_transforms),
        len(experiment.eval_transforms),
    )
