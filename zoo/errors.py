"""Defines the exceptions for user errors, and checks choices and optional packages."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Iterable

from zoo.text import clean


class ConvzooError(ValueError):
    """A user error. The message is complete: what is wrong, what is allowed, and what to type instead.

    Messages quote user input, so they are sanitised: a name cannot send control sequences to the terminal.
    """

    def __init__(self, text: str) -> None:
        super().__init__(clean(text))


class UnfitError(ConvzooError):
    """A combination of valid choices that cannot work.

    Examples are a conv kind that a network cannot take and a budget that no width meets. A sweep skips such a cell.
    """


def one_line(error: BaseException) -> str:
    """Returns the type of an exception and the first line of its message."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def closest(value: object, allowed: Iterable[object]) -> str | None:
    """Returns the allowed value that is spelled most like ``value``, or None."""
    typed = str(value).lower()
    matches = difflib.get_close_matches(typed, [str(a) for a in allowed], n=3, cutoff=0.5)
    swapped = [match for match in matches if sorted(match) == sorted(typed)]  # the most common typing error
    return next(iter(swapped + matches), None)


def choose(what: str, value: object, allowed: Iterable[object]) -> str:
    """Returns ``str(value)`` if it is one of ``allowed``.

    Args:
        what: Name of the choice, as the user types it (``conv``, ``model.variant``).
        value: The user's value.
        allowed: All allowed values.

    Raises:
        ConvzooError: ``value`` is not allowed; the message lists the allowed values and the closest one.
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
        ConvzooError: A package is missing; the message says what to install.
    """
    if missing := [p for p in packages if importlib.util.find_spec(p) is None]:
        raise ConvzooError(
            f'{", ".join(missing)} must be installed for this: type pip install "convzoo[{extra}]" '
            f"(or pip install {' '.join(packages)})."
        )


def reason(error: Exception) -> str:
    """Returns why something failed, for the end of a sentence: ``No such file or directory``."""
    return getattr(error, "strerror", None) or str(error)


def plain_words(error: Exception) -> str:
    """Formats a file error or a user error as one message for the command line."""
    if not isinstance(error, OSError):
        return clean(error)
    try:
        os.getcwd()
    except FileNotFoundError:
        return "the folder that this command was started in does not exist any more. Type cd FOLDER first."
    return clean(f"{error.filename}: {error.strerror}." if error.filename and error.strerror else error)
