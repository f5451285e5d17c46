"""Finds a network's modules under all of their names, and replaces them under every name or not at all.

One module may have several names (``b = a``; an attribute and a ModuleList), and several modules may share one tensor
(``b.weight = a.weight``). A replacement under one name only would silently break the tie.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zoo.errors import UnfitError

RUN_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
"""Attributes with the hooks that a module calls when it runs."""
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


@dataclass(frozen=True, eq=False)
class Edit:
    """A planned replacement of modules.

    Attributes:
        name: Name of the module that is replaced, or whose submodules are.
        changes: Name relative to ``name`` ("" for the module itself) → the module to put there.
        made: The newly made module, which is one of ``changes`` or inside one.
    """

    name: str
    changes: Mapping[str, nn.Module]
    made: nn.Module


def places_of(net: nn.Module) -> dict[nn.Module, list[str]]:
    """Maps every module of a network to all of its names, in the order of the network."""
    places: dict[nn.Module, list[str]] = {}
    for name, module in net.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(name)
    return places


def copy_of(net: nn.Module) -> nn.Module:
    """Copies a network; the copy shares nothing.

    Tensors that were computed with a gradient (by `nn.utils.weight_norm`) are detached, since torch cannot copy them.
    """
    computed = (t for m in net.modules() for t in vars(m).values() if isinstance(t, torch.Tensor) and not t.is_leaf)
    return copy.deepcopy(net, {id(t): t.detach().clone() for t in computed})


def put(net: nn.Module, new: Mapping[nn.Module, nn.Module]) -> dict[str, nn.Module]:
    """Replaces modules under all of their names. Returns the old modules by name."""
    places = places_of(net)
    stood = {name: old for old in new for name in places[old]}
    for name, old in stood.items():
        net.set_submodule(name, new[old])
    return stood


def carry_out(net: nn.Module, edits: Sequence[Edit], what: str) -> None:
    """Applies all edits, under every name, or none.

    New modules inherit whether the old weights were trainable, their memory format, and the hooks of a module that is
    replaced as a whole.

    Args:
        what: Name of the change for error messages (``conv=separable``).

    Raises:
        UnfitError: An edit would break a tie, lose a hook, or replace the network itself. The network is unchanged.
    """
    places = places_of(net)
    new: dict[nn.Module, nn.Module] = {}
    gone = {}
    staying = {m for edit in edits for module in edit.changes.values() for m in module.modules()}
    for edit in edits:
        old = {net.get_submodule(_join(edit.name, place)): module for place, module in edit.changes.items()}
        new |= old
        gone[edit] = [m for module in old for m in module.modules() if m not in staying]
    if net in new:
        raise UnfitError(f"{type(net).__name__} is itself what {what} replaces. Wrap it in nn.Sequential.")
    check_alone(net, [m for modules in gone.values() for m in modules], list(new), what)
    for edit, modules in gone.items():
        for module in modules:
            whole = edit.name in places[module] and "" in edit.changes
            if not whole and any(getattr(module, hooks) for hooks in RUN_HOOKS):
                raise UnfitError(
                    f"{places[module][0]} has a hook, which {what} would lose with the module. Remove the hook first."
                )
    for edit, modules in gone.items():
        take_after(edit.made, modules)
        if "" in edit.changes:
            carry_hooks(net.get_submodule(edit.name), edit.changes[""])
    put(net, new)


def check_alone(net: nn.Module, gone: Iterable[nn.Module], replaced: Iterable[nn.Module], what: str) -> None:
    """Checks that a network keeps no reference to some modules, nor to their weights, once others are replaced.

    Args:
        gone: The modules that are no longer needed.
        replaced: The modules to be replaced, which contain all of ``gone``.

    Raises:
        UnfitError: A reference would remain; the message lists the names.
    """
    gone, places = set(gone), places_of(net)
    roofs = {name for module in replaced for name in places[module]}
    owners = _owners(places)
    for module in gone:
        if any(not _below(name, roofs) for name in places[module]):
            raise UnfitError(
                f"{' and '.join(places[module])} are one {type(module).__name__}, and {what} would replace it in one "
                "of these places only. Use two modules, or leave this network as it is (conv=native, act=native)."
            )
        for parameter in module.parameters(recurse=False):
            if len(names := owners[_key(parameter)]) > 1:
                raise UnfitError(
                    f"{' and '.join(names)} are one tensor (tied weights), which {what} would separate. Untie them "
                    "first, or leave this network as it is (conv=native, act=native)."
                )
    if hidden := hidden_places(net, gone):
        name, module = hidden[0]
        raise UnfitError(
            f"{name} refers to {places[module][0]} without being a registered module (a plain list or attribute), and "
            f"{what} would not reach it. Use nn.ModuleList, or leave this network as it is (conv=native, act=native)."
        )


def hidden_places(net: nn.Module, modules: Iterable[nn.Module]) -> list[tuple[str, nn.Module]]:
    """Returns (name, module) of references that PyTorch does not register: in lists, methods, plain attributes."""
    wanted = set(modules)
    return [
        (_join(names[0] or type(net).__name__, attribute), module)
        for holder, names in places_of(net).items()
        for attribute, value in vars(holder).items()
        if attribute not in _OF_EVERY_MODULE
        for module in _modules_in(value)
        if module in wanted
    ]


def _modules_in(value: Any, depth: int = 4) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, (list, tuple, set, frozenset, dict)) and depth:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _modules_in(item, depth - 1)
    elif callable(value) and isinstance(bound := getattr(value, "__self__", None), nn.Module):
        yield bound


def take_after(new: nn.Module, old: Iterable[nn.Module]) -> None:
    """Gives a new module's weights the trainability and the memory format of the weights that it replaces."""
    kernels = [m for m in old if isinstance(w := getattr(m, "weight", None), torch.Tensor) and w.ndim == 4]
    if not kernels:
        return
    trained = any(m.weight.requires_grad for m in kernels)
    biases = [m.bias for m in kernels if isinstance(getattr(m, "bias", None), torch.Tensor)]
    last = [m.bias for m in new.modules() if isinstance(m, nn.Conv2d)][-1:]
    for parameter in new.parameters():
        is_bias = bool(biases) and any(parameter is bias for bias in last)
        parameter.requires_grad_(any(b.requires_grad for b in biases) if is_bias else trained)
    if any(_is_channels_last(m.weight) for m in kernels):
        new.to(memory_format=torch.channels_last)


