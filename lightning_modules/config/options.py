"""Base class for configuration groups: frozen dataclasses whose annotations hold the validation rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Self, get_args, get_type_hints

from lightning_modules.config.rules import Rule
from lightning_modules.config.values import read_nulls, shown
from zoo.errors import ConvzooError


@dataclass(frozen=True, kw_only=True)
class Options:
    """A group of the configuration. Keys that the group's chosen option does not define are None.

    Attributes:
        given: The keys that the chosen option defines.
    """

    given: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def of(cls, values: Any, name: str = "") -> Self:
        """Checks a group of Hydra's composed configuration and returns it as an instance.

        Args:
            values: Its keys with plain values.
            name: Its dotted name as typed (``data``, ``data.augment``); empty for the whole configuration.

        Raises:
            ConvzooError: A key does not exist, or a value is not allowed.
        """
        if not isinstance(values, Mapping):
            raise ConvzooError(f"{name}={shown(values)} is not allowed: {name} is a group of keys.")
        read: dict[str, Any] = dict.fromkeys(_members(cls))
        for key, value in read_nulls(values, f"{name}." if name else "").items():
            full = f"{name}.{key}".removeprefix(".")
            if key not in read:
                raise ConvzooError(f"there is no key {full}, or it is not a single value.")
            read[key] = check_value(full, value, _members(cls)[key])
        return cls(**read, given=tuple(values))

    def having(self, **values: Any) -> Self:
        """Returns a copy with the given values replaced or added."""
        return replace(self, **values, given=tuple(dict.fromkeys((*self.given, *values))))

    def plain(self) -> dict[str, Any]:
        """Returns the defined keys with plain values."""
        values = {key: getattr(self, key) for key in self.given}
        return {key: value.plain() if isinstance(value, Options) else value for key, value in values.items()}


def check_value(name: str, value: Any, member: type[Options] | Rule) -> Any:
    """Checks the value of a key, or a whole group, and returns it.

    Raises:
        ConvzooError: It is not allowed.
    """
    if isinstance(member, type):
        return member.of(value, name)
    allowed, text = member
    if not allowed(value):
        raise ConvzooError(f"{name}={shown(value)} is not allowed. Allowed: {text}.")
    return value


def rules(group: type[Options], name: str = "") -> Iterator[tuple[str, Rule]]:
    """Yields every key, as the user types it (dotted), with its rule."""
    for key, member in _members(group).items():
        full = f"{name}.{key}".removeprefix(".")
        if isinstance(member, type):
            yield from rules(member, full)
        else:
            yield full, member


@cache
def _members(group: type[Options]) -> dict[str, type[Options] | Rule]:
    """Returns each key's rule, or its class if the key is itself a group."""
    hints = get_type_hints(group, include_extras=True)
    return {key: hint if isinstance(hint, type) else get_args(hint)[1] for key, hint in hints.items() if key != "given"}
