"""Texts from elsewhere (names, errors, files), made fit for a terminal, a file and a page. Needs no torch."""

from __future__ import annotations

import re
from typing import Any

LONGEST = 4000
"""Characters of a text that are kept."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# Control characters but tab and newline, what turns the direction of writing, and halves of a pair of surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(value: Any, limit: int = LONGEST) -> str:
    """A value as a text that a terminal, a file and a page can take: no control characters, not endless."""
    try:
        text = value if isinstance(value, str) else str(value)
    except (RecursionError, ValueError):
        text = f"a {type(value).__name__}"
    if _UNSAFE.search(text):
        text = _UNSAFE.sub("\ufffd", _COLOURS.sub("", text).replace("\r\n", "\n"))
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"
