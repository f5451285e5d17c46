"""Finds the checkpoint from which a stopped run resumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.checkpoint.best import NAME as BEST
from lightning_modules.config.identity import cell_id, differences
from lightning_modules.config.schema import CellSpec
from zoo.deploy.checkpoint import PLUGINS
from zoo.deploy.verify_checkpoint import DamagedError, read_checked
from zoo.errors import ConvzooError
from zoo.log import log
from zoo.plugins import check_unchanged
from zoo.text import typed

LAST, PREVIOUS = "last.ckpt", "last-previous.ckpt"
KEY = "convzoo"
"""Key of convzoo's own entries in these checkpoints."""


@dataclass
class Saved:
    """A checkpoint to resume from, in memory.

    Attributes:
        path: The file it was read from.
        content: Its content.
    """

    path: Path
    content: dict[str, Any]

    def take(self) -> dict[str, Any]:
        """Returns the content and drops this reference to it, to free its memory."""
        content, self.content = self.content, {}
        return content

    @property
    def plan(self) -> str:
        """Name of the execution plan of the stopped run."""
        return self.content[KEY]["plan"]


def find_last(folder: Path, spec: CellSpec, say: bool = True) -> Saved | None:
    """Reads the checkpoint that a stopped run resumes from: ``last.ckpt``, or the previous one if that is damaged.

    Args:
        folder: The run's folder.
        spec: The run's cell.
        say: Whether to report which files are damaged.

    Returns:
        The checkpoint; None if there is no usable one, and the run starts from scratch.

    Raises:
        ConvzooError: The checkpoint belongs to a run with another configuration (the text lists the differences), or
            it cannot be read.
    """
    wrong = None
    for path in (folder / LAST, folder / PREVIOUS):
        try:
            found = Saved(path, _read(path, spec))
            _check_best(folder, found.content)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            if say and str(error) != wrong:
                log.warning(error)
            wrong = str(error)
            continue
        except OSError as error:
            raise ConvzooError(f"{path} cannot be read: {error.strerror}.") from None
        except MemoryError:
            raise ConvzooError(f"not enough memory to read {path}.") from None
        if say and path.name != LAST:
            log.warning(f"Resuming from {path.name}, at step {found.content['global_step']}.")
        return found
    if say and wrong:
        log.warning("Training starts from scratch.")
    return None


def _read(path: Path, spec: CellSpec) -> dict[str, Any]:
    content = read_checked(path)
    if KEY not in content:
        raise DamagedError(f"{path} is not a checkpoint from which a run can resume.")
    if content[KEY]["id"] != cell_id(spec):
        raise ConvzooError(
            f"{typed(path)} belongs to a run with another configuration ({differences(content[KEY]['config'], spec)}). "
            f"Use that configuration to resume it, choose another hydra.run.dir, or start again: rm {typed(path)}"
        )
    check_unchanged(content.get(PLUGINS, {}), typed(path))
    return content


def _check_best(folder: Path, content: dict[str, Any]) -> None:
    """Checks that the ``best.ckpt`` a checkpoint refers to is intact, since it may remain the best until the end."""
    best = folder / BEST
    if not any(state.get("best_model_path") for state in content["callbacks"].values()):
        return
    if not best.exists():
        raise DamagedError(f"{best}, the best checkpoint so far, is missing.")
    read_checked(best)
