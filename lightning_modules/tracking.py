"""Run tracking: Weights & Biases online or offline, CSV, or none."""

from __future__ import annotations

import hashlib
import json
import os
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from zoo.errors import choose


class Tracking:
    """Where the metrics of one run go.

    Attributes:
        logger: For Lightning's Trainer; False for none.
        wandb: ``{"id", "mode", "dir"}`` of the W&B run, as result.json has it; all None without one.
    """

    def __init__(
        self, settings: dict[str, Any], folder: Path, cell: dict[str, Any], config: dict[str, Any], plan: str
    ) -> None:
        """Starts tracking.

        Args:
            settings: The logger group of the configuration.
            folder: The run's folder; offline runs are written below it.
            cell: The choices, flat; they become columns in W&B.
            config: The whole resolved configuration; it becomes one key.
            plan: The execution plan, a column too.
        """
        name = settings["name"]
        self._run = None
        self.logger: Logger | bool = False
        if name == "csv":
            self.logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1)
        elif name == "wandb":
            self._run = _start_wandb(settings, folder, cell, config, plan)
            self.logger = WandbLogger(experiment=self._run)

    @property
    def wandb(self) -> dict[str, str | None]:
        if self._run is None:
            return {"id": None, "mode": None, "dir": None}
        if self._run.disabled:
            return {"id": None, "mode": "disabled", "dir": None}
        mode = "offline" if self._run.offline else "online"
        return {"id": self._run.id, "mode": mode, "dir": self._run.settings.sync_dir}

    def finish(self, metrics: dict[str, float], status: str) -> None:
        """Writes the final metrics and ends the run with its real outcome."""
        if self._run is not None:
            if metrics:
                self._run.log({k: v for k, v in metrics.items() if k != "val/acc"})
                # In the history val/acc is a curve; its summary is that of the checkpoint that was tested.
                self._run.summary.update(metrics)
            self._run.summary["status"] = status
            self._run.finish(exit_code=0 if status == "completed" else 1)
            _stop_service()
        elif self.logger:
            if metrics:
                self.logger.log_metrics(metrics)
            self.logger.finalize("success" if status == "completed" else "failed")


def has_key() -> bool:
    """Whether a W&B key is configured: in the environment, or in the netrc file where ``wandb login`` puts it."""
    import wandb

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    hosts = {urlparse(wandb.setup().settings.base_url).hostname, "api.wandb.ai"}
    candidates = [os.environ.get("NETRC"), Path("~/.netrc").expanduser(), Path("~/_netrc").expanduser()]
    for path in filter(None, candidates):
        try:
            if hosts & set(netrc(path).hosts):
                return True
        except (OSError, NetrcParseError):
            continue
    return False


def _start_wandb(
    settings: dict[str, Any], folder: Path, cell: dict[str, Any], config: dict[str, Any], plan: str
) -> Any:
    """Starts a W&B run: online when a key and a server are there, else offline, with one line that says so."""
    import wandb

    mode = settings["mode"]
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    choose("logger.mode", mode, ("auto", "online", "offline", "disabled"))
    arguments = {
        "project": settings["project"],
        "entity": settings["entity"],
        "group": settings["group"],
        "name": run_name(cell),
        "id": run_id(cell, folder),
        "tags": settings["tags"],
        "job_type": "train",
        "config": {**cell, "plan": plan, "cell": _cell_name(cell), "settings": config},
        "dir": folder,
        # A run that goes on after it was stopped continues its rows on the server.
        "resume": "allow" if mode == "online" else None,
    }
    # Flushed every second (the default is 15), so that a killed run keeps its rows.
    options = {"init_timeout": settings["timeout_s"], "x_transaction_log_flush_interval": 1, "silent": True}
    if mode == "online":
        try:
            online = wandb.Settings(**options, finish_timeout=settings["timeout_s"])
            return _with_axes(wandb.init(mode=mode, settings=online, **arguments))
        except (wandb.errors.CommError, wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            reason, mode = f"the server did not take this run ({_first_line(error)})", "offline"
            # The service still holds the id of the run that did not start.
            _stop_service()
    else:
        reason = "no API key" if settings["mode"] == "auto" and "WANDB_MODE" not in os.environ else "as asked"
    run = _with_axes(wandb.init(mode=mode, settings=wandb.Settings(**options), **arguments))
    if mode == "offline":
        print(f"W&B: {reason}, so this run is offline. Upload it with: wandb sync {run.sync_dir}", flush=True)
    return run


def _with_axes(run: Any) -> Any:
    """Draws the curves over epochs: runs of different batch sizes are comparable there, and steps are not.

    No ``summary="max,last"``: it makes ``val/acc`` a number in a finished run and ``{"max", "last"}`` in one that was
    stopped, and a sweep or a plot that reads ``val/acc`` would leave out one of the two. Here it is a number always:
    the latest one while training, at the end that of the checkpoint that was tested.
    """
    run.define_metric("epoch", hidden=True)
    for curves in ("train/*", "val/*"):
        run.define_metric(curves, step_metric="epoch", step_sync=True)
    return run


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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _stop_service() -> None:
    """Ends W&B's own process, which writes the file: before that the last records may not be on the disk."""
    import wandb

    wandb.teardown()
