"""The one exception for a user's mistake, and the one way to check a choice or an optional package."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Iterable

from zoo.text import clean


class ConvzooError(ValueError):
    """A mistake of the user's. Its text is complete: what was wrong, what is allowed, what to type instead.

    It quotes what was given, so it is cleaned: no name can work the terminal that shows it.
    """

    def __init__(self, text: str) -> None:
        super().__init__(clean(text))


class UnfitError(ConvzooError):
    """A combination that makes no sense though each of its choices exists: a conv kind that cannot be had in a network,
    a budget that no width meets. A sweep leaves it out and goes on."""


def closest(value: object, allowed: Iterable[object]) -> str | None:
    """The allowed value that looks most like ``value``, or None."""
    matches = difflib.get_close_matches(str(value).lower(), [str(a) for a in allowed], n=1, cutoff=0.5)
    return matches[0] if matches else None


def choose(what: str, value: object, allowed: Iterable[object]) -> str:
    """Returns ``str(value)`` when it is one of ``allowed``.

    Args:
        what: What is being chosen, as the user types it (``conv``, ``model.variant``).
        value: What the user gave.
        allowed: Every value that would do.

    Raises:
        ConvzooError: ``value`` is not allowed; the text names the allowed values and the closest one.
    """
    allowed = [str(a) for a in allowed]
    if str(value) in allowed:
        return str(value)
    guess = closest(value, allowed)
    hint = f" Did you mean {what}={guess}?" if guess else ""
    raise ConvzooError(f"{what}={value} does not exist.{hint} Allowed: {', '.join(allowed)}.")


def need_packages(extra: str, *packages: str) -> None:
    """Checks that optional packages are installed.

    Raises:
        ConvzooError: Some are not; the text says what to install.
    """
    if missing := [p for p in packages if importlib.util.find_spec(p) is None]:
        raise ConvzooError(
            f'{", ".join(missing)} must be installed for this: type pip install "convzoo[{extra}]" '
            f"(or pip install {' '.join(packages)})."
        )


def plain_words(error: Exception) -> str:
    """What went wrong with a file, or a mistake of the user's, as one text for the person who typed the command."""
    if not isinstance(error, OSError):
        return clean(error)
    try:
        os.getcwd()
    except FileNotFoundError:
        return "the folder that this command was started in does not exist any more. Type cd FOLDER first."
    return clean(f"{error.filename}: {error.strerror}." if error.filename and error.strerror else error)
