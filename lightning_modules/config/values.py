"""How values are typed and shown: null by other names, texts that look like numbers. Needs no torch."""

from __future__ import annotations

import os
import re
from typing import Any

WORDS = ("None", "~", "null", "NULL", "Null")
"""Python's null, and YAML's in quotation marks. Nothing in the configuration is called so."""

HAVE_NONE = ("conv.between", "logger.name", "scale.name")
"""Keys with a value ``none``, which is not null."""

LOOKS_OTHERWISE = re.compile(r"true|false|null|none|~|[+-]?[\d._]+(e[+-]?\d+)?|[\[{].*|\s*", re.IGNORECASE | re.DOTALL)
"""Texts that are read as something else where they are typed without quotation marks."""


def read_nulls(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration, or some of its groups, as it is meant: ``None`` is null.

    Args:
        config: Plain values, as they were typed.
        prefix: Of its keys, as the user types them (``optim.``).
    """
    return {key: _meant(value, prefix + key) for key, value in config.items()}


def means_null(value: Any) -> bool:
    """Whether a value is null, or a text that stands for it."""
    return value is None or (isinstance(value, str) and value.strip() in WORDS)


def _meant(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return read_nulls(value, f"{key}.")
    if isinstance(value, list):
        return [_meant(entry, key) for entry in value]
    lower_case = isinstance(value, str) and value.strip().lower() == "none" and key not in HAVE_NONE
    return None if means_null(value) or lower_case else value


def shown(value: Any) -> str:
    """A value as it is typed; a text that looks like something else as what it is: ``"True" (a text)``."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, str):
        return f'"{value}" (a text)' if LOOKS_OTHERWISE.fullmatch(value.strip()) else value
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def quoted(folder: str | os.PathLike[str]) -> str:
    """A folder as Hydra reads it in an override, whatever is in its name."""
    return "'" + str(folder).replace("\\", "\\\\").replace("'", "\\'") + "'"
