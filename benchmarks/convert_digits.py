"""Measure the accuracy a trained dense network loses by conversion to separable convolutions, and its recovery.

Trains a dense ResNet-18 on digits, converts it at several ranks (`zoo.convert`, without training), and tests each
converted network with its old and with re-estimated BatchNorm statistics. Then fine-tunes some of them for one epoch
(``init=svd``) and trains the same cells from scratch. Writes a table as JSON and a plot next to it; takes about eight
minutes on one core.

    python benchmarks/convert_digits.py --output docs/convert_digits
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

import zoo
from lightning_modules import make_data, run_cell

ROOT = Path(__file__).resolve().parents[1]
IMAGE_SIZE = 16
BASE = ("model=resnet", "seed=0", "logger=none", "hardware=cpu", f"data.image_size={IMAGE_SIZE}")
RANKS = {
    "separable": (None, 2, 3, 4, 6, 9),
    "blueprint": (None, 2, 3, 4, 6, 9),
    "spatial": (None, 2, 4, 8, 0.5, 0.9, 0.99),
}
"""Ranks tested without training. Integer: singular values kept; below 1: energy kept; None: the kind's default."""

TUNED = {"separable": (None, 3), "blueprint": (None, 3), "spatial": (None, 0.9)}
"""Ranks that are also fine-tuned for one epoch."""

TICKS = (0.25, 0.5, 1, 2, 4, 8, 16)
TUNING = ("trainer.max_epochs=1", "optim.lr=0.001")


def cell(*overrides: str) -> dict[str, Any]:
    """Return the configuration that these overrides produce on the command line."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_container(compose("config", [*BASE, *overrides]), resolve=True)


def accuracy(net: torch.nn.Module, data: Any) -> float:
    """Return the top-1 accuracy on the test images."""
    net.eval()
    with torch.inference_mode():
        right = [net(data.prepare(x, training=False)).argmax(1) == y for x, y in data.test_dataloader()]
    return torch.cat(right).float().mean().item()


def converted(checkpoint: str, data: Any, conv: str, rank: int | float | None) -> dict[str, Any]:
    """Return the row of a network that is converted but not fine-tuned."""
    net = zoo.load(checkpoint).to(memory_format=torch.channels_last)
    report = zoo.convert(net, conv, rank)
    row = {"conv": conv, "rank": rank, "what": "converted", "energy_min": report.energy_min}
    row |= {"energy_mean": report.energy_mean, "stale_bn": accuracy(net, data)}
    torch.manual_seed(0)
    zoo.reestimate_batchnorm(net, (data.prepare(x, training=True) for x, _ in data.train_dataloader()))
    return row | {"test_acc": accuracy(net, data)} | costs(net)


def costs(net: torch.nn.Module) -> dict[str, int]:
    cost = zoo.cost(net, IMAGE_SIZE, in_chans=1)
    return {"params": cost.params, "macs": cost.macs}


def trained(folder: Path, what: str, conv: str, *overrides: str, rank: int | float | None = None) -> dict[str, Any]:
    """Train a cell with convzoo and return its row."""
    result = run_cell(cell(f"conv={conv}", *overrides), folder, "python benchmarks/convert_digits.py")
    metrics = result["metrics"]
    row = {"conv": conv, "rank": rank, "what": what, "test_acc": metrics["test/acc"], "fit_s": metrics["time/fit_s"]}
    row |= {k: metrics[f"init/{k}"] for k in ("energy_min", "energy_mean") if f"init/{k}" in metrics}
    return row | {"params": metrics["cost/params"], "macs": metrics["cost/macs"], "checkpoint": result["checkpoint"]}


def measure(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """Return all rows, the dense network's first."""
    full = f"trainer.max_epochs={epochs}"
    rows = [trained(folder / "dense", f"dense, {epochs} epochs", "native", full)]
    checkpoint = rows[0]["checkpoint"]
    config = cell()
    data = make_data(config["data"], config["seed"])
    data.setup("fit")
    for conv, ranks in RANKS.items():
        rows += [converted(checkpoint, data, conv, rank) for rank in ranks]
        for rank in TUNED[conv]:
            given = ("init=svd", f"init.checkpoint={checkpoint}", *([f"init.rank={rank}"] if rank else []), *TUNING)
            rows.append(trained(folder / f"{conv}-{rank}", "converted, 1 epoch", conv, *given, rank=rank))
        rows.append(trained(folder / f"{conv}-1", "scratch, 1 epoch", conv, "trainer.max_epochs=1"))
        rows.append(trained(folder / f"{conv}-scratch", f"scratch, {epochs} epochs", conv, full))
    return [{k: v for k, v in row.items() if k != "checkpoint"} for row in rows]


def print_table(rows: list[dict[str, Any]]) -> None:
    table = Table()
    for name in ("conv", "what", "rank"):
        table.add_column(name)
    for name in ("params", "MACs", "energy mean", "least", "acc, old BN", "test acc"):
        table.add_column(name, justify="right")
    for r in rows:
        shares = [f"{r[k]:.4f}" if k in r else "–" for k in ("energy_mean", "energy_min", "stale_bn", "test_acc")]
        rank = "own" if r["rank"] is None else str(r["rank"])
        table.add_row(r["conv"], r["what"], rank, f"{r['params'] / 1e6:.2f} M", f"{r['macs'] / 1e6:.1f} M", *shares)
    Console(width=120).print(table)


def _millions(row: dict[str, Any]) -> float:
    return row["params"] / 1e6


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot test accuracy against parameters, with one panel per conv kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots(1, len(RANKS), sharex=True, sharey=True)
    dense, *others = rows
    for axis, conv in zip(axes, RANKS, strict=True):
        mine = sorted((r for r in others if r["conv"] == conv), key=_millions)
        line = axis.axhline(dense["test_acc"], color="grey", ls=":", label=dense["what"])
        axis.scatter(_millions(dense), dense["test_acc"], color=line.get_color(), marker="D")
        kept = [r for r in mine if r["what"] == "converted"]
        params = [_millions(r) for r in kept]
        axis.plot(params, [r["stale_bn"] for r in kept], "x--", color="C3", label="converted, old BatchNorm")
        axis.plot(params, [r["test_acc"] for r in kept], "o-", color="C0", label="converted, BatchNorm re-estimated")
        for i, what in enumerate(sorted({r["what"] for r in mine} - {"converted"})):
            points = [(_millions(r), r["test_acc"]) for r in mine if r["what"] == what]
            style = {"marker": "*s^"[i], "color": ("C2", "C1", "C4")[i], "s": 80, "zorder": 3, "alpha": 0.8}
            axis.scatter(*zip(*points, strict=True), label=what, **style)
        axis.set(xscale="log", xlabel="million parameters", title=conv)
        axis.set_xticks(TICKS, map(str, TICKS), minor=False)
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test accuracy")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="of the dense network, and of those from scratch")
    parser.add_argument("--output", type=Path, default=Path("docs/convert_digits"), help="without .json and .svg")
    parser.add_argument("--runs", type=Path, default=Path("runs/convert_digits"), help="folder of the runs")
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    rows = measure(given.runs, given.epochs)
    content = {"image_size": IMAGE_SIZE, "epochs": given.epochs, "torch": torch.__version__, "rows": rows}
    given.output.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    print_table(rows)
    plot(rows, given.output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
