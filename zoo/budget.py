"""Which cells a budget leaves, and in what order. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from zoo.errors import ConvzooError, choose

if TYPE_CHECKING:
    from zoo.table import CellCost

SIZES = ("params", "macs", "activations", "train_macs")
SORT_KEYS = ("model", "conv", "act", *SIZES)


def select(
    cells: Iterable[CellCost], limits: dict[str, int | None], sort: str | None = None, reverse: bool = False
) -> list[CellCost]:
    """The cells within a budget, in order. What does not exist comes last, whatever the budget.

    Args:
        limits: Upper limits of some of ``params``, ``macs``, ``activations``, ``train_macs``.
        sort: One of `SORT_KEYS`, the smallest first; None keeps the order.
        reverse: The largest first.

    Raises:
        ConvzooError: Another key.
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
    """A count as people write it: ``10M``, ``1.5G``, ``600k``, ``2e6``, ``11689512``.

    Raises:
        ConvzooError: It is no positive number.
    """
    match = re.fullmatch(r"(\d+\.?\d*(?:e\d+)?)\s*([kmg]?)", text.strip(), re.IGNORECASE)
    value = round(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[match[2].lower()]) if match else 0
    if value < 1:
        raise ConvzooError(f"{text} is no amount. Type a positive number, with k, M or G if you like: 10M, 1.5G.")
    return value
