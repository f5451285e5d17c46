"""Detects activations that a network computes outside of modules, where they cannot be swapped.

``F.relu(x)`` in a ``forward`` is not a module. So the network runs on the meta device, in eval mode and in training
mode (for auxiliary heads), and every activation operation must come from a module that can be swapped. Of activations
written out by hand, x·sigmoid(x) is detected; ``clamp(min=0)`` is not, since it may mean anything.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import evo_norm, filter_response_norm, inplace_abn
from timm.layers.activations import HardSigmoid
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.errors import UnfitError
from zoo.image_size import Size
from zoo.inputs import Run, try_inputs
from zoo.meta import shapes_only, watching

aten = torch.ops.aten

OPS = {
    aten.relu: "relu",
    aten.hardtanh: "relu6",
    aten.silu: "silu",
    aten.hardswish: "hardswish",
    aten.gelu: "gelu",
    aten.mish: "mish",
    aten.leaky_relu: "leaky_relu",
    aten._prelu_kernel: "prelu",
    aten.rrelu_with_noise: "rrelu",
    aten.elu: "elu",
    aten.celu: "celu",
    aten.threshold: "threshold",
}
"""Operation (in-place forms included) → common name. At this level SELU is an ELU, and ReLU6 a hard tanh."""
OPS |= {getattr(aten, f"{op.__name__}_"): name for op, name in OPS.items() if hasattr(aten, f"{op.__name__}_")}

GATES = (HardSigmoid,)
"""Gates that are built from such an operation."""

MERGED = (
    *(kind for name, kind in vars(evo_norm).items() if name.startswith("EvoNorm2d")),
    filter_response_norm.FilterResponseNormTlu2d,
    inplace_abn.InplaceAbn,
)
"""Normalisations whose formula includes an activation."""


def check_complete(
    net: nn.Module,
    swapped: Sequence[type[nn.Module]],
    image_size: Size | None = None,
    inputs: Any = None,
) -> None:
    """Checks that a network computes no activation outside of the modules that can be swapped.

    The network is not changed. If it runs with none of the guessed inputs, it passes with a warning.

    Args:
        swapped: The types of the modules that can be swapped.
        image_size: H = W, or (H, W); None to try likely sizes.
        inputs: Arguments of its forward if it takes no image, as for `zoo.cost`.

    Raises:
        UnfitError: It computes such activations (the message says where), or does not run with the given input.
    """
    places = [f"that of {name} ({type(m).__name__})" for name, m in net.named_modules() if isinstance(m, MERGED)]
    try:
        places = places or try_inputs(net, partial(_strays, swapped=swapped), image_size, inputs=inputs)
    except UnfitError as error:
        if image_size is not None or inputs is not None:
            raise
        warnings.warn(
            f"{error} So only its activation modules are swapped; a functional call (F.relu) would not be seen.",
            stacklevel=3,
        )
    if places:
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        raise UnfitError(
            f"{type(net).__name__} has activations that are no modules of their own, which act could not swap: "
            f"{', '.join(places[:3])}{more}. Use act=native, or make each a module of the network (nn.ReLU, say)."
        )


def _strays(run: Run, swapped: Sequence[type[nn.Module]]) -> list[str]:
    """Describes each activation outside of the ``swapped`` modules, with the module that computes it."""
    names = {module: name for name, module in run.net.named_modules()}
    running: list[nn.Module] = []
    strays: dict[str, None] = {}

    def enter(module: nn.Module, args: object) -> None:
        # A module made inside a forward, nn.ReLU()(x), is not part of the network.
        if module in names:
            running.append(module)

    def leave(module: nn.Module, args: object, output: object) -> None:
        if module in names:
            running.pop()

    def found(op: str) -> None:
        if not any(type(module) in (*swapped, *GATES) for module in running):
            module = running[-1]
            name = names[module]
            strays[f"{op} in " + (f"{name} ({type(module).__name__})" if name else "the network's own forward")] = None

    try:
        with watching(enter, leave), torch.no_grad():
            for training in (False, True):
                run(_ActivationOps(found), training)
    except Exception:  # Activations found before the failure count.
        if not strays:
            raise
    return list(strays)


class _ActivationOps(TorchDispatchMode):
    """Reports every activation operation that runs under it, x·sigmoid(x) included."""

    def __init__(self, found: Callable[[str], None]) -> None:
        super().__init__()
        self._found = found
        self._sigmoids: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op = func.overloadpacket
        if op in OPS:
            self._found(OPS[op])
        elif op in (aten.mul, aten.mul_) and any(
            {id(x), id(y)} == {id(args[0]), id(args[1])} for x, y in self._sigmoids
        ):
            self._found("x·sigmoid(x)")
        out = shapes_only(func, args, kwargs or {})
        if op is aten.sigmoid:
            self._sigmoids.append((args[0], out))
        return out
