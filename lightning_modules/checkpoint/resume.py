"""What a stopped run goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.checkpoint.best import NAME as BEST
from lightning_modules.config.identity import cell_id, differences
from lightning_modules.config.schema import CellSpec
from zoo.deploy.verify_checkpoint import DamagedError, read_checked
from zoo.errors import ConvzooError
from zoo.text import typed

LAST, PREVIOUS = "last.ckpt", "last-previous.ckpt"
KEY = "convzoo"
"""Under which these have what is beside Lightning's."""


@dataclass
class Saved:
    """A checkpoint to go on from, read whole.

    Attributes:
        path: Its file.
        content: What is in it.
    """

    path: Path
    content: dict[str, Any]

    def take(self) -> dict[str, Any]:
        """Hands over the content, whose memory is not held here any longer."""
        content, self.content = self.content, {}
        return content

    @property
    def plan(self) -> str:
        """The execution plan of the run that was stopped."""
        return self.content[KEY]["plan"]


def find_last(folder: Path, spec: CellSpec, say: bool = True) -> Saved | None:
    """Reads what a stopped run goes on from: ``last.ckpt``, or where that one is damaged the one before it.

    Args:
        folder: The run's.
        spec: The run's cell.
        say: Whether to print what was found to be damaged.

    Returns:
        None where there is nothing to go on from: the run starts anew.

    Raises:
        ConvzooError: It is of a run with another configuration; the text says in what they differ.
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
                print(error, flush=True)
            wrong = str(error)
            continue
        except OSError as error:
            raise ConvzooError(f"{path} cannot be read: {error.strerror}.") from None
        except MemoryError:
            raise ConvzooError(f"there is not enough memory to read {path}.") from None
        if say and path.name != LAST:
            print(f"This run goes on from {path.name}, at step {found.content['global_step']}.", flush=True)
        return found
    if say and wrong:
        print("This run starts anew.", flush=True)
    return None


def _read(path: Path, spec: CellSpec) -> dict[str, Any]:
    content = read_checked(path)
    if KEY not in content:
        raise DamagedError(f"{path} is no checkpoint that a run can go on from.")
    if content[KEY]["id"] != cell_id(spec):
        raise ConvzooError(
            f"{typed(path)} is of a run with another configuration ({differences(content[KEY]['config'], spec)}). "
            f"Type what it had to go on with it, another hydra.run.dir, or to start anew: rm {typed(path)}"
        )
    return content


def _check_best(folder: Path, content: dict[str, Any]) -> None:
    """What was the best so far is in its own file, and may be the best at the end."""
    best = folder / BEST
    if not any(state.get("best_model_path") for state in content["callbacks"].values()):
        return
    if not best.exists():
        raise DamagedError(f"{best} is missing, and it was the best checkpoint so far.")
    read_checked(best)
