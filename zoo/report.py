"""Tables and a plot from the result files of runs. Needs neither torch nor Lightning."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from zoo import render
from zoo.errors import ConvzooError

Result = dict[str, Any]

COLUMNS = {
    "test acc": "test/acc",
    "params": "cost/params",
    "MACs": "cost/macs",
    "activations": "cost/activations",
    "train img/s": "speed/train_images_per_s",
    "infer img/s": "speed/infer_images_per_s",
    "latency ms": "speed/latency_ms",
    "fit s": "time/fit_s",
}
SCALING = ("scale", "phi", "depth", "width", "resolution", "match", "match_over", "match_miss", "image_size")
CHOICES = ("model", "variant", *SCALING, "conv", "act", "hardware", "data", "seed")


def load_results(folders: Iterable[str | Path]) -> list[Result]:
    """Reads every ``result.json`` at or below the folders, each with its ``folder`` added.

    Raises:
        ConvzooError: A folder that does not exist, or no result in any of them.
    """
    results = []
    for folder in map(Path, folders):
        if not folder.exists():
            raise ConvzooError(f"{folder} does not exist.")
        for path in sorted(folder.rglob("result.json")):
            try:
                results.append({**json.loads(path.read_text()), "folder": str(path.parent)})
            except (json.JSONDecodeError, TypeError):
                results.append({"status": "unreadable", "cell": {}, "metrics": {}, "folder": str(path.parent)})
    if not results:
        raise ConvzooError("no result.json in or below " + ", ".join(map(str, folders)) + ".")
    return results


def human(value: float | None, key: str) -> str:
    """A metric as people read it: 0.9815, 5.29 M, 12.4 G."""
    if not isinstance(value, (int, float)):
        return "–"
    if key.endswith("/acc"):
        return f"{value:.4f}"
    if not key.startswith("cost/"):
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"
    return render.short(value)


def _varying(results: list[Result]) -> list[str]:
    """The choices that tell these runs apart; model, conv and act always."""
    always = ("model", "conv", "act")
    return [c for c in CHOICES if c in always or len({str(r["cell"].get(c)) for r in results}) > 1]


def rows(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the comparison: best test accuracy first, what did not complete last, with its status."""
    choices = _varying(results)

    def order(result: Result) -> tuple[bool, float]:
        return result["status"] != "completed", -(result["metrics"].get("test/acc") or 0)

    body = []
    for r in sorted(results, key=order):
        metrics = [human(r["metrics"].get(key), key) for key in COLUMNS.values()]
        if r["status"] != "completed":
            metrics[0] = r["status"]
        body.append([str(r["cell"].get(c, "–")) for c in choices] + metrics)
    return [*choices, *COLUMNS], body


def print_table(results: list[Result], title: str | None = None) -> None:
    """Prints the comparison as a table."""
    header, body = rows(results)
    render.console(200).print(render.terminal(header, body, CHOICES, title))


def markdown(results: list[Result]) -> str:
    """The comparison as a Markdown table."""
    return render.markdown(*rows(results), CHOICES)


def print_result(result: Result, folder: str | Path) -> None:
    """Prints one run: its cell, its metrics with their spread, where it lies and how to repeat it."""
    cell, metrics = result["cell"], result["metrics"]
    table = Table(title=f"{cell['model']} · {cell['conv']} · {cell['act']}: {result['status']}", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("cell", "  ".join(f"{k}={v}" for k, v in cell.items()))
    for name, key in (("test accuracy", "test/acc"), ("validation accuracy", "val/acc")):
        if key in metrics:
            table.add_row(name, human(metrics[key], key))
    for name, key, unit in (
        ("parameters", "cost/params", ""),
        ("MACs", "cost/macs", " (multiply-adds, one image)"),
        ("activations", "cost/activations", " (elements, one image)"),
    ):
        if key in metrics:
            table.add_row(name, f"{metrics[key]:,}{unit}")
    environment = result["environment"]
    for name, key, unit in (
        ("training", "speed/train_images_per_s", "images/s"),
        ("inference", "speed/infer_images_per_s", "images/s"),
        ("latency", "speed/latency_ms", "ms, one image"),
    ):
        if key in metrics:
            table.add_row(
                name, f"{human(metrics[key], key)} {unit} (median; IQR {human(metrics.get(key + '_iqr'), key)})"
            )
    if "time/fit_s" in metrics:
        table.add_row("time to fit", f"{metrics['time/fit_s']:.1f} s")
    measured = (f"{k} {environment[k]}" for k in ("device", "devices", "dtype", "threads") if k in environment)
    table.add_row("measured on", ", ".join(measured))
    table.add_row("run", str(folder))
    table.add_row("again", result["command"])
    render.console(120).print(table)


def plot(results: list[Result], path: str | Path) -> None:
    """Draws test accuracy against parameters, MACs and training speed, a colour a conv kind, a marker a model.

    Raises:
        ConvzooError: matplotlib is not installed, or no run has completed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
    except ImportError:
        raise ConvzooError('a plot needs matplotlib: pip install "convzoo[plot]".') from None
    done = [r for r in results if r["status"] == "completed"]
    if not done:
        raise ConvzooError("no completed run to plot.")
    models, convs = (sorted({r["cell"][c] for r in done}) for c in ("model", "conv"))
    acts = sorted({r["cell"]["act"] for r in done})
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    panels = (
        ("cost/params", "parameters"),
        ("cost/macs", "MACs per image"),
        ("speed/train_images_per_s", "training images/s"),
    )
    for axis, (key, label) in zip(axes, panels, strict=True):
        for r in done:
            if key in r["metrics"] and "test/acc" in r["metrics"]:
                cell, colour = r["cell"], f"C{convs.index(r['cell']['conv'])}"
                filled = acts.index(cell["act"]) == 0 or len(acts) == 1
                axis.scatter(
                    r["metrics"][key],
                    r["metrics"]["test/acc"],
                    marker="os^DvP*X"[models.index(cell["model"]) % 8],
                    s=55,
                    edgecolors=colour,
                    facecolors=colour if filled else "none",
                )
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test accuracy")
    handles = [axes[0].scatter([], [], marker="os^DvP*X"[i % 8], color="grey", label=m) for i, m in enumerate(models)]
    handles += [axes[0].scatter([], [], marker="s", color=f"C{i}", label=c) for i, c in enumerate(convs)]
    if len(acts) > 1:
        handles.append(axes[0].scatter([], [], color="grey", label=acts[0]))
        others = ", ".join(acts[1:])
        handles.append(axes[0].scatter([], [], facecolors="none", edgecolors="grey", label=others))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=150)
