"""Texts from elsewhere (names, errors, files), made fit for a terminal, a file and a page. Needs no torch."""

from __future__ import annotations

import codecs
import locale
import os
import re
import shlex
import sys
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


def typed(path: Any) -> str:
    """A path as it is typed in a shell: in quotation marks where a blank or the like is in it, and no flag."""
    text = clean(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def use_utf8() -> None:
    """Starts this command again in Python's UTF-8 mode, where the locale is ASCII or anything else that is not UTF-8.

    Python does so by itself where the locale is C, unless it is told not to. Names of classes and folders, and the
    comments of configurations, could not be read otherwise, and no table be printed.
    """
    if not sys.flags.utf8_mode and codecs.lookup(locale.getencoding()).name != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
