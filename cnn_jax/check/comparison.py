"""Compare what a run recorded with what it gives now, and give the verdict.

In the environment of the receipt every figure and every parameter must be the same to the last bit.
In another one float32 sums are rounded in another order: an evaluation must then agree within
`EVALUATED`. A training amplifies such changes until it ends as another network, as with another
seed: its figures must agree within twice the standard error of a difference between two networks on
that number of examples, and so must the means over the runs of a record, whose standard error is
smaller.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

import numpy as np

EVALUATED = 1e-4  # allowed in each mean: one example of 10,000
RETRAINED = 5e-3  # allowed in figures of which no standard error is known
FIGURES = ("loss", "accuracy", "top5", "count")  # of an evaluation
NOT_COMPARED = ("seconds", "resumed_from", "seed")


class Row(NamedTuple):
    """One line of a comparison."""

    name: str
    then: Any
    now: Any
    allowed: float  # difference
    matches: bool


@dataclass
class Comparison:
    """The figures that a run recorded, those that it gives now, and whether the two match."""

    run: str
    differences: list[str]  # between the environments, in words
    tolerance: float  # allowed in the figures; 0 in the same environment
    retrained: bool = False  # if there is a tolerance, it is twice the standard error where known
    rows: list[Row] = field(default_factory=list)

    @property
    def matches(self) -> bool:
        return bool(self.rows) and all(row.matches for row in self.rows)

    def figures(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Compare all numbers of an evaluation, counts included; none may be absent.

        Of trainings side by side there is a row for the member that differs most in a figure.
        """
        for name in dict.fromkeys((*then, *now)):
            old, new = then.get(name), now.get(name)
            if name in NOT_COMPARED or not (_is_number(old) or _is_number(new)):
                continue
            allowed, matches = 0.0, False
            if _is_number(old) and _is_number(new):
                allowed = self._allowed(name, then, now)
                matches = bool(abs(float(new) - float(old)) <= allowed)
            self.rows.append(Row(name, old, new, allowed, matches))
        if "members" in then or "members" in now:
            self._members(then, now)

    def same(self, name: str, then: Any, now: Any, must: bool = True) -> None:
        """Compare two values without tolerance; if not `must`, a difference is only shown."""
        self.rows.append(Row(name, then, now, 0.0, then == now or not must))

    def _members(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        old, new = (
            members if isinstance(members := result.get("members"), dict) else {"figures": members}
            for result in (then, now)
        )
        for name in dict.fromkeys((*old, *new)):
            one, other = old.get(name), new.get(name)
            if not (
                isinstance(one, list) and isinstance(other, list) and 0 < len(one) == len(other)
            ):
                self.same(f"{name} of the members", one, other)
                continue
            pairs = zip(one, other, strict=True)
            # Two that diverged alike are alike.
            gaps = [0.0 if repr(a) == repr(b) else _gap(a, b) for a, b in pairs]
            k = int(np.argmax(gaps))
            allowed = 0.0
            if math.isfinite(gaps[k]):
                values = ({**result, name: x[k]} for result, x in ((then, one), (now, other)))
                allowed = self._allowed(name, *values)
            row = Row(f"{name} of member {k}", one[k], other[k], allowed, gaps[k] <= allowed)
            self.rows.append(row)

    def _allowed(self, name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> float:
        if not self.tolerance or not isinstance(then[name], float):
            return 0.0
        error = standard_error(name, then, now) if self.retrained else None
        return 2 * error if error is not None else self.tolerance * max(1.0, abs(then[name]))


def standard_error(
    name: str, then: Mapping[str, Any], now: Mapping[str, Any], runs: int = 1
) -> float | None:
    """The standard error of the difference of a figure between two networks, or between the means
    of so many; None if it is not known.

    The two evaluations of `count` examples are taken as independent, which they would be of other
    examples: on the same ones the difference is smaller. Most of a mean loss comes from the errors,
    so its relative uncertainty is taken to be that of their number.
    """
    if not all(_is_number(result.get(key)) for result in (then, now) for key in (name, "count")):
        return None
    value, count = (then[name] + now[name]) / 2, then["count"] * runs
    if name in ("accuracy", "top5") and 0 <= value <= 1:
        return math.sqrt(2 * value * (1 - value) / count)
    right = (then.get("accuracy", 1.0) + now.get("accuracy", 1.0)) / 2
    if name == "loss" and 0 <= right < 1:
        return value * math.sqrt(2 * right / ((1 - right) * count))
    return None


def means(name: str, results: Sequence[Comparison]) -> list[Comparison]:
    """Compare the means over the runs of a record; none if the figures of each run had to be the
    same.
    """
    if len(results) < 2 or not any(result.tolerance for result in results):
        return []
    comparison = Comparison(f"{name}, mean of {len(results)} runs", [], RETRAINED, retrained=True)
    columns = [{row.name: row for row in result.rows} for result in results]
    figures = [
        figure
        for figure in FIGURES
        if all(figure in c and all(map(_is_number, c[figure][1:3])) for c in columns)
    ]
    then = {n: float(np.mean([column[n].then for column in columns])) for n in figures}
    now = {n: float(np.mean([column[n].now for column in columns])) for n in figures}
    for figure in figures:
        error = standard_error(figure, then, now, len(results))
        if error is not None:
            matches = abs(now[figure] - then[figure]) <= 2 * error
            comparison.rows.append(Row(figure, then[figure], now[figure], 2 * error, matches))
    return [comparison] if comparison.rows else []


def _gap(one: Any, other: Any) -> float:
    """The difference of two figures, infinite if one is none."""
    return abs(one - other) if _is_number(one) and _is_number(other) else math.inf


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
