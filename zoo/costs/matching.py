"""Matched cost: the width, or the compound φ, at which a conv kind meets a budget.

At equal width the kinds are networks of different size, and comparing them is no fair fight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zoo.backbones.families import ALPHA, BETA, GAMMA, Scale
from zoo.backbones.scaled_builders import SCALABLE
from zoo.builder import build
from zoo.costs.budget import parse_budget
from zoo.costs.counting import Cost, cost, layer_costs
from zoo.costs.nearest import nearest
from zoo.errors import ConvzooError, UnfitError, choose
from zoo.meta import meta_init
from zoo.surgery.rewrite import params_of

STEP = 1000
"""Both are searched in thousandths, short to type. Up to width 4 that passes over one network in fifty at most: where
two layers step within one thousandth."""

CANDIDATES = {"width": range(STEP // 20, 16 * STEP + 1), "phi": range(-10 * STEP, 10 * STEP + 1)}
PUBLISHED = {"width": STEP, "phi": 0}

OVERS = tuple(CANDIDATES)
"""What can be matched over; `zoo.build` calls them the same."""

SAMPLES = 32
"""How many more values are tried where cost falls now and then."""


@dataclass(frozen=True)
class Match:
    """What comes nearest to a budget.

    Attributes:
        over: ``width`` or ``phi``.
        value: The width or φ, for `zoo.build`.
        cost: What the network costs there; with ``phi`` for the scaled image, ``cost.image_size``.
        what: ``params`` or ``macs``.
        budget: What was asked for.
    """

    over: str
    value: float
    cost: Cost
    what: str
    budget: int

    @property
    def miss(self) -> float:
        """How far off, as a share of the budget: +0.01 is one per cent above it. Channels come in steps of 8."""
        return getattr(self.cost, self.what) / self.budget - 1

    def __str__(self) -> str:
        pixels = "×".join(map(str, self.cost.image_size))
        image = f", images of {pixels}" if self.over == "phi" else ""
        got = getattr(self.cost, self.what)
        return f"{self.over}={self.value:g}{image}: {got:,} {self.what}, {self.miss:+.2%} of {self.budget:,}"


def match(
    backbone: str,
    conv: str = "native",
    *,
    params: float | None = None,
    macs: float | None = None,
    over: str = "width",
    image_size: int | tuple[int, int] = 224,
    in_chans: int = 3,
    **build_arguments: Any,
) -> Match:
    """Finds the width or φ at which a network with a kind of convolution comes nearest to a budget.

    It counts about ten networks on the meta device. Cost never falls as width or φ grows, so that no other thousandth
    is nearer. ``conv="grouped"`` is the exception: groups divide the channels, and a wider network may have more groups
    and cost less. There some 32 more are counted, from where the law puts 2/3 of the budget to where it puts 3/2.

    Args:
        backbone: A network that has a width: ResNet, MobileNet or EfficientNet.
        conv: Conv kind, see `zoo.rewrite`.
        params, macs: The budget, one of the two. MAC = one multiply-add of the forward pass for one image.
        over: ``width``; or ``phi`` for compound scaling, as `Scale.compound` has it: depth 1.2^φ, width 1.1^φ and the
            image 1.15^φ. It is relative to the network and the image given, and negative below them.
        image_size: H = W, or (H, W); at φ = 0 where φ is looked for.
        in_chans: Channels of the image.
        **build_arguments: Passed to `zoo.build` (``act``, ``num_classes``, ``stem``, ``depth`` …).

    Raises:
        ConvzooError: No budget, or one that no width from 0.05 to 16 and no φ from -10 to 10 meets; a network without
            a width.
    """
    choose("over", over, OVERS)
    check_matchable(backbone)
    given = {what: amount for what, amount in (("params", params), ("macs", macs)) if amount is not None}
    if len(given) != 1 or not all(amount >= 1 for amount in given.values()):
        raise ConvzooError("match needs one budget, above 0: params=5e6 or macs=600e6.")
    ((what, budget),) = given.items()
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    candidates = CANDIDATES[over]
    if over == "phi":
        # No image of less than 8 pixels, as in a run.
        smallest = math.ceil(STEP * math.log(8 / min(sides), GAMMA))
        candidates = range(min(0, max(candidates.start, smallest)), candidates.stop)

    def image(at: int) -> tuple[int, int]:
        height, width = map(Scale.compound(at / STEP).image_size, sides) if over == "phi" else sides
        return height, width

    def network(at: int) -> nn.Module:
        return _build(backbone, conv, in_chans=in_chans, **{over: at / STEP}, **build_arguments)

    macs_of = _MacsByWidth(sides, in_chans) if over == "width" else None

    def count(at: int) -> int:
        if what == "params":
            return params_of(network(at))
        return macs_of(network(at)) if macs_of else cost(network(at), image(at), in_chans).macs

    def distance(at: int, ratio: float) -> float:
        """By the law: cost grows with w² in width, with (α·β²·γ²)^φ in φ."""
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
            f"{backbone} with conv={conv} cannot have {budget:,.0f} {what}: at {over} {found.value:g} it has "
            f"{getattr(found.cost, what):,}. Type a {'larger' if found.miss > 0 else 'smaller'} budget."
        )
    return found


def check_matchable(backbone: str) -> None:
    """Raises UnfitError where a network's width and depth cannot be changed."""
    if backbone not in SCALABLE:
        raise UnfitError(
            f"{backbone} has no width and depth to meet a budget with: those of resnet, mobilenet and effnet have them."
        )


class _MacsByWidth:
    """Counts the MACs of networks that differ in width alone; all but the first one without running them.

    A layer has as many MACs as its weights times the positions that they act at. Those depend on the image and the
    strides, not on the width.
    """

    def __init__(self, image_size: tuple[int, int], in_chans: int) -> None:
        self._image, self._positions = (image_size, in_chans), {}

    def __call__(self, net: nn.Module) -> int:
        weights = {n: m.weight.numel() for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
        if self._positions.keys() != weights.keys():
            macs = {layer.name: layer.macs for layer in layer_costs(net, *self._image)}
            self._positions = {name: macs.get(name, 0) // weight for name, weight in weights.items()}
        return sum(weight * self._positions[name] for name, weight in weights.items())


def match_text(
    text: str,
    image_size: int | tuple[int, int],
    backbone: str,
    conv: str,
    act: str,
    in_chans: int,
    *,
    over: str = "width",
    key: str = "model.match",
    **arguments: Any,
) -> Match:
    """`match` with a budget as a person types it: ``macs:600M``, ``params:5M``, or ``native``.

    ``native`` asks for the MACs of the same network with nothing rewritten.

    Args:
        key: What the person calls it.
    """
    what, amount = parse_budget(text, key)
    if amount is None:
        net = _build(backbone, in_chans=in_chans, **{**arguments, "conv_options": None})
        amount = cost(net, image_size, in_chans).macs
    return match(
        backbone, conv, **{what: amount}, over=over, image_size=image_size, in_chans=in_chans, act=act, **arguments
    )


def _build(backbone: str, conv: str = "native", **arguments: Any) -> nn.Module:
    """`zoo.build` of a network that can be counted, and costs nothing but its counting."""
    # Some layers draw random numbers on the meta device too, and a run's seed must not feel it.
    with torch.random.fork_rng(devices=[]), meta_init():
        return build(backbone, conv, **arguments)
