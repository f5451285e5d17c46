"""Record which networks a training step calls, and count the images that they receive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from lightning_modules.callbacks.batch import Place, count_of, images_of, tensors_of

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a call."""


@dataclass(frozen=True)
class Call:
    """A network called directly from a step, not from within another network.

    Attributes:
        net: The network.
        forward: Whether it is the LightningModule itself.
        images: Number of images in the input; 0 if it holds none.
        length: Length of the input's first tensor.
        key: Identifies the images: equal if the same images are passed again; None if they are not the batch's own
            tensors.
        derived: Whether the input comes from another network.
        trains: Whether the network has a trainable weight.
        sample: Arguments for one image; None unless samples are recorded.
    """

    net: nn.Module
    forward: bool
    images: int
    length: int
    key: Any
    derived: bool
    trains: bool
    sample: Arguments | None


class Recorder:
    """Records the calls of networks in one step, by hooks.

    Attributes:
        calls: The calls so far.
        made: Outputs of the networks so far, by storage.

    Args:
        module: The LightningModule.
        batch: The step's batch.
        wrapped: Whether the step itself runs inside a call of the module, as it does if a strategy wraps the module.
        samples: Whether to keep each call's arguments for one image.
    """

    def __init__(self, module: nn.Module, batch: Any, wrapped: bool, samples: bool) -> None:
        self.calls: list[Call] = []
        self._module, self._wrapped, self._samples = module, wrapped, samples
        self._given = {_storage(t) for t in tensors_of(batch)}
        self.made: dict[int, torch.Tensor] = {}
        self._stack: list[bool] = []  # of the running modules: whether it is a call, and not the wrapper's
        self._inner: set[nn.Module] = set()

    def watch(self, parts: Iterable[nn.Module]) -> list[Any]:
        """Register the hooks on modules; return their handles."""
        handles: list[Any] = []
        for part in parts:
            if not isinstance(part, torch.jit.ScriptModule):  # which takes no hooks
                handles.append(part.register_forward_pre_hook(self._before, with_kwargs=True))
                handles.append(part.register_forward_hook(self._after, always_call=True))
        return handles

    def _before(self, net: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        if self._wrapped and net is self._module:
            self._wrapped = False
            self._stack.append(False)
            return
        outer = not any(self._stack)
        self._stack.append(True)
        if not outer:
            # Activation checkpointing calls it again from the backward pass, where it would look outermost.
            self._inner.add(net)
        elif net not in self._inner and _has_weights(net):
            self.calls.append(self._call(net, arguments, named))

    def _after(self, net: nn.Module, arguments: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        self._stack.pop()
        if not any(self._stack) and _has_weights(net):
            self.made |= {_storage(t): t.detach() for t in tensors_of(output)}

    def _call(self, net: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Call:
        given: dict[Any, Any] = {**dict(enumerate(arguments)), **named}
        tensors = [t for t in tensors_of(given) if t.ndim]
        images = next(iter(images_of(given).values()), [])
        own = [t for t in images if _storage(t) in self._given]
        return Call(
            net=net,
            forward=net is self._module,
            images=count_of(images) if images else 0,
            length=tensors[0].size(0) if tensors else 0,
            key=(own[0].data_ptr(), own[-1].data_ptr(), own[0].numel(), len(own)) if own else None,
            derived=any(t.requires_grad or _storage(t) in self.made for t in tensors),
            trains=any(p.requires_grad for p in net.parameters()),
            sample=one_image(arguments, named) if self._samples else None,
        )


def count_calls(calls: list[Call], sizes: set[int]) -> int:
    """Count the images that went through the network that trains on them.

    Args:
        calls: All calls of the step.
        sizes: Image counts of the batch's own parts that hold images.
    """
    seeing = [call for call in calls if call.images]
    forward = [call for call in seeing if call.forward]
    groups = (
        [call for call in forward if call.key],
        # Excludes a loss that is itself a network; for a GAN, counts the discriminator's real images.
        [call for call in seeing if call.key and call.trains],
        [call for call in seeing if call.key],
        forward,
        [call for call in seeing if call.trains and not call.derived],
        [call for call in seeing if not call.derived],
    )
    if group := next(filter(None, groups), None):
        # Images passed again, or passed to a second network, count once.
        return max(
            sum({call.key or i: call.images for i, call in enumerate(group) if call.net is net}.values())
            for net in {call.net for call in group}
        )
    # The step may have flattened the images.
    return next((call.length for call in calls if call.length in sizes), 0)


def find_part(parts: dict[Place, int], images: int) -> tuple[Place, int] | None:
    """Find the part of a batch that has this number of images, or else one whose count divides it (two views of each).

    Returns:
        The part's path, and the number of network images per image of the part; None if no part fits.
    """
    fitting = [(images // size, place) for place, size in parts.items() if size and images % size == 0]
    factor, place = min(fitting, key=lambda fit: fit[0], default=(0, None))
    return None if place is None else (place, factor)


def one_image(arguments: tuple[Any, ...], named: dict[str, Any]) -> Arguments:
    """Cut arguments down to one image: take the first entry of everything that is as long as the batch."""
    given: dict[Any, Any] = {**dict(enumerate(arguments)), **named}
    images = next(iter(images_of(given).values()), None)
    many = count_of(images) if images else next((t.size(0) for t in tensors_of(given) if t.ndim), 0)

    def cut(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return (x[:1] if x.ndim and x.size(0) == many else x).detach().clone()
        if type(x) in (list, tuple):
            return type(x)(cut(part) for part in (x[:1] if len(x) == many else x))
        if isinstance(x, dict):
            return {key: cut(part) for key, part in x.items()}
        return tree_map_only(torch.Tensor, cut, x)

    return tuple(cut(x) for x in arguments), {key: cut(x) for key, x in named.items()}


def _storage(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse, or no plain tensor
        return id(tensor)


def _has_weights(net: nn.Module) -> bool:
    return next(net.parameters(), None) is not None
