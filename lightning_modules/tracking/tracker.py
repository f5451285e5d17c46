"""Track a run with Weights & Biases (online or offline), in a CSV file, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger

from lightning_modules.config.schema import CellSpec, LoggerOptions
from lightning_modules.tracking.csv import CsvRows
from lightning_modules.tracking.wandb_environment import find_folder, find_id, find_mode, find_places
from lightning_modules.tracking.wandb_file import count_rows, run_files
from lightning_modules.tracking.wandb_run import End, WandbRun, plain
from lightning_modules.tracking.wandb_service import quiet_setup

NOTHING = {"id": None, "mode": None, "dir": None}
"""W&B entry of result.json if another logger is used."""


class Tracking:
    """Sends the metrics of one run to the configured logger.

    Attributes:
        logger: Logger for Lightning's Trainer; False for none.
        wandb: W&B entry of result.json.
    """

    def __init__(
        self,
        settings: LoggerOptions,
        folder: Path,
        cell: dict[str, Any],
        spec: CellSpec,
        plan: str,
        goes_on: bool = False,
    ) -> None:
        """Start tracking.

        Args:
            settings: The logger group of the configuration.
            folder: The run's folder; offline runs are written below it.
            cell: The choices, flat; they become columns in W&B.
            spec: The cell; all of it is stored under one key of W&B's config.
            plan: The execution plan; becomes a column, too.
            goes_on: True if the run resumes from the checkpoint of an earlier start.
        """
        name = settings.name
        self._run: WandbRun | None = None
        self._mode = None
        self.logger: Logger | bool = False
        if name == "csv":
            self.logger = CsvRows(folder, goes_on)
        elif name == "wandb":
            self._mode, why = _wandb_mode(settings)
            if self._mode != "disabled":
                place = find_folder(folder)
                arguments = {
                    **find_places(settings, run_name(cell)),
                    "id": _this_run_id(find_id(run_id(cell, folder)), place, goes_on),
                    "config": {**cell, "plan": plan, "cell": _cell_name(cell), "settings": spec.plain()},
                    "dir": place,
                }
                online = self._mode == "online"
                try:
                    self._run = WandbRun(arguments, online, why, settings.timeout_s, goes_on)
                    self.logger = RowLogger(self._run)
                except Exception as error:
                    print(f"W&B: it cannot be started ({plain(error)}), so this run goes on without it", flush=True)
                    self._mode = None

    @property
    def wandb(self) -> dict[str, Any]:
        """W&B entry of result.json: ``id``, ``mode`` and ``dir`` (of the last start), all None without W&B.

        A W&B run also has ``dirs`` (folders of all starts), ``upload`` (the command that uploads the rest; None if
        nothing is missing) and ``lost_rows``.
        """
        if self._run is None:
            return NOTHING | {"mode": self._mode}
        run, dirs = self._run, self._run.dirs
        return {
            "id": run.id,
            "mode": run.mode,
            "dir": dirs[-1] if dirs else None,
            "dirs": dirs,
            "upload": run.upload_command,
            "lost_rows": run.lost_rows,
        }

    def finish(self, metrics: dict[str, float], status: str, code: int, requeued: bool = False) -> None:
        """Log the final metrics and end the run with its real outcome.

        Args:
            metrics: Metrics of the result.
            status: Status of the result.
            code: Exit code the process will have.
            requeued: True if a scheduler will start the run again.
        """
        if self._run is not None:
            # val/acc is a curve in the history; its value for the tested checkpoint belongs in the summary only.
            row = {k: v for k, v in metrics.items() if k != "val/acc"}
            try:
                self._run.finish(End(row, metrics | {"status": status}, code, requeued))
            except Exception as error:
                print(f"W&B: its run was not ended as it should be ({plain(error)})", flush=True)
        elif isinstance(self.logger, CsvRows):
            if metrics:
                self.logger.log_metrics(metrics)
            self.logger.finish()


class RowLogger(Logger):
    """Lightning logger that passes rows on to a `WandbRun`."""

    def __init__(self, run: WandbRun) -> None:
        super().__init__()
        self.run = run

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return self.run.id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.run.log(dict(metrics), step)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the run's W&B config already contains the hyper-parameters."""


def _wandb_mode(settings: LoggerOptions) -> tuple[str, str]:
    """Return the mode (online, offline or disabled), and a text that says why the run is offline if it is."""
    asked = find_mode(settings.mode)
    return asked or ("online" if has_key() else "offline"), "as asked" if asked else "no API key"


def _this_run_id(first: str, folder: Path, goes_on: bool) -> str:
    """Return the id of the earlier start that this one continues, or a new id.

    A run that starts from scratch gets a new id if an earlier start in the folder has logged rows.

    Args:
        first: The id of the first start.
        folder: Folder that contains W&B's files.
        goes_on: True if the run resumes from a checkpoint.
    """
    name = re.compile(rf"run-{re.escape(first)}(-(?P<start>\d+))?")
    earlier = [path for path in run_files(folder) if name.fullmatch(path.stem)]
    if not earlier:
        return first
    last = earlier[-1].stem.removeprefix("run-")
    if goes_on or not any(count_rows(path) for path in earlier if path.name == earlier[-1].name):
        return last
    return f"{first}-{int(name.fullmatch(earlier[-1].stem)['start'] or 1) + 1}"


def has_key() -> bool:
    """Whether a W&B API key is configured, in the environment or in the netrc file that ``wandb login`` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    hosts: set[str] = set()
    # os.path, because Path.expanduser raises an error if the user has no home folder.
    candidates = [os.environ.get("NETRC"), os.path.expanduser("~/.netrc"), os.path.expanduser("~/_netrc")]
    for path in filter(None, candidates):
        with suppress(OSError, NetrcParseError):
            hosts |= set(netrc(path).hosts)
    if not hosts or "api.wandb.ai" in hosts:
        return bool(hosts)
    try:
        return urlparse(quiet_setup().base_url).hostname in hosts
    except Exception:  # the start of the run will report why W&B does not start
        return False


VALUES = ("model", "variant", "conv", "between", "act", "init", "data", "hardware", "optim")
NUMBERS = {"phi": "phi", "depth": "depth", "width": "width", "resolution": "resolution", "match": "match="}
NUMBERS |= {"groups": "groups", "group_size": "groupsize", "init_rank": "rank", "lr": "lr", "weight_decay": "wd"}


def run_name(cell: dict[str, Any]) -> str:
    """Return a name that lists a cell's choices, the seed last, so that a sweep's jobs have different names."""
    left_out = {"depth", "width", "resolution"} if "phi" in cell else set()
    left_out |= {"init"} if cell.get("init") == "random" else set()
    parts = []
    for key, value in cell.items():
        if (key in VALUES or key in NUMBERS) and key not in left_out:
            parts.append(NUMBERS.get(key, "") + (f"{value:.4g}" if isinstance(value, float) else str(value)))
    return "-".join([*parts, f"seed{cell['seed']}"])


def _cell_name(cell: dict[str, Any]) -> str:
    """Return backbone, convolution and activation as one column, for grouping over seeds."""
    return " ".join(str(cell[key]) for key in ("model", "variant", "conv", "act") if key in cell)


def run_id(cell: dict[str, Any], folder: Path) -> str:
    """Return an id that depends only on cell and folder, so that a restarted run continues its W&B run.

    It starts with a letter, since digits with a single ``e`` would be read as a float.
    """
    content = json.dumps([cell, str(folder.resolve())], sort_keys=True)
    return "c" + hashlib.sha256(content.encode()).hexdigest()[:12]
