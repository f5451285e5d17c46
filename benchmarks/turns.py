"""Run the variants of a benchmark in turn, print ratios with quartiles, and write samples with the machine's specs.

The machine's speed drifts during a benchmark, so times from different minutes are not compared: each round runs every
variant once, and a variant's ratio is relative to the baseline of the same round.
"""

from __future__ import annotations

import argparse
import json
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
        baseline: Name of the variant that the others are compared with.
        samples: One number per round (seconds, smaller is better) for each variant.
    """

    baseline: str
    samples: dict[str, list[float]] = field(default_factory=dict)

    def ratios(self, variant: str) -> tuple[float, float, float]:
        """Return the speed-up over the baseline: lower quartile, median and upper quartile of the rounds' ratios."""
        pairs = zip(self.samples[self.baseline], self.samples[variant], strict=True)
        found = [base / own for base, own in pairs]
        if len(found) < 2:
            return (found[0],) * 3
        return tuple(statistics.quantiles(found, n=4, method="inclusive"))

    def median(self, variant: str) -> float:
        return statistics.median(self.samples[variant])


def in_turn(variants: Mapping[str, Callable[[], float]], baseline: str, rounds: int, title: str = "") -> Turns:
    """Run every variant once per round.

    Args:
        variants: Functions by name; each returns its seconds and does its own set-up and warm-up.
        baseline: Name of the variant that the others are compared with.
        rounds: Number of rounds.
        title: Title of the progress bar.
    """
    turns = Turns(baseline, {name: [] for name in variants})
    bar = tqdm(total=rounds * len(variants), desc=title, leave=False, disable=not sys.stderr.isatty())
    with bar:
        for _ in range(rounds):
            for name, variant in variants.items():
                turns.samples[name].append(variant())
                bar.update()
    return turns


def block(step: Callable[[], object], seconds: float = 0.2) -> Callable[[], float]:
    """Return a variant for `in_turn` that measures seconds per call, and warm up immediately.

    Args:
        step: The function to time.
        seconds: Approximate duration of one sample; sets the number of calls.
    """
    import torch

    from zoo.speeds.timing import timed

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    timed(step, device)
    calls = max(1, round(seconds / timed(step, device)))
    return lambda: timed(step, device, calls) / calls


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(width=160).print(table)


def text(quartiles: tuple[float, float, float]) -> str:
    """Format the median and the quartiles: ``2.31 (2.25 to 2.40)``."""
    low, middle, high = quartiles
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def options(description: str, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"times that every variant runs ({rounds})")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write all samples there")
    return parser


def machine() -> dict[str, Any]:
    """Describe the machine of a measurement: processor, cores, threads, GPU, versions."""
    import torch

    from zoo.devices import cores, device_name

    cpu = device_name(torch.device("cpu"))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "cpu": f"{cpu}, {capability}",
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write(path: Path | None, results: Any) -> None:
    """Write the results and the machine's description to a JSON file; do nothing if the path is None."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
        print(f"written: {path}")
