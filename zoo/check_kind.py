"""Checks a conv kind as its author would: shapes, gradients, and the paper's formulas against what is counted."""

from __future__ import annotations

import math
from typing import Any

import torch

from zoo.compression.convert import factorise
from zoo.convs import KINDS, ConvSpec, closed_forms, find_kind, kind_options, make_conv
from zoo.costs.counting import cost
from zoo.errors import ConvzooError
from zoo.surgery.rewrite import params_of

SIZE = 9
"""Height and width of the images."""

EXACT = 1e-6
"""Relative difference of outputs below which two convolutions are the same; they are compared in float64."""

FULL = 10**6
"""A rank above that of any kernel."""

SPECS = (
    ConvSpec(16, 16, (3, 3), padding=(1, 1)),
    ConvSpec(16, 32, (3, 3), padding=(1, 1), bias=True),
    ConvSpec(32, 16, (3, 3), stride=(2, 2), padding=(1, 1)),
    ConvSpec(16, 24, (5, 5), padding=(2, 2)),
    ConvSpec(16, 16, (3, 3), padding=(2, 2), dilation=(2, 2)),
    ConvSpec(16, 16, (7, 7), stride=(2, 2), padding=(3, 3)),
)
"""Convolutions as they stand in ConvNets."""


def check_kind(name: str, **options: Any) -> int:
    """Checks a registered conv kind on convolutions of several sizes.

    It must make what the convolution makes: the same output size, with finite outputs and a gradient for every
    parameter. Its ``params`` and ``macs`` formulas, if it has any, must give what is counted. Its ``from_dense``, if it
    has one, must reproduce the convolution at full rank.

    Args:
        name: The kind.
        **options: Its options; defaults otherwise.

    Returns:
        The number of convolutions it was checked on; those that it declares unfit are left out.

    Raises:
        ConvzooError: It fails; the message says on which convolution.
    """
    name = find_kind(name)
    kind = KINDS[name]
    given = {**kind.defaults, **options}
    arguments = kind_options(name, given)
    checked = 0
    for spec in SPECS:
        if (fits := kind.traits["fits"]) and fits(spec):
            continue
        what = f"conv={name} on {spec.in_channels}→{spec.out_channels} {spec.kernel_size[0]}×{spec.kernel_size[1]}"
        what += f", stride {spec.stride[0]}, dilation {spec.dilation[0]}"
        conv = make_conv(name, spec, arguments)
        out_size = _check_output(what, conv, spec)
        formula_options = {key: value for key, value in given.items() if key != "between"}
        if (formula := kind.traits["params"]) and (said := formula(spec, **formula_options)) != params_of(conv):
            raise ConvzooError(f"{what}: the formula says {said:,} parameters; it has {params_of(conv):,}.")
        counted = cost(conv, SIZE, spec.in_channels).macs
        if (formula := kind.traits["macs"]) and (said := formula(spec, out_size, **formula_options)) != counted:
            raise ConvzooError(f"{what}: the formula says {said:,} MACs; {counted:,} are counted.")
        if name in closed_forms():
            _check_from_dense(what, name, spec)
        checked += 1
    if not checked:
        raise ConvzooError(f"conv={name} fits none of the usual convolutions.")
    return checked


def _check_output(what: str, conv: torch.nn.Module, spec: ConvSpec) -> tuple[int, int]:
    """Runs the module forward and backward; returns the height and width of its output."""
    images = torch.randn(2, spec.in_channels, SIZE, SIZE)
    expected = spec.but(groups=1).conv()(images).shape
    out = conv(images)
    if out.shape != expected:
        raise ConvzooError(f"{what} makes {tuple(out.shape)}; the convolution makes {tuple(expected)}.")
    out.square().sum().backward()
    idle = [name for name, p in conv.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    if idle or not math.isfinite(out.sum().item()):
        raise ConvzooError(f"{what}: no finite gradient for {', '.join(idle) or 'its output'}.")
    return tuple(out.shape[2:])


def _check_from_dense(what: str, name: str, spec: ConvSpec) -> None:
    """Converts a convolution at full rank, where nothing is lost unless the kind says so by its energy."""
    dense = spec.conv().double()
    module, made = factorise(dense, name, FULL)
    images = torch.randn(2, spec.in_channels, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        expected = dense(images)
        error = ((module(images) - expected).norm() / expected.norm()).item()
    if made.energy > 1 - EXACT**2 and not error < EXACT:
        raise ConvzooError(
            f"{what}: from_dense says that it keeps all of the convolution; their outputs differ by {error:.1%}."
        )
    if made.rank is not None and made.energy <= 1 - EXACT**2:
        raise ConvzooError(f"{what}: from_dense keeps a share of {made.energy:.4f} at full rank; it must keep all.")
