"""Benchmark `zoo.tabulate` and ``python -m zoo table`` in cells/s, against counting each cell separately.

The baseline is the straightforward implementation: `zoo.build` and `zoo.cost` of each cell on the meta device. Every
cell is checked against it. Only the command's time includes the import of torch and timm. Takes two minutes on an idle
core.

    python benchmarks/table.py --output table.json
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

from turns import ROOT, Turns, options, show, text, write

import zoo
from zoo.costs.table import CellCost, all_convs
from zoo.devices import cores

MODELS = ("resnet", "mobilenet", "efficientnet_b0", "efficientnet_b3", "efficientnet_b7")
BASELINE = "each cell for itself"
HOW = ("wall", "cpu")


def alone(cells: list[CellCost]) -> None:
    """Build and count every cell separately.

    Raises:
        SystemExit: The table's costs of a cell differ.
    """
    for cell in cells:
        with zoo.meta_init():
            net = zoo.build(cell.model, cell.conv)
        if zoo.cost(net, cell.cost.image_size) != cell.cost:
            raise SystemExit(f"{cell.model} {cell.conv}: the table counts otherwise")


def command() -> None:
    words = [sys.executable, "-m", "zoo", "table", "--models", ",".join(MODELS), "--format", "json"]
    subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def timed(call: Callable[[], object]) -> dict[str, float]:
    """Return the wall and CPU seconds of a call, including its child processes."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    call()
    return {"wall": time.perf_counter() - start, "cpu": sum(os.times()[:4]) - before}


def main() -> None:
    given = options(__doc__, rounds=3).parse_args()
    cells = [cell for cell in zoo.tabulate(MODELS) if cell.cost]
    variants: dict[str, Callable[[], object]] = {
        BASELINE: lambda: alone(cells),
        "zoo.tabulate": lambda: zoo.tabulate(MODELS),
        f"zoo.tabulate, {cores()} processes": lambda: zoo.tabulate(MODELS, processes=cores()),
        "python -m zoo table": command,
    }
    turns = {how: Turns(BASELINE, {name: [] for name in variants}) for how in HOW}
    for _ in range(given.rounds):
        for name, variant in variants.items():
            for how, seconds in timed(variant).items():
                turns[how].samples[name].append(seconds)
    rows = []
    for name in variants:
        row = [name, f"{len(cells) / turns['wall'].median(name):.0f}"]
        for how in HOW:
            row += [f"{turns[how].median(name):.2f}", text(turns[how].ratios(name))]
        rows.append(row)
    show(
        f"{len(cells)} cells of {len(MODELS)} model names × {len(all_convs())} kinds",
        ("", "cells/s", "wall s", "times faster", "CPU s", "times less"),
        rows,
    )
    write(given.output, {how: turns[how].samples for how in HOW})


if __name__ == "__main__":
    main()
