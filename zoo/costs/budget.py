"""Parses budgets such as ``macs:600M``, and selects and sorts the cells within one. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from zoo.errors import ConvzooError, choose

if TYPE_CHECKING:
    from zoo.costs.table import CellCost

SIZES = ("params", "macs", "activations", "train_macs")
SORT_KEYS = ("model", "conv", "act", *SIZES)


def select(
    cells: Iterable[CellCost], limits: dict[str, int | None], sort: str | None = None, reverse: bool = False
) -> list[CellCost]:
    """Returns the cells within a budget, sorted. Refused cells are always kept, at the end.

    Args:
        cells: Rows of the cost table.
        limits: Upper limits for some of ``params``, ``macs``, ``activations``, ``train_macs``; None: no limit.
        sort: One of `SORT_KEYS`, smallest first; None keeps the order.
        reverse: Sort the largest first.

    Raises:
        ConvzooError: An unknown limit or sort key.
    """
    for key in limits:
        choose("limit", key, SIZES)
    cells = list(cells)
    kept = [c for c in cells if c.cost and all(m is None or getattr(c.cost, k) <= m for k, m in limits.items())]
    if sort is not None:
        holder = (lambda c: c.cost) if choose("sort", sort, SORT_KEYS) in SIZES else (lambda c: c)
        kept.sort(key=lambda c: getattr(holder(c), sort), reverse=reverse)
    return kept + [c for c in cells if not c.cost]


def parse_amount(text: str) -> int:
    """Parses a count such as ``10M``, ``1.5G`` (or ``1.5B``), ``600k``, ``2e6``, ``11689512``.

    Raises:
        ConvzooError: The text is not a positive number.
    """
    match = re.fullmatch(r"(\d+\.?\d*(?:e\d+)?)\s*([kmgb]?)", text.strip(), re.IGNORECASE)
    value = float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}[match[2].lower()] if match else 0
    if not 0.5 < value < 1e30:
        raise ConvzooError(f"{text} is not an amount. Type a positive number, optionally with k, M or G: 10M, 1.5G.")
    return round(value)


def parse_budget(text: str, key: str) -> tuple[str, int | None]:
    """Parses a budget to match: ``macs:600M``, ``params:5M``, or ``native``.

    Args:
        text: The budget.
        key: Name of the option in error messages (``model.match``, ``--match``).

    Returns:
        ``macs`` or ``params``, and the amount; None for ``native``, the MACs of the network with conv=native.

    Raises:
        ConvzooError: Any other text.
    """
    if text == "native":
        return "macs", None
    what, _, amount = str(text).partition(":")
    try:
        return choose("budget", what.lower(), ("macs", "params")), parse_amount(amount)
    except ConvzooError:
        raise ConvzooError(
            f"{key}={text} is not a budget. Allowed: macs:600M, macs:1.8G, params:5M, or native "
            "(the MACs of the network with conv=native)."
        ) from None
