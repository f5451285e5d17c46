"""Lightning's Trainer for a cell, and its errors as messages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_modules.callbacks.progress import progress
from lightning_modules.checkpoint.io import Checkpoints
from lightning_modules.config.schema import CellSpec
from lightning_modules.data.workers import plain_worker_errors
from lightning_modules.hardware.devices import Hardware
from lightning_modules.hardware.out_of_memory import plain_memory_errors
from lightning_modules.hardware.sync_batchnorm import SyncNorms
from lightning_modules.tracking.profile import make_profiler
from zoo.errors import ConvzooError


def make_trainer(
    spec: CellSpec,
    hardware: Hardware,
    precision: str,
    folder: Path,
    loggers: Any,
    checkpoints: Checkpoints,
    callbacks: list[L.Callback],
) -> L.Trainer:
    """Returns the Trainer of a cell, with convzoo's progress bar unless the callbacks have one.

    Raises:
        ConvzooError: Lightning refuses an argument.
    """
    # Lightning's max_time ends a run as if it had completed; signals.py interrupts it instead.
    given = {k: v for k, v in spec.trainer.plain().items() if v is not None and k != "max_time"}
    shows = given.get("enable_progress_bar", True) and sys.stderr.isatty()
    callbacks = [c for c in callbacks if shows or not isinstance(c, ProgressBar)]
    if shows and not any(isinstance(c, ProgressBar) for c in callbacks):
        callbacks = [*callbacks, progress()]
    arguments = {
        **given,
        # None is meaningful here: it counts batches across epochs.
        "check_val_every_n_epoch": spec.trainer.check_val_every_n_epoch,
        "precision": precision,
        **hardware.trainer_arguments,
        "logger": loggers,
        "callbacks": callbacks,
        "plugins": [checkpoints, SyncNorms()] if spec.trainer.sync_batchnorm else [checkpoints],
        "default_root_dir": folder,
        "use_distributed_sampler": False,
        "enable_model_summary": False,
        "profiler": given.get("profiler") and make_profiler(given["profiler"], folder),
        "enable_progress_bar": shows,
    }
    try:
        return L.Trainer(**arguments)
    except (MisconfigurationException, TypeError, ValueError, ImportError) as error:
        raise ConvzooError(f"trainer: {error}") from None


@contextmanager
def plain_trainer_errors(spec: CellSpec, hardware: Hardware, trainer: L.Trainer) -> Iterator[None]:
    """Reports a user's mistake as one message, around a fit or a test.

    Raises:
        ConvzooError: The Trainer cannot do what the configuration asks for.
    """
    given = spec.trainer
    try:
        with plain_memory_errors(spec, hardware.world_size), plain_worker_errors():
            yield
    except MisconfigurationException as error:
        raise ConvzooError(f"trainer: {error}") from None
    except ValueError:
        # Lightning has no class of its own for this error.
        interval, batches = given.val_check_interval, trainer.num_training_batches
        if given.check_val_every_n_epoch is None or type(interval) is not int or interval <= batches:
            raise
        raise ConvzooError(
            f"trainer.val_check_interval={interval} exceeds the {batches} batches of an epoch. Type a smaller one, "
            "or add trainer.check_val_every_n_epoch=null, which counts batches over all epochs."
        ) from None
