"""Folders as a sweep leaves them, without training: figures are made up, files have the real form."""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

MODELS = {
    "resnet": ("18", 11.2e6, 554e6, 614e3),
    "effnet": ("b0", 4.0e6, 31e6, 559e3),
    "mobilenet": ("v2", 2.2e6, 24e6, 545e3),
    "xception": ("original", 21e6, 900e6, 1.1e6),
    "regnet": ("004", 5.2e6, 60e6, 800e3),
}
CONVS = {"standard": 1.0, "separable": 0.13, "spatial": 0.65, "blueprint": 0.14, "grouped": 0.3}
ACTS = {"relu": 0.0, "swish": 0.003, "gelu": 0.002, "mish": 0.002, "elu": -0.004}
RECIPE: Mapping[str, Any] = MappingProxyType(
    {
        "data.name": "digits",
        "trainer.max_epochs": 15,
        "data.batch_size": 32,
        "optim.name": "adamw",
        "optim.lr": 0.003,
    }
)
ENVIRONMENT: Mapping[str, Any] = MappingProxyType(
    {
        "device": "AMD EPYC",
        "devices": 1,
        "dtype": "32-true",
        "memory_format": "channels_last",
        "threads": 1,
        "batch_size": 32,
        "infer_batch_size": 64,
    }
)


def make_cell(
    model: str = "resnet", conv: str = "standard", act: str = "relu", seed: int = 0, **more: Any
) -> dict[str, Any]:
    return {
        "model": model,
        **({"variant": MODELS[model][0]} if model in MODELS else {}),
        "conv": conv,
        "act": act,
        "hardware": "cpu",
        "data": "digits",
        "seed": seed,
        "stem": "small",
        "image_size": 32,
        "batch_size": 32,
        "epochs": 15,
        "optim": "adamw",
        "lr": 0.003,
        "weight_decay": 0.05,
        **more,
    }


def make_result(cell: dict[str, Any], accuracy: float | None = None, **more: Any) -> dict[str, Any]:
    """A completed run's result.json; without an accuracy, one that follows from the choices and the seed."""
    random_ = random.Random(json.dumps(cell))
    _, params, macs, activations = MODELS.get(cell["model"], MODELS["resnet"])
    share, scale = CONVS.get(cell["conv"], 0.5), cell.get("width", 1.0) ** 2
    if accuracy is None:
        size = math.log10(params * share * scale) / 8
        mean = 0.86 + 0.12 * size + ACTS.get(cell["act"], 0) - (0.01 if cell["conv"] == "grouped" else 0)
        accuracy = min(1.0, round((mean + random_.gauss(0, 0.003)) * 270) / 270)
    speed = 4e10 / (macs * share * scale + 1.5e8) * random_.uniform(0.95, 1.05)
    return {
        "status": "completed",
        "cell": cell,
        "recipe": dict(RECIPE),
        "metrics": {
            "test/acc": accuracy,
            "test/loss": 1.1 - accuracy,
            "test/images": 270,
            "val/acc": accuracy,
            "cost/params": int(params * share * scale),
            "cost/macs": int(macs * share * scale),
            "cost/activations": int(activations * (2 - share) * math.sqrt(scale)),
            "speed/train_images_per_s": speed,
            "speed/train_images_per_s_iqr": speed / 40,
            "speed/infer_images_per_s": speed * 4,
            "speed/infer_images_per_s_iqr": speed / 15,
            "speed/latency_ms": 900 / speed,
            "speed/latency_ms_iqr": 10 / speed,
            "time/fit_s": 18000 / speed,
        },
        "environment": dict(ENVIRONMENT),
        "wandb": {"id": None, "mode": None, "dir": None},
        "checkpoint": "best.ckpt",
        "command": "python train.py " + " ".join(overrides(cell)),
        **more,
    }


def overrides(cell: dict[str, Any]) -> list[str]:
    return [f"{key}={cell[key]}" for key in ("model", "conv", "act", "seed")]


