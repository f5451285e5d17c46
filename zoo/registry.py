"""Registries: the named choices of an axis. Ours and a plugin's are registered in the same way. Needs no torch."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from zoo.errors import ConvzooError, choose, closest
from zoo.rules import ANYTHING, MANY, SWITCH, TEXT, Rule, check_value, number, one_of, or_null, whole

Made = TypeVar("Made", bound=Callable[..., Any])

NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = ("native", "all", "none")
OWN_PACKAGES = ("zoo", "lightning_modules")

_texts: set[tuple[str, str, str]] = set()

_PLAIN_TYPES: dict[Any, Rule] = {
    bool: SWITCH,
    int: (whole(-MANY)[0], "a whole number"),
    float: (number(-1e30)[0], "a number"),
    str: TEXT,
}


@dataclass(frozen=True)
class Option:
    """A keyword argument of a choice, which users type as ``AXIS.NAME=VALUE``.

    Attributes:
        rule: What values are allowed.
        doc: Its entry in the docstring.
    """

    name: str
    default: Any
    rule: Rule
    doc: str = ""


@dataclass(frozen=True)
class Choice:
    """A registered choice. Calling it calls ``make``.

    Attributes:
        axis: The name of its registry, as users type it (``conv``).
        options: Its keyword arguments.
        doc: The docstring of ``make``.
        module: The module that registered it.
        traits: What else its axis knows about it.
    """

    axis: str
    name: str
    make: Callable[..., Any]
    options: Mapping[str, Option]
    doc: str
    module: str
    traits: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Makes what the choice stands for."""
        return self.make(*arguments, **options)

    def bound(self, **options: Any) -> Any:
        """Returns an instance of a registered class, or a registered function with these options filled in."""
        return self.make(**options) if isinstance(self.make, type) else partial(self.make, **options)

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return " ".join(self.doc.partition("\n\n")[0].split())

    @property
    def defaults(self) -> dict[str, Any]:
        """Option → default."""
        return {name: option.default for name, option in self.options.items()}


class Registry(Mapping[str, Choice]):
    """The choices of one axis, by name, in the order in which they were registered.

    Args:
        axis: Its name, as users type it.
        special: Options whose configured value is not the argument itself, such as ``between``.
    """

    def __init__(self, axis: str, special: Mapping[str, Option] | None = None) -> None:
        self.axis, self._special = axis, special or {}
        self._choices: dict[str, Choice] = {}

    def __getitem__(self, name: str) -> Choice:
        return self._choices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def register(
        self, name: str, *, options: tuple[str, ...] | None = None, leave_out: tuple[str, ...] = (), **traits: Any
    ) -> Callable[[Made], Made]:
        """Registers the decorated class or function under ``name``.

        Args:
            name: What users type.
            options: Keyword arguments that users may set; by default all of them,
            leave_out: but these.
            **traits: What else the axis should know.

        Raises:
            ConvzooError: The name is invalid or taken.
        """

        def add(make: Made) -> Made:
            module = sys._getframe(1).f_globals.get("__name__", "__main__")
            check_name(self.axis, name, module, {known: choice.module for known, choice in self.items()})
            documented, found = inspect.getdoc(make) or "", options_of(make, self._special)
            wanted = [key for key in found if key not in leave_out] if options is None else options
            chosen = {key: found[key] for key in wanted}
            for key, option in chosen.items():
                if option.rule[0]("none") and not option.rule[0](None):
                    _texts.add((self.axis, name, key))
            self._choices[name] = Choice(self.axis, name, make, chosen, documented, module, traits)
            return make

        return add

    def check(self, name: str, given: Mapping[str, Any], also: tuple[str, ...] = ()) -> dict[str, Any]:
        """Returns the options given for a registered choice if all of them exist and are allowed.

        Args:
            name: The choice.
            given: Option → value.
            also: Other keys of the group, which a message may suggest.

        Raises:
            ConvzooError: One is not; the message says what is allowed, and which choices have an unknown option.
        """
        options = self[name].options
        for key, value in given.items():
            if key not in options:
                raise ConvzooError(self._unknown(name, key, also))
            check_value(f"{self.axis}.{key}", value, options[key].rule)
        return dict(given)

    def _unknown(self, name: str, key: str, also: tuple[str, ...]) -> str:
        options = self[name].options
        has = f"Allowed: {', '.join(options)}." if options else "It has no options."
        owners = [f"{self.axis}={other}" for other, choice in self.items() if key in choice.options]
        belongs = f" It belongs to {', '.join(owners)}." if owners else ""
        guess = None if owners else closest(key, [*options, *also])
        hint = f" Did you mean {self.axis}.{guess}?" if guess else ""
        return f"{self.axis}={name} has no option {key}.{belongs}{hint} {has}"

    def built_in(self) -> tuple[str, ...]:
        """Returns the names that convzoo itself registered."""
        return tuple(name for name, choice in self.items() if is_built_in(choice.module))

    def choose(self, name: str, *others: str) -> str:
        """Returns ``name`` if it is registered or one of ``others``.

        Raises:
            ConvzooError: It is neither; the message lists the choices and the closest one.
        """
        return choose(self.axis, name, [*others, *self])


