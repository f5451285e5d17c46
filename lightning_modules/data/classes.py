"""The order of the classes: the user's list, or else sorted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.data.files import shown
from zoo.errors import ConvzooError

MOST = 10
"""Maximum number of classes listed in a message."""


def class_order(given: Sequence[str] | str | None, found: Sequence[str], where: str) -> list[str]:
    """Return the classes in the order of ``data.classes``.

    Args:
        given: Names, or the path of a text file with a name on each line; None: the order in which they were found.
        found: The classes that the data have.
        where: Where they were found, for messages.

    Raises:
        ConvzooError: The list is not that of the classes found, or its file cannot be read.
    """
    if given is None:
        return list(found)
    names = _lines(given) if isinstance(given, str) else [str(name) for name in given]
    missing, more = [n for n in names if n not in set(found)], [n for n in found if n not in set(names)]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    texts = [
        f"{what}: {', '.join(map(shown, some[:MOST]))}{' …' if some[MOST:] else ''}."
        for what, some in (("Not in data.classes", more), (f"Not in {where}", missing), ("Listed twice", twice))
        if some
    ]
    if texts:
        raise ConvzooError(f"data.classes must list each class of {where} once. {' '.join(texts)}")
    return names


def _lines(file: str) -> list[str]:
    path = Path(os.path.expanduser(file))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConvzooError(
            f"data.classes={shown(path)} cannot be read: {reason}. Type a text file with a class on each line, or "
            "data.classes=[NAME,NAME]."
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]
