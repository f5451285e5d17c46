"""Plugins: modules of the user's that register their own choices when they are imported. Needs no torch."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from zoo.errors import ConvzooError, closest

GROUP = "convzoo.plugins"
"""Entry points of installed packages that are plugins; they are found without being named."""

MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")

_loaded: dict[str, str] = {}


def load_plugins(names: Iterable[str] = (), folders: Sequence[str | os.PathLike[str]] = ()) -> None:
    """Imports plugins: those that installed packages declare, and those named.

    Args:
        names: Modules, as in ``plugins=[my_zoo]``.
        folders: Where to look besides Python's own path. They are added to the path of this process and of those that
            it starts.

    Raises:
        ConvzooError: A plugin does not exist, fails to import, or registers a name that is taken.
    """
    for folder in folders:
        _add_to_path(os.path.abspath(folder))
    for entry in _installed():
        _load(entry.module, f"the installed plugin {entry.name}")
    for name in names:
        if not isinstance(name, str) or not MODULE.fullmatch(name) or name.endswith(".py"):
            hint = f" Type plugins=[{Path(str(name)).stem}]." if str(name).endswith(".py") else ""
            raise ConvzooError(f"plugins: {name} is not the name of a module.{hint}")
        _load(name, f"plugins: {name}")


def loaded_plugins() -> dict[str, str]:
    """Returns the plugins of this process: module → hash of its source."""
    return dict(_loaded)


def check_unchanged(before: dict[str, str], what: str) -> None:
    """Checks that plugins are those that something was made with.

    Args:
        before: Module → hash, from `loaded_plugins` of an earlier process.
        what: What was made with them, for the message.

    Raises:
        ConvzooError: One is missing or has changed.
    """
    for name, code in before.items():
        if name not in _loaded:
            raise ConvzooError(f"{what} needs the plugin {name}. Type plugins=[{name}] too, or import {name}.")
        if _loaded[name] != code:
            raise ConvzooError(
                f"{what} was made with another version of the plugin {name} (then {code}, now {_loaded[name]}). "
                "Restore that version, or start again in another folder."
            )


def _load(name: str, what: str) -> None:
    if name in _loaded:
        return
    try:
        module = importlib.import_module(name)
    except ConvzooError as error:
        raise ConvzooError(f"{what}: {error}") from None
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise ConvzooError(f"{what} cannot be imported: {_where(error)}") from None
        guess = closest(name, [path.stem for path in Path.cwd().glob("*.py")])
        hint = f" Did you mean {guess}?" if guess else ""
        raise ConvzooError(
            f"{what}: there is no such module in this folder, in --config-dir, or installed.{hint}"
        ) from None
    except (Exception, SystemExit) as error:  # A plugin is the user's code and may raise anything.
        raise ConvzooError(f"{what} cannot be imported: {_where(error)}") from None
    _loaded[name] = _hash(module)


def _where(error: BaseException) -> str:
    """Describes an error in a plugin, with the last place that is not Python's import machinery."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error}."
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{place}."


def _hash(module: object) -> str:
    """Returns a hash of a module's source, for a package of all its Python files."""
    file = getattr(module, "__file__", None)
    if file is None:
        return "unknown"
    files = sorted(Path(file).parent.rglob("*.py")) if Path(file).name == "__init__.py" else [Path(file)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]


def _add_to_path(folder: str) -> None:
    # At the end: a user's folder may have a file that is called like one of Python's modules.
    if folder not in sys.path:
        sys.path.append(folder)
    paths = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    if folder not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, folder])


@cache
def _installed() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))
