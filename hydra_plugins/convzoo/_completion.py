"""``convzoo completion SHELL``: print a script by which a shell completes what is typed after ``convzoo``.

The script asks this module at each TAB. Hydra's own completion composes the whole configuration for that, and knows no
verbs, lists of choices, or plugins.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from hydra_plugins.convzoo._cli import known_keys
from hydra_plugins.convzoo._plugin_names import registered
from hydra_plugins.convzoo._plugins import choices, named
from lightning_modules.config.options import rules
from lightning_modules.config.schema import CellSpec
from zoo.__main__ import make_parser
from zoo.rules import ANYTHING

HELP = 'complete words in your shell: eval "$(convzoo completion bash)"'

SCRIPTS = {
    # bash has cut the word at = and : and replaces only what follows.
    "bash": r"""_convzoo() {
    local cut=${COMP_LINE:0:COMP_POINT} word=${COMP_WORDS[COMP_CWORD]}
    mapfile -t COMPREPLY < <("$1" completion bash --line "$cut" 2>/dev/null)
    cut=${cut##*[[:space:]]}
    [[ $word == [=:] ]] && word=
    cut=${cut%"$word"}
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    [[ ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
}
complete -o default -F _convzoo convzoo
""",
    "zsh": r"""_convzoo() {
    local -a found
    found=("${(@f)$("${words[1]}" completion zsh --line "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    if [[ -n $found ]]; then
        compadd -S '' -- ${(M)found:#*[=.]}
        compadd -- ${found:#*[=.]}
    else
        _files
    fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _convzoo convzoo
""",
    "fish": r"""function __convzoo
    set -l words (commandline -opc)
    set -l found ($words[1] completion fish --line (commandline -cp | string collect) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c convzoo -f -a '(__convzoo)'
""",
}

ADDED = ("+experiment=", "hydra/launcher=", "hydra/sweeper=")
"""What `known_keys` has in another form, or not at all."""

LISTS = {"--convs": "conv", "--acts": "act", "--models": "model"}
"""Flags of verbs that take choices of a group, with commas."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("shell", choices=tuple(SCRIPTS))
    parser.add_argument("--line", help=argparse.SUPPRESS)


def run(given: argparse.Namespace) -> None:
    """Print the script, or what can follow the line that its shell asks about."""
    if given.line is None:
        print(SCRIPTS[given.shell], end="")
        return
    found = candidates(given.line)
    print(*found, sep="\n", end="\n" if found else "")


def candidates(line: str) -> list[str]:
    """Return the words that the last word of a command line may become; none where files are meant.

    Args:
        line: What is typed up to the cursor, from ``convzoo`` on.
    """
    last = re.search(r"\S*$", line)[0]
    words = _split(line[: len(line) - len(last)])[1:]
    found = _overrides(words[1:], last) if words[:1] == ["train"] else _verbs(words, last)
    return sorted({word for word in found if word.startswith(last)})


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quotation mark that is still open
        return text.split()


def _verbs(words: Sequence[str], last: str) -> Iterable[str]:
    """Return verbs, or the flags of one and their values."""
    _, verbs = make_parser(words, VERBS)
    if not words:
        return verbs
    if words[0] not in verbs:
        return ()
    if words[-1] in LISTS:
        return _listed(last, choices(LISTS[words[-1]]))
    flags = verbs[words[0]]._option_string_actions
    if last.startswith("-") or _takes_value(flags, words):
        return _of_flags(flags, words)
    arguments = [action for action in verbs[words[0]]._actions if not action.option_strings]
    return [choice for action in arguments for choice in action.choices or ()]


def _overrides(words: list[str], last: str) -> Iterable[str]:
    """Return flags of Hydra's, keys, or values of a key."""
    from hydra_plugins.convzoo._train import with_conf

    words = with_conf(words)
    flags = get_args_parser()._option_string_actions
    if last.startswith("-") or _takes_value(flags, words):
        return _of_flags(flags, words)
    names, folders = named(words)
    plugins = list(registered(names, [os.getcwd(), *folders]))
    key, is_given, value = last.partition("=")
    if is_given:
        found = _values(key.lstrip("+"), folders)
        found += [name for group, name, _ in plugins if group == key]
        return [f"{key}={word}" for word in _listed(value, found)]
    keys = {known for known in known_keys() if "/" not in known} - {"experiment"}
    keys |= {f"{group}.{option}" for group, _, options in plugins for option in options}
    if "." in key:
        return [f"{known}=" for known in keys]
    return [*ADDED, *(start + (dot or "=") for start, dot, _ in (known.partition(".") for known in keys))]


def _values(key: str, folders: Sequence[str]) -> list[str]:
    """Return the choices of a group, ours and those in some folders, or the words that a key's rule lists."""
    if key.startswith("hydra/"):
        Plugins.instance()  # stores their choices
        return [file.removesuffix(".yaml") for file in ConfigStore.instance().list(key)]
    _, text = dict(rules(CellSpec)).get(key, ANYTHING)
    listed = re.split(", or |, | or ", text)
    words = listed if len(listed) > 1 and all(map(str.isidentifier, listed)) else []
    return [*choices(key), *(path.stem for folder in folders for path in Path(folder, key).glob("*.yaml")), *words]


def _listed(typed: str, allowed: Iterable[str]) -> list[str]:
    """Return what a list with commas may become: its entries so far, and one more."""
    before = typed[: max(typed.rfind(","), typed.rfind("[")) + 1]
    return [f"{before}{value}" for value in allowed if value not in re.split(r"[\[,]", before)]


def _takes_value(flags: Mapping[str, argparse.Action], words: Sequence[str]) -> bool:
    return bool(words) and words[-1] in flags and flags[words[-1]].nargs != 0


def _of_flags(flags: Mapping[str, argparse.Action], words: Sequence[str]) -> Iterable[str]:
    """Return the flags of a parser, or the values of the one before the cursor."""
    return map(str, flags[words[-1]].choices or ()) if _takes_value(flags, words) else flags


VERBS = {"completion": sys.modules[__name__]}
"""The verbs that only the command ``convzoo`` has."""
