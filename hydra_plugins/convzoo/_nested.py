"""Expand dictionaries on the command line, as W&B agents pass them: ``optim={'lr': 0.1}`` to ``optim.lr=0.1``.

The underscore in this file's name keeps it out of Hydra's scan for plugins.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from hydra_plugins.convzoo._cli import known_keys
from hydra_plugins.convzoo._plugins import choices
from lightning_modules.config.values import quoted
from zoo.errors import ConvzooError

PLAIN = re.compile(r"(?!(?:true|false|null|inf|nan)$)[a-z_][\w./-]*", re.IGNORECASE)
"""Matches a string that Hydra reads as a string without quotation marks."""


def spread(arguments: Iterable[str]) -> list[str]:
    """Replace each dictionary on a command line by one override per value.

    Args:
        arguments: The words of the command line. Dictionaries are ``KEY={…}`` in Python's, JSON's or Hydra's notation,
            or ``{…}`` alone: a JSON object of all parameters (W&B's ``${args_json}``).

    Returns:
        The words. Those without a dictionary are unchanged, as are dictionaries that Hydra itself can read as a value.

    Raises:
        ConvzooError: A group's dictionary cannot be read.
    """
    return [word for argument in arguments for word in _spread_one(argument)]


def _spread_one(argument: str) -> Iterator[str]:
    found = re.fullmatch(r"(\+{0,2})([\w.]+)=\s*(\{.*)", argument, re.DOTALL)
    prefix, key, text = found.groups() if found else ("", "", argument.strip())
    groups = {known for known in known_keys() if "." not in known}
    whole = not key or key in groups
    if not text.startswith("{") or key.partition(".")[0] not in {"", *groups} or (not whole and _hydra_reads(text)):
        yield argument
        return
    value = _read(text)
    if isinstance(value, dict):
        yield from _overrides(prefix, key, value)
    elif whole:
        raise ConvzooError(
            f"{f'{key}={{…}}' if key else '{…}'} is not one dictionary. Type each value by its own key: "
            f"{key or 'optim'}.KEY=VALUE, or {key or 'optim'}.KEY=VALUE,VALUE for a sweep."
        )
    else:
        yield argument  # Hydra reports what is wrong with it


def _read(text: str) -> Any:
    """Parse a dictionary in Python's, JSON's or Hydra's notation; return None if it cannot be read."""
    for read in (ast.literal_eval, json.loads, _as_hydra):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, HydraException):
            continue
    return None


def _hydra_reads(text: str) -> bool:
    with suppress(HydraException):
        OverridesParser.create().parse_override(f"key={text}")
        return True
    return False


def _as_hydra(text: str) -> Any:
    override = OverridesParser.create().parse_override(f"key={text}")
    return None if override.is_sweep_override() else override.value()


def _overrides(prefix: str, key: str, values: dict[Any, Any]) -> Iterator[str]:
    """Yield the overrides for a dictionary's entries, a group's choice (``name``) before its keys."""
    for name, value in sorted(values.items(), key=lambda entry: entry[0] != "name"):
        full = f"{key}.{name}" if key else str(name)
        if not re.fullmatch(r"[\w.@/]+", full):
            raise ConvzooError(f"there is no key {full}. python train.py --help lists all of them.")
        if name == "name" and _is_choice(key, value):
            yield f"{key}={value}"
        elif isinstance(value, dict) and value:
            yield from _overrides(prefix, full, value)
        else:
            yield f"{prefix}{full}={written(value)}"


def _is_choice(group: str, name: Any) -> bool:
    """Whether the group has a choice of that name."""
    return name in choices(group)


def written(value: Any) -> str:
    """Format a plain value as Hydra reads it in an override."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (int, float)):
        return repr(value)
    return str(value) if PLAIN.fullmatch(str(value)) else quoted(str(value))
