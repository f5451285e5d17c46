"""Log to MLflow, going on in the same MLflow run when a run is resumed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger

from lightning_modules.results.files import write_whole

KEPT = "mlflow_run_id"
"""File in the run's folder with the id of its MLflow run."""


class MlflowRun(MLFlowLogger):
    """Lightning's MLflow logger, with the id of its run kept in the run's folder.

    Args:
        folder: The run's folder.
        resumed: True if training continues an earlier start.
        run_name: The name MLflow shows.
        **arguments: Arguments of Lightning's logger.
    """

    def __init__(
        self, folder: str | os.PathLike[str], resumed: bool = False, run_name: str | None = None, **arguments: Any
    ) -> None:
        self._kept = Path(folder, KEPT)
        with suppress(FileNotFoundError):
            arguments |= {"run_id": self._kept.read_text().strip()} if resumed else {}
        super().__init__(run_name=run_name, **arguments)

    def log_hyperparams(self, params: Any) -> None:
        """Keep the id, which the first call creates, and log the hyper-parameters."""
        write_whole(self._kept, str(self.run_id))
        super().log_hyperparams(params)
