"""What every benchmark shares: variants run in turn, ratios with quartiles, a JSON file that names the machine.

The machine's speed drifts while a benchmark runs, so no time is compared with one from another minute: each round runs
every variant once, and a variant's ratio is taken to the baseline of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@dataclass
class Turns:
    """Samples of several variants, taken in turn.

    Attributes:
        baseline: The variant that the others are compared with.
        samples: Variant → one number a round, smaller is better (seconds).
    """

    baseline: str
    samples: dict[str, list[float]] = field(default_factory=dict)

    def ratios(self, variant: str) -> tuple[float, float, float]:
        """How many times faster than the baseline: lower quartile, median, upper quartile of the rounds' ratios."""
        pairs = zip(self.samples[self.baseline], self.samples[variant], strict=True)
        found = [base / own for base, own in pairs]
        if len(found) < 2:
            return (found[0],) * 3
        return tuple(statistics.quantiles(found, n=4, method="inclusive"))

    def median(self, variant: str) -> float:
        return statistics.median(self.samples[variant])


def in_turn(variants: Mapping[str, Callable[[], float]], baseline: str, rounds: int, title: str = "") -> Turns:
    """Runs every variant once a round; each returns its own seconds (warm-up and set-up are its own business)."""
    turns = Turns(baseline, {name: [] for name in variants})
    bar = tqdm(total=rounds * len(variants), desc=title, leave=False, disable=not sys.stderr.isatty())
    with bar:
        for _ in range(rounds):
            for name, variant in variants.items():
                turns.samples[name].append(variant())
                bar.update()
    return turns


def block(step: Callable[[], object], seconds: float = 0.2) -> Callable[[], float]:
    """A variant for `in_turn`: seconds per call, over as many calls as last about this long. Warms up at once."""
    import torch

    from zoo.speeds.timing import timed

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    timed(step, device)
    calls = max(1, round(seconds / timed(step, device)))
    return lambda: timed(step, device, calls) / calls


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(width=160).print(table)


def text(quartiles: tuple[float, float, float]) -> str:
    """``2.31 (2.25 to 2.40)``: the median and the quartiles."""
    low, middle, high = quartiles
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def options(description: str, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"times that every variant runs ({rounds})")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write all samples there")
    return parser


def machine() -> dict[str, Any]:
    """What a figure holds for: processor, cores, GPU, versions."""
    import torch

    from zoo.devices import device_name

    cpu = device_name(torch.device("cpu"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "cpu": f"{cpu}, {capability}",
        "cores": cores,
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write(path: Path | None, results: Any) -> None:
    """Writes the results with the machine beside them; None: nowhere."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
        print(f"written: {path}")
