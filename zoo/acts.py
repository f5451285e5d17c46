"""The activation axis: which activations there are, and how to swap a network's."""

from __future__ import annotations

import timm.layers.activations as timm_acts
import timm.layers.activations_me as timm_acts_me
from torch import nn

from zoo.errors import ConvzooError, choose

ACTS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "swish": nn.SiLU,
    "hard_swish": nn.Hardswish,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
}
"""Activation → module. ``native`` is not here: it leaves a network alone. Swish (Ramachandran et al. 2017) with β = 1
is SiLU (Elfwing et al. 2017)."""

# Sigmoid, hard-sigmoid and tanh are missing on purpose: in a ConvNet they are gates (squeeze-excite), not activations.
_NAMES = "ReLU ReLU6 SiLU Swish Hardswish HardSwish GELU GELUTanh QuickGELU Mish HardMish LeakyReLU PReLU ELU SELU CELU"
_MODULES = (nn, timm_acts, timm_acts_me)
SWAPPED = tuple(
    {getattr(m, n + end) for m in _MODULES for n in _NAMES.split() for end in ("", "Me") if hasattr(m, n + end)}
)


def swap_activations(net: nn.Module, act: str) -> int:
    """Gives every activation of a network the form ``act``, in place; gates are left alone.

    Args:
        net: Any network whose activations are modules.
        act: ``native`` (leaves everything alone) or a key of `ACTS`.

    Returns:
        The number of modules swapped. A module used in several places is swapped once and stays shared.

    Raises:
        ConvzooError: An unknown activation, or a network without an activation module.
    """
    act = choose("act", act, ["native", *ACTS])
    if act == "native":
        return 0
    found = activations(net)
    if not found:
        raise ConvzooError(
            f"{type(net).__name__} has no activation module to swap (functional calls cannot be seen). Use act=native."
        )
    swapped = {id(module): _make(act, module) for module in found.values()}
    for name, module in found.items():
        net.set_submodule(name, swapped[id(module)])
    return len(swapped)


def activations(net: nn.Module) -> dict[str, nn.Module]:
    """Every place in a network where an activation module stands; a shared one under each of its names."""
    return {name: module for name, module in net.named_modules(remove_duplicate=False) if type(module) in SWAPPED}


def _make(act: str, old: nn.Module) -> nn.Module:
    # Only ReLU and the ELUs gain from working in place: SiLU, Hardswish, Mish and ReLU6 clone their input for it.
    inplace = getattr(old, "inplace", False) and act in ("relu", "leaky_relu", "elu", "selu")
    return (ACTS[act](inplace=True) if inplace else ACTS[act]()).train(old.training)
