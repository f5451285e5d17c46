"""``python -m zoo data-check ROOT``: decode every image of a folder, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.devices import cores

if TYPE_CHECKING:
    from lightning_modules.data.split import Split

HELP = "decode every image of a folder; says which are bad, odd or twice there"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "root", metavar="ROOT", help="has train/CLASS/, val/CLASS/, perhaps test/CLASS/; or a table.csv"
    )
    parser.add_argument("--in-chans", type=int, default=3, help="number of channels, data.in_chans; default: 3")
    parser.add_argument("--workers", type=int, default=cores(), help="number of processes; default: one per core")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="write data_check.txt there")


def run(given: argparse.Namespace) -> int:
    """Checks a folder; returns 1 if an image is bad.

    Raises:
        ConvzooError: The layout is wrong.
    """
    from lightning_modules.data.bad_images import BadImages
    from lightning_modules.data.check import check_all
    from lightning_modules.data.split import overview

    splits = _splits(given.root)
    print(overview(splits))
    total = sum(map(len, splits))
    return (
        1
        if check_all(splits, BadImages(total, total), given.output, given.workers, say=print, channels=given.in_chans)
        else 0
    )


def _splits(root: str) -> list[Split]:
    """List the images of a folder, or of a table: those of all its lines, whatever is held out in training."""
    if not root.lower().endswith(".csv"):
        from lightning_modules.data.layout import scan, split_names

        return [scan(root, name) for name in split_names(root)]
    from lightning_modules.data.csv_data import classes_of
    from lightning_modules.data.csv_table import read_table, split_of

    rows, folder = read_table(root, None)
    found = (split_of(rows, folder, classes_of(rows), name) for name in (None, "train", "val", "test"))
    return [split for split in found if split is not None]
