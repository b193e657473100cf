"""Refuse a number that is out of its range, by its name."""

import dataclasses
import math
from typing import Any

from cnn_jax.errors import UserError

INT32_MAX = 2**31 - 1  # steps and places in a batch are counted in int32 on the devices
SEED_MAX = 2**32 - 1  # JAX drops higher bits of a seed, so that 2^32 would begin as 0 does


def flag(field: str) -> str:
    """The command-line flag of a dataclass's field."""
    return "--" + field.replace("_", "-")


def check_range(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise UserError unless `value` is finite and at least `least`, above `above`, and so on.

    A value that is not a Python number, such as one that JAX traces, is not looked at.
    """
    if not isinstance(value, int | float):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value}")
    within = (
        (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if not within:
        bounds = {"at least": least, "above": above, "at most": most, "below": below}
        words = [f"{word} {bound:,}" for word, bound in bounds.items() if bound is not None]
        raise UserError(f"{name} must be {' and '.join(words)}, got {value}")


def check_finite(scalars: Any) -> None:
    """Raise UserError if a field of a dataclass is NaN or infinite; it names the field's flag."""
    for field in dataclasses.fields(scalars):
        check_range(flag(field.name), getattr(scalars, field.name))
