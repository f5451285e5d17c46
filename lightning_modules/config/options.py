"""Base class for configuration groups: frozen dataclasses whose annotations hold the validation rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any, Self, get_args, get_type_hints

from lightning_modules.config.values import read_nulls
from zoo.errors import ConvzooError
from zoo.image_size import ImageSize
from zoo.rules import TEXT, Rule, check_value, shown


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
        options: dict[str, Any] = {}
        for key, value in read_nulls(values, f"{name}." if name else "").items():
            full = f"{name}.{key}".removeprefix(".")
            if key not in read and issubclass(cls, OpenOptions):
                options[key] = value
                continue
            if key not in read:
                raise ConvzooError(f"there is no key {full}, or it is not a single value.")
            member = _members(cls)[key]
            read[key] = member.of(value, full) if isinstance(member, type) else check_value(full, value, member)
        return cls(**read, **({"options": options} if options else {}), given=tuple(values))

    def having(self, **values: Any) -> Self:
        """Returns a copy with the given values replaced or added."""
        return replace(self, **values, given=tuple(dict.fromkeys((*self.given, *values))))

    def plain(self) -> dict[str, Any]:
        """Returns the defined keys with plain values."""
        further = getattr(self, "options", {})
        values = {key: further[key] if key in further else getattr(self, key) for key in self.given}
        return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Options):
        return value.plain()
    return value.plain if isinstance(value, ImageSize) else value


@dataclass(frozen=True, kw_only=True)
class OpenOptions(Options):
    """A group with further keys, which belong to what its name chooses; its registry checks them.

    Attributes:
        options: Key → value as typed.
    """

    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Chosen(OpenOptions):
    """A registered choice and its options."""

    name: Annotated[str, TEXT]


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
    return {
        key: hint if isinstance(hint, type) else get_args(hint)[1]
        for key, hint in hints.items()
        if key not in ("given", "options")
    }
