"""Runs one cell, from its configuration to its result. Read it from the top."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

import zoo
from lightning_modules.callbacks import CostLogger, SpeedLogger
from lightning_modules.callbacks.best import BestCheckpoint
from lightning_modules.callbacks.progress import progress
from lightning_modules.classifier import Classifier
from lightning_modules.config import check, describe_cell
from lightning_modules.data import make_data
from lightning_modules.hardware import (
    Hardware,
    check_world_size,
    device_name,
    inside_a_rank,
    launch_ranks,
    resolve_hardware,
)
from lightning_modules.result import FILE, environment, write_result
from lightning_modules.scaling import find_network, find_scale, image_sizes
from lightning_modules.start import Start
from lightning_modules.tracking import Tracking
from zoo.errors import ConvzooError
from zoo.matching import match_text
from zoo.stem import stem_for

JOB_FILE = "job.json"
"""What the ranks of a distributed run read: the configuration and the command."""


def run(config: dict[str, Any], folder: str | os.PathLike[str], command: str) -> dict[str, Any]:
    """Trains and tests one cell.

    Args:
        config: The resolved configuration (the tree of ``conf/config.yaml``) as plain values.
        folder: Where the run's files go; made if need be.
        command: What reproduces the run; it goes into the result.

    Returns:
        The result, as it stands in ``result.json`` in the folder.

    Raises:
        ConvzooError: A mistake in the configuration; nothing was trained.
        SystemExit: The run was stopped (130: Ctrl-C, 143: SIGTERM); the result says "interrupted".
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    check(config)
    hardware = resolve_hardware(config["hardware"], config["trainer"])
    if hardware.world_size > 1 and not inside_a_rank():
        return _run_ranks(config, folder, command, hardware)
    return run_rank(config, folder, command, hardware)


def _run_ranks(config: dict[str, Any], folder: Path, command: str, hardware: Hardware) -> dict[str, Any]:
    """Runs the cell once per rank of this machine, each in a process of its own."""
    (folder / JOB_FILE).write_text(json.dumps({"config": config, "command": command}))
    (folder / FILE).unlink(missing_ok=True)
    try:
        launch_ranks(hardware.devices, "lightning_modules.rank", folder)
    except (ConvzooError, RuntimeError) as error:
        # Whichever rank failed first knows why; what rank 0 saw is that the other one was gone.
        result = _read(folder) or _empty(config, command, hardware)
        if result["status"] != "interrupted":
            write_result(folder, result | {"status": "failed", "error": str(error)})
        raise
    except SystemExit:
        if _read(folder) is None:
            write_result(folder, _empty(config, command, hardware) | {"status": "interrupted"})
        raise
    return _read(folder)


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / FILE
    return json.loads(path.read_text()) if path.exists() else None


def _empty(config: dict[str, Any], command: str, hardware: Hardware) -> dict[str, Any]:
    return {
        "status": "failed",
        "cell": describe_cell(config, hardware.name),
        "metrics": {},
        "environment": environment(),
        "wandb": {"id": None, "mode": None, "dir": None},
        "checkpoint": None,
        "command": command,
    }


def run_rank(config: dict[str, Any], folder: Path, command: str, hardware: Hardware) -> dict[str, Any]:
    """Trains and tests one cell in this process: alone, or as one rank of several."""
    _be_quiet()
    main = int(os.environ.get("RANK", 0)) == 0
    result = _empty(config, command, hardware)
    tracking = None
    try:
        cell = _Cell(config, folder, hardware)
        result |= {"cell": cell.choices, "environment": environment(**cell.conditions)}
        tracking = Tracking(config["logger"], folder, cell.choices, config) if main else None
        result["wandb"] = tracking.wandb if tracking else result["wandb"]
        result["metrics"] = cell.train(tracking.logger if tracking else False)
        result |= {"status": "completed", "checkpoint": cell.checkpoint}
        result["environment"] |= cell.conditions
    except BaseException as error:
        status, code = _outcome(error)
        result |= {"status": status, "error": str(error) or type(error).__name__}
        if not isinstance(error, ConvzooError) and status == "failed":
            result["traceback"] = traceback.format_exc()
        if code is not None:
            raise SystemExit(code) from None
        raise
    finally:
        if main:
            write_result(folder, result)
            if tracking:
                tracking.finish(result["metrics"], result["status"])
    return result


def _outcome(error: BaseException) -> tuple[str, int | None]:
    """Status and exit code of a run that ended with an exception; None as a code: the exception itself is the end."""
    if isinstance(error, SIGTERMException):
        return "interrupted", 143
    # Lightning turns Ctrl-C into SystemExit(1) while it fits.
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code == 1):
        return "interrupted", 130
    return "failed", None


