"""Prints the speeds that ``task=time`` measured for one cell."""

from __future__ import annotations

from collections.abc import Mapping

from zoo import render
from zoo.report.metrics import human
from zoo.speeds.noise import LEGEND, MARK, is_noisy

ROWS = (
    ("train, with data", "speed/train_images_per_s", "img/s"),
    ("train, data there", "speed/step_images_per_s", "img/s"),
    ("  forward", "speed/forward_ms", "ms a batch"),
    ("  loss", "speed/loss_ms", "ms a batch"),
    ("  backward", "speed/backward_ms", "ms a batch"),
    ("  optimizer", "speed/optimizer_ms", "ms a batch"),
    ("  data (fetch, augment)", "speed/data_ms", "ms a batch"),
    ("train, one image", "speed/train_latency_ms", "ms a step"),
    ("inference", "speed/infer_images_per_s", "img/s"),
    ("inference, one image", "speed/latency_ms", "ms"),
)
SHARES = (
    ("waits for data", "speed/data_wait", "of the training loop's time"),
    ("train", "speed/train_share_of_peak", "of the peak of matrix products"),
    ("", "speed/train_share_of_bound", "of the roof (products or memory, whichever is lower)"),
    ("inference", "speed/infer_share_of_peak", "of the peak of matrix products"),
    ("", "speed/infer_share_of_bound", "of the roof"),
)
MEMORY = (
    ("memory: process", "speed/peak_memory_mb", "MiB at most"),
    ("  training adds", "speed/train_memory_mb", "MiB"),
    ("  inference adds", "speed/infer_memory_mb", "MiB"),
)


def marked(text: str, median: float, iqr: float | None) -> str:
    """Appends the noise mark to a formatted figure if it is noisy."""
    return f"{text} {MARK}" if iqr is not None and is_noisy(median, iqr) else text


def print_speeds(metrics: Mapping[str, float]) -> None:
    """Prints the ``speed/…`` metrics of a ``result.json`` written by ``task=time``."""
    rows = []
    for name, key, unit in ROWS:
        if (value := metrics.get(key)) is not None:
            iqr = metrics.get(f"{key}_iqr")
            rows.append([name, marked(human(value, key), value, iqr), human(iqr, key), unit])
    rows += [[name, f"{metrics[key]:.1%}", "", text] for name, key, text in SHARES if key in metrics]
    rows += [[name, human(metrics[key], key), "", text] for name, key, text in MEMORY if key in metrics]
    render.console(120).print(render.terminal(["", "median", "± IQR", "unit"], rows, ("", "unit")))
    if "speed/peak_gmacs_per_s" in metrics:
        noisy = " (the machine was restless)" if metrics.get("speed/peak_noisy") else ""
        print(
            f"Peaks measured here: {human(metrics['speed/peak_gmacs_per_s'], '')} GMAC/s in matrix products, "
            f"{human(metrics['speed/peak_gbytes_per_s'], '')} GB/s of memory{noisy}."
        )
    if any(MARK in row[1] for row in rows):
        print(LEGEND)