def write_run(folder: Path, result: dict[str, Any] | str | None, epochs: int = 0, end: float = 0.9) -> Path:
    """Writes a run's folder: its result (a dict, or any text), and a learning curve towards ``end``."""
    folder.mkdir(parents=True, exist_ok=True)
    if result is not None:
        (folder / "result.json").write_text(result if isinstance(result, str) else json.dumps(result))
    if epochs:
        rows = []
        for epoch in range(epochs):
            accuracy = end * (1 - 0.9 * math.exp(-(epoch + 1) / 3))
            loss = 2.3 * (1 - accuracy) + 0.05
            rows.append({"epoch": epoch, "step": 39 * (epoch + 1), "train/loss": loss * 0.9, "val/loss": loss,
                         "val/acc": accuracy, "lr": 0.003, "seconds": 6.0 * (epoch + 1)})  # fmt: skip
        (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_sweep(sweep: Path, jobs: Sequence[dict[str, Any]]) -> Path:
    """Writes sweep.json. A job needs its ``cell``; the rest follows from it and from the order."""
    sweep.mkdir(parents=True, exist_ok=True)
    full = []
    for number, job in enumerate(jobs):
        cell = job["cell"]
        folder = f"{number}-{cell['model']}-{cell['conv']}-{cell['act']}"
        full.append({"number": number, "id": f"c{number:012x}", "overrides": overrides(cell), "folder": folder,
                     "same_as": None, "excluded": None, "cost": None, "estimate_s": None, **job})  # fmt: skip
    (sweep / "sweep.json").write_text(json.dumps({"command": "python train.py -m …", "jobs": full}))
    return sweep


def make_sweep(sweep: Path, cells: int = 18, seeds: int = 1, epochs: int = 15) -> Path:
    """A sweep of 18 cells (3 × 3 × 2), or of any number (5 × 5 × 5 × widths), one job each of several bad ends."""
    n_models, n_convs, n_acts = (3, 3, 2) if cells <= 18 else (5, 5, 5)
    widths = [1.0] if cells <= 18 else [round(0.4 + 0.2 * i, 1) for i in range(math.ceil(cells / 125))]
    grid = itertools.product(widths, [*MODELS][:n_models], [*CONVS][:n_convs], [*ACTS][:n_acts])
    jobs = []
    for width, model, conv, act in itertools.islice(grid, cells):
        more = {"width": width} if len(widths) > 1 else {}
        jobs += [{"cell": make_cell(model, conv, act, seed, **more)} for seed in range(seeds)]
    total = len(jobs)
    bad = {total // 3: "failed", total // 2: "killed", total - 4: "running", total - 3: "lost", total - 1: "waiting"}
    jobs[total - 2]["excluded"] = "cost/params 31.4 M is above sweep.max_params=30M"
    copy = total // 4
    jobs[copy]["same_as"] = copy - seeds
    write_sweep(sweep, jobs)
    for number, job in enumerate(jobs):
        cell, status = job["cell"], bad.get(number)
        folder = sweep / f"{number}-{cell['model']}-{cell['conv']}-{cell['act']}"
        if status == "waiting" or job.get("excluded") or job.get("same_as") is not None:
            continue
        result: dict[str, Any] | None = make_result(cell)
        if status == "failed":
            error = "test/loss is not a number: training diverged. Type a smaller optim.lr."
            result |= {"status": "failed", "metrics": {}, "error": error}
        elif status == "killed":
            result |= {
                "status": "failed",
                "metrics": {},
                "error": "killed by SIGKILL (out of memory?)\nlast line: epoch 3/15",
            }
        elif status in ("running", "lost"):
            result = None
        accuracy = result["metrics"].get("test/acc", 0.8) if result else 0.8
        write_run(folder, result, epochs // 2 if status else epochs, accuracy)
        if status == "running":
            (folder / "job.lock").touch()
    return sweep


def hold_lock(path: Path) -> Any:
    """Holds a lock as a job does; the caller must be another process than the one that looks."""
    file = path.open("w")
    fcntl.lockf(file, fcntl.LOCK_EX)
    return file


if __name__ == "__main__":
    make_sweep(Path(sys.argv[1]), *map(int, sys.argv[2:]))
