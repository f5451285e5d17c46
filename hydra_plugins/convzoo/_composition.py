"""How a configuration was asked for: the words that belong to every command which composes it again."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

CONFIG = "config"
"""The name of our primary configuration."""

FILE = "file://"

LAUNCH = (
    *("hydra.mode", "hydra.run.", "hydra.sweep."),
    *("hydra/launcher", "hydra.launcher.", "hydra/sweeper", "hydra.sweeper."),
)
"""Hydra's own keys that say how and where jobs run: each command says that for itself."""

QUIET = (
    *("hydra.job.chdir", "hydra.job.id", "hydra.output_subdir", "hydra.verbose"),
    *("hydra/job_logging", "hydra.job_logging", "hydra/hydra_logging", "hydra.hydra_logging"),
    *("hydra/help", "hydra.help", "hydra/hydra_help", "hydra.hydra_help", "hydra/output"),
)
"""Those that no value of a cell depends on: jobs are given them, a person need not type them again."""


@dataclass(frozen=True)
class Composition:
    """What shapes a configuration beside the overrides of its own keys.

    Attributes:
        cwd: Where the command was typed.
        name: Of the primary configuration.
        main: Where the primary configuration lies (``file://…``, ``pkg://…``); None for train.py's own folder.
        added: ``--config-dir``, as ``file://…``.
        searchpath: What was typed for ``hydra.searchpath``.
        overrides: What else was typed for Hydra itself, without `LAUNCH`.
    """

    cwd: str
    name: str = CONFIG
    main: str | None = None
    added: str | None = None
    searchpath: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    @classmethod
    def of(cls, hydra: DictConfig) -> Composition:
        """Reads it from what Hydra made of the command line, in whichever way that was typed.

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
        """The same with another value for one of Hydra's own keys."""
        others = (o for o in self.overrides if not _sets(o, override.partition("=")[0]))
        return replace(self, overrides=(*others, override))

    def words(self) -> list[str]:
        """What follows the program in a process of its own: all paths are absolute."""
        words = [f"--config-path={self.main.removeprefix(FILE)}"] if self.main else []
        words += [f"--config-dir={self.added.removeprefix(FILE)}"] if self.added else []
        words += [f"--config-name={self.name}"] if self.name != CONFIG else []
        words += [f"hydra.searchpath=[{','.join(map(_value, self.searchpath))}]"] if self.searchpath else []
        return [*words, *self.overrides]

    def meant(self) -> list[str]:
        """What a person types where the command was typed, and what makes a sweep the same one.

        Paths below that folder are relative, so that it can be moved; empty where nothing but ours was asked for.
        """
        # Not the first one: a relative --config-path is looked for beside the program.
        near = replace(
            self,
            added=self.added and self._near(self.added),
            searchpath=tuple(map(self._near, self.searchpath)),
            overrides=tuple(o for o in self.overrides if not _sets(o, *QUIET)),
        )
        return near.words()

    def command(self, words: Iterable[str]) -> str:
        """The command line that a person types: the program, and these words."""
        program = sys.argv[0]
        script = os.path.relpath(os.path.join(self.cwd, program), self.cwd) if program.endswith(".py") else "train.py"
        return shlex.join(["python", script, *words])

    def _near(self, place: str) -> str:
        path = Path(place.removeprefix(FILE))
        inside = place.startswith(FILE) and path.is_relative_to(self.cwd)
        return f"{FILE}{path.relative_to(self.cwd)}" if inside else place


def as_typed(overrides: ListConfig) -> list[str]:
    """Overrides with their interpolations: what these amount to may depend on the run, or be of another type."""
    return OmegaConf.to_container(overrides, resolve=False)


def is_ours(folder: str) -> bool:
    """Whether a folder of configurations is train.py's own."""
    ours = Path(__file__).resolve().parents[2] / "conf"
    return bool(folder) and Path(folder).resolve() == ours


def _sets(override: str, *keys: str) -> bool:
    return override.lstrip("+~").startswith(keys)


def _value(place: str) -> str:
    """A place as Hydra reads it in a list."""
    from lightning_modules.config.values import quoted

    return place if re.fullmatch(r"[\w./:-]+", place, re.ASCII) else quoted(place)
