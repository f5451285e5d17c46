"""Prints the cost table and one cell's layers: in the terminal, and as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from zoo import render
from zoo.costs.budget import SIZES
from zoo.speeds.noise import LEGEND, MARK

if TYPE_CHECKING:
    from zoo.costs.counting import LayerCost
    from zoo.costs.table import CellCost

FORMATS = ("terminal", "markdown", "csv", "json")
TEXTS = ("model", "conv", "act", "layer", "kind", "output")
DTYPES = ("fp32", "bf16", "int8")
SPEEDS = ("train img/s", "infer img/s", "latency ms", "of peak")
NOTE = "MACs: multiply-adds of the forward pass for one image (FLOPs: twice that). Train MACs: forward and backward."


def show_cells(cells: Sequence[CellCost], form: str, over_budget: int = 0, over: str | None = None) -> None:
    """Prints one row per cell; terminal and Markdown also say why cells were refused and how many were left out.

    Args:
        cells: Rows of the table.
        form: One of `FORMATS`.
        over_budget: Number of cells left out.
        over: ``width`` or ``phi`` if a budget was matched; adds columns for its value and for the miss.
    """
    view = {"json": _cell_record, "csv": _cell_timm}.get(form, _cell_text)
    matched, speed = (_matched_text, _speed_text) if view is _cell_text else (_matched, _speed)
    timed = any(cell.speed or cell.untimed for cell in cells)
    _print([view(c) | (matched(c, over) if over else {}) | (speed(c) if timed else {}) for c in cells], form)
    if view is _cell_text:
        refusals: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
        for cell in cells:
            if cell.refused:
                convs, acts = refusals.setdefault((cell.model, cell.refused), ({}, {}))
                convs[cell.conv] = acts[cell.act] = None
        for (model, reason), (convs, acts) in refusals.items():
            print(f"{model} × {', '.join(convs)} × {', '.join(acts)} refused: {reason}\n")
        _explain_speeds(cells)
        _explain_uncounted(name for cell in cells if cell.cost for name in cell.cost.uncounted)
        refused = sum(not c.cost for c in cells)
        print(f"{len(cells) - refused} cells shown, {over_budget} over budget, {refused} refused. {NOTE}")


def show_layers(layers: Sequence[LayerCost], form: str = "terminal", title: str | None = None) -> None:
    """Prints one row per layer; terminal and Markdown also show the sums and the memory of the weights."""
    from zoo.costs.counting import WEIGHT_BYTES  # imports torch, which `python -m zoo report` does without

    view = {"json": vars, "csv": _layer_csv}.get(form, _layer_text)
    _print([view(layer) for layer in layers], form, title)
    if form in ("terminal", "markdown"):
        params, macs, activations, train_macs = (sum(getattr(layer, key) for layer in layers) for key in SIZES)
        print(f"Sum: {params:,} params, {macs:,} MACs, {activations:,} activations, {train_macs:,} train MACs.")
        memory = ", ".join(f"{params * WEIGHT_BYTES[dtype] / 2**20:.2f} MiB in {dtype}" for dtype in DTYPES)
        print(f"Weights: {memory}. {NOTE}")
        _explain_uncounted(name for layer in layers for name in layer.uncounted)


def _explain_uncounted(calls: Iterable[str]) -> None:
    if names := sorted({call.rpartition(" ×")[0] for call in calls}):
        print(f"{render.MORE}: and more. Not counted, because their cost is unknown: {', '.join(names)}.")


def _macs(macs: int, uncounted: Sequence[str]) -> str:
    return render.short(macs) + (f" {render.MORE}" if uncounted else "")


def _print(rows: Sequence[dict[str, Any]], form: str, title: str | None = None) -> None:
    header, body = list(rows[0]) if rows else [], [list(row.values()) for row in rows]
    if form == "json":
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    elif form == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([header, *body])
    elif form == "markdown":
        print(render.markdown(header, body, TEXTS))
    else:
        render.console(200).print(render.terminal(header, body, TEXTS, title))


def _choices(cell: CellCost) -> dict[str, str]:
    return {"model": cell.model, "conv": cell.conv, "act": cell.act}


def _cell_record(cell: CellCost) -> dict[str, Any]:
    cost = cell.cost
    return {
        **_choices(cell),
        "image_size": cost and list(cost.image_size),
        **{key: cost and getattr(cost, key) for key in SIZES},
        "weight_bytes": cost and {dtype: cost.weight_bytes(dtype) for dtype in DTYPES},
        "uncounted": cost and list(cost.uncounted),
        "refused": cell.refused,
    }


def _cell_timm(cell: CellCost) -> dict[str, Any]:
    """Returns a row with timm's column names and units (millions and billions), with all digits."""
    cost = cell.cost
    return {
        **_choices(cell),
        "img_size": cost and str(cost.image_size),
        "gmacs": cost and cost.macs / 1e9,
        "macts": cost and cost.activations / 1e6,
        "param_count": cost and cost.params / 1e6,
        "train_gmacs": cost and cost.train_macs / 1e9,
        "refused": cell.refused,
    }


