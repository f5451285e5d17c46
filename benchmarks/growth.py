"""Benchmark scaling: networks over image size, batch size and width, the zoo's commands over the number of cells.

Training steps and inference of each variant alternate with plain eager float32 (contiguous, AdamW's for-loop
implementation, as in most scripts); the ratio is the variant's speed-up at that very point. Then times ``python -m zoo
table``, ``report`` and a sweep's plan for growing numbers of cells. Takes four minutes on an idle core.

    python benchmarks/growth.py --output growth.json
"""

from __future__ import annotations

import contextlib
import copy
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from turns import ROOT, block, in_turn, options, show, text, write

import zoo
from zoo.__main__ import main as zoo_command
from zoo.backbones.stem import stem_for
from zoo.costs.table import all_convs
from zoo.speeds.network import TrainingStep
from zoo.speeds.plan import PLAIN, PLANS, Plan

sys.path.insert(0, str(ROOT / "tests"))

from synthetic_sweep import make_sweep

BASELINE = PLAIN.name


@dataclass(frozen=True)
class Point:
    """Settings at which a network is measured."""

    model: str
    image_size: int = 32
    batch_size: int = 32
    width: float = 1.0


AXES: dict[str, list[dict[str, float]]] = {
    "image_size": [{"image_size": n, "batch_size": 8} for n in (96, 160, 224)],
    "batch_size": [{"batch_size": n} for n in (1, 8, 32, 128)],
    "width": [{"width": factor} for factor in (0.5, 1.0, 2.0)],
}
"""Values of each axis, with other deviations from `Point`. All points of an axis have the same stem: 32-pixel images
get the small one."""


VARIANTS = {plan.name: plan for plan in (PLAIN, PLANS["fp32"], PLANS["bf16_fast"])}


def steps(net: nn.Module, point: Point, plan: Plan) -> Iterator[Callable[[], object]]:
    """Yield a training step and then a forward pass of a network under a plan."""
    images = torch.randn(point.batch_size, 3, point.image_size, point.image_size)
    net = plan.apply(copy.deepcopy(net), images.device)
    if plan.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(len(images), dtype=torch.long)
    fused = {} if plan is PLAIN else {"fused": True}

    def context() -> AbstractContextManager:
        return plan.autocast(images.device)

    train = TrainingStep(net.train(), lambda p: torch.optim.AdamW(p, **fused), context)
    yield lambda: train(images, labels)

    def infer() -> None:
        with context(), torch.inference_mode():
            net(images)

    net.eval()
    yield infer


def measure(point: Point, rounds: int) -> dict[str, Any]:
    """Measure one point: images/s of each variant and its ratio to the baseline, for training and inference."""
    torch.manual_seed(0)
    stem = stem_for("auto", point.image_size)
    net = zoo.build(point.model, num_classes=10, width=point.width, stem=stem)
    row: dict[str, Any] = vars(point) | {"macs": zoo.cost(net, point.image_size).macs}
    pairs = {name: steps(net, point, variant) for name, variant in VARIANTS.items()}
    for what in ("train", "infer"):
        turns = in_turn({name: block(next(pair)) for name, pair in pairs.items()}, BASELINE, rounds, f"{point} {what}")
        for name in VARIANTS:
            row[f"{what} {name}"] = point.batch_size / turns.median(name)
            row[f"{what} {name} ratio"] = turns.ratios(name)
    return row


def networks(models: list[str], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Measure all points; return the rows of each axis, one per model and value."""
    found: dict[str, list[dict[str, Any]]] = {}
    for axis, places in AXES.items():
        found[axis] = [measure(replace(Point(model), **place), rounds) for model in models for place in places]
        columns = [f"{what}: {name}" for what in ("train", "infer") for name in VARIANTS]
        body = []
        for row in found[axis]:
            cells = []
            for what in ("train", "infer"):
                for name in VARIANTS:
                    rate = f"{row[f'{what} {name}']:,.0f}"
                    cells.append(f"{rate} img/s" if name == BASELINE else text(row[f"{what} {name} ratio"]))
            body.append([f"{row['model']} {row[axis]:g}", *cells])
        show(f"{axis}: images/s plainly, and times that", [axis, *columns], body)
    return found


def quietly(*arguments: str) -> None:
    """Run a command of ``python -m zoo`` in this process and discard its output."""
    with contextlib.redirect_stdout(io.StringIO()):
        if zoo_command(list(arguments)):
            raise SystemExit(f"python -m zoo {' '.join(arguments)} failed")


def plan(cells: int, folder: Path) -> None:
    """Plan a sweep in a new process: all it does before its first job, including imports."""
    grid = ("model=mobilenet,resnet", "conv=native,spatial", "act=relu,swish", f"seed=range({cells // 8})")
    command = [sys.executable, str(ROOT / "train.py"), "-m", *grid, "logger=none", "hardware=cpu", "sweep.plan=true"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def actions(folder: Path) -> Iterator[tuple[str, int, Callable[[], None]]]:
    """Yield each command's name, its number of cells and a function that runs it."""
    networks = ("resnet:18", "effnet:b0", "mobilenet:v1", "mobilenet:v2")
    for acts in ("relu", "native,relu,swish,gelu"):
        cells = len(networks) * len(all_convs()) * len(acts.split(","))
        yield "table", cells, partial(quietly, "table", "--models", ",".join(networks), "--acts", acts)
    for cells in (18, 180, 1800):
        yield "report", cells, partial(quietly, "report", str(make_sweep(folder / f"sweep{cells}", cells)))
    for cells in (8, 40, 200):
        yield "plan", cells, partial(plan, cells, folder)


def commands() -> list[dict[str, Any]]:
    """Return the seconds of each command for each number of cells."""
    rows = []
    quietly("table", "--models", "resnet:18", "--convs", "native")
    with tempfile.TemporaryDirectory() as name:
        for command, cells, action in actions(Path(name)):
            start = time.perf_counter()
            action()
            rows.append({"command": command, "cells": cells, "seconds": time.perf_counter() - start})
    show(
        "commands",
        ["command and cells", "seconds", "ms a cell"],
        [
            [f"{r['command']} {r['cells']}", f"{r['seconds']:.2f}", f"{1e3 * r['seconds'] / r['cells']:.1f}"]
            for r in rows
        ],
    )
    return rows


def main() -> None:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--models", nargs="+", default=["mobilenetv2_100", "resnet18"], metavar="NAME")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads (1)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    write(given.output, {"networks": networks(given.models, given.rounds), "commands": commands()})


if __name__ == "__main__":
    main()
