"""Refuse a number that is out of its range, by its name."""

import dataclasses
from typing import Any

from cnn_jax.errors import UserError

FLOAT32_MAX = float(2**128 - 2**104)  # a larger number is infinite where networks compute
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
    """Raise UserError unless `value` is finite in float32 and within the bounds that are given.

    A value that is not a Python number, such as one that JAX traces, is not looked at.
    """
    if not isinstance(value, int | float):
        return
    if isinstance(value, float) and not abs(value) <= FLOAT32_MAX:  # true of NaN too
        raise UserError(f"{name} must be a finite number in float32, got {value}")
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
    """Raise UserError if a field of a dataclass is NaN, infinite, or would be so in float32."""
    for field in dataclasses.fields(scalars):
        check_range(flag(field.name), getattr(scalars, field.name))


def check_not_negative(scalars: Any, *fields: str) -> None:
    """Raise UserError if one of these fields of a dataclass is below 0; it names the flag."""
    for name in fields:
        check_range(flag(name), getattr(scalars, name), least=0)
