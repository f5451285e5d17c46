"""The command ``convzoo new``: a folder with a kind of convolution, an activation, an experiment and a test."""

from __future__ import annotations

import argparse
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from zoo.errors import ConvzooError
from zoo.text import typed

HELP = "make a folder for your own convolutions and activations"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a folder that does not exist yet")


def run(given: argparse.Namespace) -> None:
    """Makes the folder, and says what to type next.

    Raises:
        ConvzooError: It exists already.
        OSError: It cannot be made.
    """
    if given.folder.exists():
        raise ConvzooError(f"{typed(given.folder)} exists already. Type the name of a new folder.")
    with as_file(files("zoo") / "template") as template:
        shutil.copytree(template, given.folder, ignore=shutil.ignore_patterns("__pycache__"))
    print(f"{typed(given.folder)} is ready: a convolution, an activation, an experiment and a test. Next:")
    print(f"\n  cd {typed(given.folder)}\n  python -m pytest\n  convzoo train +experiment=first")
