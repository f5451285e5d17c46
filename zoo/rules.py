"""Validation rules for configuration values: a predicate, and a text that says what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from zoo.errors import ConvzooError
from zoo.image_size import ImageSize

Rule = tuple[Callable[[Any], bool], str]

LOOKS_OTHERWISE = re.compile(r"true|false|null|none|~|[+-]?[\d._]+(e[+-]?\d+)?|[\[{].*|\s*", re.IGNORECASE | re.DOTALL)
"""Texts that parse as another type when typed without quotation marks."""

MANY = 10**12
"""Upper limit for all counts: more is a typing error, and would overflow what a run computes from it."""


def whole(low: int, high: int = MANY) -> Rule:
    """Accepts whole numbers from ``low`` to ``high``, both included."""
    return lambda v: type(v) is int and low <= v <= high, _range("a whole number from", low, high)


def number(low: float, high: float = math.inf, *, above: bool = False) -> Rule:
    """Accepts numbers from ``low`` (with ``above``: greater than ``low``) to ``high``, below 1e30."""
    text = _range(f"a number {'above' if above else 'from'}", low, high)
    return lambda v: type(v) in (int, float) and (low < v if above else low <= v) and v <= high and v < 1e30, text


def _range(what: str, low: float, high: float) -> str:
    return f"{what} {low:g}" + (f" to {high:,}" if high < math.inf else "")


def image_size(low: int, high: int = MANY) -> Rule:
    """Accepts sizes of images (`ImageSize.of`) with sides from ``low`` to ``high``, both included."""

    def allowed(value: Any) -> bool:
        try:
            size = ImageSize.of(value)
        except ConvzooError:
            return False
        return low <= size.shorter and size.longer <= high

    return allowed, f"{_range('a whole number from', low, high)}, or [HEIGHT,WIDTH]"


def or_null(rule: Rule) -> Rule:
    """Accepts null too."""
    return lambda v: v is None or rule[0](v), f"{rule[1]}, or null"


def one_of(values: tuple[Any, ...]) -> Rule:
    """Accepts any of the given values."""
    return lambda v: v in values, ", ".join(map(str, values))


def seconds_of(time: str | None) -> float | None:
    """Converts ``[[DD:]HH:]MM:SS`` to seconds; None stays None.

    Raises:
        ValueError: The text has another form.
    """
    if time is None:
        return None
    if not re.fullmatch(r"\d+(:\d\d){1,3}", time, re.ASCII):
        raise ValueError(time)
    parts = [int(part) for part in reversed(time.split(":"))]
    return float(sum(part * unit for part, unit in zip(parts, (1, 60, 3600, 86400), strict=False)))


def is_time(value: Any) -> bool:
    """Returns whether a value is a positive duration as in `seconds_of`, or None."""
    try:
        return value is None or (seconds_of(value) or 0) > 0
    except (ValueError, TypeError):
        return False


SWITCH: Rule = (lambda v: type(v) is bool, "true or false")

TEXT: Rule = (lambda v: type(v) is str and bool(v.strip()), "a text")
ANY_TEXT: Rule = (lambda v: type(v) in (str, int), "a text")
NAME: Rule = (
    lambda v: type(v) in (str, int) and 0 < len(str(v).strip()) <= 128 and str(v).isprintable(),
    "a text of one line and at most 128 characters",
)
TIME: Rule = (
    lambda v: type(v) is str and re.fullmatch(r"\d+:\d{1,2}:\d{1,2}:\d{1,2}", v, re.ASCII) is not None,
    "a time as DAYS:HOURS:MINUTES:SECONDS, 00:12:00:00",
)
SHARES: Rule = (
    lambda v: type(v) is list and bool(v) and all(type(x) in (int, float) and abs(x) < 1e6 for x in v),
    "a list of numbers, one a channel",
)
RANGE: Rule = (
    lambda v: type(v) is list and len(v) == 2 and all(type(x) in (int, float) for x in v) and 0 < v[0] <= v[1] <= 1,
    "[LOW,HIGH] with 0 < LOW ≤ HIGH ≤ 1",
)
LIMIT: Rule = (
    lambda v: (type(v) is int and 0 <= v <= MANY) or (type(v) is float and 0 <= v <= 1),
    "a whole number of batches, or a share from 0.0 to 1.0",
)
ANYTHING: Rule = (lambda v: True, "")
"""Accepts every value: for keys that are checked elsewhere, by Lightning or by the module that reads them."""


def check_value(name: str, value: Any, rule: Rule) -> Any:
    """Returns the value of a key if its rule allows it.

    Raises:
        ConvzooError: It does not.
    """
    allowed, text = rule
    if not allowed(value):
        raise ConvzooError(f"{name}={shown(value)} is not allowed. Allowed: {text}.")
    return value


def shown(value: Any) -> str:
    """Formats a value as typed; marks a text that looks like another type: ``"True" (a text)``."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, str):
        return f'"{value}" (a text)' if LOOKS_OTHERWISE.fullmatch(value.strip()) else value
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
