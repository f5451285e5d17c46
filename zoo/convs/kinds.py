"""The axis of conv kinds: how one is registered, by convzoo or by a plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from zoo.convs.between import bn_act
from zoo.convs.factored import Factored
from zoo.convs.spec import ConvSpec
from zoo.errors import ConvzooError
from zoo.registry import Option, Registry
from zoo.rules import one_of

Kind = TypeVar("Kind", bound=Callable[..., nn.Module])
Formula = Callable[..., int]
Fits = Callable[[ConvSpec], str | None]

BETWEEN = Option(
    "between", "none", one_of(("none", "bn_act")), "none, or bn_act: BatchNorm and an activation between the factors"
)

KINDS = Registry("conv", special={"between": BETWEEN})
"""Conv kind → its `Choice`, which makes a module from a `ConvSpec`. ``native`` is absent: it changes nothing."""

ALIASES = {"depthwise_separable": "separable"}


def conv_kind(
    name: str,
    *,
    options: tuple[str, ...] | None = None,
    params: Formula | None = None,
    macs: Formula | None = None,
    fits: Fits | None = None,
) -> Callable[[Kind], Kind]:
    """Registers a conv kind: a class or function that makes a module from a `ConvSpec`.

    The module is an ``nn.Conv2d``, or a `Factored` one made of several layers. Its keyword arguments become options:
    ``conv.KEY``, with types from their annotations. An argument ``between`` takes a module between two factors.
    A static method ``from_dense(weight, rank, spec)`` of a class, which returns a `FromDense`, makes it a kind that
    `zoo.convert` and ``init=svd`` start from a trained dense network.

    Args:
        name: What users type: ``conv=NAME``.
        options: Keyword arguments that users may set; by default all of them.
        params: The formula of its parameters, as (spec, **options) → int; `zoo.check_kind` compares it.
        macs: The formula of its MACs, as (spec, (H, W) of the output, **options) → int; likewise.
        fits: Returns why a convolution must keep its form, or None; the report of `zoo.rewrite` shows the reason.

    Raises:
        ConvzooError: The name is invalid or taken.

    Example:
        ```python
        @zoo.conv_kind("dilated")
        def dilated(spec, dilation: int = 2):
            return spec.but(dilation=(dilation, dilation)).conv()
        ```
    """
    return KINDS.register(name, options=options, params=params, macs=macs, fits=fits)


def find_kind(name: str, *others: str) -> str:
    """Returns the name of a registered kind (aliases are resolved), or one of ``others``.

    Raises:
        ConvzooError: There is no such kind.
    """
    return KINDS.choose(ALIASES.get(name, name), *others)


def closed_forms() -> tuple[str, ...]:
    """Returns the kinds that can be made of a trained dense convolution: those that have a ``from_dense``."""
    return tuple(name for name, kind in KINDS.items() if hasattr(kind.make, "from_dense"))


def kind_options(name: str, given: Mapping[str, Any], act_layer: type[nn.Module] = nn.ReLU) -> dict[str, Any]:
    """Returns the arguments of a kind for the options that a user gave; null stands for the default.

    Args:
        name: A registered kind.
        given: Option → value as typed.
        act_layer: The activation of ``between=bn_act``.

    Raises:
        ConvzooError: An option does not exist or its value is not allowed, alone or together with others.
    """
    options = KINDS.check(name, {key: value for key, value in given.items() if value is not None})
    between = options.pop("between", BETWEEN.default)
    return options if between == "none" else {**options, "between": bn_act(act_layer)}


def make_conv(name: str, spec: ConvSpec, options: Mapping[str, Any]) -> nn.Module:
    """Makes the module of a kind.

    Raises:
        ConvzooError: The kind made something else than an ``nn.Conv2d`` or a `Factored` module.
    """
    made = KINDS[name](spec, **options)
    if not isinstance(made, (nn.Conv2d, Factored)):
        raise ConvzooError(
            f"conv={name} made a {type(made).__name__}. A kind makes an nn.Conv2d, or a subclass of zoo.Factored."
        )
    return made
