"""Parses and formats values as users type them: spellings of null, texts that look like numbers. Needs no torch."""

from __future__ import annotations

import os
from typing import Any

from zoo.registry import takes_none

WORDS = ("None", "~", "null", "NULL", "Null")
"""Spellings of null that arrive as text: Python's, and YAML's in quotation marks. No value has such a name."""

HAVE_NONE = ("augment.name", "conv.between", "logger.name", "scale.name")
"""Keys for which ``none`` is a value of its own, not null; so it is for an option of a plugin that takes any text."""


def read_nulls(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a configuration, or a part of it, with every spelling of null replaced by None.

    Args:
        config: Plain values, as typed.
        prefix: Prefix of its keys as the user types them (``optim.``).
    """
    axis, name = prefix.rstrip("."), config.get("name")
    return {
        key: value if value == "none" and takes_none(axis, name, key) else _meant(value, prefix + key)
        for key, value in config.items()
    }


def means_null(value: Any) -> bool:
    """Returns whether a value is None, or a text that stands for null."""
    return value is None or (isinstance(value, str) and value.strip() in WORDS)


def _meant(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return read_nulls(value, f"{key}.")
    if isinstance(value, list):
        return [_meant(entry, key) for entry in value]
    lower_case = isinstance(value, str) and value.strip().lower() == "none" and key not in HAVE_NONE
    return None if means_null(value) or lower_case else value


def quoted(folder: str | os.PathLike[str]) -> str:
    """Quotes a path for a Hydra override; safe for any characters in the name."""
    return "'" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'"
