"""MAC counting rules: one formula per ATen operation, and the dispatch mode that applies them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.costs.free_ops import is_free
from zoo.errors import ConvzooError, one_line
from zoo.meta import shapes_only

aten = torch.ops.aten

Operands = tuple[torch.Tensor, ...]
Rule = Callable[[tuple[Any, ...], Any], tuple[int, Operands]]
"""(arguments, output) of an operation → its MACs, and the operands that may need a gradient."""


class Count(NamedTuple):
    """The counts of one operation; ``unknown`` is its name if it has no rule."""

    macs: int = 0
    train_macs: int = 0
    activations: int = 0
    unknown: str | None = None


def _convolution(args: tuple[Any, ...], out: torch.Tensor, transposed: bool | None = None) -> tuple[int, Operands]:
    # The weight is (C′, C/g, k, k), or (C, C′/g, k, k) if transposed: elements per row = MACs per position.
    grid = args[0] if (args[6] if transposed is None else transposed) else out
    return grid.numel() * math.prod(args[1].shape[1:]), args[:2]


def _product(args: tuple[Any, ...], out: torch.Tensor, first: int = 0) -> tuple[int, Operands]:
    return out.numel() * args[first].shape[-1], args[first : first + 2]


def _sum_of_products(args: tuple[Any, ...], out: torch.Tensor) -> tuple[int, Operands]:
    return args[1].numel() * args[2].shape[-1], args[1:3]


def _outer(args: tuple[Any, ...], out: torch.Tensor) -> tuple[int, Operands]:
    return out.numel(), args[1:3]


def _rows_of_time(args: tuple[Any, ...], out: torch.Tensor) -> tuple[int, Operands]:
    """`torch.conv_tbc`: the weight is (k, C, C′)."""
    return out.numel() * math.prod(args[1].shape[:2]), args[:2]


def _sparse(args: tuple[Any, ...], out: torch.Tensor) -> tuple[int, Operands]:
    return args[1]._nnz() * args[2].shape[-1], args[1:3]


def _trilinear(args: tuple[Any, ...], out: torch.Tensor) -> tuple[int, Operands]:
    """`nn.Bilinear`: each weight once per row, as in a linear layer."""
    shapes = []
    for tensor, added in zip(args[:3], args[3:6], strict=True):
        for dim in sorted(added):
            tensor = tensor.unsqueeze(dim)
        shapes.append(tensor.shape)
    return math.prod(torch.broadcast_shapes(*shapes)), args[:3]


def _attention(args: tuple[Any, ...], out: Any) -> tuple[int, Operands]:
    query, key, value = args[:3]
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return pairs * (query.shape[-1] + value.shape[-1]), (query, key, value)


def _bags(args: tuple[Any, ...], out: Any) -> tuple[int, Operands]:
    """`nn.EmbeddingBag`: a sum of rows; it multiplies only if each row has its own weight (per_sample_weights)."""
    weighted = len(args) > 6 and args[6] is not None
    return (args[1].numel() * args[0].shape[-1], (args[0], args[6])) if weighted else (0, ())


def _recurrent(args: tuple[Any, ...], out: Any) -> tuple[int, Operands]:
    """Fused recurrent layers: every weight matrix once per row and time step. Biases, which are 1-D, are left out."""
    weights = [t for t in tree_leaves(args[1:5]) if isinstance(t, torch.Tensor) and t.ndim == 2]
    rows = math.prod(args[0].shape[:-1])
    return rows * sum({id(w): w.numel() for w in weights}.values()), (args[0], *weights[:1])


def _packed(args: tuple[Any, ...], out: torch.Tensor) -> tuple[int, Operands]:
    """torch's quantised layers, whose weight is inside a packed object."""
    return out.numel() * math.prod(args[1].unpack()[0].shape[1:]), ()


def _names(names: str, rule: Rule, room: str = "aten") -> Iterator[tuple[str, Rule]]:
    return ((f"{room}::{name}", rule) for name in names.split())


LAYERS: dict[str, Rule] = dict(
    (
        *_names("convolution convolution_overrideable _convolution", _convolution),
        *_names(
            "cudnn_convolution cudnn_convolution_relu mkldnn_convolution miopen_convolution miopen_convolution_relu "
            "miopen_depthwise_convolution _conv_depthwise2d conv_depthwise3d _slow_conv2d_forward slow_conv3d_forward "
            "slow_conv_dilated2d slow_conv_dilated3d _nnpack_spatial_convolution _mps_convolution",
            partial(_convolution, transposed=False),
        ),
        *_names(
            "cudnn_convolution_transpose miopen_convolution_transpose slow_conv_transpose2d slow_conv_transpose3d",
            partial(_convolution, transposed=True),
        ),
        *_names("mm linear mkldnn_linear _int_mm _scaled_mm", _product),
        *_names("addmm _addmm_activation", partial(_product, first=1)),
        *_names("conv_tbc", _rows_of_time),
        *_names("_trilinear", _trilinear),
        *_names("deform_conv2d", partial(_convolution, transposed=False), "torchvision"),
        *_names(
            "conv1d conv2d conv3d conv1d_relu conv2d_relu conv3d_relu linear linear_relu linear_dynamic "
            "linear_relu_dynamic",
            _packed,
            "quantized",
        ),
    )
)
"""Convolutions and linear layers by operator name. Their outputs count as activations."""