def takes_none(axis: str, name: object, key: str) -> bool:
    """Returns whether ``none`` is a text for an option of a registered choice, and not another word for null."""
    return (axis, name, key) in _texts


def is_built_in(module: str) -> bool:
    """Returns whether a module that registered a choice is convzoo's own."""
    return module.partition(".")[0] in OWN_PACKAGES


def check_name(axis: str, name: object, module: str, taken: Mapping[str, str]) -> None:
    """Checks the name of a new choice.

    Args:
        axis: What users type before it.
        name: The name.
        module: The module that registers it.
        taken: Name → the module that registered it.

    Raises:
        ConvzooError: The name is invalid, or another module has registered it.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED:
        raise ConvzooError(
            f"{axis}={name!r} cannot be registered: a name has lower-case letters, digits and _, starts with a "
            f"letter, and is none of {', '.join(RESERVED)}."
        )
    # The same module again: it was reloaded, as in a notebook.
    if name in taken and taken[name] != module:
        raise ConvzooError(f"{axis}={name} is registered twice: by {taken[name]} and by {module}. Rename one of them.")


def options_of(make: Callable[..., Any], special: Mapping[str, Option] | None = None) -> dict[str, Option]:
    """Returns the keyword arguments with a default of a class or function, as options.

    Args:
        make: Its annotations give the rules: ``int``, ``float``, ``bool``, ``str``, ``Literal``, ``X | None``, or
            ``Annotated[X, rule]`` with one of `zoo.rules`. Without an annotation, the default's type counts.
        special: Name → option that replaces the argument of this name.
    """
    try:
        hints = get_type_hints(getattr(make, "__init__") if isinstance(make, type) else make, include_extras=True)  # noqa: B009
    except (NameError, TypeError):  # An annotation that exists for type checkers only.
        hints = {}
    docs = argument_docs("\n".join(filter(None, (inspect.getdoc(make), _init_doc(make)))))
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # Written in C.
        return {}
    found = {}
    for parameter in parameters:
        if parameter.default is parameter.empty or parameter.kind in (parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            continue
        name, default = parameter.name, parameter.default
        hint = hints.get(name, type(default) if default is not None else Any)
        rule = _numbers(len(default)) if isinstance(default, tuple) else rule_of(hint)
        found[name] = (special or {}).get(name) or Option(name, default, rule, docs.get(name, ""))
    return found


def rule_of(hint: Any) -> Rule:
    """Returns the rule that an annotation stands for; one that accepts everything if it stands for none."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return next((extra for extra in inner[1:] if isinstance(extra, tuple)), rule_of(inner[0]))
    if origin is Literal:
        return one_of(inner)
    if origin in (Union, UnionType):
        others = [kind for kind in inner if kind is not NoneType]
        if len(others) == 1:
            return or_null(rule_of(others[0])) if len(inner) > 1 else rule_of(others[0])
        return ANYTHING
    return _PLAIN_TYPES.get(hint, ANYTHING)


def _numbers(count: int) -> Rule:
    def allowed(value: Any) -> bool:
        return isinstance(value, list) and len(value) == count and all(type(v) in (int, float) for v in value)

    return allowed, f"a list of {count} numbers"


def argument_docs(doc: str) -> dict[str, str]:
    """Returns argument → description from the ``Args`` sections of a Google-style docstring."""
    found: dict[str, str] = {}
    section, name, depth = False, "", 0
    for line in doc.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() in ("Args:", "Arguments:"):
            section, name, depth = True, "", 0
        elif section and line.strip() and indent == 0:
            section = False
        elif section and (match := re.match(r"\s+([\w, ]+?)(?: \([^)]*\))?:\s*(.*)", line)) and indent <= (depth or 99):
            depth = indent
            for name in match[1].split(", "):
                found[name] = match[2]
        elif section and name and line.strip():
            found[name] += " " + line.strip()
    return found


def _init_doc(make: Callable[..., Any]) -> str | None:
    return inspect.getdoc(vars(make)["__init__"]) if isinstance(make, type) and "__init__" in vars(make) else None
