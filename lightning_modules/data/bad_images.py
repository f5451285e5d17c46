"""Count and list the bad images of a run, and stop the run if there are more than allowed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback

from lightning_modules.data.files import shown
from zoo.errors import ConvzooError
from zoo.log import log
from zoo.text import typed

FILE = "bad_images.txt"
"""File in the run's folder with one line per bad image: path, tab, reason."""

METRIC = "data/bad_images"


T = TypeVar("T")


class TooManyBadImages(ConvzooError):
    """More images cannot be used than ``data.max_bad_images`` allows."""


def gather(own: T, world: int) -> list[T]:
    """Return the objects of all ranks. A collective call: all ranks must make it."""
    if world == 1:
        return [own]
    everyones: list[Any] = [None] * world
    torch.distributed.all_gather_object(everyones, own)
    return everyones


class BadImages:
    """The images that a run could not use, each counted once.

    Every rank keeps its own record; `share` makes them the same.

    Attributes:
        found: Printable path → reason.

    Args:
        limit: Maximum number of bad images (int), or maximum fraction of ``total`` (float), rounded up.
        total: Number of images in all splits.
    """

    def __init__(self, limit: int | float, total: int) -> None:
        self.limit = limit if isinstance(limit, int) else math.ceil(limit * total)
        self.text, self.total = f"data.max_bad_images={limit}", total
        self.found: dict[str, str] = {}
        self._file: Path | None = None
        self._shared = 0  # number of entries of `found` that the other ranks know

    def follow(self, folder: Path, keep: bool, main: bool = True) -> None:
        """Write the bad images into a run's folder from now on.

        Args:
            folder: The run's folder.
            keep: The run is resumed, so keep the images that it found before.
            main: Whether this rank may remove an old file.
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
        """Record a bad image that may be known already, and return whether it is new.

        Args:
            path: The image's path.
            reason: What is wrong with it.
            write: Also write it to the file.
        """
        name = shown(path)
        if name in self.found:
            return False
        self.found[name] = shown(reason)
        if write:
            self._write({name: self.found[name]})
        return True

    def add(self, path: str, reason: str) -> None:
        """Record a bad image found in the middle of the run, and log the first one.

        Raises:
            TooManyBadImages: There are more bad images than allowed.
        """
        if self.note(path, reason):
            if len(self.found) == 1:
                text = f"{shown(path)}: {shown(reason)}. Up to {self.limit:,} bad images are left out and counted."
                log.warning(text, extra={"every_rank": True})
            self.check()

    def _write(self, lines: dict[str, str]) -> None:
        if not self._file or not lines:
            return
        try:
            # Unbuffered, one write per line, because several ranks append to the same file.
            with self._file.open("ab", buffering=0) as file:
                for path, reason in lines.items():
                    file.write(f"{path}\t{reason}\n".encode())
        except OSError as error:  # a full disk must not stop the run
            log.warning(f"{shown(self._file)} cannot be written: {error.strerror}.", extra={"every_rank": True})
            self._file = None

    def check(self) -> None:
        """Raise `TooManyBadImages` if there are more bad images than allowed."""
        if len(self.found) > self.limit:
            first = "\n".join(f"  {path}: {reason}" for path, reason in list(self.found.items())[:5])
            more = f"\n  … all so far: {typed(self._file)}" if self._file and len(self.found) > 5 else ""
            raise TooManyBadImages(
                f"{len(self.found):,} of {self.total:,} images cannot be used, but {self.text} allows {self.limit:,}."
                f"\n{first}{more}\nRepair or remove them, or raise data.max_bad_images. "
                "data.check=true reads all images before training."
            )

    def share(self, world: int) -> None:
        """Exchange the bad images between all ranks. A collective call: all ranks must make it.

        Raises:
            TooManyBadImages: All ranks together found more than allowed.
        """
        for found in gather(dict(list(self.found.items())[self._shared :]), world):
            for path, reason in found.items():
                self.found.setdefault(path, reason)
        self._shared = len(self.found)
        self.check()


class CountBadImages(Callback):
    """Logs ``data/bad_images`` once per epoch, over all ranks, and at the end where they are listed.

    Args:
        bad: The run's bad images.
        begin: Called with the Trainer before training.
    """

    def __init__(self, bad: BadImages, begin: Callable[[Any], None]) -> None:
        self.bad, self.begin = bad, begin

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        # Only now is it known whether the run resumes from a checkpoint.
        self.begin(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.bad.share(trainer.world_size)
        pl_module.log(METRIC, float(len(self.bad.found)), rank_zero_only=True)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.bad.share(trainer.world_size)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.bad.share(trainer.world_size)
        if self.bad.found:
            where = typed(Path(trainer.default_root_dir) / FILE)
            log.warning(f"{len(self.bad.found):,} bad images were left out: {where}")
