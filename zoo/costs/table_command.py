"""The command ``python -m zoo table``: options and execution."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from zoo.costs import budget, table_views
from zoo.errors import ConvzooError
from zoo.image_size import ImageSize

SIZES = ("params", "macs", "activations")
TIMING = ("batch_size", "device", "seconds")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options. Needs no torch: the choices are checked when the command runs."""
    comma = {"type": _names, "metavar": "A,B,…"}
    parser.add_argument("--models", **comma, help="families, family:variant, timm names or patterns (all families)")
    parser.add_argument("--convs", **comma, help="conv kinds, or all (all; native with --layers)")
    parser.add_argument("--acts", **comma, help="activations, or all (native)")
    parser.add_argument("--image-size", metavar="N|HxW", help="pixels (the published size of each network)")
    parser.add_argument("--in-chans", type=_above_zero(int), default=3, metavar="N", help="channels of the image (3)")
    parser.add_argument("--num-classes", type=_above_zero(int), default=1000, metavar="N", help="classes (1000)")
    parser.add_argument("--stem", default="auto", help="auto (small up to 64 pixels), small or imagenet")
    for size in SIZES:
        parser.add_argument(f"--max-{size}", metavar="10M", help=f"leave out cells with more {size}")
    parser.add_argument("--match", metavar="BUDGET", help="scale each cell to macs:400M, params:5M or native's MACs")
    parser.add_argument("--match-over", choices=("width", "phi"), help="by its width, or by compound scaling (width)")
    parser.add_argument("--sort", choices=budget.SORT_KEYS, help="sort by this, smallest first")
    parser.add_argument("--reverse", action="store_true", help="sort the largest first")
    parser.add_argument("--layers", action="store_true", help="show one cell, layer by layer")
    parser.add_argument("--time", action="store_true", help="build each cell, run it, and add its speed")
    parser.add_argument("--batch-size", type=_above_zero(int), metavar="N", help="images a batch, for --time (32)")
    parser.add_argument("--device", metavar="cpu|cuda", help="device for --time (a GPU if available)")
    parser.add_argument(
        "--seconds", type=_above_zero(float), metavar="S", help="of each of a cell's 5 measurements (1)"
    )
    parser.add_argument("--format", choices=table_views.FORMATS, default="terminal")


def run(given: argparse.Namespace) -> None:
    """Counts (and times) the cells, and prints them.

    Raises:
        ConvzooError: An unknown choice, an invalid amount, or options that do not fit together.
    """
    limits = {size: budget.parse_amount(text) for size in SIZES if (text := getattr(given, f"max_{size}")) is not None}
    size = None if given.image_size is None else ImageSize.parse(given.image_size)
    if given.match is not None:
        budget.parse_budget(given.match, "--match")
    elif given.match_over:
        raise ConvzooError("--match-over needs a budget: type --match macs:400M too, or leave out --match-over.")

    timing = {key: value for key in TIMING if (value := getattr(given, key)) is not None}
    if timing and not given.time:
        option = next(iter(timing)).replace("_", "-")
        raise ConvzooError(f"--{option} goes with --time: type --time too, or leave out --{option}.")
    if given.time and given.layers:
        raise ConvzooError("--layers and --time do not go together: leave one of them out.")

    from zoo.costs import table
    from zoo.devices import cores

    if given.time:
        from zoo.costs.table_time import find_device, time_cells

        # Reject an unknown device before hundreds of cells are counted.
        find_device(given.device)
    images = table.Images(size, given.in_chans, given.num_classes, given.stem)
    convs = _all_of(given.convs or (["native"] if given.layers else ["all"]), table.all_convs())
    acts = _all_of(given.acts or ["native"], table.all_acts())
    models = given.models or list(table.FAMILIES)
    if given.layers:
        if given.match is not None:
            raise ConvzooError("--layers and --match do not go together: leave one of them out.")
        if len(models) * len(convs) * len(acts) > 1:
            raise ConvzooError("--layers shows one cell. Name it: --models effnet:b0 --convs separable --acts swish.")
        title = f"{models[0]} · {convs[0]} · {acts[0]}"
        table_views.show_layers(table.layers(models[0], convs[0], acts[0], images), given.format, title)
    else:
        over = (given.match_over or "width") if given.match else None
        cells = table.tabulate(
            models, convs, acts, images, match=given.match, over=over or "width", progress=True, processes=cores()
        )
        shown = budget.select(cells, limits, given.sort, given.reverse)
        if given.time:
            shown = time_cells(shown, images, **timing, progress=True)
        table_views.show_cells(shown, given.format, over_budget=len(cells) - len(shown), over=over)


def _names(text: str) -> list[str]:
    names = [part for part in text.split(",") if part]
    if not names:
        raise argparse.ArgumentTypeError("give at least one name, or leave the option out")
    return names


def _above_zero(kind: type) -> Callable[[str], float]:
    def number(text: str) -> float:
        if not 0 < (value := kind(text)) < 1e9:
            raise ValueError(text)
        return value

    # argparse shows this name when it rejects a value.
    number.__name__ = "number above 0"
    return number


def _all_of(chosen: Sequence[str], everything: Sequence[str]) -> Sequence[str]:
    return everything if list(chosen) == ["all"] else chosen
