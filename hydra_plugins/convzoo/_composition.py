"""Record how a configuration was composed, and build the commands that compose it again."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

OURS = Path(str(files("zoo.conf"))).joinpath("convzoo").resolve()
"""convzoo's own configuration: ``conf/`` of a clone, or its copy in an installed package."""

CONFIG = "config"
"""The name of train.py's primary configuration."""

INSTALLED = "_train.py"
"""The file behind ``convzoo train``."""

FILE = "file://"

LAUNCH = (
    *("hydra.mode", "hydra.run.", "hydra.sweep."),
    *("hydra/launcher", "hydra.launcher.", "hydra/sweeper", "hydra.sweeper."),
)
"""Hydra's own keys for how and where jobs run; they are never carried over, each command sets them itself."""

QUIET = (
    *("hydra.job.chdir", "hydra.job.id", "hydra.output_subdir", "hydra.verbose"),
    *("hydra/job_logging", "hydra.job_logging", "hydra/hydra_logging", "hydra.hydra_logging"),
    *("hydra/help", "hydra.help", "hydra/hydra_help", "hydra.hydra_help", "hydra/output"),
)
"""Hydra's own keys that affect no value of a cell: passed on to jobs, but left out of commands shown to the user."""


@dataclass(frozen=True)
class Composition:
    """Everything that shapes a configuration besides the overrides of its own keys.

    Attributes:
        cwd: Working directory of the command.
        name: Name of the primary configuration.
        main: Folder of the primary configuration (``file://…``, ``pkg://…``); None for train.py's own.
        added: Folder given by ``--config-dir``, as ``file://…``; None without one.
        searchpath: Entries given for ``hydra.searchpath``.
        overrides: Other overrides of Hydra's own keys, without those in `LAUNCH`.
    """

    cwd: str
    name: str = CONFIG
    main: str | None = None
    added: str | None = None
    searchpath: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    @classmethod
    def of(cls, hydra: DictConfig) -> Composition:
        """Read it from Hydra's parsed command line, independent of how that was typed.

        Args:
            hydra: The ``hydra`` node of a configuration.
        """
        cwd = hydra.runtime.cwd
        found: dict[str, list[str]] = {}
        for source in hydra.runtime.config_sources:
            path = os.path.normpath(os.path.join(cwd, source.path)) if source.schema == "file" else source.path
            found.setdefault(source.provider, []).append(f"{source.schema}://{path}")
        main = found.get("main", [None])[0]
        return cls(
            cwd,
            hydra.job.config_name or CONFIG,
            None if main is None or is_ours(main.removeprefix(FILE)) else main,
            found.get("command-line", [None])[0],
            tuple(found.get("hydra.searchpath in command-line", ())),
            tuple(o for o in as_typed(hydra.overrides.hydra) if not _sets(o, *LAUNCH, "hydra.searchpath")),
        )

    def also(self, override: str) -> Composition:
        """Return a copy with one override of Hydra's own keys added or replaced."""
        others = (o for o in self.overrides if not _sets(o, override.partition("=")[0]))
        return replace(self, overrides=(*others, override))

    def words(self) -> list[str]:
        """Return the arguments that compose the same configuration in another process; all paths are absolute."""
        words = [f"--config-path={self.main.removeprefix(FILE)}"] if self.main else []
        words += [f"--config-dir={self.added.removeprefix(FILE)}"] if self.added else []
        words += [f"--config-name={self.name}"] if self.name != CONFIG else []
        words += [f"hydra.searchpath=[{','.join(map(_value, self.searchpath))}]"] if self.searchpath else []
        return [*words, *self.overrides]

    def meant(self) -> list[str]:
        """Return the arguments a user types in ``cwd``; they are also part of a sweep's identity.

        Paths below ``cwd`` are relative, so that the folder can be moved. Empty if only train.py's own configuration is
        used.
        """
        # `main` stays absolute: Hydra resolves a relative --config-path against the program's folder.
        near = replace(
            self,
            added=self.added and self._near(self.added),
            searchpath=tuple(map(self._near, self.searchpath)),
            overrides=tuple(o for o in self.overrides if not _sets(o, *QUIET)),
        )
        return near.words()

    def command(self, words: Iterable[str]) -> str:
        """Return the command line a user types: the program followed by these words."""
        program = sys.argv[0]
        if Path(program).name == INSTALLED:
            return shlex.join(["convzoo", "train", *words])
        script = os.path.relpath(os.path.join(self.cwd, program), self.cwd) if program.endswith(".py") else "train.py"
        return shlex.join(["python", script, *words])

    def _near(self, place: str) -> str:
        path = Path(place.removeprefix(FILE))
        inside = place.startswith(FILE) and path.is_relative_to(self.cwd)
        return f"{FILE}{path.relative_to(self.cwd)}" if inside else place


def program(verb: str = "train") -> str:
    """Return how users of this program start a verb: ``convzoo VERB``, or in a clone what needs no installation."""
    if Path(sys.argv[0]).name == INSTALLED:
        return f"convzoo {verb}"
    return "python train.py" if verb == "train" else f"python -m zoo {verb}"


def as_typed(overrides: ListConfig) -> list[str]:
    """Return overrides with unresolved interpolations: their values may depend on the run or have another type."""
    return OmegaConf.to_container(overrides, resolve=False)


def is_ours(folder: str) -> bool:
    """Whether a configuration folder is convzoo's own."""
    return bool(folder) and Path(folder).resolve() == OURS


def _sets(override: str, *keys: str) -> bool:
    return override.lstrip("+~").startswith(keys)


def _value(place: str) -> str:
    """Quote a path as Hydra reads it in a list."""
    from lightning_modules.config.values import quoted

    return place if re.fullmatch(r"[\w./:-]+", place, re.ASCII) else quoted(place)
