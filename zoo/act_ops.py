"""Which activations a network computes outside of its activation modules, where nothing could swap them.

``F.relu(x)`` in a ``forward`` is no module. So the network is run on the meta device, in eval mode and in training
mode (auxiliary heads), and every operation that is an activation has to come out of a module that can be swapped.
Of what is written out by hand, x·sigmoid(x) is seen; a ``clamp(min=0)`` may mean anything, and is not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from timm.layers import evo_norm, filter_response_norm, inplace_abn
from timm.layers.activations import HardSigmoid
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.errors import ConvzooError, UnfitError
from zoo.meta import run_on_meta, shapes_only, structure, watching
from zoo.stem import first_conv

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
"""Operation (its in-place form too) → what a person calls it. SELU is an ELU by then, ReLU6 a hard tanh."""
OPS |= {getattr(aten, f"{op.__name__}_"): name for op, name in OPS.items() if hasattr(aten, f"{op.__name__}_")}

GATES = (HardSigmoid,)
"""Gates that are made of such an operation."""

MERGED = (
    *(kind for name, kind in vars(evo_norm).items() if name.startswith("EvoNorm2d")),
    filter_response_norm.FilterResponseNormTlu2d,
    inplace_abn.InplaceAbn,
)
"""Normalisations with an activation of their own in their formula."""

SIZES = (224, 32, 28, 64, 96, 299)
"""Images that networks are made for, tried in turn where nothing says the size."""


def check_complete(
    net: nn.Module, swapped: Sequence[type[nn.Module]], image_size: int | tuple[int, int] | None = None
) -> None:
    """Checks that a network computes no activation outside of the modules that can be swapped. It is left as it is.

    A network that runs with no input that could be guessed is taken as it is, with a warning.

    Args:
        swapped: The types of these modules.
        image_size: H = W, or (H, W); None to find out.

    Raises:
        ConvzooError: It computes some, and where; or it does not take images of the size that was given.
    """
    places = [f"that of {name} ({type(m).__name__})" for name, m in net.named_modules() if isinstance(m, MERGED)]
    errors: list[Exception] = []
    for shape in [] if places else input_shapes(net, image_size):
        strays, error = _strays(net, swapped, shape)
        # What was seen before a run failed was seen all the same.
        places = [f"{op} in {where}" for where, op in strays]
        if places or error is None:
            errors.clear()
            break
        errors.append(error)
    if places:
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        raise UnfitError(
            f"{type(net).__name__} has activations that are no modules of their own, which act could not swap: "
            f"{', '.join(places[:3])}{more}. Use act=native, or make each a module of the network (nn.ReLU, say)."
        )
    if not errors:
        return
    reason = f"{type(errors[0]).__name__}: {(str(errors[0]).splitlines() or [''])[0]}"
    if image_size is not None:
        raise ConvzooError(f"{type(net).__name__} takes no images of image_size={image_size} ({reason}).")
    warnings.warn(
        f"{type(net).__name__} ran with no input that could be guessed ({reason}), so only its activation modules are "
        "swapped; a functional call (F.relu) would not be seen. Give image_size, if it takes images.",
        stacklevel=3,
    )


def input_shapes(net: nn.Module, image_size: int | tuple[int, int] | None) -> Iterator[tuple[int, ...]]:
    """Inputs that a network may take: images for its first convolution, or rows for its first linear layer."""
    first = net.get_submodule(first_conv(net))
    linear = next((m for m in net.modules() if isinstance(m, nn.Linear)), None)
    if first is net and linear is not None:
        yield 2, linear.in_features
        return
    recorded = (getattr(net, "pretrained_cfg", None) or {}).get("input_size")
    sizes = [image_size] if image_size is not None else [*([recorded[1:]] if recorded else []), *SIZES]
    # A stem may rearrange the pixels, so that its first convolution sees more channels than the image has.
    for channels in dict.fromkeys((getattr(first, "in_channels", 3), 3, 1)):
        for size in sizes:
            yield 2, channels, *((size, size) if isinstance(size, int) else size)


def _strays(
    net: nn.Module, swapped: Sequence[type[nn.Module]], shape: tuple[int, ...]
) -> tuple[list[tuple[str, str]], Exception | None]:
    """(module, operation) of each activation outside of the ``swapped``, and what ended the run early, if anything."""
    net = structure(net)
    names = {module: name for name, module in net.named_modules()}
    running: list[nn.Module] = []
    strays: dict[tuple[str, str], None] = {}

    def enter(module: nn.Module, args: object) -> None:
        # One that a forward makes for itself, nn.ReLU()(x), is no module of the network.
        if module in names:
            running.append(module)

    def leave(module: nn.Module, args: object, output: object) -> None:
        if module in names:
            running.pop()

    def found(op: str) -> None:
        if not any(type(module) in (*swapped, *GATES) for module in running):
            module = running[-1]
            name = names[module]
            strays[f"{name} ({type(module).__name__})" if name else "the network's own forward", op] = None

    try:
        # Dropout draws random numbers on the meta device too, and a run's seed must not feel it.
        with torch.random.fork_rng(devices=[]), watching(enter, leave), torch.no_grad():
            for training in (False, True):
                run_on_meta(net, shape, _ActivationOps(found), training)
    except Exception as error:  # Whatever a network of somebody's does with an input that was guessed.
        return list(strays), error
    return list(strays), None


class _ActivationOps(TorchDispatchMode):
    """Tells of every activation that runs below it, x·sigmoid(x) included."""

    def __init__(self, found: Callable[[str], None]) -> None:
        super().__init__()
        self._found = found
        self._sigmoids: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
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
