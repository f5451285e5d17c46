"""Objects that configuration files name by ``_target_``: callbacks, loggers, modules, data modules, optimizers.

The one place that knows Hydra's ``instantiate``. Files may name code; the command line may not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ConvzooError, closest, one_line
from zoo.rules import Rule

TARGET = "_target_"
FOLDER = "{folder}"
"""Stands for the run's folder in the arguments, so that the configuration is the same in every folder."""

Node = Mapping[str, Any]


def is_node(value: Any) -> bool:
    """Whether a value names an object: a mapping with ``_target_``."""
    return isinstance(value, Mapping) and isinstance(value.get(TARGET), str)


NODE: Rule = (is_node, "a group of keys with _target_, in a file")
NODES: Rule = (
    lambda v: isinstance(v, Mapping) and all(map(is_node, v.values())),
    "names with a group of keys each, which has _target_; in a file: {early_stopping: {_target_: …}}",
)


def maker(name: str, node: Node, folder: Path | None = None) -> Callable[..., Any]:
    """Returns a function that makes the object: what ``_target_`` names, with the other keys as arguments.

    Args:
        name: The node's place in the configuration, for messages.
        node: The node. ``{folder}`` in its texts becomes ``folder``.
        folder: The run's folder.

    Raises:
        ConvzooError: ``_target_`` cannot be imported, or does not take one of the arguments.
    """
    from hydra._internal.utils import _locate  # hydra.utils.get_object prints the error, too
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    target = node[TARGET]
    try:
        called = _locate(target)
    except (ImportError, HydraException, ValueError) as error:
        hint = " Is it in plugins=[MODULE], or beside --config-dir?" if isinstance(error, ImportError) else ""
        raise ConvzooError(
            f"{name}._target_={target} cannot be imported: {one_line(error.__cause__ or error)}.{hint}"
        ) from None
    if not callable(called):
        raise ConvzooError(f"{name}._target_={target} is neither a class nor a function.")
    _check_arguments(name, called, [key for key in node if not key.startswith("_")])
    arguments = {**_filled(node, folder), "_partial_": True, "_convert_": "all"}
    try:
        return instantiate(arguments)
    except HydraException as error:  # An object inside the arguments.
        raise ConvzooError(f"{name}: {one_line(error.__cause__ or error)}.") from None


def make_all(name: str, nodes: Mapping[str, Node], folder: Path, kind: type | tuple[type, ...]) -> list[Any]:
    """Returns the objects of a group, in the order of their names in the configuration.

    Args:
        name: The group (``callbacks``).
        nodes: Name → node.
        folder: The run's folder.
        kind: What they must be.

    Raises:
        ConvzooError: One cannot be made, or is something else.
    """
    return [make(f"{name}.{key}", node, folder, kind) for key, node in nodes.items()]


def make(name: str, node: Node, folder: Path, kind: type | tuple[type, ...], **more: Any) -> Any:
    """Returns the object of a node, made with these arguments besides its own.

    Raises:
        ConvzooError: It cannot be made, or is not of the given kind.
    """
    return call(name, node, maker(name, node, folder), kind, **more)


def call(name: str, node: Node, build: Callable[..., Any], kind: type | tuple[type, ...], **more: Any) -> Any:
    """Returns the object that a node's `maker` makes: for callers that first ask what it `takes`.

    Raises:
        ConvzooError: It cannot be made, or is not of the given kind.
    """
    try:
        made = build(**more)
    except (TypeError, ValueError, ImportError) as error:
        raise ConvzooError(f"{name}: {node[TARGET]} cannot be made: {one_line(error)}.") from error
    if not isinstance(made, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise ConvzooError(f"{name}: {node[TARGET]} is no {' or '.join(k.__name__ for k in kinds)}.")
    return made


def takes(called: Callable[..., Any]) -> tuple[set[str], bool]:
    """Returns the names of a callable's arguments, and whether it takes any further ones."""
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # Written in C.
        return set(), True
    kinds = inspect.Parameter
    named = {p.name for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
    return named, any(p.kind is kinds.VAR_KEYWORD for p in parameters)


def _check_arguments(name: str, called: Callable[..., Any], given: list[str]) -> None:
    known, further = takes(called)
    for key in given:
        if key not in known and not further:
            guess = closest(key, sorted(known))
            hint = f" Did you mean {name}.{guess}?" if guess else ""
            raise ConvzooError(
                f"{name} has no argument {key}.{hint} {called.__qualname__} takes {', '.join(sorted(known)) or 'none'}."
            )


def _filled(value: Any, folder: Path | None) -> Any:
    if isinstance(value, str) and folder is not None:
        return value.replace(FOLDER, str(folder))
    if isinstance(value, Mapping):
        return {key: _filled(entry, folder) for key, entry in value.items()}
    return [_filled(entry, folder) for entry in value] if isinstance(value, list) else value
