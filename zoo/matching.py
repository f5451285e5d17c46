"""Matched cost: the width at which a conv kind meets a budget.

At equal width the kinds are networks of different size, and comparing them is no fair fight.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from zoo.builder import build
from zoo.counting import Cost, cost
from zoo.errors import ConvzooError
from zoo.scaling import check_scalable

STEP = 1000
"""Widths are searched in thousandths: finer than one step of any layer's channels, and short to type."""

NARROWEST, WIDEST = 50, 16 * STEP

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


@dataclass(frozen=True)
class Match:
    """The width that comes nearest to a budget.

    Attributes:
        width: For `zoo.build`.
        cost: What the network costs at this width.
        what: ``params`` or ``macs``.
        budget: What was asked for.
    """

    width: float
    cost: Cost
    what: str
    budget: int

    @property
    def miss(self) -> float:
        """How far off, as a share of the budget: +0.01 is one per cent above it. Channels come in steps of 8."""
        return getattr(self.cost, self.what) / self.budget - 1

    def __str__(self) -> str:
        got = getattr(self.cost, self.what)
        return f"width={self.width:g}: {got:,} {self.what}, {self.miss:+.2%} of {self.budget:,}"


def match(
    backbone: str,
    conv: str = "native",
    *,
    params: float | None = None,
    macs: float | None = None,
    image_size: int | tuple[int, int] = 224,
    in_chans: int = 3,
    **build_arguments: Any,
) -> Match:
    """Finds the width at which a network with a kind of convolution meets a budget. Counts on the meta device only.

    Args:
        backbone: A network that has a width: ResNet, MobileNet or EfficientNet.
        conv: Conv kind, see `zoo.rewrite`.
        params, macs: The budget, one of the two. MAC = one multiply-add of the forward pass for one image.
        image_size: H = W, or (H, W).
        in_chans: Channels of the image.
        **build_arguments: Passed to `zoo.build` (``act``, ``num_classes``, ``stem``, ``depth`` …).

    Raises:
        ConvzooError: No budget, or one that no width from 0.05 to 16 meets; a network without a width.
    """
    check_scalable(backbone)
    given = {what: amount for what, amount in (("params", params), ("macs", macs)) if amount is not None}
    if len(given) != 1 or not all(amount >= 1 for amount in given.values()):
        raise ConvzooError("match needs one budget, above 0: params=5e6 or macs=600e6.")
    ((what, budget),) = given.items()
    costs: dict[int, Cost] = {}

    def count(thousandths: int) -> int:
        if thousandths not in costs:
            width = thousandths / STEP
            costs[thousandths] = count_cost(backbone, conv, image_size, in_chans, width=width, **build_arguments)
        return getattr(costs[thousandths], what)

    below, above = _bracket(count, budget, f"{backbone} with conv={conv} cannot have {budget:,.0f} {what}")
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if count(middle) < budget else (below, middle)
    best = min((below, above), key=lambda w: (abs(count(w) - budget), w))
    return Match(best / STEP, costs[best], what, round(budget))


def _bracket(count: Callable[[int], int], budget: float, cannot: str) -> tuple[int, int]:
    """Two widths with the budget between them, at most a factor of 2 apart; one width twice where it meets it."""
    low = high = STEP
    while count(low) > budget:
        if low == NARROWEST:
            raise ConvzooError(f"{cannot}: at width {low / STEP:g} it still has {count(low):,}. Type a larger budget.")
        low, high = max(NARROWEST, low // 2), low
    while count(high) < budget:
        if high == WIDEST:
            raise ConvzooError(f"{cannot}: at width {high / STEP:g} it has {count(high):,}. Type a smaller budget.")
        low, high = high, 2 * high
    return (high, high) if count(high) == budget else (low, low) if count(low) == budget else (low, high)


def parse_budget(text: str) -> dict[str, int]:
    """Reads ``macs:600M`` or ``params:5M`` as `match`'s argument; ``native`` gives none: see `match_text`.

    Raises:
        ConvzooError: A text that is neither.
    """
    if text == "native":
        return {}
    found = re.fullmatch(r"(params|macs):(\d+\.?\d*(?:e\d+)?)([kmgb]?)", str(text).lower())
    amount = round(float(found[2]) * UNITS[found[3]]) if found else 0
    if amount < 1:
        raise ConvzooError(
            f"model.match={text} is not a budget. Allowed: macs:600M, macs:1.8G, params:5M, or native "
            "(the MACs of the network with conv=native)."
        )
    return {found[1]: amount}


def match_text(
    text: str, image_size: int, backbone: str, conv: str, act: str, in_chans: int, **arguments: Any
) -> Match:
    """`match` with a budget as a person types it: ``macs:600M``, ``params:5M``, or ``native``.

    ``native`` asks for the MACs of the same network with nothing rewritten.
    """
    budget = parse_budget(text)
    if not budget:
        budget = {"macs": count_cost(backbone, "native", image_size, in_chans, act="native", **arguments).macs}
    return match(backbone, conv, **budget, image_size=image_size, in_chans=in_chans, act=act, **arguments)


def count_cost(backbone: str, conv: str, image_size: int | tuple[int, int], in_chans: int, **arguments: Any) -> Cost:
    """The cost of a network that is never made: it has shapes, no weights. The arguments are `zoo.build`'s."""
    # Initialising draws random numbers on the meta device too, and a run's seed must not feel it.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        net = build(backbone, conv, in_chans=in_chans, **arguments)
    return cost(net, image_size, in_chans)
