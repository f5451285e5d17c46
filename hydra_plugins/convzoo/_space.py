"""Convert Hydra's sweep overrides to Optuna distributions, and a trial's values back to overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from zoo.errors import ConvzooError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        fixed: Overrides that all trials share.
        searched: Optuna distribution of each searched key, as typed.
    """

    fixed: list[str]
    searched: dict[str, BaseDistribution]

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a job with these values."""
        return [*self.fixed, *(f"{key}={values[key]}" for key in self.searched)]

    def corners(self) -> list[list[str]]:
        """Return jobs' overrides that together contain every choice and both ends of every interval."""
        values = {k: list(d.choices) if hasattr(d, "choices") else [d.low, d.high] for k, d in self.searched.items()}
        first = {key: found[0] for key, found in values.items()}
        others = [first | {key: value} for key, found in values.items() for value in found[1:]]
        return [self.overrides(point) for point in [first, *others]]


def parse_space(overrides: Sequence[Override]) -> Space:
    """Parse the search space of a command line.

    Args:
        overrides: Parsed overrides: ``key=choice(a,b)`` or ``key=a,b``, ``range(…)``, ``interval(…)``,
            ``tag(log,interval(…))``, ``int(…)``; others are fixed values.

    Raises:
        ConvzooError: No key varies, or a range or interval is invalid.
    """
    fixed, searched = [], {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            searched[key] = _distribution(key, override)
        else:
            fixed.append(f"{key}={override.get_value_element_as_str()}")
    if not searched:
        raise ConvzooError(
            "there is nothing to search. Type what may vary: 'optim.lr=tag(log,interval(1e-4,1e-2))', "
            "'conv=choice(separable,spatial)', 'data.batch_size=choice(16,32)'."
        )
    return Space(fixed, searched)


def _distribution(key: str, override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = override.value()
    if not isinstance(sweep, (RangeSweep, IntervalSweep)):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    log = "log" in sweep.tags
    if isinstance(sweep, RangeSweep):
        values = list(sweep.range())
        if not values or log:
            return _refuse(override, "a range needs values, and no tag: range(0,10,2)")
        number = IntDistribution if all(type(v) is int for v in values) else FloatDistribution
        step = abs(sweep.step)
        return number(min(values), max(values), step=step)
    low, high = sweep.start, sweep.end
    if not low < high or (log and low <= 0):
        return _refuse(override, "low < high, and above 0 with tag(log,…)")
    return (IntDistribution if type(low) is int else FloatDistribution)(low, high, log=log)


def _refuse(override: Override, allowed: str) -> BaseDistribution:
    raise ConvzooError(f"{override.input_line} is not allowed. Allowed: {allowed}.")
