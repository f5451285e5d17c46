"""Benchmark a sweep of 18 cells on digits against one plain Lightning + torchvision script per cell.

Networks, recipe, batch size, epochs and split are the same; both use W&B offline. Each round has its own seed and runs
the sweep and the scripts in turn. With several numbers of epochs, the fixed cost per cell is separated from the cost
per epoch. The whole comparison takes hours on two cores; the first command is a quick look:

    python benchmarks/sweep18.py --cells 3 --epochs 1,3 --rounds 1
    python benchmarks/sweep18.py --epochs 15 --rounds 3 --output sweep18.json
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from turns import ROOT, Turns, options, show, text, write

GRIDS = {
    1: (("mobilenet",), ("separable",), ("swish",)),
    3: (("resnet", "effnet", "mobilenet"), ("separable",), ("swish",)),
    6: (("resnet", "effnet", "mobilenet"), ("separable",), ("relu", "swish")),
    9: (("resnet", "effnet", "mobilenet"), ("standard", "separable", "spatial"), ("swish",)),
    18: (("resnet", "effnet", "mobilenet"), ("standard", "separable", "spatial"), ("relu", "swish")),
}
"""Models, conv kinds and activations by the number of cells."""

ONE, TWO = "plain, one at a time", "plain, two at a time"
Accuracies = dict[str, float]


def environment(**more: str) -> dict[str, str]:
    left_out = ("OMP_NUM_THREADS", "WANDB_MODE", "WANDB_API_KEY")
    kept = {k: v for k, v in os.environ.items() if k not in left_out}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {"WANDB_MODE": "offline", "PYTHONPATH": os.pathsep.join(paths)} | more


def ours(cells: int, epochs: int, seed: int, folder: Path) -> Accuracies:
    models, convs, acts = map(",".join, GRIDS[cells])
    choices = (f"model={models}", f"conv={convs}", f"act={acts}", f"seed={seed}")
    more = (f"trainer.max_epochs={epochs}", f"hydra.sweep.dir={folder}")
    _run([str(ROOT / "train.py"), "-m", *choices, *more], folder.parent / "sweep.txt").wait()
    found = {}
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text())
        if result["status"] != "completed":
            raise SystemExit(f"{path.parent}: {result['error']}")
        found[" ".join(result["cell"][k] for k in ("model", "conv", "act"))] = result["metrics"]["test/acc"]
    return found


def plain(cells: int, epochs: int, seed: int, folder: Path, at_once: int) -> Accuracies:
    """Run one script per cell, ``at_once`` at a time, with the cores divided among them."""
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // at_once))} if at_once > 1 else {}
    waiting, running = list(itertools.product(*GRIDS[cells])), []
    while waiting or running:
        while waiting and len(running) < at_once:
            model, conv, act = waiting.pop(0)
            place = folder / f"{model} {conv} {act}"
            place.mkdir(parents=True)
            choices = ["--model", model, "--conv", conv, "--act", act, "--seed", str(seed), "--epochs", str(epochs)]
            script = str(ROOT / "benchmarks" / "plain" / "train_plain.py")
            running.append(_run([script, *choices, "--folder", str(place)], place / "log.txt", **threads))
        time.sleep(0.02)
        for process in [p for p in running if p.poll() is not None]:
            running.remove(process)
            if process.returncode:
                raise SystemExit(f"a plain script failed; its log is below {folder}")
    return {p.parent.name: json.loads(p.read_text())["test/acc"] for p in folder.glob("*/result.json")}


def _run(words: list[str], log: Path, **more: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, *words], cwd=log.parent, env=environment(**more), stdout=out, stderr=out
        )


def fit(seconds: dict[int, list[float]]) -> tuple[float, float]:
    """Return the fixed seconds and the seconds per epoch, by linear regression through the medians."""
    points = {epochs: statistics.median(found) for epochs, found in seconds.items()}
    line = statistics.linear_regression(list(points), list(points.values()))
    return line.intercept, line.slope


def main() -> None:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--cells", type=int, choices=GRIDS, default=18)
    parser.add_argument("--epochs", default="15", help="several, such as 1,3: start-up and epochs are told apart (15)")
    parser.add_argument("--two", action="store_true", help="the plain scripts two at a time as well")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the runs' files there")
    given = parser.parse_args()
    numbers = [int(n) for n in given.epochs.split(",")]
    variants = {"convzoo": ours, ONE: lambda *a: plain(*a, at_once=1)}
    variants |= {TWO: lambda *a: plain(*a, at_once=2)} if given.two else {}
    turns = {n: Turns(ONE, {name: [] for name in variants}) for n in numbers}
    accuracies: dict[str, list[Accuracies]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as temporary:
        place = (given.keep or Path(temporary)).resolve()
        for seed, n in itertools.product(range(given.rounds), numbers):
            # Alternate the order of the variants, too.
            order = list(variants) if (seed + numbers.index(n)) % 2 == 0 else list(variants)[::-1]
            for name in order:
                folder = place / f"seed{seed}-epochs{n}" / name.replace(" ", "_").replace(",", "") / "runs"
                folder.mkdir(parents=True)
                start = time.perf_counter()
                found = variants[name](given.cells, n, seed, folder)
                turns[n].samples[name].append(time.perf_counter() - start)
                if len(found) != given.cells:
                    raise SystemExit(f"{name}: {len(found)} of {given.cells} cells have a result; see {folder}")
                accuracies[name] += [found] if n == max(numbers) else []
                print(f"seed {seed}, {n} epochs, {name}: {turns[n].samples[name][-1]:.1f} s", flush=True)
        report(given.cells, turns, accuracies, given.output)


def report(cells: int, turns: dict[int, Turns], accuracies: dict[str, list[Accuracies]], output: Path | None) -> None:
    """Print the tables and write the results to a file."""
    results: dict[str, Any] = {"cells": cells, "seconds": {n: t.samples for n, t in turns.items()}}
    rows = []
    for n, found in turns.items():
        for name in found.samples:
            each = [statistics.mean(a.values()) for a in accuracies[name]] if n == max(turns) else []
            accuracy = f"{statistics.mean(each):.4f}" if each else "–"
            rows.append([f"{name}, {n} epochs", f"{found.median(name):.1f}", text(found.ratios(name)), accuracy])
    show(f"{cells} cells on digits", ("", "s", f"times faster than {ONE}", "test acc, mean"), rows)
    if len(turns) > 1:
        lines = {name: fit({n: t.samples[name] for n, t in turns.items()}) for name in accuracies}
        rows = [[name, f"{once / cells:.2f}", f"{epoch / cells:.2f}"] for name, (once, epoch) in lines.items()]
        show("Seconds a cell", ("", "once", "an epoch"), rows)
        results["once_and_epoch_s"] = lines
    results["accuracy"] = {}
    rows = []
    for cell in sorted(accuracies[ONE][0]):
        row = [cell]
        for name, found in accuracies.items():
            values = [a[cell] for a in found]
            results["accuracy"].setdefault(cell, {})[name] = values
            sd = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            row.append(f"{statistics.mean(values):.4f}{sd}")
        rows.append(row)
    show(f"Test accuracy after {max(turns)} epochs: mean ± sd over seeds", ("cell", *accuracies), rows)
    write(output, results)


if __name__ == "__main__":
    main()
