"""What plugins would register, read from their source: completion imports no torch and runs no code of the user's."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

from zoo.plugins import GROUP

AXES = {"conv_kind": "conv", "activation": "act", "backbone": "model", "dataset": "data"}
"""The decorators that are not called like their group."""

Made = ast.FunctionDef | ast.ClassDef


def registered(names: Iterable[str], folders: Iterable[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the choices of some plugins and of the installed ones: group, name, and keys of its own.

    Args:
        names: Modules. One that does not exist, or is no Python, has no choices.
        folders: Where to look before Python's own path.
    """
    path = [*folders, *sys.path]
    for name in (*names, *(entry.module for entry in entry_points(group=GROUP))):
        for file in _files(name, path):
            for node in _definitions(file):
                yield from _choices(node)


def _files(name: str, path: Iterable[str]) -> list[Path]:
    for folder in path:
        place = Path(folder, *name.split("."))
        if place.with_suffix(".py").is_file():
            return [place.with_suffix(".py")]
        if (place / "__init__.py").is_file():
            return list(place.rglob("*.py"))
    return []


def _definitions(file: Path) -> list[Made]:
    try:
        return [node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, Made)]
    except (OSError, SyntaxError, ValueError):
        return []


def _choices(node: Made) -> Iterator[tuple[str, str, list[str]]]:
    for call in node.decorator_list:
        match call:
            case ast.Call(
                func=ast.Attribute(attr=decorator) | ast.Name(id=decorator), args=[ast.Constant(value=str(name)), *_]
            ):
                yield AXES.get(decorator, decorator), name, _options(node)


def _options(node: Made) -> list[str]:
    """Return the arguments that have a default."""
    if isinstance(node, ast.ClassDef):
        made = [_options(part) for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        return made[0] if made else []
    plain = node.args.args[len(node.args.args) - len(node.args.defaults) :]
    return [argument.arg for argument in (*plain, *node.args.kwonlyargs)]
