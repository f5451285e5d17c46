"""Checksums in JSON objects, which reveal whether an object was changed after it was written."""

from __future__ import annotations

import json
import zlib
from typing import Any

KEY = "crc32"
"""Key of the checksum, which covers the rest of the object."""

CHANGED = f'was changed after it was written: its checksum is wrong (without its line "{KEY}" it is taken as it is)'


def add_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the object with its checksum (CRC-32 of its JSON with sorted keys) as the last key."""
    rest = {key: value for key, value in content.items() if key != KEY}
    return rest | {KEY: _checksum(rest)}


def check_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the object without its checksum. An object that has none is returned as it is.

    Raises:
        ValueError: The checksum is wrong, or the object is nested too deeply.
    """
    if KEY not in content:
        return content
    rest = {key: value for key, value in content.items() if key != KEY}
    try:
        same = content[KEY] == _checksum(rest)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not same:
        raise ValueError(CHANGED)
    return rest


def _checksum(content: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"