class _Cell:
    """One cell: its network, data and trainer.

    Attributes:
        choices: Flat, for result.json and W&B.
        conditions: What the measured figures depend on.
        checkpoint: The best one's path, once trained.
    """

    def __init__(self, config: dict[str, Any], folder: Path, hardware: Hardware) -> None:
        self.config, self.folder, self.hardware = config, folder, hardware
        if threads := config["hardware"]["threads"]:
            torch.set_num_threads(threads)
        L.seed_everything(config["seed"], workers=True, verbose=False)
        network, scale, model = find_network(config), find_scale(config), config["model"]
        base_size, image_size = image_sizes(config)
        self.data = make_data({**config["data"], "image_size": image_size}, image_size, config["seed"])
        in_chans = self.data.data["in_chans"]
        spec = {
            "backbone": network.backbone,
            "depth": scale.depth,
            "width": scale.width,
            "conv": config["conv"]["name"],
            "conv_options": {k: v for k, v in config["conv"].items() if k != "name"},
            "act": config["act"]["name"],
            "num_classes": self.data.data["num_classes"],
            "in_chans": in_chans,
            "pretrained": model["pretrained"],
            # An image that scaling enlarges past the small stem's limit keeps the stem: scaling changes the image only.
            "stem": stem_for(model["stem"], base_size),
        }
        self.choices = describe_cell(config, hardware.name) | {"image_size": image_size, "stem": spec["stem"]}
        if model["match"] is not None:
            found = match_text(model["match"], image_size, **{k: v for k, v in spec.items() if k != "width"})
            spec["width"] = self.choices["width"] = found.width
            self.choices["match_miss"] = round(found.miss, 5)
            if int(os.environ.get("RANK", 0)) == 0:
                print(f"model.match={model['match']}: {found}", flush=True)
        self.start = Start(config["init"], spec)
        self.module = Classifier(self.start.network, config["optim"]).to(memory_format=torch.channels_last)
        self.start.fill(self.module.net)
        self.image_shape = (in_chans, image_size, image_size)
        self.costs = CostLogger(image_size, in_chans)
        self.speeds = SpeedLogger()
        self.conditions: dict[str, Any] = {
            "device": device_name(torch.device("cuda" if hardware.accelerator in ("gpu", "cuda") else "cpu")),
            "devices": hardware.world_size,
            "dtype": str(config["trainer"]["precision"] or "32-true"),
            "memory_format": "channels_last",
            "threads": torch.get_num_threads(),
            "batch_size": config["data"]["batch_size"],
        }
        self.checkpoint: str | None = None

    def train(self, logger: Any) -> dict[str, float]:
        """Fits, tests the best checkpoint, measures inference; returns all metrics under their final names."""
        best = BestCheckpoint(self.folder)
        trainer = self._trainer(logger, [self.start, self.costs, self.speeds, best])
        check_world_size(trainer, self.hardware)
        start = time.perf_counter()
        with _plain_trainer_errors():
            trainer.fit(self.module, datamodule=self.data)
        fit_s = time.perf_counter() - start
        if trainer.interrupted:
            raise KeyboardInterrupt
        if not best.best_model_path:
            # Nothing was validated: the last weights are the best there are.
            trainer.save_checkpoint(best.path, weights_only=True)
        self.checkpoint = str(best.path)
        metrics = {"time/fit_s": fit_s, "time/epochs": trainer.current_epoch}
        metrics |= {"speed/peak_memory_mb": _peak_memory_mb(self.module.device)}
        with _plain_trainer_errors():
            tested = trainer.test(self.module, datamodule=self.data, ckpt_path=self.checkpoint, verbose=False)
        metrics |= tested[0] if tested else {}
        if best.best_model_score is not None:
            metrics["val/acc"] = best.best_model_score.item()
        if bad := [k for k, v in metrics.items() if not math.isfinite(v)]:
            raise ConvzooError(f"{', '.join(bad)} is not a number: training diverged. Type a smaller optim.lr.")
        metrics |= self.start.metrics | self.costs.metrics | self.speeds.metrics
        return metrics | (self._inference_speed() if trainer.is_global_zero else {})

    def _trainer(self, logger: Any, callbacks: list[L.Callback]) -> L.Trainer:
        given = {k: v for k, v in self.config["trainer"].items() if v is not None}
        if given.get("enable_progress_bar", True):
            callbacks = [*callbacks, progress()]
        arguments = {
            **given,
            **self.hardware.trainer_arguments,
            "logger": logger,
            "callbacks": callbacks,
            "default_root_dir": self.folder,
            "use_distributed_sampler": False,
            "enable_model_summary": False,
            "enable_progress_bar": given.get("enable_progress_bar", True) and sys.stderr.isatty(),
        }
        try:
            return L.Trainer(**arguments)
        except (MisconfigurationException, TypeError, ValueError, ImportError) as error:
            raise ConvzooError(f"trainer: {error}") from None

    def _inference_speed(self) -> dict[str, float]:
        device = self.module.device
        image = torch.zeros(self.image_shape, device=device, dtype=self.module.dtype)
        mixed = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "bf16": torch.bfloat16, "16": torch.float16}
        dtype = mixed.get(self.conditions["dtype"])
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            measured = zoo.speed(self.module.net, image, batch_size=64)
        self.conditions["infer_batch_size"] = measured.batch_size
        return {
            "speed/infer_images_per_s": measured.images_per_s.median,
            "speed/infer_images_per_s_iqr": measured.images_per_s.iqr,
            "speed/latency_ms": measured.latency_ms.median,
            "speed/latency_ms_iqr": measured.latency_ms.iqr,
        }


@contextmanager
def _plain_trainer_errors() -> Iterator[None]:
    """What Lightning finds out about its arguments only while it runs is the user's mistake too."""
    try:
        yield
    except MisconfigurationException as error:
        raise ConvzooError(f"trainer: {error}") from None
    except ValueError as error:
        if isinstance(error, ConvzooError) or "`val_check_interval`" not in str(error):
            raise
        raise ConvzooError(f"trainer: {error}") from None


def _peak_memory_mb(device: torch.device) -> float:
    """MiB at most so far: allocated on a GPU; on a CPU resident, Python and libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _be_quiet() -> None:
    """Silences what Lightning says about things that are so on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        "does not have many workers",
        "exists and is not empty",
        "log_every_n_steps",
        "treespec, LeafSpec",
        "sync_dist",
    ):
        warnings.filterwarnings("ignore", f".*{text}.*")