def carry_hooks(old: nn.Module, new: nn.Module) -> None:
    """Gives a new module the hooks of the old one. Both share the dictionaries, so that handles still remove hooks."""
    for hooks in RUN_HOOKS:
        if getattr(old, hooks):
            setattr(new, hooks, getattr(old, hooks))
    new._is_full_backward_hook = old._is_full_backward_hook


def _is_channels_last(weight: torch.Tensor) -> bool:
    last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return last and not weight.is_contiguous()


def _owners(places: Mapping[nn.Module, Sequence[str]]) -> dict[Any, list[str]]:
    """Maps each parameter to its names: several if modules share it."""
    owners: dict[Any, list[str]] = {}
    for module, names in places.items():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(_key(parameter), []).append(_join(names[0], name))
    return owners


def _key(parameter: torch.Tensor) -> Any:
    """Returns equal keys for parameters that share memory, since two may be views of one tensor."""
    try:
        return (parameter.device, parameter.data_ptr(), parameter.numel()) if parameter.data_ptr() else id(parameter)
    except (RuntimeError, ValueError, NotImplementedError):  # uninitialised (lazy) or distributed tensors
        return id(parameter)


def _join(*names: str) -> str:
    return ".".join(filter(None, names))


def _below(name: str, roofs: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:n]) in roofs for n in range(1, len(parts) + 1))
