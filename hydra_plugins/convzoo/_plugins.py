"""Import the plugins that a command names, and offer what they register as Hydra's choices."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zoo.plugins import load_plugins, loaded_plugins
from zoo.registry import is_built_in

PROVIDER = "convzoo plugins"


def load_named(arguments: Sequence[str]) -> None:
    """Import the plugins that the command, or its own configuration file, names; then publish what they registered.

    Args:
        arguments: The words after the program's name.

    Raises:
        ConvzooError: A plugin cannot be imported.
    """
    names, folders = named(arguments)
    load_plugins(names, [os.getcwd(), *folders] if names or folders else ())
    if loaded_plugins():
        publish(folders)


def named(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the plugins that a command, or its own configuration file, names, and its folders of configurations."""
    flags, unknown = get_args_parser().parse_known_args(list(arguments))
    folders = [folder for folder in (flags.config_dir, flags.config_path) if folder]
    given = dict(word.lstrip("+").partition("=")[::2] for word in [*flags.overrides, *unknown])
    if "plugins" in given:
        return _typed(f"plugins={given['plugins']}"), folders
    files_read = [flags.config_name or "config", *(f"experiment/{e}" for e in [given.get("experiment")] if e)]
    return [name for file in files_read for name in _configured(folders, file)], folders


def _typed(override: str) -> list[str]:
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:  # Hydra reports it better, as it composes the configuration.
        return []
    return value if isinstance(value, list) else [value]


def _configured(folders: Sequence[str], name: str) -> list[str]:
    for folder in folders:
        path = Path(folder) / f"{name.removesuffix('.yaml')}.yaml"
        try:
            found = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        except (OSError, ValueError, OmegaConfBaseException):  # Hydra reports it better.
            continue
        if isinstance(found, dict) and isinstance(found.get("plugins"), list):
            return found["plugins"]
    return []


def publish(folders: Sequence[str] = ()) -> None:
    """Store a choice in Hydra's groups for everything that plugins have registered.

    Args:
        folders: The user's configuration; a file there is the choice of its name. Hydra would mix the two.
    """
    store = ConfigStore.instance()
    for group, name, node in _registered():
        if any((Path(folder) / group / f"{name}.yaml").is_file() for folder in folders):
            continue
        for folder in (group, f"convzoo/{group}"):
            store.store(name=name, node=node, group=folder, provider=PROVIDER)


def _registered() -> Iterator[tuple[str, str, dict[str, Any]]]:
    from lightning_modules.data.augmentations import AUGMENTATIONS
    from lightning_modules.data.registry import DATASETS
    from lightning_modules.losses import LOSSES
    from zoo.acts.activations import ACTS
    from zoo.backbones.families import FAMILIES
    from zoo.convs import KINDS

    for registry in (KINDS, ACTS, LOSSES, AUGMENTATIONS):
        for name, choice in registry.items():
            if name not in registry.built_in():
                yield registry.axis, name, {"name": name, **choice.defaults}
    for name, family in FAMILIES.items():
        if not is_built_in(family.module):
            yield "model", name, {**_own_file("model/timm"), "name": name}
    for name, choice in DATASETS.items():
        if name not in DATASETS.built_in():
            usual = choice.traits["usual"]
            yield "data", name, {**usual, "augment": {**_own_file("data/shared/augment"), **usual["augment"]}}


def _own_file(name: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(str(files("zoo.conf") / "convzoo" / f"{name}.yaml")))


def choices(group: str) -> list[str]:
    """Return the choices of a group: convzoo's files, and what plugins registered."""
    ours = {path.stem for path in (files("zoo.conf") / "convzoo" / group).glob("*.yaml")}
    return sorted(ours | _stored(group).keys())


def plugin_keys() -> Iterator[str]:
    """Yield the keys of the plugins' choices, as the user types them."""
    for group in ConfigStore.instance().repo:
        for node in _stored(group).values():
            yield from (f"{group}.{key}" for key in node)


def plugin_owners(group: str, key: str) -> list[str]:
    """Return the plugins' choices of a group that have a key."""
    return [name for name, node in _stored(group).items() if key in node]


def _stored(group: str) -> dict[str, Any]:
    stored = ConfigStore.instance().repo.get(group, {})
    nodes = stored.items() if isinstance(stored, dict) else ()
    found = {file: node for file, node in nodes if isinstance(node, ConfigNode) and node.provider == PROVIDER}
    return {file.removesuffix(".yaml"): node.node for file, node in found.items()}
