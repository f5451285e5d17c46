"""Configuration reference: every option and key of conf/, with its default and its comment in the YAML file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from griffe import Docstring
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"
KEY = re.compile(r"^(?P<indent>\s*)(?P<key>[\w.]+):(?:\s(?P<value>.*?))?(?:\s*#\s+(?P<comment>.*))?$")


def page() -> str:
    """The page in Markdown: the root's keys, one section a group, the experiments, launchers and sweepers."""
    root = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"), resolve=False)
    defaults = {k: v for entry in root["defaults"] if isinstance(entry, dict) for k, v in entry.items()}
    parts = [INTRODUCTION, "## Top level\n", _top_level(root)]
    parts += [_group_section(group, defaults.get(group)) for group in groups() if group != "experiment"]
    parts += ["## `experiment`\n", "Rows of published tables. Add one with `+experiment=NAME`.\n"]
    parts += [f"### {path.stem}\n\n```text\n{header(path)}\n```\n" for path in _files("experiment")]
    parts += [_stored_section(group) for group in ("hydra/launcher", "hydra/sweeper")]
    return "\n".join(parts)


INTRODUCTION = """# Configuration

Choose an option with `GROUP=OPTION`, set a key with `GROUP.KEY=VALUE`, and sweep over either with `-m` and commas.
This page is generated from `conf/`; `python train.py --help` prints the groups and keys in the terminal. `???` marks a
value that you must give, `null` one that convzoo finds itself.
"""


def groups() -> list[str]:
    """Configuration groups, in the order of config.yaml."""
    listed = [
        next(iter(entry)) for entry in OmegaConf.load(CONF / "config.yaml").defaults if not isinstance(entry, str)
    ]
    found = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")
    return sorted(found, key=lambda group: (listed.index(group) if group in listed else len(listed), group))


def values(group: str) -> dict[str, dict[str, str]]:
    """Option → its flat keys, relative to the group, with their defaults as YAML."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = {path.stem: compose(f"{group}/{path.stem}").get(group) or {} for path in _files(group)}
    return {
        option: {key: _text(value) for key, value in _leaves(OmegaConf.to_container(OmegaConf.create(config)))}
        for option, config in composed.items()
    }


def comments(path: Path) -> dict[str, str]:
    """Dotted key → the comment on its line in a YAML file."""
    found, parents = {}, []
    for line in path.read_text().splitlines():
        if not (match := KEY.match(line)):
            continue
        depth = len(match["indent"])
        parents = [(indent, key) for indent, key in parents if indent < depth] + [(depth, match["key"])]
        if match["comment"]:
            found[".".join(key for _, key in parents)] = match["comment"]
    return found


def header(path: Path) -> str:
    """The comment above the first key of a YAML file."""
    lines = []
    for line in path.read_text().splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


def _group_section(group: str, default: str | None) -> str:
    files = _files(group)
    keys: dict[str, dict[str, tuple[str, str]]] = {}
    notes = {path.stem: comments(path) for path in files}
    shared = [
        {f"{path.stem}.{key}": text for key, text in comments(path).items()} for path in CONF.glob(f"{group}/*/*.yaml")
    ]
    anywhere = {key: text for found in [*shared, *reversed(notes.values())] for key, text in found.items()}
    for option, defaults in values(group).items():
        for key, value in defaults.items():
            if key != "name" or value == "???" or len(files) == 1:
                keys.setdefault(key, {})[option] = (value, notes[option].get(key, ""))
    lines = [f"## `{group}`\n"]
    described = {path.stem: " ".join(header(path).split()) for path in files}
    if len(files) == 1:
        lines += [described[files[0].stem], ""]
    else:
        lines += ["| option | |", "| :--- | :--- |"]
        lines += [f"| `{o}`{' (default)' if o == default else ''} | {_cell(d)} |" for o, d in described.items()]
        lines += [""]
    if keys:
        lines += ["| key | default | |", "| :--- | :--- | :--- |"]
        for key, given in sorted(keys.items(), key=lambda item: item[0].startswith("augment.")):
            by_value = _merge({o: value for o, (value, _) in given.items()}, len(files), code=True)
            texts = {o: text for o, (_, text) in given.items() if text}
            text = _merge(texts, len(texts), code=False) if texts else anywhere.get(key, "")
            lines += [f"| `{group}.{key}` | {by_value} | {_cell(text)} |"]
    return "\n".join([*lines, ""])


def _merge(given: dict[str, str], all_options: int, *, code: bool) -> str:
    """One text where all options agree, else each distinct text with its options."""
    by_text: dict[str, list[str]] = {}
    for option, text in given.items():
        by_text.setdefault(f"`{text}`" if code else text, []).append(option)
    if len(by_text) == 1 and len(given) == all_options:
        return next(iter(by_text))
    return "; ".join(f"{', '.join(options)}: {text}" for text, options in by_text.items())


def _top_level(root: dict) -> str:
    notes = comments(CONF / "config.yaml")
    rows = [
        f"| `{key}` | `{_text(value)}` | {_cell(notes.get(key, ''))} |"
        for key, value in root.items()
        if key not in ("defaults", "hydra")
    ]
    return "\n".join(["| key | default | |", "| :--- | :--- | :--- |", *rows, ""])


def _stored_section(group: str) -> str:
    """The options that convzoo's Hydra plugins register: dataclasses, explained by their docstrings."""
    Plugins.instance()
    repository = ConfigStore.instance().repo
    for part in group.split("/"):
        repository = repository[part]
    lines = [f"## `{group}`\n"]
    for file, stored in sorted(repository.items()):
        kind = OmegaConf.get_type(stored.node)
        if stored.provider != "convzoo" or not isinstance(kind, type):
            continue
        described = _attributes(kind)
        node = OmegaConf.to_container(stored.node, resolve=False)
        rows = [
            f"| `{group.replace('/', '.')}.{key}` | `{_text(value)}` | {_cell(described.get(key, ''))} |"
            for key, value in _leaves(node)
            if not key.startswith("_")
        ]
        lines += [f"### `{group}={file.removesuffix('.yaml')}`\n"]
        lines += ["| key | default | |", "| :--- | :--- | :--- |", *rows, ""] if rows else []
    return "\n".join(lines)


def _attributes(kind: type) -> dict[str, str]:
    """Field → description, from the Google-style docstrings of a dataclass and its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for section in Docstring(inspect.cleandoc(base.__doc__ or "")).parse("google", warnings=False):
            if section.kind.value in ("attributes", "parameters"):
                found |= {entry.name: " ".join(entry.description.split()) for entry in section.value}
    return found


def _leaves(node: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _files(group: str) -> list[Path]:
    return sorted(path for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))


def _text(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
