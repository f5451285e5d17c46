"""Matched cost: finds the width, or the compound φ, at which a network with a given conv kind meets a budget.

At equal width, networks with different conv kinds differ in size, so comparing them is not fair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zoo.backbones.families import ALPHA, BETA, GAMMA, Scale
from zoo.backbones.scaled_builders import is_scalable
from zoo.builder import build
from zoo.costs.budget import parse_budget
from zoo.costs.counting import Cost, cost, layer_costs
from zoo.costs.nearest import nearest
from zoo.errors import ConvzooError, UnfitError, choose
from zoo.image_size import ImageSize, Size
from zoo.meta import meta_init
from zoo.surgery.rewrite import params_of

STEP = 1000
"""Steps per unit: width and φ are searched in thousandths, which are short to type. Up to width 4 this skips at most
one network in fifty: those where two layers change within the same thousandth."""

CANDIDATES = {"width": range(STEP // 20, 16 * STEP + 1), "phi": range(-10 * STEP, 10 * STEP + 1)}
PUBLISHED = {"width": STEP, "phi": 0}

OVERS = tuple(CANDIDATES)
"""The quantities to match over, named as in `zoo.build`."""

SAMPLES = 32
"""Number of additional values to try if cost is not monotonic."""


@dataclass(frozen=True)
class Match:
    """The width or φ whose cost is nearest to a budget.

    Attributes:
        over: ``width`` or ``phi``.
        value: The width or φ, for `zoo.build`.
        cost: Cost of the network at ``value``; with ``phi``, for the scaled image (``cost.image_size``).
        what: ``params`` or ``macs``.
        budget: The requested amount.
    """

    over: str
    value: float
    cost: Cost
    what: str
    budget: int

    @property
    def miss(self) -> float:
        """Relative distance to the budget: +0.01 is 1 % above. Rarely 0, since channels are multiples of 8."""
        return getattr(self.cost, self.what) / self.budget - 1

    def __str__(self) -> str:
        image = f", images of {self.cost.image_size}" if self.over == "phi" else ""
        got = getattr(self.cost, self.what)
        return f"{self.over}={self.value:g}{image}: {got:,} {self.what}, {self.miss:+.2%} of {self.budget:,}"


def match(
    backbone: str,
    conv: str = "native",
    *,
    params: float | None = None,
    macs: float | None = None,
    over: str = "width",
    image_size: Size = 224,
    in_chans: int = 3,
    **build_arguments: Any,
) -> Match:
    """Finds the width or φ at which a network with the given conv kind comes nearest to a budget.

    Counts about ten networks on the meta device. Cost never falls as width or φ grows, so no other thousandth is
    nearer. The exception is ``conv="grouped"``: the number of groups divides the channels, so a wider network may have
    more groups and cost less. For it, about 32 more values are counted, between those where the scaling law predicts
    2/3 and 3/2 of the budget.

    Args:
        backbone: A network with a width: ResNet, MobileNet or EfficientNet.
        conv: Conv kind, see `zoo.rewrite`.
        params, macs: The budget; exactly one of the two. One MAC is one multiply-add of the forward pass for one image.
        over: ``width``; or ``phi`` for compound scaling as in `Scale.compound`: depth 1.2^φ, width 1.1^φ, image
            1.15^φ. φ is relative to the given network and image; negative φ scales them down.
        image_size: H = W, or (H, W); with ``over="phi"``, the size at φ = 0.
        in_chans: Channels of the image.
        **build_arguments: Passed to `zoo.build` (``act``, ``num_classes``, ``stem``, ``depth`` …).

    Raises:
        ConvzooError: No budget or two; a budget that no width from 0.05 to 16, or no φ from -10 to 10, can meet; a
            network without a width.
    """
    choose("over", over, OVERS)
    check_matchable(backbone)
    given = {what: amount for what, amount in (("params", params), ("macs", macs)) if amount is not None}
    if len(given) != 1 or not all(amount >= 1 for amount in given.values()):
        raise ConvzooError("match needs exactly one budget above 0: params=5e6 or macs=600e6.")
    ((what, budget),) = given.items()
    size = ImageSize.of(image_size)
    candidates = CANDIDATES[over]
    if over == "phi":
        # Training, too, needs images of at least 8 pixels.
        smallest = math.ceil(STEP * math.log(8 / size.shorter, GAMMA))
        candidates = range(min(0, max(candidates.start, smallest)), candidates.stop)

    def image(at: int) -> ImageSize:
        return size.scaled(Scale.compound(at / STEP).resolution) if over == "phi" else size

    def network(at: int) -> nn.Module:
        return _build(backbone, conv, in_chans=in_chans, **{over: at / STEP}, **build_arguments)

    macs_of = _MacsByWidth(size, in_chans) if over == "width" else None

    def count(at: int) -> int:
        if what == "params":
            return params_of(network(at))
        return macs_of(network(at)) if macs_of else cost(network(at), image(at), in_chans).macs

    def distance(at: int, ratio: float) -> float:
        """Steps predicted by the scaling law: cost grows as w² in width, as (α·β²·γ²)^φ in φ (params without γ)."""
        if over == "width":
            return at * (ratio**0.5 - 1)
        return STEP * math.log(ratio, ALPHA * BETA**2 * (GAMMA**2 if what == "macs" else 1))

    def around(at: int) -> range:
        low, high = round(at + distance(at, 2 / 3)), round(at + distance(at, 3 / 2))
        low, high = max(candidates[0], low), min(candidates[-1], high)
        return range(low, high, max(1, (high - low) // SAMPLES))

    start = PUBLISHED[over]
    at = nearest(count, budget, candidates, start, distance, around if conv == "grouped" else lambda at: ())
    found = Match(over, at / STEP, cost(network(at), image(at), in_chans), what, round(budget))
    if (at == candidates[0] and found.miss > 0) or (at == candidates[-1] and found.miss < 0):
        raise UnfitError(
            f"{backbone} with conv={conv} cannot meet {budget:,.0f} {what}: at {over} {found.value:g} it has "
            f"{getattr(found.cost, what):,}. Type a {'larger' if found.miss > 0 else 'smaller'} budget."
        )
    return found


def check_matchable(backbone: str) -> None:
    """Raises UnfitError if a network's width and depth cannot be changed."""
    if not is_scalable(backbone):
        raise UnfitError(
            f"{backbone} has no width and depth to scale. Only the networks of resnet, mobilenet and effnet can meet a "
            "budget."
        )