PRODUCTS: dict[str, Rule] = LAYERS | dict(
    (
        *_names("bmm mv dot vdot _cdist_forward _euclidean_dist", _product),
        *_names("baddbmm addmv", partial(_product, first=1)),
        *_names("addbmm", _sum_of_products),
        *_names("_sparse_addmm", _sparse),
        *_names("addr", _outer),
        *_names("_embedding_bag _embedding_bag_forward_only", _bags),
        *_names("mkldnn_rnn_layer _cudnn_rnn miopen_rnn", _recurrent),
        *_names(
            "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
            "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
            "_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math",
            _attention,
        ),
    )
)
"""Every operation that has MACs, and its rule. Where possible, torch is made to decompose attention into two batched
products, which have rules of their own."""


def register_macs(op: Any, formula: Callable[..., int]) -> None:
    """Sets the MAC formula of a custom operator, or replaces that of a known one.

    ``zoo.register_macs("mylib::scan", lambda x, weight, out: out.numel() * weight.shape[1])``

    Args:
        op: ``"namespace::name"``, an operator of ``torch.ops``, or the result of `torch.library.custom_op`.
        formula: Called with the operator's arguments and its output as ``out``; returns the MACs of that call. For
            training they count once more for each input that needs a gradient, at most twice more.

    Raises:
        ConvzooError: ``op`` is not an operator, or ``formula`` is not callable.
    """
    op = getattr(op, "_opoverload", op)
    schema = getattr(op, "_schema", None)
    name = schema.name if schema else op if isinstance(op, str) else getattr(op, "_qualified_op_name", None)
    if not isinstance(name, str) or len(name.split("::")) != 2:
        raise ConvzooError(f"{op} is not an operator. Give its name (mylib::scan), or torch.ops.mylib.scan.")
    if not callable(formula):
        raise ConvzooError(f"the formula of {name} is not a function. Give one that returns its MACs.")
    room, _, base = name.partition("::")
    _REGISTERED[f"{room}::{base.partition('.')[0]}"] = formula


_REGISTERED: dict[str, Callable[..., int]] = {}


class ProductCounter(TorchDispatchMode):
    """Dispatch mode that reports every product inside it, and every operation of unknown cost.

    The gradient of a product with respect to either operand is a product of the same size, for matrices and for
    convolutions with any number of groups. So training costs the forward MACs once, plus once for each operand that
    needs a gradient: three times inside a network, twice at the first layer or with frozen weights, once with both.
    (torch's own `FlopCounterMode` ignores the groups in the weight's gradient.)

    Args:
        count: Called for each product, and with ``unknown`` for each operation that has no rule and is not in
            `zoo.costs.free_ops`.
    """

    supports_higher_order_operators = True

    def __init__(self, count: Callable[[Count], None]) -> None:
        super().__init__()
        self._count = count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not hasattr(func, "overloadpacket"):  # torch.cond and other higher-order operators
            self._count(Count(unknown=f"higher_order::{func}"))
            return func(*args, **kwargs)
        out = shapes_only(func, args, kwargs)
        name = func._schema.name
        if formula := _REGISTERED.get(name):
            self._count(_by_formula(name, formula, args, kwargs, out))
        # In-place variants have a trailing underscore.
        elif rule := PRODUCTS.get(name) or PRODUCTS.get(name.removesuffix("_")):
            macs, operands = rule(_in_order(func, args, kwargs), out)
            gradients = sum(operand.requires_grad for operand in operands)
            activations = out.numel() if name.removesuffix("_") in LAYERS else 0
            self._count(Count(macs, macs * (1 + gradients), activations))
        elif not is_free(func):
            self._count(Count(unknown=name))
        return out


def _in_order(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Returns all arguments by position, since some callers pass them by keyword."""
    if not kwargs:
        return args
    rest = [a for a in func._schema.arguments[len(args) :] if not a.kwarg_only]
    return (*args, *(kwargs.get(a.name, a.default_value if a.has_default_value() else None) for a in rest))


def _by_formula(
    name: str, formula: Callable[..., int], args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> Count:
    try:
        macs = int(formula(*args, **kwargs, out=out))
    except Exception as error:  # The formula is user code.
        raise ConvzooError(f"the formula registered for {name} failed ({one_line(error)}).") from error
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    return Count(macs, macs * (1 + min(2, sum(t.requires_grad for t in tensors))))
