"""Finds inputs that a network accepts: the given ones, or images of likely sizes and channels, tried in turn."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from zoo.errors import ConvzooError, UnfitError, one_line
from zoo.image_size import ImageSize, Size
from zoo.meta import ShapesOnly, run_watched, structure

T = TypeVar("T")

SIZES = (224, 32, 28, 64, 96, 299)
"""Common image sizes, tried in turn if the size is not known."""

LARGER = (32, 64, 96, 128, 160, 192, 224, 256, 299, 384, 512)
"""Image sizes that are tried in ascending order, to suggest one in place of a size that fails."""

OURS = ("zoo", "lightning_modules")


@dataclass(frozen=True)
class Run:
    """A network and an input, ready to run.

    Attributes:
        net: A copy of the network's modules, free to be observed.
        args, kwargs: Arguments of its forward.
        real: Whether it computes with real tensors, instead of running on the meta device.
    """

    net: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    real: bool = False

    def __call__(self, watch: AbstractContextManager[Any] | None = None, training: bool = False) -> Any:
        """Runs the network under ``watch`` and returns its output."""
        watch = watch or (nullcontext() if self.real else ShapesOnly())
        return run_watched(self.net, self.args, self.kwargs, watch, real=self.real, training=training)


def try_inputs(
    net: nn.Module,
    attempt: Callable[[Run], T],
    image_size: Size | None = None,
    in_chans: int | None = None,
    inputs: Any = None,
    batch: int = 2,
) -> T:
    """Returns the result of ``attempt`` for the first input that the network accepts.

    Inputs are tried on the meta device first. If all fail there, they are tried again with real tensors on the
    network's device, for networks that need values (``if x.max() > 1``, ``.item()``, NumPy, a tensor that is not a
    buffer).

    Args:
        attempt: Receives a `Run` and calls it. It starts afresh on every call.
        image_size: H = W, or (H, W); None to try likely sizes.
        in_chans: Number of channels; None to try likely ones, and to pass the image to every input of a network that
            has several.
        inputs: Arguments to call the forward with instead: a tensor, a tuple of arguments, or a dict of named ones.
        batch: Batch size of the inputs that are tried.

    Raises:
        UnfitError: No input works; the message quotes the network's own error.
    """
    first: Exception | None = None
    for real in (False, True):
        errors = []
        for args, kwargs in _candidates(net, image_size, in_chans, inputs, batch, real):
            try:
                return attempt(Run(structure(net), args, kwargs, real))
            except Exception as error:  # Arbitrary networks may raise anything.
                if isinstance(error, ConvzooError) or is_ours(error):
                    raise
                errors.append(error)
        first = errors[0]
    raise UnfitError(_explain(net, attempt, image_size, in_chans, inputs, batch, first)) from None


def is_ours(error: Exception) -> bool:
    """Returns whether an error in a forward pass is a bug of this package, not the network's own error.

    A RuntimeError does not count, since torch's operators raise it for any caller. Any other error raised by code of
    this package does.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    room = frame.f_globals.get("__name__", "").partition(".")[0]
    return room in OURS and not isinstance(error, RuntimeError)


def call_of(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Splits a user's ``inputs`` into the positional and the named arguments of a forward pass."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def name_of(net: nn.Module) -> str:
    """Returns timm's name of a network, or the name of its class."""
    known = (getattr(net, "pretrained_cfg", None) or {}).get("architecture")
    return str(known or type(net).__name__)


def _candidates(
    net: nn.Module, image_size: Size | None, in_chans: int | None, inputs: Any, batch: int, real: bool = False
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    if inputs is not None:
        yield call_of(inputs)
        return
    example = getattr(net, "example_input_array", None)  # Lightning's
    if image_size is None and in_chans is None and isinstance(example, (torch.Tensor, tuple, Mapping)):
        yield call_of(example)
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    times = 1 if in_chans else max(1, _required(net))
    for shape in input_shapes(net, image_size, in_chans, batch):
        image = torch.empty(shape, dtype=dtype, device="meta")
        if real:
            # A separate generator leaves the global random state alone. Image values are between 0 and 1.
            image = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        yield (image,) * times, {}


def _required(net: nn.Module) -> int:
    """Returns the number of required positional arguments of a network's forward."""
    try:
        parameters = inspect.signature(net.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


def input_shapes(
    net: nn.Module, image_size: Size | None, in_chans: int | None = None, batch: int = 2
) -> Iterator[tuple[int, ...]]:
    """Yields input shapes that a network may accept: images, or rows for its first linear layer if it has no conv."""
    layers = list(net.modules())
    convs = [m.in_channels for m in layers if isinstance(getattr(m, "in_channels", None), int)]
    linear = next((m.in_features for m in layers if isinstance(m, nn.Linear)), None)
    if in_chans is None and not convs and linear is not None:
        yield batch, linear
        return
    recorded = (getattr(net, "pretrained_cfg", None) or {}).get("input_size")
    sizes = [image_size] if image_size is not None else [*([recorded[1:]] if recorded else []), *SIZES]
    # A stem may rearrange pixels, so that its convolution sees more channels than the image has; and the convolution
    # that is registered first may run last.
    own = getattr(net, "in_chans", None)
    likely = dict.fromkeys([*([own] if isinstance(own, int) else []), *convs[:1], 3, 1, *sorted(set(convs))[:3]])
    for channels in likely if in_chans is None else [in_chans]:
        for size in sizes:
            yield batch, channels, *ImageSize.of(size)


def _explain(
    net: nn.Module,
    attempt: Callable[[Run], Any],
    image_size: Size | None,
    in_chans: int | None,
    inputs: Any,
    batch: int,
    error: Exception,
) -> str:
    name, said = name_of(net), one_line(error)
    if inputs is not None:
        return f"{name} failed on the given inputs ({said})."
    if image_size is None:
        return f"{name} ran with none of the guessed inputs ({said}). Give image_size, or inputs=(…)."
    if (needed := _required(net)) > 1:
        given = "one image" if in_chans else "the same image for each"
        return f"{name} has {needed} inputs, and does not run with {given} ({said}). Give inputs=(…)."
    asked = f"image_size={ImageSize.of(image_size)}"

    def takes(size: Size, channels: int | None = in_chans) -> bool:
        return _takes(net, attempt, size, channels, batch)

    recorded = (getattr(net, "pretrained_cfg", None) or {}).get("input_size")
    for size in dict.fromkeys([*([recorded[-1]] if recorded else []), *LARGER]):
        if takes(size):
            smaller = next((s for s in LARGER if s < size and takes(s)), size)
            return f"{name} takes no images of {asked} ({said}). {smaller}×{smaller} pixels work."
    if in_chans and takes(image_size, None):
        return f"{name} takes no images of {in_chans} channels ({said}). Give in_chans."
    return f"{name} takes no images of {asked} ({said}). Give inputs=(…), if it takes something else."


def _takes(net: nn.Module, attempt: Callable[[Run], Any], size: Size, in_chans: int | None, batch: int) -> bool:
    """Returns whether an attempt succeeds with such images on the meta device."""
    for args, kwargs in _candidates(net, size, in_chans, None, batch):
        try:
            attempt(Run(structure(net), args, kwargs))
        except Exception:  # Arbitrary networks may raise anything; any error means no.
            continue
        return True
    return False
