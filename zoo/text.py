"""Sanitises foreign text (names, errors, files) for terminals, files and web pages. Needs no torch."""

from __future__ import annotations

import codecs
import locale
import os
import re
import shlex
import sys
from typing import Any

LONGEST = 4000
"""Characters of a text that are kept by default."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# Control characters except tab and newline, line separators, bidirectional controls, and lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(value: Any, limit: int = LONGEST) -> str:
    """Converts a value to text that is safe to print: without control characters, and of limited length."""
    try:
        text = value if isinstance(value, str) else str(value)
    except (RecursionError, ValueError):
        text = f"a {type(value).__name__}"
    if _UNSAFE.search(text):
        text = _UNSAFE.sub("\ufffd", _COLOURS.sub("", text).replace("\r\n", "\n"))
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


def typed(path: Any) -> str:
    """Returns a path as it is typed in a shell: quoted if needed, and never mistaken for a flag."""
    text = clean(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def use_utf8() -> None:
    """Restarts this command in Python's UTF-8 mode if the locale is ASCII or any other encoding than UTF-8.

    Python does this itself for the C locale, unless that is disabled. In any other encoding, names of classes and
    folders and comments in configurations could not be read, and tables could not be printed.
    """
    if not sys.flags.utf8_mode and codecs.lookup(locale.getencoding()).name != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
