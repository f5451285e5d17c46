"""Checkpoint I/O for Lightning: atomic writes, verified reads, and no aborted run when the disk is full."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from lightning_modules.checkpoint.resume import Saved
from lightning_modules.results.files import RetryWriter, write_whole
from zoo.deploy.checkpoint import PLUGINS
from zoo.deploy.verify_checkpoint import read_checked
from zoo.plugins import loaded_plugins


class Checkpoints(TorchCheckpointIO):
    """Writes and reads checkpoints for Lightning's Trainer.

    A checkpoint that cannot be written (on a full disk) does not end the run: one line reports it, and the old file
    stays. A checkpoint that is written only once (``best.ckpt``) stays in memory and is retried before any other
    write, so that ``last.ckpt`` never refers to a ``best.ckpt`` that does not exist. A checkpoint with a previous
    version (``last.ckpt``, which passes ``storage_options={"previous": path}``) is not retried: the next one is due
    soon anyway.

    Args:
        last: A checkpoint that has been read already, so that Lightning does not read it again.
    """

    def __init__(self, last: Saved | None = None) -> None:
        self._last = last
        self._waiting: dict[Path, memoryview] = {}
        self._writer = RetryWriter()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: dict[str, Path] | None = None
    ) -> None:
        """Writes a checkpoint with the plugins that it needs, or reports that it could not."""
        if plugins := loaded_plugins():
            checkpoint[PLUGINS] = plugins
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path, content = Path(path), buffer.getbuffer()
        if storage_options is None:
            self._waiting[path] = content
            self._write_waiting()
        elif self._write_waiting():
            self._write(path, content, storage_options["previous"])

    def _write_waiting(self) -> bool:
        for path, content in list(self._waiting.items()):
            if not self._write(path, content):
                return False
            del self._waiting[path]
        return True

    def _write(self, path: Path, content: memoryview, previous: Path | None = None) -> bool:
        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content, previous)

        return self._writer.attempt(write, path, len(content))

    def finish(self) -> None:
        """Makes a last attempt to write the checkpoints that are still in memory.

        Raises:
            ConvzooError: One of them cannot be written.
        """
        if not self._write_waiting():
            self._writer.end()

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Reads a checkpoint and verifies its checksums.

        Raises:
            DamagedError: They do not match.
        """
        if self._last and Path(path) == self._last.path:
            last, self._last = self._last, None
            return last.take()
        return read_checked(Path(path))