class _MacsByWidth:
    """Counts the MACs of networks that differ only in width; only the first one has to run.

    A layer's MACs are its number of weights times the number of output positions, which depends on the image size and
    the strides, but not on the width.
    """

    def __init__(self, image_size: ImageSize, in_chans: int) -> None:
        self._image = (image_size, in_chans)
        self._positions: dict[str, int] = {}

    def __call__(self, net: nn.Module) -> int:
        weights = {n: m.weight.numel() for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
        if self._positions.keys() != weights.keys():
            macs = {layer.name: layer.macs for layer in layer_costs(net, *self._image)}
            self._positions = {name: macs.get(name, 0) // weight for name, weight in weights.items()}
        return sum(weight * self._positions[name] for name, weight in weights.items())


def match_text(
    text: str,
    image_size: Size,
    backbone: str,
    conv: str,
    act: str,
    in_chans: int,
    *,
    over: str = "width",
    key: str = "model.match",
    **arguments: Any,
) -> Match:
    """`match` with a budget as text: ``macs:600M``, ``params:5M``, or ``native``.

    ``native`` means the MACs of the same network with its convolutions not rewritten.

    Args:
        text: The budget.
        image_size, backbone, conv, act, in_chans, over, **arguments: As for `match`.
        key: Name of the option in error messages.

    Raises:
        ConvzooError: As for `match`; a text that is not a budget.
    """
    what, amount = parse_budget(text, key)
    if amount is None:
        net = _build(backbone, in_chans=in_chans, **{**arguments, "conv_options": None})
        amount = cost(net, image_size, in_chans).macs
    return match(
        backbone, conv, **{what: amount}, over=over, image_size=image_size, in_chans=in_chans, act=act, **arguments
    )


def _build(backbone: str, conv: str = "native", **arguments: Any) -> nn.Module:
    """`zoo.build` on the meta device, in the caller's random state."""
    # Some layers draw random numbers even on the meta device; that must not change the run's random state.
    with torch.random.fork_rng(devices=[]), meta_init():
        return build(backbone, conv, **arguments)