def _cell_text(cell: CellCost) -> dict[str, str]:
    cost = cell.cost
    return {
        **_choices(cell),
        "image": str(cost.image_size) if cost else "–",
        "params": render.short(cost.params) if cost else "refused",
        "MACs": _macs(cost.macs, cost.uncounted) if cost else "–",
        "activations": render.short(cost.activations) if cost else "–",
        "train MACs": render.short(cost.train_macs) if cost else "–",
    }


def _matched(cell: CellCost, over: str) -> dict[str, Any]:
    """Returns the columns of the match. The miss is relative to the budget: 0.01 is 1 % above."""
    found = cell.match
    return {over: found and found.value, "budget": found and found.budget, "miss": found and found.miss}


def _matched_text(cell: CellCost, over: str) -> dict[str, str]:
    found = cell.match
    symbol = {"phi": "φ"}.get(over, over)
    return {symbol: f"{found.value:g}" if found else "–", "miss": f"{found.miss:+.1%}" if found else "–"}


def _speed(cell: CellCost) -> dict[str, Any]:
    found = cell.speed
    row: dict[str, Any] = {}
    for key in ("train_images_per_s", "infer_images_per_s", "latency_ms"):
        spread = found and getattr(found, key)
        row |= {key: spread and spread.median, f"{key}_iqr": spread and spread.iqr}
        row[f"{key}_noisy"] = spread and spread.noisy
    for key in ("share_of_peak", "batch_size", "device"):
        row[key] = found and getattr(found, key)
    return row | {"untimed": cell.untimed}


def _speed_text(cell: CellCost) -> dict[str, str]:
    found = cell.speed
    if not found:
        return dict.fromkeys(SPEEDS, "–")
    spreads = found.train_images_per_s, found.infer_images_per_s, found.latency_ms
    texts = [f"{spread.median:,.3g}" if spread.median < 1000 else f"{spread.median:,.0f}" for spread in spreads]
    texts = [f"{text} {MARK}" if spread.noisy else text for text, spread in zip(texts, spreads, strict=True)]
    return dict(zip(SPEEDS, [*texts, f"{found.share_of_peak:.1%}"], strict=True))


def _explain_speeds(cells: Sequence[CellCost]) -> None:
    for cell in cells:
        if cell.untimed:
            print(f"{cell.model} × {cell.conv} × {cell.act} failed when it ran: {cell.untimed}\n")
    if timed := [cell.speed for cell in cells if cell.speed]:
        print(
            f"Speeds: float32, channels last, batch {timed[0].batch_size}, {timed[0].device}, images on the device. "
            "Of peak: training's share of the device's peak in matrix products."
        )
    if any(s.noisy for t in timed for s in (t.train_images_per_s, t.infer_images_per_s, t.latency_ms)):
        print(LEGEND)


def _layer_csv(layer: LayerCost) -> dict[str, Any]:
    return {
        **vars(layer),
        "uncounted": "; ".join(layer.uncounted),
        "output_shape": "x".join(map(str, layer.output_shape or ())),
    }


def _layer_text(layer: LayerCost) -> dict[str, str]:
    def count(n: int) -> str:
        return render.short(n) if n else ""

    return {
        "layer": layer.name or "(the network)",
        "kind": layer.kind,
        "output": "×".join(map(str, layer.output_shape or ())),
        "params": count(layer.params),
        "MACs": _macs(layer.macs, layer.uncounted) if layer.macs or layer.uncounted else "",
        "activations": count(layer.activations),
        "train MACs": count(layer.train_macs),
    }
