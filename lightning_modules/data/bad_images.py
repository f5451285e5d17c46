"""Bad images of a run: counted, named, and no more of them than allowed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from lightning_modules.data.files import shown
from zoo.errors import ConvzooError
from zoo.text import typed

FILE = "bad_images.txt"
"""In the run's folder: a line for each, the path and what is wrong with it, with a tab between."""

METRIC = "data/bad_images"


class BadImages:
    """The images that a run could not use, each counted once.

    Every rank has its own; `share` makes them the same.

    Attributes:
        found: Why, by path (as a text that can be shown).

    Args:
        limit: How many there may be: a number, or a share of ``total``, rounded up.
        total: Images of all splits.
    """

    def __init__(self, limit: int | float, total: int) -> None:
        self.limit = limit if isinstance(limit, int) else math.ceil(limit * total)
        self.text, self.total = f"data.max_bad_images={limit}", total
        self.found: dict[str, str] = {}
        self._file: Path | None = None
        self._told = 0  # of `found`, how many the other ranks know

    def follow(self, folder: Path, keep: bool, main: bool = True) -> None:
        """Writes them into a run's folder from now on.

        Args:
            keep: The run goes on: it has those that it found before.
            main: This is the rank that may remove an old file.
        """
        self._file = folder / FILE
        if main and not keep:
            self._file.unlink(missing_ok=True)
        before: dict[str, str] = {}
        if keep and self._file.exists():
            lines = (line.partition("\t") for line in self._file.read_text(errors="replace").splitlines())
            before = {path: reason for path, tab, reason in lines if tab}
        if main:
            self._write({path: reason for path, reason in self.found.items() if path not in before})
        self.found |= before

    def note(self, path: str, reason: str, write: bool = True) -> bool:
        """Notes an image that may be known already; returns whether it was not.

        Args:
            write: Into the file, too.
        """
        name = shown(path)
        if name in self.found:
            return False
        self.found[name] = shown(reason)
        if write:
            self._write({name: self.found[name]})
        return True

    def add(self, path: str, reason: str) -> None:
        """Notes an image that was met in the middle of the run.

        Raises:
            ConvzooError: It is one too many.
        """
        if self.note(path, reason):
            if len(self.found) == 1:
                text = f"{shown(path)}: {shown(reason)}. Bad images are left out and counted, up to {self.limit:,}."
                print(text, flush=True)
            self.check()

    def _write(self, lines: dict[str, str]) -> None:
        if not self._file or not lines:
            return
        try:
            # Several ranks append to one file: each line at once.
            with self._file.open("ab", buffering=0) as file:
                for path, reason in lines.items():
                    file.write(f"{path}\t{reason}\n".encode())
        except OSError as error:  # a full disk shall not cost the run
            print(f"{shown(self._file)} cannot be written: {error.strerror}.", flush=True)
            self._file = None

    def check(self) -> None:
        """Raises ConvzooError if there are more than allowed."""
        if len(self.found) > self.limit:
            first = "\n".join(f"  {path}: {reason}" for path, reason in list(self.found.items())[:5])
            more = f"\n  … all so far: {typed(self._file)}" if self._file and len(self.found) > 5 else ""
            raise ConvzooError(
                f"{len(self.found):,} of {self.total:,} images cannot be used, and {self.text} allows {self.limit:,}."
                f"\n{first}{more}\nRepair or remove them, or raise data.max_bad_images. "
                "data.check=true reads all images before training."
            )

    def share(self, world: int) -> None:
        """Tells all ranks what each has found. A collective call.

        Raises:
            ConvzooError: Together they are too many.
        """
        if world > 1:
            own = dict(list(self.found.items())[self._told :])
            everybodys: list[dict[str, str]] = [{} for _ in range(world)]
            torch.distributed.all_gather_object(everybodys, own)
            for found in everybodys:
                self.found |= {path: reason for path, reason in found.items() if path not in self.found}
            self._told = len(self.found)
        self.check()


class CountBadImages(Callback):
    """Logs ``data/bad_images`` once an epoch, over all ranks, and says at the end where they are listed.

    Args:
        begin: Called with the Trainer before training.
    """

    def __init__(self, bad: BadImages, begin: Callable[[Any], None]) -> None:
        self.bad, self.begin = bad, begin

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        # Now it is known whether the run goes on from a checkpoint.
        self.begin(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.bad.share(trainer.world_size)
        pl_module.log(METRIC, float(len(self.bad.found)), rank_zero_only=True)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.bad.share(trainer.world_size)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.bad.share(trainer.world_size)
        if self.bad.found and trainer.is_global_zero:
            where = typed(Path(trainer.default_root_dir) / FILE)
            print(f"{len(self.bad.found):,} bad images were left out: {where}", flush=True)
