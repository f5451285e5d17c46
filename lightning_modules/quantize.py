"""``python -m zoo quantize CHECKPOINT``: compare a trained network in int8 with its float32 original.

Calibrates on the run's training images, tests both networks on its test images, and times both on this CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path
from typing import Any

from rich.table import Table

from zoo import render
from zoo.errors import ConvzooError
from zoo.text import typed


def print_comparison(result: dict[str, Any]) -> None:
    """Prints both networks in one table, and the conditions of the measurement."""
    from lightning_modules.int8 import BATCH

    table = Table(title="{backbone} · {conv} · {act}".format(**result["network"]), title_justify="left")
    for name in ("", "test acc", "size MB", f"img/s (batch {BATCH})", "± IQR", "latency ms", "± IQR "):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    keys = {"test/acc": ".4f", "size_mb": ".2f", "speed/infer_images_per_s": ",.0f"}
    keys |= {"speed/infer_images_per_s_iqr": ",.0f", "speed/latency_ms": ".2f", "speed/latency_ms_iqr": ".2f"}
    float32, int8 = result["float32"], result["int8"]
    for name, row in (("float32", float32), ("int8", int8)):
        table.add_row(name, *(format(row[key], form) for key, form in keys.items()))
    size, latency = (float32[key] / int8[key] for key in ("size_mb", "speed/latency_ms"))
    rate = int8["speed/infer_images_per_s"] / float32["speed/infer_images_per_s"]
    gain = int8["test/acc"] - float32["test/acc"]
    table.add_row("", f"{gain:+.4f}", f"÷ {size:.2f}", f"× {rate:.2f}", "", f"÷ {latency:.2f}", "")
    console = render.console(120)
    console.print(table)
    layers, where = result["layers"], result["environment"]
    if layers["float"]:
        console.print(f"left in float: {', '.join(layers['float'])}", highlight=False)
    console.print(
        f"{layers['int8']} of {layers['all']} layers int8; calibrated on {result['calibration_images']} images; "
        f"compiled in {result['int8']['time/compile_s']:.0f} s. {where['device']}, {where['threads']} threads; "
        "float32 is eager, channels-last.",
        highlight=False,
    )


def _be_quiet() -> None:
    """Silences warnings of torch and torchao about each other, and about a GPU, which int8 does not need."""
    warnings.filterwarnings("ignore", ".*To copy construct from a tensor.*")
    warnings.filterwarnings("ignore", ".*No complete tensor found in the group.*")
    for name in ("torch.utils._pytree", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)


HELP = "compare a trained network in int8 with its float32 original"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="best.ckpt of a run")
    parser.add_argument("--images", metavar="N", type=int, default=512, help="calibration images (default 512)")
    parser.add_argument("--output", metavar="FILE.pt2", type=Path, help="default: int8.pt2 beside the checkpoint")


def run(given: argparse.Namespace) -> None:
    """Quantizes, compares and prints.

    Raises:
        ConvzooError: An option or the checkpoint is invalid.
        OSError: A file cannot be read or written.
    """
    output = given.output or given.checkpoint.with_name("int8.pt2")
    _be_quiet()
    if given.images < 1:
        raise ConvzooError(f"--images={given.images} is not allowed. Allowed: a whole number from 1.")
    if output.suffix != ".pt2" or not output.parent.is_dir():
        raise ConvzooError(
            f"--output={output} is not allowed. Allowed: a name ending in .pt2, in a folder that exists."
        )
    from lightning_modules.int8 import compare

    result = compare(given.checkpoint, output, given.images)
    output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print_comparison(result)
    print(f"{typed(output)} and {typed(output.with_suffix('.json'))}")
