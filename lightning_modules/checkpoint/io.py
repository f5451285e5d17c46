"""How all checkpoints of a run get to the disk and back: whole, checked, and without ending the run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from lightning_modules.results.files import RetryWriter, write_whole
from zoo.deploy.verify_checkpoint import read_checked


class Checkpoints(TorchCheckpointIO):
    """Writes and reads checkpoints for Lightning's Trainer.

    A checkpoint that cannot be written (a full disk) does not end the run: one line says so and the old one stays. One
    that is written once only (``best.ckpt``) is kept in memory and tried again before anything else is written, so that
    ``last.ckpt`` never knows of a ``best.ckpt`` that is not there. One that has a previous one (``last.ckpt``, which
    passes ``storage_options={"previous": path}``) is soon written anew anyway.
    """

    def __init__(self) -> None:
        self._waiting: dict[Path, memoryview] = {}
        self._patience = RetryWriter()
        self._read: dict[Path, dict[str, Any]] = {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: dict[str, Path] | None = None
    ) -> None:
        """Writes a checkpoint, or says that it could not."""
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
        return self._patience.attempt(lambda: write_whole(path, content, previous), path, len(content))

    def finish(self) -> None:
        """Tries once more what is not on the disk yet.

        Raises:
            ConvzooError: It cannot be written.
        """
        if not self._write_waiting():
            self._patience.end()

    def give(self, path: Path, content: dict[str, Any]) -> None:
        """What was read already need not be read again."""
        self._read[path] = content

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Reads a checkpoint, once its checksums are right.

        Raises:
            DamagedError: They are not.
        """
        path = Path(path)
        return self._read.pop(path) if path in self._read else read_checked(path)
