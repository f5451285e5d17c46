"""Run tracking: Weights & Biases online or offline, CSV, or none."""

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
"""What result.json has of W&B where another logger is used."""


class Tracking:
    """Where the metrics of one run go.

    Attributes:
        logger: For Lightning's Trainer; False for none.
        wandb: What result.json has of the W&B run.
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
        """Starts tracking.

        Args:
            settings: The logger group of the configuration.
            folder: The run's folder; offline runs are written below it.
            cell: The choices, flat; they become columns in W&B.
            spec: The cell; all of it becomes one key.
            plan: The execution plan, a column too.
            goes_on: The run goes on from the checkpoint of an earlier start.
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
        """``id``, ``mode`` and ``dir`` (of the last start; all None without W&B). Of a W&B run also ``dirs`` (those of
        all starts), ``upload`` (the command that uploads the rest, None where nothing is missing) and ``lost_rows``.
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
        """Writes the final metrics and ends the run with its real outcome.

        Args:
            metrics: The result's.
            status: The result's.
            code: What the process will end with.
            requeued: A scheduler starts the run again.
        """
        if self._run is not None:
            # In the history val/acc is a curve; its summary is that of the checkpoint that was tested.
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
    """Lightning's view of a W&B run."""

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
        """They are in the run's config already."""


def _wandb_mode(settings: LoggerOptions) -> tuple[str, str]:
    """online, offline or disabled; and why it is offline, in words."""
    asked = find_mode(settings.mode)
    return asked or ("online" if has_key() else "offline"), "as asked" if asked else "no API key"


def _this_run_id(first: str, folder: Path, goes_on: bool) -> str:
    """The id of the start that this one continues; a new one where it starts anew beside rows of an earlier start."""
    name = re.compile(rf"run-{re.escape(first)}(-(?P<start>\d+))?")
    earlier = [path for path in run_files(folder) if name.fullmatch(path.stem)]
    if not earlier:
        return first
    last = earlier[-1].stem.removeprefix("run-")
    if goes_on or not any(count_rows(path) for path in earlier if path.name == earlier[-1].name):
        return last
    return f"{first}-{int(name.fullmatch(earlier[-1].stem)['start'] or 1) + 1}"


def has_key() -> bool:
    """Whether a W&B key is configured: in the environment, or in the netrc file where ``wandb login`` puts it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    hosts: set[str] = set()
    # os.path: where nobody has a home, the ~ stays.
    candidates = [os.environ.get("NETRC"), os.path.expanduser("~/.netrc"), os.path.expanduser("~/_netrc")]
    for path in filter(None, candidates):
        with suppress(OSError, NetrcParseError):
            hosts |= set(netrc(path).hosts)
    if not hosts or "api.wandb.ai" in hosts:
        return bool(hosts)
    try:
        return urlparse(quiet_setup().base_url).hostname in hosts
    except Exception:  # whatever keeps W&B from starting is told when the run starts
        return False


VALUES = ("model", "variant", "conv", "between", "act", "init", "data", "hardware", "optim")
NUMBERS = {"phi": "phi", "depth": "depth", "width": "width", "resolution": "resolution", "match": "match="}
NUMBERS |= {"groups": "groups", "group_size": "groupsize", "init_rank": "rank", "lr": "lr", "weight_decay": "wd"}


def run_name(cell: dict[str, Any]) -> str:
    """The choices of a cell in one line, the seed last: jobs of a sweep over any of them have different names."""
    left_out = {"depth", "width", "resolution"} if "phi" in cell else set()
    left_out |= {"init"} if cell.get("init") == "random" else set()
    parts = []
    for key, value in cell.items():
        if (key in VALUES or key in NUMBERS) and key not in left_out:
            parts.append(NUMBERS.get(key, "") + (f"{value:.4g}" if isinstance(value, float) else str(value)))
    return "-".join([*parts, f"seed{cell['seed']}"])


def _cell_name(cell: dict[str, Any]) -> str:
    """Backbone, convolution and activation as one column, by which repeats can be grouped."""
    return " ".join(str(cell[key]) for key in ("model", "variant", "conv", "act") if key in cell)


def run_id(cell: dict[str, Any], folder: Path) -> str:
    """Stable for a cell in a folder, so that a run which starts again there continues its W&B run.

    Starts with a letter: all digits and one ``e`` would be read as a float.
    """
    content = json.dumps([cell, str(folder.resolve())], sort_keys=True)
    return "c" + hashlib.sha256(content.encode()).hexdigest()[:12]
