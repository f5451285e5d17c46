"""Defines the activation axis: lists the available activations and swaps those of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

import timm.layers.activations as timm_acts
import timm.layers.activations_me as timm_acts_me
import torch
from timm.models import metaformer
from torch import nn

from zoo.acts.functional import check_complete
from zoo.errors import ConvzooError, UnfitError
from zoo.image_size import Size
from zoo.places import carry_hooks, check_alone, put
from zoo.registry import Registry

Act = TypeVar("Act", bound=Callable[..., nn.Module])

ACTS = Registry("act")
"""Activation → its `Choice`, which makes the module. ``native`` is absent: it changes nothing.

Swish (Ramachandran et al. 2017) with β = 1 is SiLU (Elfwing et al. 2017). PReLU has one slope per module, initially
0.25: the channel-shared variant of He et al. 2015, which adds one parameter per layer and fits any number of channels.
Weight decay skips slopes and β.
"""


def activation(name: str, *, options: tuple[str, ...] | None = None, inplace: bool = False) -> Callable[[Act], Act]:
    """Registers an activation: a module class, or a function that makes one.

    Args:
        name: What users type: ``act=NAME``.
        options: Keyword arguments that users may set as ``act.KEY``; by default all of them.
        inplace: Whether it takes ``inplace=True`` and saves memory with it.

    Raises:
        ConvzooError: The name is invalid or taken.

    Example:
        ```python
        @zoo.activation("squared_relu")
        class SquaredReLU(nn.Module):
            def forward(self, x):
                return torch.relu(x) ** 2
        ```
    """
    return ACTS.register(name, options=options, inplace=inplace)


class SwishBeta(nn.Module):
    """Swish with a trainable β: x·sigmoid(βx), one β per module, initially 1.

    β = 1 gives SiLU, β = 0 half the identity, and β → ∞ ReLU. Source: Ramachandran et al. 2017, which calls this
    Swish, and the variant with β fixed at 1 Swish-1.
    """

    def __init__(self) -> None:
        super().__init__()
        # Not a scalar, which FSDP rejects. timm's weight decay skips parameters of at most one dimension.
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the activation elementwise, to any shape."""
        # Under autocast x may have lower precision, which the output should keep.
        return x * torch.sigmoid(self.beta.to(x.dtype) * x)


def _register(name: str, module: type[nn.Module], **traits: Any) -> None:
    activation(name, options=(), **traits)(module)


# Only those with inplace gain from working in place: SiLU, Hardswish, Mish and ReLU6 clone their input for it.
_register("relu", nn.ReLU, inplace=True)
_register("relu6", nn.ReLU6)
_register("swish", nn.SiLU)
_register("swish_beta", SwishBeta)
_register("hard_swish", nn.Hardswish)
_register("gelu", nn.GELU)
_register("mish", nn.Mish)
_register("leaky_relu", nn.LeakyReLU, inplace=True)
_register("prelu", nn.PReLU)
_register("elu", nn.ELU, inplace=True)
_register("selu", nn.SELU, inplace=True)

# Sigmoid, hard-sigmoid and tanh are omitted on purpose: in a ConvNet they are gates (squeeze-excite), not activations.
_NAMES = (
    "ReLU ReLU6 SiLU Swish Hardswish HardSwish GELU GELUTanh QuickGELU Mish HardMish "
    "LeakyReLU PReLU RReLU ELU SELU CELU StarReLU SquaredReLU"
)
_MODULES = (nn, timm_acts, timm_acts_me, metaformer)
_TYPES = frozenset(
    {getattr(m, n + end) for m in _MODULES for n in _NAMES.split() for end in ("", "Me") if hasattr(m, n + end)}
)


def swappable() -> tuple[type[nn.Module], ...]:
    """Returns the types of the activation modules that can be swapped: PyTorch's, timm's and the registered ones."""
    return (*_TYPES, *map(_type_of, tuple(ACTS)))


@cache
def _type_of(name: str) -> type[nn.Module]:
    make = ACTS[name].make
    return make if isinstance(make, type) else type(make())


def swap_activations(
    net: nn.Module,
    act: str,
    image_size: Size | None = None,
    inputs: Any = None,
    **options: Any,
) -> int:
    """Replaces every activation of a network by ``act``, in place; gates stay as they are.

    All are replaced or none: a run on the meta device detects activations that the network computes outside of
    modules (``F.relu`` in a ``forward``), see `zoo.acts.functional`.

    Args:
        net: Any network whose activations are modules.
        act: ``native`` (changes nothing) or a key of `ACTS`.
        image_size: H = W, or (H, W), of images that the network accepts; None to try likely sizes.
        inputs: Inputs of a network that takes no image: a tensor, a tuple of arguments, or a dict of named ones.
        **options: Options of the activation.

    Returns:
        The number of modules swapped. A module used in several places is swapped once and stays shared.

    Raises:
        ConvzooError: The activation is unknown, or the network has no activation module or has activations that are
            not modules. The network is unchanged.
    """
    check_act(act, options)
    if act == "native":
        return 0
    check_complete(net, swappable(), image_size, inputs)
    return replace_activations(net, act, options)


def check_act(act: str, options: Mapping[str, Any]) -> None:
    """Raises ConvzooError if an activation or one of its options does not exist, or a value is not allowed."""
    if ACTS.choose(act, "native") != "native":
        ACTS.check(act, options)
    elif options:
        raise ConvzooError(f"act=native has no options. Leave out {', '.join(f'act.{key}' for key in options)}.")


def replace_activations(net: nn.Module, act: str, options: Mapping[str, Any] | None = None) -> int:
    """Swaps like `swap_activations` but without its check, for several swaps of a checked network."""
    found = activations(net)
    if not found:
        raise UnfitError(f"{type(net).__name__} has no activation to swap. Use act=native.")
    first = {module: name for name, module in reversed(found.items())}
    check_alone(net, [part for module in first for part in module.modules()], first, f"act={act}")
    new = {module: _make(act, options or {}, module, _home(net, name)) for module, name in first.items()}
    for old, module in new.items():
        carry_hooks(old, module)
    put(net, new)
    return len(new)


def _home(net: nn.Module, name: str) -> nn.Module:
    """Returns the smallest part around a module that has a parameter of two or more dimensions (kernel or matrix)."""
    while name:
        name = name.rpartition(".")[0]
        part = net.get_submodule(name)
        if any(p.ndim > 1 for p in part.parameters()):
            return part
    return net


def activations(net: nn.Module) -> dict[str, nn.Module]:
    """Maps names to activation modules of a network; a shared module appears under each of its names."""
    found: dict[str, nn.Module] = {}
    kinds = frozenset(swappable())
    for name, module in net.named_modules(remove_duplicate=False):
        # StarReLU contains a ReLU, which is not a separate activation.
        if name and type(module) in kinds and not (found and name.startswith(f"{next(reversed(found))}.")):
            found[name] = module
    return found


def _make(act: str, options: Mapping[str, Any], old: nn.Module, home: nn.Module) -> nn.Module:
    inplace = {"inplace": True} if ACTS[act].traits["inplace"] and getattr(old, "inplace", False) else {}
    new = ACTS[act](**options, **inplace)
    # New parameters are trainable if the old activation's were or, if it had none, if the part around it is.
    guides = [p for p in (list(old.parameters()) or home.parameters()) if p.is_floating_point()]
    if guides:
        new.to(guides[0].device, guides[0].dtype).requires_grad_(any(p.requires_grad for p in guides))
    return new.train(old.training)
