"""``python -m zoo data-check ROOT``: decode every image of a folder, without training."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo.devices import cores

HELP = "decode every image of a folder; says which are bad, odd or twice there"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("root", metavar="ROOT", help="has train/CLASS/, val/CLASS/ and perhaps test/CLASS/")
    parser.add_argument("--workers", type=int, default=cores(), help="number of processes; default: one per core")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="write data_check.txt there")


def run(given: argparse.Namespace) -> int:
    """Checks a folder; returns 1 if an image is bad.

    Raises:
        ConvzooError: The layout is wrong.
    """
    from lightning_modules.data.bad_images import BadImages
    from lightning_modules.data.check import check_all
    from lightning_modules.data.layout import scan, split_names
    from lightning_modules.data.split import overview

    splits = [scan(given.root, name) for name in split_names(given.root)]
    print(overview(splits))
    total = sum(map(len, splits))
    return 1 if check_all(splits, BadImages(total, total), given.output, given.workers, say=print) else 0
